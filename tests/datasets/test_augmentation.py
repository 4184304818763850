"""Pictures as they might have been taken otherwise."""

import pytest
import torch
from torch.testing import assert_close

from saehelpers.datasets import augment, augmentation

OF_LIGHT = {"FLUX": 0.0, "COLOUR": 0.0, "GREY": -1.0, "SKY": 0.0, "NOISE": 0.0}
OF_PLACE = {"ZOOM": 0.0, "SHIFT": 0.0}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def alone(monkeypatch):
    """Everything is switched off but what has a value here."""

    def switch(**values):
        for name, value in (OF_LIGHT | OF_PLACE | values).items():
            monkeypatch.setattr(augmentation, name, value)

    return switch


@pytest.fixture
def images() -> torch.Tensor:
    """A bright square of 8 x 8 in the middle of dark ones."""
    images = torch.full((40, 3, 32, 32), 20, dtype=torch.uint8)
    images[:, :, 12:20, 12:20] = torch.tensor([200, 150, 100], dtype=torch.uint8)[:, None, None]
    return images


def test_everything_off_changes_nothing(images, alone):
    alone()
    assert_close(augment(images, generator()), images / 255, atol=1e-5, rtol=0)


def test_the_same_generator_gives_the_same_images(images):
    one, same, other = (augment(images, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert one.min() >= 0 and one.max() <= 1
    assert not torch.equal(one[0], one[1])


def test_zoom_and_shift_move_light(images, alone):
    alone(ZOOM=0.3)
    bright = (augment(images, generator()) > 0.3)[:, 0].sum((1, 2)) / 64
    assert bright.min() < 0.75 and 1.25 < bright.max() < 1.3 * 1.36**2
    alone(SHIFT=0.1)
    moved = augment(images, generator())[:, 0] - 20 / 255
    pixels = torch.arange(32.0)
    x, y = ((moved.sum(dim) * pixels).sum(-1) / moved.sum((1, 2)) for dim in (1, 2))
    assert 2 < (x - 15.5).abs().max() < 3.3 and 2 < (y - 15.5).abs().max() < 3.3
    assert_close(moved.sum((1, 2)), moved.sum((1, 2)).mean().expand(40), atol=1e-2, rtol=1e-2)


def test_flux_is_that_of_the_asinh(images, alone):
    alone(FLUX=0.7)
    seen = augment(images, generator())
    flux = torch.sinh(seen * augmentation.LARGEST_FLUX)
    factor = flux[:, :, 16, 16] / torch.sinh(images[:, :, 16, 16] / 255 * augmentation.LARGEST_FLUX)
    assert_close(factor, factor[:, :1].expand(-1, 3))  # one for all bands
    assert 0.49 < factor.min() < 0.65 and 1.6 < factor.max() < 2.02


def test_colours_change_and_may_go(images, alone):
    alone(COLOUR=0.25)
    seen = augment(images, generator())[:, :, 16, 16]
    ratio = seen[:, 0] / seen[:, 2]
    assert ratio.min() < 2 < ratio.max() and ratio.std() > 0.05
    alone(GREY=0.5)
    grey = (augment(images, generator())[:, :, 16, 16].std(1) < 1e-6).sum()
    assert 10 < grey < 30


def test_sky_and_noise_are_added(images, alone):
    alone(SKY=0.03)
    sky = augment(images, generator())[:, :, 0, 0] - 20 / 255
    assert 0.02 < sky.abs().max() < 0.031
    alone(NOISE=0.04)
    noise = augment(images + 60, generator())[:, :, :10] - 80 / 255
    assert noise.std((1, 2, 3)).min() < 0.005 and 0.03 < noise.std((1, 2, 3)).max() < 0.045
    neighbours = torch.corrcoef(torch.stack([noise[..., 1:].ravel(), noise[..., :-1].ravel()]))
    bands = torch.corrcoef(noise.transpose(0, 1).flatten(1))
    assert 0.1 < neighbours[0, 1] < 0.6 and 0.3 < bands[0, 1] < 0.7
