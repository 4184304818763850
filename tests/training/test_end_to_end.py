"""End-to-end SAEs: objectives, training, metrics, checkpoints; parts of models."""

import copy
import dataclasses
import math
from concurrent.futures import Future

import pandas as pd
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from saehelpers import runs
from saehelpers.evaluation import language_metrics as lm, metrics
from saehelpers.experiments import load_onto, load_or_train_end_to_end
from saehelpers.networks import make_gpt2
from saehelpers.networks.activations import (
    at_positions,
    read_activations,
    reading,
    splice,
)
from saehelpers.networks.scaling import standardisation
from saehelpers.runs.identities import identity
from saehelpers.saes import SAEConfig, make_sae
from saehelpers.training.end_to_end import (
    end_to_end_loss as loss_of_original,
    local_loss,
    model_id,
    run_original,
    train_end_to_end,
)
from saehelpers.training.fitting import Settings, fit
from saehelpers.training.methods import EndToEndRun, run_columns

V, CONTEXT, D = 40, 8, 16
LAYER = "transformer.h.0"
LATER = ("transformer.h.1", "transformer.h.2")
MODULES = [
    LAYER,
    "transformer.h.1.mlp",
    "transformer.h.1.attn",
    "transformer.h.1.attn.c_proj.input",
]


@pytest.fixture(scope="module")
def blocks() -> torch.Tensor:
    """Each token is followed by the next, one in three times by any."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randint(V, (96, 1), generator=generator)
    noise = torch.randint(V, (96, CONTEXT), generator=generator)
    kept = torch.rand(96, CONTEXT, generator=generator) < 0.7
    return torch.where(kept, (start + torch.arange(CONTEXT)) % V, noise)


@pytest.fixture(scope="module")
def model(blocks) -> nn.Module:
    model = make_gpt2(V, CONTEXT, D, n_layers=3, n_heads=2)

    def step(index, uniform):
        return {"loss": metrics.next_token_loss(model(blocks[index[0]]).logits, blocks[index[0]])}

    fit(model, step, 64, [0], Settings(25, 16, 1e-2), progress=False)
    model.zero_grad()
    return model.eval().requires_grad_(False)


@pytest.fixture
def config(model, blocks) -> EndToEndRun:
    sae = SAEConfig(D, 24, "topk", 4, encoder="linear", pre_encoder_bias=True, unit_decoder=True)
    return EndToEndRun(
        "e2e", model_id("tiny", model), identity(blocks[:64]), LAYER, sae, epochs=2,
        blocks_per_epoch=32, batch_size=8, warmup_steps=2, autocast=False,
    )  # fmt: skip


@pytest.fixture
def sae(config, model, blocks):
    sae = make_sae(config.sae)
    sae.set_standardisation(*standardisation(read_activations(model, blocks, LAYER)))
    return sae


def change(config, **settings) -> EndToEndRun:
    return dataclasses.replace(config, **settings)


def end_to_end_loss(model, sae, tokens, config):
    return loss_of_original(model, sae, run_original(model, tokens, [config]), config)


def train_one(config, *arguments, **settings):
    (sae,), (history,) = train_end_to_end([config], *arguments, progress=False, **settings)
    return sae, history


class Identity(nn.Module):
    """An SAE that changes nothing."""

    dictionary = torch.eye(D)

    def encode(self, x):
        return torch.cat([x.relu(), (-x).relu()], -1)

    def decode(self, latents):
        return latents[..., :D] - latents[..., D:]


# --- splicing ---


@pytest.mark.parametrize("module", MODULES)
def test_nothing_spliced_is_bit_identical_and_an_identity_nearly(module, model, blocks):
    before = model(blocks).logits
    with splice(model, {}), reading(model, [module]):
        assert torch.equal(model(blocks).logits, before)
    with lm.spliced(model, {module: Identity()}):
        assert_close(model(blocks).logits, before, atol=1e-5, rtol=0)


# --- objectives ---


def plain_loss(model, sae, tokens, config):
    """The objective as its definition reads, block by block and token by token."""
    body = model.transformer

    def from_layer_1(x):
        later = []
        for block in body.h[1:]:
            x = block(x)
            later.append(x)
        return later, model.lm_head(body.ln_f(x))

    x = read_activations(model, tokens, LAYER)
    latents = sae.encode(x.flatten(0, 1))
    recons = sae.decode(latents).view_as(x)
    (before, logits), (after, changed) = from_layer_1(x), from_layer_1(recons)
    total = 0.0
    for i, t in [(i, t) for i in range(len(tokens)) for t in range(tokens.shape[1])]:
        log_p, log_q = logits[i, t].log_softmax(-1), changed[i, t].log_softmax(-1)
        norm = latents.view(*x.shape[:2], -1)[i, t].pow(config.p).sum() ** (1 / config.p)
        mses = [(a[i, t] - b[i, t]).pow(2).mean() for a, b in zip(after, before, strict=True)]
        total = total + (
            config.lambda_local * (x[i, t] - recons[i, t]).pow(2).mean()
            + config.lambda_kl * sum(log_p.exp() * (log_p - log_q))
            + config.lambda_downstream / len(mses) * sum(mses)
            + config.lambda_sparsity / D * norm
        )
    return total / tokens.numel()


WEIGHTS = {
    "local": {"lambda_local": 1.0, "lambda_kl": 0.0, "lambda_sparsity": 0.3},
    "e2e": {"lambda_sparsity": 0.3, "p": 2.0},
    "downstream": {"lambda_downstream": 2.5, "downstream": LATER, "lambda_sparsity": 0.3},
    "mixture": {
        "lambda_local": 0.7,
        "lambda_kl": 0.2,
        "lambda_downstream": 1.5,
        "downstream": LATER,
    },
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_objectives_are_their_definitions(kind, config, model, sae, blocks):
    config = change(config, **WEIGHTS[kind])
    sae = make_sae(dataclasses.replace(config.sae, activation="relu"), seed=1)
    expected = plain_loss(model, sae, blocks[:3], config)
    terms = end_to_end_loss(model, sae, blocks[:3], config)
    assert_close(terms["loss"], expected, atol=1e-5, rtol=1e-5)
    ours, theirs = (
        torch.autograd.grad(loss, list(sae.parameters())) for loss in (terms["loss"], expected)
    )
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_gradients_reach_the_sae_and_nothing_else(config, model, sae, blocks):
    end_to_end_loss(model, sae, blocks[:3], config)["loss"].backward()
    for name, parameter in sae.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_sae_at_one_position_leaves_the_others_alone(config, model, sae, blocks):
    config = change(config, positions=(5,), downstream=LATER[:1], lambda_downstream=1.0)
    with torch.no_grad():
        sae.decoder_bias += 1.0
    terms = end_to_end_loss(model, sae, blocks[:3], config)
    with splice(model, {LAYER: at_positions(sae, [5])}), reading(model, LATER[:1]) as after:
        changed = model(blocks[:3]).logits
    with reading(model, LATER[:1]) as before:
        expected = lm.kl_divergence(model(blocks[:3]).logits, changed)
    assert_close(terms["kl"], expected)
    assert_close(terms["downstream"], (after[LATER[0]] - before[LATER[0]]).pow(2).mean())


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint16, torch.uint8])
def test_tokens_of_any_type_are_the_same_tokens(dtype, config, model, sae, blocks):
    kept = blocks.to(dtype)
    saes = {config.module: sae}
    assert lm.evaluate_spliced(model, saes, kept[:4]).equals(
        lm.evaluate_spliced(model, saes, blocks[:4])
    )
    lm.check_text(model, kept)
    with pytest.raises(ValueError, match="but the model knows"):
        lm.check_text(model, torch.full_like(kept, 255))
    assert torch.equal(lm.generate(model, kept[:2], 3, 8), lm.generate(model, blocks[:2], 3, 8))
    read = [read_activations(model, tokens, config.module) for tokens in (kept, blocks)]
    assert torch.equal(*read)
    short = change(config, epochs=1)
    (trained, _), (expected, _) = (
        train_one(short, model, tokens[:64], tokens[64:]) for tokens in (kept, blocks)
    )
    assert torch.equal(trained.dictionary, expected.dictionary)


def test_kl_divergence_takes_the_original_first():
    p, q = torch.tensor([[[2.0, 0.0, -1.0]]]), torch.tensor([[[0.0, 1.0, 0.0]]])
    log_p, log_q = p[0, 0].log_softmax(-1), q[0, 0].log_softmax(-1)
    assert_close(lm.kl_divergence(p, q), (log_p.exp() * (log_p - log_q)).sum())
    assert_close(lm.kl_divergence(p, p), torch.tensor(0.0))


# --- training ---


def test_training_lowers_the_kl_and_logs_every_row(config, model, blocks):
    logged = []
    config = change(config, epochs=8, learning_rate=1e-2)
    trained, history = train_one(config, model, blocks[:64], blocks[64:], log=logged.append)
    assert history["kl"].iloc[-1] < 0.7 * history["kl"].iloc[0]
    assert [row["kl"] for row in logged] == list(history["kl"])
    assert_close(trained.dictionary.norm(dim=-1), torch.ones(24))
    assert not any(parameter.requires_grad for parameter in trained.parameters())


@pytest.mark.parametrize("change_of", [{}, {"positions": (3, 5)}])
def test_the_history_is_measured_on_held_out_text(change_of, config, model, blocks):
    config = change(config, epochs=2, **change_of)
    trained, history = train_one(config, model, blocks[:64], blocks[64:])
    held_out = blocks[64:][:8]
    table = lm.evaluate_spliced(model, {LAYER: trained}, held_out, (), config.positions)
    expected = table.set_index("metric").value
    for name in ("ce_increase", "kl", "explained_variance", "l0", "alive_latents"):
        assert history[name].iloc[-1] == pytest.approx(expected[name], rel=1e-4, abs=1e-5), name


def test_the_local_loss_needs_activations_alone(config, model, sae, blocks):
    config = change(config, lambda_local=1.0, lambda_kl=0.0, lambda_sparsity=0.1)
    assert config.local
    x = read_activations(model, blocks[:3], LAYER)
    assert_close(local_loss(sae, x, config), end_to_end_loss(model, sae, blocks[:3], config))


def test_local_training_runs_the_model_for_nothing_but_its_evaluation(config, model, blocks):
    config = change(config, lambda_local=1.0, lambda_kl=0.0)
    x = read_activations(model, blocks, LAYER)
    with splice(model, {LAYER: lambda x: x + 100.0}):
        given, history = train_one(config, model, blocks, blocks, x)
    read, _ = train_one(config, model, blocks, blocks)
    assert_close(given.dictionary, read.dictionary, atol=1e-5, rtol=0)
    assert history["explained_variance"].iloc[-1] < 0  # the evaluation saw the other model


def test_a_batch_in_parts_is_the_batch(config, model, blocks):
    whole, in_parts = (
        train_one(change(config, accumulate=n), model, blocks, blocks[64:])[0] for n in (1, 3)
    )
    assert_close(whole.dictionary, in_parts.dictionary, atol=1e-4, rtol=0)


def test_saes_side_by_side_are_those_trained_alone(config, model, blocks):
    more = {"lambda_local": 0.1, "downstream": LATER, "lambda_downstream": 1.0, "name": "mixture"}
    wide = dataclasses.replace(config.sae, n_latents=40, activation="relu")
    configs = [config, change(config, sae=wide, lambda_sparsity=0.1, **more)]
    text = (blocks[:64], blocks[64:])
    saes, histories = train_end_to_end(configs, model, *text, progress=False)
    for own, sae, history in zip(configs, saes, histories, strict=True):
        alone, its_history = train_one(own, model, *text)
        for (name, parameter), other in zip(
            sae.named_parameters(), alone.parameters(), strict=True
        ):
            assert torch.equal(parameter, other), name
        pd.testing.assert_frame_equal(history, its_history, check_like=True)


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"module": LATER[0]}, {"lambda_local": 1.0, "lambda_kl": 0.0}]
)
def test_saes_that_cannot_be_trained_side_by_side(other, config, model, blocks):
    with pytest.raises(ValueError, match="may differ in the SAE and its loss only"):
        train_end_to_end([config, change(config, **other)], model, blocks, blocks)


def test_gradients_are_clipped():
    weight = nn.Linear(1, 1, bias=False)
    norms = []
    fit(
        weight,
        lambda index, uniform: {"loss": 50 * weight.weight.sum()},
        4,
        [0],
        Settings(1, 2, 1e-3, clip_norm=0.5),
        after_update=lambda: norms.append(weight.weight.grad.norm().item()),
        progress=False,
    )
    assert norms == pytest.approx([0.5, 0.5])


def test_gradients_of_models_side_by_side_are_clipped_each_by_itself():
    pair = nn.ModuleList([nn.Linear(1, 1, bias=False) for _ in range(2)])
    norms = []
    fit(
        pair,
        lambda index, uniform: {
            "loss": torch.stack(
                [scale * part.weight.sum() for scale, part in zip((50, 0.1), pair, strict=True)]
            )
        },
        2,
        [0],
        Settings(1, 2, 1e-3, clip_norm=0.5),
        after_update=lambda: norms.extend(part.weight.grad.norm().item() for part in pair),
        progress=False,
    )
    assert norms == pytest.approx([0.5, 0.1])


def test_bfloat16_is_near_full_precision(config, model, sae, blocks):
    config = change(config, downstream=LATER, lambda_downstream=1.0)
    full = end_to_end_loss(model, sae, blocks, config)
    half = end_to_end_loss(model, sae, blocks, change(config, autocast=True))
    assert_close(half["loss"], full["loss"], rtol=0.05, atol=0)
    assert not torch.equal(half["loss"], full["loss"])


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"module": "transformer.h.9"}, r"no module 'transformer.h.9'; nearest are transformer\.h"),
        ({"sae": SAEConfig(D + 1, 24)}, "sae.d is 17, the activations of .* are 16 wide"),
        (
            {"module": LATER[0], "downstream": (LAYER,), "lambda_downstream": 1.0},
            "do not come after",
        ),
        ({"downstream": (LAYER,), "lambda_downstream": 1.0}, "do not come after 'transformer.h.0'"),
        (
            {"base_model": "tiny/00000000"},
            "is an SAE of 'tiny/00000000'; the weights of this model",
        ),
    ],
)
def test_what_does_not_fit_the_model(settings, error, config, model, blocks):
    with pytest.raises(ValueError, match=error):
        train_one(change(config, **settings), model, blocks, blocks)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"lambda_downstream": 1.0}, "go together"),
        ({"p": 0.5}, "p must be 1 or more, got 0.5"),
        ({"p": 2.0}, "p is that of a sparsity term, got p=2 without it"),
        ({"lambda_kl": 0.0}, "there is nothing to train for: lambda_local, lambda_kl and"),
        ({"lambda_kl": 0.0, "lambda_sparsity": 1.0}, "there is nothing to train for"),
        (
            {"sae": SAEConfig(D, 32, "relu", encoder="linear")},
            "nothing makes an SAE with the activation 'relu' sparse",
        ),
        (
            {"schedule": "step"},
            "schedule must be one of 'constant', 'linear', 'cosine', got 'step'",
        ),
    ],
)
def test_configs_that_mean_nothing(settings, error, config):
    with pytest.raises(ValueError, match=error):
        change(config, **settings)


def test_another_tokeniser_is_noticed(model, blocks):
    lm.check_text(model, blocks)
    with pytest.raises(ValueError, match="token 40, but the model knows 40 tokens: the tokeniser"):
        lm.check_text(model, torch.full((2, CONTEXT), V))
    with pytest.raises(ValueError, match=r"nats a token, and 3\.7 for guessing: the tokeniser"):
        lm.check_text(model, blocks.flip(1))


# --- metrics ---


def values_of(table, module=""):
    return table[table["module"] == module].set_index("metric")["value"]


@pytest.mark.parametrize("module", MODULES)
def test_the_identity_recovers_everything_and_zeros_nothing(module, model, blocks):
    class Zero(Identity):
        def decode(self, latents):
            return 0 * super().decode(latents)

    identity = values_of(lm.evaluate_spliced(model, {module: Identity()}, blocks, LATER[1:]))
    assert identity["ce_recovered"] == pytest.approx(1, abs=1e-4)
    assert identity["kl"] == pytest.approx(0, abs=1e-5)
    assert identity["top1_agreement"] > 0.999
    zero = values_of(lm.evaluate_spliced(model, {module: Zero()}, blocks, LATER[1:]))
    assert zero["ce_recovered"] == pytest.approx(0, abs=1e-6)


def test_spliced_metrics_are_what_they_say(model, sae, blocks):
    table = lm.evaluate_spliced(model, {LAYER: sae}, blocks, LATER, batch_size=20)
    found, own = values_of(table), values_of(table, LAYER)
    x = read_activations(model, blocks, LAYER).flatten(0, 1)
    recons, latents = sae(x), sae.encode(x)
    before, later = model(blocks).logits, read_activations(model, blocks, LATER[1])
    with lm.spliced(model, {LAYER: sae}):
        after, changed = model(blocks).logits, read_activations(model, blocks, LATER[1])
    loss = metrics.next_token_loss
    assert found["ce_increase"] == pytest.approx(
        (loss(after, blocks) - loss(before, blocks)).item()
    )
    right = [
        before[i, t].argmax() == blocks[i, t + 1] for i in range(96) for t in range(CONTEXT - 1)
    ]
    assert found["accuracy_original"] == pytest.approx(sum(map(float, right)) / len(right))
    assert found["accuracy_original"] > 0.4  # without the shift it would be about 1 in 40
    assert found["kl"] == pytest.approx(lm.kl_divergence(before, after).item(), rel=1e-4)
    assert own["explained_variance"] == pytest.approx(metrics.explained_variance(x, recons))
    assert own["explained_variance"] != pytest.approx(
        metrics.explained_variance(recons, x), abs=0.01
    )
    expected = metrics.explained_variance(later, changed)
    assert values_of(table, LATER[1])["explained_variance"] == pytest.approx(expected, rel=1e-4)
    assert own["l0"] == 4
    assert own["alive_latents"] == (latents > 0).any(0).sum()
    assert own["norm_ratio"] == pytest.approx((recons.norm(dim=-1) / x.norm(dim=-1)).mean().item())


def test_metrics_at_positions_are_of_these_alone(model, sae, blocks):
    own = values_of(lm.evaluate_spliced(model, {LAYER: sae}, blocks, (), (5,)), LAYER)
    x = read_activations(model, blocks, LAYER)[:, 5]
    assert own["explained_variance"] == pytest.approx(metrics.explained_variance(x, sae(x)))


def test_nothing_follows_the_last_position(model, sae, blocks):
    found = values_of(lm.evaluate_spliced(model, {LAYER: sae}, blocks, (), (CONTEXT - 1,)))
    assert found["ce_increase"] == 0 and math.isnan(found["ce_recovered"])
    assert found["kl"] > 0


def test_similarity_within_a_dictionary():
    angle = math.pi / 6
    rows = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)], [0.0, -3.0]])
    assert lm.nearest_cosine(rows) == pytest.approx((2 * math.cos(angle) + 0.0) / 3, abs=1e-6)


def test_text_goes_on_with_and_without_saes(model, blocks):
    start = blocks[:2, :3]
    text = lm.generate(model, start, 9, CONTEXT)
    assert text.shape == (2, 12) and torch.equal(text[:, :3], start)
    assert torch.equal(text[:, 3], model(start).logits[:, -1].argmax(-1))
    assert torch.equal(text[:, 11], model(text[:, 3:11]).logits[:, -1].argmax(-1))
    with lm.spliced(model, {LAYER: Identity()}):
        assert torch.equal(lm.generate(model, start, 9, CONTEXT), text)
    with splice(model, {LATER[1]: torch.zeros_like}):
        assert not torch.equal(lm.generate(model, start, 9, CONTEXT), text)
    drawn = [lm.generate(model, start, 9, CONTEXT, torch.Generator().manual_seed(1)) for _ in "ab"]
    assert torch.equal(*drawn)


# --- checkpoints ---


class Here:
    """An executor that runs a job when it gets it."""

    def submit(self, function, *arguments):
        future = Future()
        future.set_result(function(*arguments))
        return future


@pytest.fixture
def trained(config, model, blocks, tmp_path):
    """Two SAEs, one local and one end to end, at two modules."""
    configs = [config, change(config, module=LATER[0], lambda_local=1.0, lambda_kl=0.0)]
    text = (blocks[:64], blocks[64:])
    return configs, load_or_train_end_to_end(configs, model, *text, tmp_path, executor=Here())


def test_saes_trained_alone_are_trained_here_and_the_model_is_left_alone(
    config, model, blocks, tmp_path, capfd
):
    text = (blocks[:64], blocks[64:])
    (expected,) = load_or_train_end_to_end(
        [config], copy.deepcopy(model), *text, tmp_path / "executor", executor=Here()
    )
    capfd.readouterr()
    trained = copy.deepcopy(model).train().requires_grad_(True)
    (sae,) = load_or_train_end_to_end([config], trained, *text, tmp_path / "here")
    assert f"{config.name}:" in capfd.readouterr().err  # the bar of the epochs
    assert trained.training and all(p.requires_grad for p in trained.parameters())
    assert torch.equal(sae.dictionary, expected.dictionary)


def test_saved_and_loaded_saes_give_identical_logits(trained, model, blocks, tmp_path, monkeypatch):
    configs, saes = trained
    with lm.spliced(model, {c.module: sae for c, sae in zip(configs, saes, strict=True)}):
        expected = model(blocks).logits
    folders = [tmp_path / runs.run_id(config) for config in configs]
    asked = []

    def download(name, **options):
        asked.append(name)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for sources in (folders, [tmp_path], ["someone/saes"]):
        with lm.spliced(model, load_onto(model, sources)):
            assert torch.equal(model(blocks).logits, expected)
    assert asked == ["someone/saes"]
    with pytest.raises(ValueError, match=r"has a second SAE for the module 'transformer\.h\.0'"):
        load_onto(model, [folders[0], folders[0]])


def test_checkpoints_of_another_model_and_of_none(trained, blocks, tmp_path):
    other = make_gpt2(V, CONTEXT, D, n_layers=3, n_heads=2, seed=1)
    with pytest.raises(ValueError, match=r"is an SAE of 'tiny/.*'; the weights of this model have"):
        load_onto(other, [tmp_path])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no SAE .* in .*empty"):
        load_onto(other, [tmp_path / "empty"])
    with pytest.raises(FileNotFoundError, match="neither a local folder nor to be reached"):
        load_onto(other, ["no folder/and no name"])


def test_training_goes_on_from_a_pretrained_sae(trained, model, blocks, tmp_path):
    (config, _), (first, _) = trained
    following = change(config, start=runs.run_id(config), learning_rate=1e-9)
    (second,) = load_or_train_end_to_end(
        [following], model, blocks[:64], blocks[64:], tmp_path, executor=Here()
    )
    assert_close(second.dictionary, first.dictionary, atol=1e-5, rtol=0)
    assert runs.run_id(following) != runs.run_id(config)


def test_rows_say_which_terms_were_weighed(config):
    columns = run_columns(change(config, lambda_downstream=0.5, downstream=LATER))
    assert columns["objective"] == "1 kl + 0.5 downstream"
    assert (columns["method"], columns["topk"]) == ("e2e", 4)
