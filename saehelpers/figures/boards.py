"""Go boards, drawn."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from saehelpers.figures.plots import panels
from saehelpers.networks.go import GoOpinion
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.wanted import NOT_EMPTY, Positive

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
def boards_by_view(
    stones: Int[Tensor, "size size"],
    last: int,
    views: Annotated[Sequence[GoOpinion], NOT_EMPTY],
    legal: Bool[Tensor, " moves"],
) -> Figure:
    """A position and the chances of its moves, once for every view; see `viewed_opinions`.

    Titles: the chance of the best move on the board, and that the player to move wins.

    Args:
        views: whose first position this is.
        legal: moves, a pass last.
    """
    size = len(stones)
    fig, axes = panels(len(views), (2.1, 2.3), rows=2 if len(views) > 4 else 1)
    for g, (ax, view) in enumerate(zip(axes, views, strict=True)):
        chances = view.policy[0].masked_fill(~legal, -torch.inf).softmax(0)
        chances = chances[:-1].view(size, size)
        draw_board(ax, stones, last, chances)
        win = view.value.softmax(1)[0, 0]
        ax.set_title(f"view {g}: best {chances.max():.2f}, win {win:.3f}", fontsize=8)
    return fig


@checked
def strongest_boards(
    stones: Int[Tensor, "n size size"],
    last: Int[Tensor, " n"],
    activations: Float[Tensor, "n size size n_latents"],
    names: Annotated[Sequence[str], NOT_EMPTY],
    columns: Positive = 6,
    views: Positive = 1,
) -> Figure:
    """The positions on which latents are strongest, a row for each; discs are its activations.

    A disc of full size is a latent's largest activation on all boards. Positions on which a latent
    is silent are left out.

    Args:
        names: one for each latent.
        views: of every position: all positions under the first one first (see `turned_boards`).
            A position is shown as the latent is strongest on it.
    """
    if len(names) != activations.shape[-1]:
        raise ValueError(f"names must be {activations.shape[-1]}, one for each latent, got {names}")
    if len(stones) % views:
        raise ValueError(f"views must divide the {len(stones)} boards, got {views}")
    n = len(stones) // views
    columns = min(columns, n)
    fig, axes = panels(columns * len(names), (1.5, 1.6), rows=len(names))
    for row, (name, strength) in enumerate(zip(names, activations.unbind(-1), strict=True)):
        own = axes[row * columns : (row + 1) * columns]
        largest, view = strength.amax((1, 2)).unflatten(0, (views, n)).max(dim=0)
        best = largest.argsort(descending=True)[:columns]
        scaled = strength / strength.max().clamp(min=1e-6)
        for ax, position in zip(own, best.tolist(), strict=True):
            board = int(view[position]) * n + position
            if largest[position] > 0:
                draw_board(ax, stones[board], int(last[board]), scaled[board])
            else:
                ax.axis("off")
        own[0].set_ylabel(name, fontsize=8)
    return fig


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
