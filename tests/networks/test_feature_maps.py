"""Feature maps: their pixels over the orbit, read where the group takes them."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from saehelpers import runs
from saehelpers.experiments import load_or_train_saes
from saehelpers.networks import feature_maps
from saehelpers.networks.feature_maps import (
    drawn_pixels,
    latent_maps,
    map_activations,
    mean_latents,
    neighbourhoods,
    orbit_pixels,
)
from saehelpers.networks.scaling import standardisation
from saehelpers.runs.identities import identity
from saehelpers.saes import SAEConfig, make_sae
from saehelpers.symmetry import Group, image_action
from saehelpers.training.methods import SAERun

SIDE, N_PIXELS, D = 3, 9, 5


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def images() -> torch.Tensor:
    return random(7, 2, 2 * SIDE, 2 * SIDE)


@pytest.fixture
def model() -> nn.Module:
    """Maps of 3x3 pixels, 5 channels, of images of 6x6: no kernel straddles the grid."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, D, 2, stride=2), nn.ReLU(), nn.Conv2d(D, D, 1))


@pytest.fixture(params=["C4", "D4"])
def group(request) -> Group:
    return Group.named(request.param)


class WithTokens(nn.Module):
    """A transformer's parameters, as far as they say which tokens stand in front."""

    def __init__(self, **shapes):
        super().__init__()
        self.embeddings = nn.ParameterDict()
        for name, shape in shapes.items():
            self.embeddings.register_parameter(name, nn.Parameter(torch.zeros(shape)))


MODELS = [
    (0, {"position_embeddings": (1, 16, D), "mask_token": (1, D)}),
    (1, {"cls_token": (1, 1, D)}),
    (1, {"class_embedding": (D,)}),
    (2, {"cls_token": (1, 1, D), "distillation_token": (1, 1, D)}),
    (5, {"cls_token": (1, 1, D), "register_tokens": (1, 4, D)}),
]


def in_rows(maps: torch.Tensor, n_others: int) -> torch.Tensor:
    """Tokens (n, tokens, d) of maps, with others in front."""
    tokens = [maps[:, :, row, column] for row in range(SIDE) for column in range(SIDE)]
    return torch.cat([random(len(maps), n_others, D, seed=1), torch.stack(tokens, dim=1)], dim=1)


@pytest.mark.parametrize("n_others, shapes", MODELS)
def test_tokens_are_laid_out_in_rows_without_those_in_front(n_others, shapes):
    model, maps = WithTokens(**shapes), random(2, D, SIDE, SIDE)
    assert feature_maps.leading_tokens(model) == n_others
    assert torch.equal(feature_maps.to_feature_maps(in_rows(maps, n_others), model), maps)


def test_a_layer_before_the_tokens_in_front_come_in_and_a_model_that_says_their_number():
    model, maps = WithTokens(cls_token=(1, 1, D)), random(2, D, SIDE, SIDE)
    assert torch.equal(feature_maps.to_feature_maps(in_rows(maps, 0), model), maps)
    model = nn.Linear(1, 1)
    model.num_prefix_tokens = 3
    assert torch.equal(feature_maps.to_feature_maps(in_rows(maps, 3), model), maps)


def test_the_number_of_tokens_in_front_is_not_guessed():
    """Nine tokens may be 3x3 patches, or 2x2 and five in front: the square root does not say."""
    maps = random(2, D, 2, 2)
    tokens = torch.cat([random(2, 5, D, seed=1), maps.flatten(2).mT], dim=1)
    model = WithTokens(cls_token=(1, 1, D), register_tokens=(1, 4, D))
    assert torch.equal(feature_maps.to_feature_maps(tokens, model), maps)
    assert feature_maps.to_feature_maps(tokens).shape == (2, D, 3, 3)  # there is no model
    error = r"10 tokens, {} of them in front .* no square map: pass the model, .* num_prefix_tokens"
    for model, number in ((None, 0), (WithTokens(cls_token=(1, 2, D)), 2)):
        with pytest.raises(ValueError, match=error.format(number)):
            feature_maps.to_feature_maps(random(2, 10, D), model)


def test_channels_that_come_last():
    maps = random(2, D, SIDE, SIDE)
    assert torch.equal(feature_maps.to_feature_maps(maps.permute(0, 2, 3, 1)), maps)


def test_maps_stay_as_they_are_and_vectors_have_one_pixel():
    maps, vectors = random(2, D, 3, 4), random(2, D)
    assert torch.equal(feature_maps.to_feature_maps(maps), maps)
    assert torch.equal(feature_maps.to_feature_maps(vectors), vectors.reshape(2, D, 1, 1))


@pytest.mark.parametrize("shape", [(3,), (3, 1, 2, 4, 5)])
def test_other_shapes_are_no_maps(shape):
    with pytest.raises(ValueError, match=r"\(n, d, h, w\), .* these are \(3,"):
        feature_maps.to_feature_maps(torch.zeros(shape))


# --- orbits of pixels ---


def test_pixels_are_read_where_the_group_takes_them(model, images, group, tmp_path):
    """Agrees with a loop; an image of pixel numbers says where each pixel goes."""
    found = orbit_pixels(model, images, group, "2", tmp_path / "new" / "pixels.npy")
    assert (found.shape, found.dtype) == ((7 * N_PIXELS, group.order, D), torch.float32)
    numbers = torch.arange(float(N_PIXELS)).reshape(SIDE, SIDE)
    for g in range(group.order):
        maps = model(image_action(group)(images, g)).detach()
        taken = image_action(group)(numbers, g)
        for u in range(N_PIXELS):
            row, column = (taken == u).nonzero()[0]
            for i in range(7):
                assert_close(found[i * N_PIXELS + u, g], maps[i, :, row, column])


def test_a_network_that_sees_pixels_alone_is_the_same_at_every_element(images, group, tmp_path):
    found = orbit_pixels(nn.Conv2d(2, D, 1), images, group, "", tmp_path / "pixels.npy")
    assert found.shape == (7 * 36, group.order, D)
    assert_close(found, found[:, :1].expand_as(found))
    assert found[:, 0].var(0).min() > 0


def test_pixels_of_any_group_by_a_function(images, tmp_path):
    """C3 x C3 shifts images in a circle; a convolution is the same at every place."""
    group = Group.product(Group.named("C3"), Group.named("C3"))

    def shift(x, element):
        return x.roll([part * x.shape[-1] // 3 for part in divmod(element, 3)], (-2, -1))

    model = nn.Conv2d(2, D, 2, stride=2)
    found = orbit_pixels(model, images, group, "", tmp_path / "pixels.npy", act=shift)
    assert_close(found, found[:, :1].expand_as(found))
    assert found[:, 0].var(0).min() > 0
    with pytest.raises(ValueError, match="keep the shape of inputs"):
        orbit_pixels(model, images, group, "", tmp_path / "b", act=lambda x, g: x[..., g:])
    with pytest.raises(ValueError, match="how C3xC3 acts on inputs must be given"):
        orbit_pixels(model, images, group, "", tmp_path / "c")
    assert not list(tmp_path.glob("[bc]*"))


def test_chosen_pixels_are_some_of_all_drawn_by_the_seed(model, images, group, tmp_path):
    def chosen(name, n_pixels, seed=0):
        found = orbit_pixels(model, images, group, "2", tmp_path / name, n_pixels, seed)
        return found.unflatten(0, (7, -1))  # (images, pixels, |G|, d)

    everything, some = chosen("all", None), chosen("some", 4)
    same = (some[:, :, None] == everything[:, None]).all(dim=(-1, -2))  # (images, 4, 9)
    assert (same.sum(2) == 1).all() and (same.sum(1) <= 1).all()
    assert len({tuple(row) for row in same.any(1).tolist()}) > 1  # anew for every image
    assert torch.equal(chosen("same", 4), some)
    assert not torch.equal(chosen("other", 4, seed=1), some)
    assert torch.equal(chosen("more", 100), everything)


def test_drawn_pixels_are_those_of_the_file(model, images, group, tmp_path):
    every = orbit_pixels(model, images, group, "2", tmp_path / "all.npy")
    some = orbit_pixels(model, images, group, "2", tmp_path / "some.npy", 4, seed=3, batch_size=2)
    pixels = drawn_pixels(7, N_PIXELS, 4, seed=3)
    rows = torch.arange(7)[:, None] * N_PIXELS + pixels
    assert_close(every[rows.flatten()], some)
    # as batches drew them one after another
    generator = torch.Generator().manual_seed(3)
    batches = [torch.rand(n, N_PIXELS, generator=generator) for n in (2, 2, 2, 1)]
    assert torch.equal(torch.cat(batches).argsort(1)[:, :4].sort(1).values, pixels)
    assert torch.equal(drawn_pixels(2, 4), torch.arange(4).expand(2, 4))


@pytest.mark.parametrize("width", [1, 3, 5])
def test_neighbourhoods_are_what_lies_around_pixels(width):
    maps, pixels = random(3, 2, 4, 4), torch.tensor([[0, 5], [15, 3], [6, 9]])
    found = neighbourhoods(maps, pixels, width)
    assert found.shape == (6, 2 * width**2)
    half = width // 2
    padded = nn.functional.pad(maps, (half,) * 4)
    for i in range(3):
        for j in range(2):
            row, column = divmod(int(pixels[i, j]), 4)
            square = padded[i, :, row : row + width, column : column + width]
            assert torch.equal(found[2 * i + j], square.flatten())
    with pytest.raises(ValueError, match="width must be odd"):
        neighbourhoods(maps, pixels, 2)


@pytest.mark.parametrize("n_pixels", [None, 4])
def test_batch_size_makes_no_difference(model, images, group, tmp_path, n_pixels):
    given = (model, images, group, "2")
    first = orbit_pixels(*given, tmp_path / "a", n_pixels, batch_size=2)
    assert_close(orbit_pixels(*given, tmp_path / "b", n_pixels), first)


def test_file_is_written_once_and_mapped(model, images, group, tmp_path):
    path = tmp_path / "pixels.npy"
    first = orbit_pixels(model, images, group, "2", path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pixels.npy", "pixels.npy.fingerprint"]
    assert np.array_equal(np.load(path), first)
    assert torch.equal(orbit_pixels(nn.Module(), images, group, "2", path), first)
    first[:] = 0  # in memory, and not in the file
    assert (map_activations(path) != 0).any()


def test_no_half_file_stays_after_an_error(model, images, group, tmp_path):
    batches = []

    def refuse(module, inputs):
        batches.append(inputs)
        assert len(batches) < 3, "the third batch"

    model.register_forward_pre_hook(refuse)
    with pytest.raises(AssertionError, match="the third batch"):
        orbit_pixels(model, images, group, "2", tmp_path / "pixels.npy", batch_size=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", [0, 5, 100, 600])
def test_file_that_is_cut_short(length, model, images, group, tmp_path):
    path = tmp_path / "pixels.npy"
    np.save(path, np.ones((10, 4, 8), np.float32))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"pixels\.npy is cut short .*write it once more$"):
        map_activations(path)
    with pytest.raises(ValueError, match=r"pixels\.npy is cut short .*made again when it is not"):
        orbit_pixels(model, images, group, "2", path)


# --- latents of maps, and training from a file ---


@pytest.mark.parametrize("batch_size", [1, 3, 256])
def test_latents_of_maps_are_those_of_their_pixels(batch_size):
    sae = make_sae(SAEConfig(d=D, n_latents=7, topk=3, encoder_hidden=16)).eval()
    sae.set_standardisation(torch.linspace(0, 1, D), torch.tensor(1.5))
    maps = random(4, D, 2, 3)
    expected = torch.zeros(4, 7, 2, 3)
    for row in range(2):
        for column in range(3):
            expected[:, :, row, column] = sae.encode(maps[:, :, row, column]).detach()
    assert_close(latent_maps(sae, maps), expected)
    assert_close(mean_latents(sae, maps, batch_size), expected.mean((2, 3)))


@pytest.mark.parametrize("n_rows", [1, 7, 40])
def test_standardisation_does_not_depend_on_the_parts_it_looks_at(n_rows, monkeypatch):
    x = 3 * random(10, 4, D) + torch.arange(float(D))
    together = standardisation(x)
    monkeypatch.setattr("saehelpers.networks.scaling.STANDARDISATION_ROWS", n_rows)
    assert_close(standardisation(x), together)


def test_training_from_a_mapped_file_is_training_from_the_tensor(toy, small_config, tmp_path):
    np.save(tmp_path / "orbits.npy", toy.activations)
    weights = []
    for name, source in (("a", toy.activations), ("b", tmp_path / "orbits.npy")):
        told = identity(source)
        configs = [SAERun("test", told, small_config, epochs=2, seed=seed) for seed in (0, 1)]
        with ThreadPoolExecutor(1) as executor:
            saes = load_or_train_saes(configs, source, tmp_path / name, executor=executor)
        weights.append([runs.fingerprint(sae.state_dict()) for sae in saes])
    assert weights[0] == weights[1]
