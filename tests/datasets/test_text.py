"""Text: documents, their split, tokens; and the language model that is trained on them."""

import dataclasses
import itertools
import sys

import pytest
import torch
from tokenizers import Tokenizer
from torch.testing import assert_close
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from saehelpers import runs
from saehelpers.datasets import text
from saehelpers.evaluation.metrics import next_token_loss
from saehelpers.experiments import LanguageModelRun, load_or_train_language_model
from saehelpers.networks import load_pretrained_language_model, make_gpt2
from saehelpers.networks.activations import read_activations
from saehelpers.runs.identities import identity

DOCUMENTS = [f"The number {i} is followed by {i + 1}. " * 8 for i in range(60)]
RUN = LanguageModelRun(
    "gpt2",
    identity(DOCUMENTS),
    vocab_size=300,
    context=16,
    width=16,
    n_layers=2,
    n_heads=2,
    epochs=2,
    blocks_per_epoch=40,
)


def test_documentation_is_collected_once(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "PACKAGES", ("tokenizers",))
    monkeypatch.setattr(text.sysconfig, "get_path", lambda name: str(tmp_path / "library"))
    (tmp_path / "library" / "tests").mkdir(parents=True)
    wanted = "What a function does, in so many words that it is worth reading. " * 3
    (tmp_path / "library" / "a.py").write_text(f'def f():\n    """{wanted}"""\n')
    (tmp_path / "library" / "tests" / "b.py").write_text(f'"""Not {wanted}"""\n')
    (tmp_path / "library" / "broken.py").write_text("def (:\n")
    documents = text.documentation(tmp_path / "data")
    assert wanted.strip() in documents
    assert not any(document.startswith("Not ") for document in documents)
    assert len(documents) == len(set(documents))
    assert sum(map(len, documents)) > 400_000  # the topics of help() alone
    (tmp_path / "library" / "a.py").unlink()
    assert text.documentation(tmp_path / "data") == documents


def test_local_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("one\nfile\n<|endoftext|>\nand another", encoding="utf-8")
    assert text.read_documents(path) == ["one\nfile", "and another"]
    path.write_text("one\nparagraph\n\nand another", encoding="utf-8")
    assert text.read_documents(path) == ["one\nparagraph", "and another"]
    with pytest.raises(FileNotFoundError, match=r"no text file at .*nowhere"):
        text.read_documents(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "written",
    [
        "one\n\n\n\nand another",
        "\n\none\n\nand another\n\n\n",
        "one\n  \t\n\nand another\n",
        "\ufeffone\r\n\r\n\r\nand another\r\n",
        "<|endoftext|>\none\n<|endoftext|>\nand another",
        "<|endoftext|>\none\n<|endoftext|>\nand another\n<|endoftext|>",
        "one\n<|endoftext|>\n<|endoftext|> \n\n<|endoftext|>\nand another\n<|endoftext|>\n",
    ],
)
def test_blanks_and_ends_of_documents_make_no_documents(written, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(written, encoding="utf-8", newline="")
    assert text.read_documents(path) == ["one", "and another"]
    assert list(text.stream_documents(path)) == ["one", "and another"]


def test_an_end_of_document_that_comes_first_is_all_there_is(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("<|endoftext|>\none\n\ntext", encoding="utf-8")
    assert text.read_documents(path) == ["one\n\ntext"]
    path.write_text("\n \n", encoding="utf-8")
    assert text.read_documents(path) == []


def test_text_in_another_encoding_is_named(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("naïve", encoding="latin-1")
    with pytest.raises(ValueError, match=r"text\.txt is not a text in UTF-8"):
        text.read_documents(path)


def test_text_is_streamed(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(f"\n{text.END}\n".join(DOCUMENTS), encoding="utf-8")
    tokeniser = text.train_tokeniser(DOCUMENTS, 300)
    taken = []
    documents = (taken.append(document) or document for document in text.stream_documents(path))
    documents = itertools.chain(documents, itertools.cycle(["more"]))  # there is no end of it
    blocks = text.token_blocks(documents, tokeniser, 16, n_blocks=30)
    assert torch.equal(blocks, text.token_blocks(DOCUMENTS, tokeniser, 16)[:30])
    assert taken == DOCUMENTS


def test_datasets_are_streamed(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.txt").write_text("one\nand another\n")
    assert list(text.stream_documents(tmp_path / "data")) == ["one", "and another"]
    with pytest.raises(FileNotFoundError, match=r"no text at .*nowhere"):
        text.stream_documents(tmp_path / "nowhere")


def test_columns_and_rows_of_a_dataset_without_text():
    rows = [{"text": "one"}, {"text": ""}, {"text": None}, {"text": " \n"}, {"text": "two\n"}]
    assert list(text._texts(rows, "mine")) == ["one", "two"]
    with pytest.raises(ValueError, match="dataset 'mine' has no column 'text', but id, content"):
        list(text._texts([{"id": 0, "content": "one"}], "mine"))


def test_datasets_need_their_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"no text file 'some/text', .* pip install datasets"):
        text.stream_documents("some/text")


def test_a_short_text_has_something_held_out():
    for document in ("first", "second", "third"):
        documents = [f"{document} {word}" for word in ("one", "two", "three", "four")]
        seen, unseen = text.held_out(documents)
        assert unseen and sorted(seen + unseen) == sorted(documents)
        assert sum(map(len, unseen)) >= 0.025 * sum(map(len, documents))
        assert text.held_out(documents) == (seen, unseen)


def test_held_out_depends_on_each_document_alone():
    seen, unseen = text.held_out(DOCUMENTS, 0.3)
    assert sorted(seen + unseen) == sorted(DOCUMENTS)
    assert 5 < len(unseen) < 35
    fewer_seen, fewer_unseen = text.held_out(DOCUMENTS[::2], 0.3)
    assert set(fewer_seen) <= set(seen)
    assert set(fewer_unseen) <= set(unseen)


def test_tokens_are_the_text():
    tokeniser = text.train_tokeniser(DOCUMENTS, 300)
    blocks = text.token_blocks(DOCUMENTS, tokeniser, 16)
    assert blocks.shape[1] == 16
    assert blocks.max() < 300
    decoded = tokeniser.decode(blocks.flatten().tolist(), skip_special_tokens=False)
    assert text.END.join(DOCUMENTS).startswith(decoded[:-20])


def test_any_character_has_tokens():
    tokeniser = text.train_tokeniser(DOCUMENTS, 300)
    assert tokeniser.decode(tokeniser.encode("naïve → 東京").ids) == "naïve → 東京"


@pytest.mark.parametrize("kind", ["tokenizers", "transformers"])
def test_documents_are_tokenised_whole_whatever_was_stored(kind, tmp_path):
    """tok(docs, padding=True, truncation=True) and saving leave both in tokenizer.json."""
    tokeniser = text.train_tokeniser(DOCUMENTS, 300)
    expected = text.token_blocks(DOCUMENTS, tokeniser, 16)
    tokeniser.enable_truncation(20)
    tokeniser.enable_padding(length=25, pad_id=3)
    tokeniser.save(str(tmp_path / "tokenizer.json"))
    stored = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    before = (stored.truncation, stored.padding)
    assert None not in before and len(stored.encode(DOCUMENTS[0]).ids) == 25
    given = PreTrainedTokenizerFast(tokenizer_object=stored) if kind == "transformers" else stored
    assert torch.equal(text.token_blocks(DOCUMENTS, given, 16), expected)
    assert (stored.truncation, stored.padding) == before


def test_tokenisers_of_bytes(tmp_path):
    tokeniser = ByT5Tokenizer()
    blocks = text.token_blocks(["naïve", "two"], tokeniser, 11)
    one, two = ([byte + 3 for byte in document.encode()] for document in ("naïve", "two"))
    assert blocks.tolist() == [[*one, 1, *two, 1]]
    make_gpt2(300, 8, 16, 1, 2).save_pretrained(tmp_path)
    tokeniser.save_pretrained(tmp_path)
    model, loaded = load_pretrained_language_model(tmp_path)
    assert torch.equal(text.token_blocks(["naïve", "two"], loaded, 11), blocks)
    assert model(blocks[:, :8]).logits.shape == (1, 8, 300)


def test_text_shorter_than_one_context():
    tokeniser = text.train_tokeniser(DOCUMENTS, 300)
    with pytest.raises(ValueError, match="fewer than one context of 1024"):
        text.token_blocks(["short"], tokeniser, 1024)


def test_language_model_is_trained_once_then_loaded(tmp_path, capsys):
    model, tokeniser, history = load_or_train_language_model(RUN, DOCUMENTS, tmp_path)
    assert list(history["epoch"]) == [0, 1]
    assert history["validation_loss"].iloc[-1] < 5.7  # ln 300: nothing learnt
    again, same_tokeniser, _ = load_or_train_language_model(RUN, DOCUMENTS, tmp_path)
    assert "loaded" in capsys.readouterr().out
    assert same_tokeniser.to_str() == tokeniser.to_str()
    tokens = text.token_blocks(DOCUMENTS, tokeniser, 16)[:3]
    assert torch.equal(model(tokens).logits, again(tokens).logits)
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_its_loss_is_that_of_the_next_token(tmp_path):
    model, tokeniser, _ = load_or_train_language_model(RUN, DOCUMENTS, tmp_path)
    tokens = text.token_blocks(DOCUMENTS, tokeniser, 16)[:4]
    logits = model(tokens).logits
    losses = [
        -logits[i, place].log_softmax(-1)[tokens[i, place + 1]]
        for i in range(4)
        for place in range(15)
    ]
    assert_close(next_token_loss(logits, tokens), torch.stack(losses).mean())


def test_damaged_tokeniser_is_named(tmp_path):
    load_or_train_language_model(RUN, DOCUMENTS, tmp_path)
    (tmp_path / runs.run_id(RUN) / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot be used: its tokenizer\.json"):
        load_or_train_language_model(RUN, DOCUMENTS, tmp_path)


def test_seeds_decide_the_weights():
    one, same, other = (make_gpt2(50, 8, 16, 1, 2, seed) for seed in (0, 0, 1))
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, same.state_dict()[name])
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_mlp_outputs_are_what_the_block_adds():
    model = make_gpt2(50, 8, 16, 2, 2).eval()
    tokens = torch.arange(16).view(2, 8)
    outputs = read_activations(model.transformer, tokens, "h.1.mlp")
    block = model.transformer.h[1]
    inputs = read_activations(model.transformer, tokens, "h.1.ln_2")
    assert outputs.shape == (2, 8, 16)
    assert_close(outputs, block.mlp(inputs))


def test_repeated_tokens_repeat():
    draws = torch.Generator().manual_seed(0)
    tokens, periods = text.repeated_tokens(50, 16, 300, draws)
    for row, period in zip(tokens, periods, strict=True):
        assert torch.equal(row[period:], row[:-period])
        assert len(row[:period].unique()) > period // 2
    assert set(periods.tolist()) == set(range(2, 9))
    assert tokens.min() >= 1 and tokens.max() < 300
    tokens, periods = text.repeated_tokens(3, 16, 300, draws, period=8)
    assert torch.equal(tokens[:, 8:], tokens[:, :8]) and periods.tolist() == [8, 8, 8]


@pytest.mark.parametrize(("period", "vocabulary"), [(9, 300), (0, 300), (None, 1)])
def test_tokens_that_cannot_be_repeated(period, vocabulary):
    with pytest.raises(
        ValueError, match=r"a period from 1 to 8 repeats within 16 tokens|period must be 1 or more"
    ):
        text.repeated_tokens(3, 16, vocabulary, torch.Generator(), period)


def test_an_attention_only_model_adds_nothing_but_attention():
    model = make_gpt2(300, 16, 16, 2, 2, attention_only=True).eval()
    tokens = torch.randint(300, (3, 16), generator=torch.Generator().manual_seed(0))
    position = torch.arange(16)
    stream = model.transformer.wte(tokens) + model.transformer.wpe(position)
    for block in model.transformer.h:
        stream = stream + block.attn(block.ln_1(stream))[0]
    assert_close(model(tokens).logits, model.lm_head(model.transformer.ln_f(stream)))
    with pytest.raises(ValueError, match="3 heads do not divide the width 16"):
        make_gpt2(300, 16, 16, 2, 3)


def test_a_model_trained_on_repeats_is_another_and_comes_back(tmp_path):
    run = dataclasses.replace(RUN, attention_only=True, repeats=0.5)
    model, _, history = load_or_train_language_model(run, DOCUMENTS, tmp_path)
    again, _, _ = load_or_train_language_model(run, DOCUMENTS, tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    text_only = dataclasses.replace(run, repeats=0.0)
    _, _, without = load_or_train_language_model(text_only, DOCUMENTS, tmp_path)
    assert history.loss.iloc[-1] > without.loss.iloc[-1]  # random tokens cannot be foreseen


def test_pretrained_language_models_are_read_from_a_folder(tmp_path):
    model, tokeniser = make_gpt2(300, 8, 16, 1, 2), text.train_tokeniser(DOCUMENTS, 300)
    model.save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=tokeniser).save_pretrained(tmp_path)
    loaded, same_tokeniser = load_pretrained_language_model(tmp_path)
    tokens = text.token_blocks(DOCUMENTS, same_tokeniser, 8, 3)
    assert torch.equal(tokens, text.token_blocks(DOCUMENTS, tokeniser, 8, 3))
    assert torch.equal(loaded(tokens).logits, model.eval()(tokens).logits)
    model.bfloat16().save_pretrained(tmp_path)  # as most are published
    for dtype in (torch.float32, torch.bfloat16):
        options = {} if dtype == torch.float32 else {"dtype": dtype}
        loaded, _ = load_pretrained_language_model(tmp_path, **options)
        assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    with pytest.raises(FileNotFoundError, match=r"no language model at .*nothing"):
        load_pretrained_language_model(tmp_path / "nothing")
