"""Go boards, drawn."""

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.wanted import Positive

with extra("notebooks"):
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

WOOD, BLACK, WHITE, LAST = "#dcb579", "#111111", "#fafafa", "#cc3311"


@checked
def draw_board(
    ax: Axes,
    stones: Int[Tensor, "size size"],
    last: int | None = None,
    chances: Float[Tensor, "size size"] | None = None,
) -> None:
    """A board: 1 is black, -1 white.

    Args:
        last: the point of the last move, row * size + column, which gets a dot; none for a pass.
        chances: from 0 to 1, of points, drawn as discs whose area they are.
    """
    size = len(stones)
    ax.set_facecolor(WOOD)
    lines = dict(color=BLACK, linewidth=0.6, zorder=1)
    ax.hlines(range(size), 0, size - 1, **lines)
    ax.vlines(range(size), 0, size - 1, **lines)
    for colour, face in ((1, BLACK), (-1, WHITE)):
        for row, column in (stones == colour).nonzero().tolist():
            ax.add_patch(plt.Circle((column, row), 0.46, fc=face, ec=BLACK, lw=0.6, zorder=2))
    if last is not None and 0 <= last < size**2:
        ax.add_patch(plt.Circle((last % size, last // size), 0.17, fc=LAST, zorder=3))
    if chances is not None:
        for row, column in (chances > 0.005).nonzero().tolist():
            radius = 0.46 * float(chances[row, column].clamp(max=1)) ** 0.5
            ax.add_patch(plt.Circle((column, row), radius, fc="#4477aa", zorder=3))
    ax.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), xticks=[], yticks=[], aspect="equal")


@checked
def board_images(
    stones: Int[Tensor, "n size size"], last: Int[Tensor, " n"], pixels: Positive = 144
) -> UInt8[Tensor, "n 3 height width"]:
    """Boards as images of so many pixels for `image_dashboard`, a point a square of them."""
    fig, images = Figure(figsize=(pixels / 72, pixels / 72), dpi=72), []
    canvas = FigureCanvasAgg(fig)
    for board, move in zip(stones, last.tolist(), strict=True):
        fig.clear()
        draw_board(fig.add_axes((0, 0, 1, 1)), board, move)
        canvas.draw()
        images.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return torch.from_numpy(np.stack(images)).movedim(-1, 1).contiguous()
