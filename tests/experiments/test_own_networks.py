from pathlib import Path

import pytest
import torch

from saehelpers.datasets import images as image_sets
from saehelpers.experiments import Given, load_given, prepare_given, sequence_action
from saehelpers.experiments.own_networks import CONTEXT
from saehelpers.networks import GoNetwork, make_gpt2, read_activations
from saehelpers.saes import SAEConfig, make_sae
from saehelpers.symmetry import Group, check_input_action

MODELS = Path(__file__).parent.parent.parent / "models"


@pytest.fixture
def photographs(tmp_path):
    """A folder of six images of two classes."""
    pil = pytest.importorskip("PIL.Image")
    for i in range(6):
        folder = tmp_path / "photographs" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (64, 64, 3), generator=torch.Generator().manual_seed(i))
        pil.fromarray(pixels.to(torch.uint8).numpy()).save(folder / f"{i}.png")
    return tmp_path / "photographs"


def test_a_shipped_classifier_and_a_folder_of_images(photographs, tmp_path):
    given = load_given(str(MODELS / "base_galaxies-6afaecbd"), str(photographs), 4, 2, tmp_path)
    assert given.train.shape == (4, 3, 64, 64) and given.test.shape == (2, 3, 64, 64)
    assert torch.equal(given.pictures, given.test)
    assert [*given.labels] == ["a", "b"] and (given.labels.sum(axis=1) == 1).all()
    assert read_activations(given.network, given.test, "convnext.encoder.stages.0").shape[0] == 2
    known = image_sets.load_image_folder(photographs, 64)
    rows = (known.images[None] == given.test[:, None]).flatten(2).all(2).int().argmax(1)
    expected = [known.classes[i] for i in known.labels[rows].tolist()]
    assert given.labels.idxmax(axis=1).tolist() == expected


def test_shapes_that_are_held_out_are_of_compositions_that_are_not_trained_on(tmp_path):
    given = load_given(str(MODELS / "base_cnn-293f5a2b"), "shapes", 8, 4, tmp_path)
    assert given.train.shape == (8, 1, 64, 64) and given.labels.shape == (4, 180)
    assert given.pictures.max() > 200
    assert not (given.train[:, None] == given.test[None]).flatten(2).all(2).any()


def test_a_go_network_plays_what_it_is_explained_by(tmp_path):
    given = load_given("tiny", "go", 12, 6, tmp_path)
    assert isinstance(given.network, GoNetwork)
    assert given.train.shape == (12, 41, 9, 9) and given.pictures.shape == (6, 1, 9, 9)
    assert set(given.pictures.unique().tolist()) <= {0, 150, 255}


def test_a_language_model_and_a_text(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"A sentence about the number {i}." for i in range(400)))
    given = load_given(str(MODELS / "gpt2_docs-*"), str(text), 4, 2, tmp_path)
    assert given.train.shape == (4, CONTEXT) and given.test.shape == (2, CONTEXT)
    said = "".join(given.vocabulary[token] for token in given.test[0].tolist())
    assert "sentence about the number" in said


def test_groups_act_on_sequences_by_shifts_and_reversal():
    tokens = torch.arange(16).view(2, 8)
    act = sequence_action(Group.named("D4"))
    check_input_action(Group.named("D4"), act, tokens)
    assert act(tokens, 1)[0].tolist() == [6, 7, 0, 1, 2, 3, 4, 5]
    assert act(tokens, 4)[0].tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    with pytest.raises(ValueError, match="C3 moves sequences by 1 / 3 of their length, got 8"):
        sequence_action(Group.named("C3"))(tokens, 1)


def test_colours_and_shifts_act_on_pictures_and_on_their_maps():
    pictures = torch.rand(2, 3, 8, 8)
    given = Given(torch.nn.Identity(), pictures, pictures, "here")
    colours, act = given.named_action("colours")
    maps = torch.rand(2, 5, 4, 4)
    for x in (pictures, maps):
        check_input_action(colours, act, x)
    assert torch.equal(act(pictures, 1), pictures[:, [2, 0, 1]])
    assert torch.equal(act(pictures, 3), pictures[:, [1, 0, 2]])
    assert torch.equal(act(maps, 5), maps)
    shifts, act = given.named_action("shifts")
    for x in (pictures, maps):
        check_input_action(shifts, act, x)
    assert shifts.order == 4 and torch.equal(act(pictures, 1), pictures.roll(4, -2))
    assert torch.equal(act(maps, 2), maps.roll(2, -1))
    turns, act = given.named_action("C4")
    assert turns == Group.named("C4") and torch.equal(act(maps, 1), maps.rot90(1, (-2, -1)))


def test_a_layer_over_colours_and_over_shifts(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular"))
    pictures = torch.rand(30, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    given = Given(network.requires_grad_(False), pictures[:20], pictures[20:], "here")
    settings = {"models": tmp_path / "models", "folder": tmp_path, "points": 6,
                "method": "whole_orbits"}  # fmt: skip
    for name in ("colours", "shifts"):
        group, act = given.named_action(name)
        subject = prepare_given(given, network, "0", group, act=act, **settings)
        read = network(act(given.test, 1))
        assert subject.test.shape == (60, group.order, 6)
        places = read.flatten(2).mT.flatten(0, 1)
        assert (torch.cdist(subject.test[:, 1], places).amin(1) < 1e-3).all()
    same = subject.test[:, :1].expand_as(subject.test)  # whoever shifts with the picture sees none
    torch.testing.assert_close(subject.test, same, atol=1e-5, rtol=0)


def test_actions_that_do_not_fit_the_inputs(texts):
    def of(*shape):
        return Given(torch.nn.Identity(), torch.rand(2, *shape), torch.rand(2, *shape), "here")

    for given, name, message in (
        (of(1, 8, 8), "colours", r"colours are orders of three channels, got inputs \(1, 8, 8\)"),
        (of(3, 9, 9), "shifts", r"shifts move by half of a side, got \(9, 9\)"),
        (texts, "shifts", r"shifts act on pictures, got inputs \(8,\): of texts C_n are shifts"),
        (of(3, 8, 8), "colors", "unknown group 'colors'"),
    ):
        with pytest.raises(ValueError, match=message):
            given.named_action(name)


@pytest.fixture
def texts():
    tokens = torch.randint(32, (12, 8), generator=torch.Generator().manual_seed(0))
    words = tuple(f"w{i}" for i in range(32))
    model = make_gpt2(32, 8, 8, n_layers=2, n_heads=2).eval().requires_grad_(False)
    return Given(model, tokens[:8], tokens[8:], "here", vocabulary=words)


def test_tokens_are_read_where_elements_take_them(texts, tmp_path):
    group = Group.named("C2")
    settings = {"models": tmp_path / "models", "folder": tmp_path, "points": 3}
    subject = prepare_given(texts, texts.network, "transformer.wte", group, **settings,
                            method="least_squares")  # fmt: skip
    assert subject.train.shape == (24, 2, 8) and subject.test.shape == (12, 2, 8)
    # a token's embedding is the same wherever it stands
    assert torch.equal(subject.train[:, 0], subject.train[:, 1])
    later = prepare_given(texts, texts.network, "transformer.h.1", group, **settings,
                          method="least_squares")  # fmt: skip
    assert not torch.equal(later.train[:, 0], later.train[:, 1])
    read = read_activations(texts.network, texts.test, "transformer.h.1").flatten(0, 1)
    assert all((read == row).all(1).any() for row in later.test[:, 0])


def test_latents_are_those_of_the_places_of_texts_and_of_images(texts):
    sae = make_sae(SAEConfig(8, 12, topk=3)).eval().requires_grad_(False)
    found = texts.latents_of(texts.test, "transformer.h.1", sae, [5, 0])
    read = read_activations(texts.network, texts.test, "transformer.h.1")
    assert found.shape == (4, 8, 2)
    torch.testing.assert_close(found[2, 3], sae.encode(read[2, 3:4])[0, [5, 0]])
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3, padding=1)).requires_grad_(False)
    images = Given(network, torch.rand(6, 1, 5, 5), torch.rand(2, 1, 5, 5), "here")
    found = images.latents_of(images.test, "0", sae, [5, 0])
    assert found.shape == (2, 2, 5, 5)
    maps = network(images.test)
    torch.testing.assert_close(found[1, :, 2, 4], sae.encode(maps[1:, :, 2, 4])[0, [5, 0]])


def test_groups_act_on_what_the_network_reads(texts):
    turned = texts.input_action(Group.named("C2"))(texts.test, 1)
    assert torch.equal(turned, texts.test.roll(4, 1))
    images = Given(torch.nn.Identity(), torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4), "here")
    turned = images.input_action(Group.named("C2"))(images.test, 1)
    assert torch.equal(turned, images.test.rot90(2, (-2, -1)))


def test_what_is_not_there_or_does_not_go_together_is_said(photographs, tmp_path):
    classifier = str(MODELS / "base_galaxies-6afaecbd")
    with pytest.raises(FileNotFoundError, match="model: there is no folder"):
        load_given(str(MODELS / "mine-*"), "shapes", 4, 2, tmp_path)
    with pytest.raises(ValueError, match="model: several folders fit"):
        load_given(str(MODELS / "base_*"), "shapes", 4, 2, tmp_path)
    with pytest.raises(FileNotFoundError, match="inputs: 'nowhere' is neither a folder"):
        load_given(classifier, "nowhere", 4, 2, tmp_path)
    with pytest.raises(ValueError, match="fewer than n_train"):
        load_given(classifier, str(photographs), 5, 2, tmp_path)
    with pytest.raises(ValueError, match="comes without a tokeniser"):
        load_given(classifier, "documentation", 4, 2, tmp_path)
    with pytest.raises(ValueError, match="a language model reads 'documentation'"):
        load_given(str(MODELS / "gpt2_docs-*"), "shapes", 4, 2, tmp_path)
