"""Pictures as they might have been taken otherwise: what a classifier is not to depend on."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from saehelpers.runs.checking import checked

LARGEST_FLUX = math.asinh(300)  # that is shown, in the units in which pictures turn logarithmic
FLUX = 0.7  # of the natural logarithm, as are colours
COLOUR, GREY = 0.25, 0.2  # GREY: probability
SKY, NOISE = 0.03, 0.04  # as shares of white
ZOOM, SHIFT = 0.3, 0.08  # a logarithm; a share of the side


@checked
def augment(
    images: UInt8[Tensor, "n 3 size size"], generator: torch.Generator
) -> Float[Tensor, "n 3 size size"]:
    """The images, in [0, 1], each with another exposure, colour, sky, noise, size and place.

    What classifiers of survey images are commonly trained with (Dieleman et al., MNRAS 450 (2015),
    1441, section 5.1; the encoders of Zoobot, JOSS 8 (2023), 5312). A picture v is taken to be
    v = asinh f / asinh 300 of a flux f, as survey composites are. In turn, drawn evenly from

        zoom     exp [-0.3, 0.3], shift [-0.08, 0.08] of the side; what comes in is mirrored
        flux     factor exp [-0.7, 0.7]; of each band a further one, exp [-0.25, 0.25]
        grey     one image of five, the mean of its bands
        sky      [-0.03, 0.03] added to each band, of white
        noise    of standard deviation [0, 0.04] of white, half of its variance in all bands,
                 half of it smooth from pixel to pixel

    Args:
        generator: of the CPU.
    """

    def draw(*shape: int) -> Tensor:
        return 2 * torch.rand(shape, generator=generator).to(images.device) - 1

    n = len(images)
    values = _moved(images.float() / 255, (ZOOM * draw(n)).exp(), SHIFT * draw(n, 2))
    gain = (FLUX * draw(n, 1, 1, 1) + COLOUR * draw(n, 3, 1, 1)).exp()
    values = torch.asinh(gain * torch.sinh(LARGEST_FLUX * values)) / LARGEST_FLUX
    grey = (draw(n, 1, 1, 1) + 1) / 2 < GREY
    values = torch.where(grey, values.mean(1, keepdim=True), values)
    noise = torch.randn(n, 4, *images.shape[-2:], generator=generator).to(images.device)
    noise = noise[:, 3:] + noise[:, :3]
    noise = noise / 2 + F.avg_pool2d(noise, 3, 1, 1, count_include_pad=False)
    deviation = NOISE / 2 * (draw(n, 1, 1, 1) + 1)
    return (values + SKY * draw(n, 3, 1, 1) + deviation * noise / noise.std()).clamp(0, 1)


def _moved(images: Tensor, zoom: Tensor, shift: Tensor) -> Tensor:
    """Larger by `zoom` about the middle, then moved by `shift`, a share of the side."""
    turn = torch.eye(2, 2, device=images.device) / zoom[:, None, None]
    affine = torch.cat([turn, -2 * (shift / zoom[:, None])[..., None]], dim=-1)  # (n, 2, 3)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
