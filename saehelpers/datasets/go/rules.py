"""The rules of Go on many boards at once: chains, liberties, moves, captures, ko.

Boards of one size lie side by side, (n, size, size): 1 is black, -1 white, 0 empty. A point is
row * size + column, and size * size is a pass. Simple ko, no suicide; who has won, `scoring` says.
Nothing here goes through boards one by one.
"""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Positive, Wanted

LARGEST = 19
NO_POINT = -1  # where there is no ko, or no move
BARRED = LARGEST**2  # above every point


BOARDS = (
    f"1 (black), -1 (white) or 0 on square boards of {LARGEST} points a side or fewer, each chain "
    "with a liberty"
)


def are_boards(stones: Tensor) -> bool:
    fits = stones.shape[-1] <= LARGEST and bool(((stones >= -1) & (stones <= 1)).all())
    return fits and bool((chains_of(stones).liberties > 0)[stones.flatten(1) != 0].all())


Stones = Annotated[Int[Tensor, "n size size"], Wanted(BOARDS, are_boards)]
KO = Wanted(
    f"points, or {NO_POINT} where there is none",
    lambda ko: bool(((ko >= NO_POINT) & (ko < LARGEST**2)).all()),
)
Colours = Annotated[
    Int[Tensor, " n"],
    Wanted("1 (black) or -1 (white)", lambda colours: bool((colours.abs() == 1).all())),
]
Size = Annotated[
    Positive, Wanted(f"{LARGEST} points a side or fewer", lambda size: size <= LARGEST)
]


@checked
@dataclass(frozen=True)
class Boards:
    """Boards side by side: their stones, who is to move, and the point that ko forbids, or -1."""

    stones: Stones
    to_move: Colours
    ko: Annotated[Int[Tensor, " n"], KO]

    @property
    def size(self) -> int:
        return self.stones.shape[-1]

    def __len__(self) -> int:
        return len(self.stones)


@checked
def empty_boards(n: Positive, size: Size = 19) -> Boards:
    """Boards before the first move, black to play."""
    return Boards(
        torch.zeros(n, size, size, dtype=torch.int8),
        torch.ones(n, dtype=torch.int8),
        torch.full((n,), NO_POINT),
    )


# --- chains ---


class Chains(NamedTuple):
    """Of every point the first one of its chain, and how many liberties that has.

    Both (n, size * size). Empty points make up regions, which have no liberties.
    """

    labels: Int[Tensor, "n points"]
    liberties: Int[Tensor, "n points"]


def beside(x: Tensor, outside: int) -> list[Tensor]:
    """Of every point the number above, below, left and right of it; `outside` off the board."""
    padded = F.pad(x, (1, 1, 1, 1), value=outside)
    return [
        padded[..., :-2, 1:-1], padded[..., 2:, 1:-1],
        padded[..., 1:-1, :-2], padded[..., 1:-1, 2:],
    ]  # fmt: skip


def connected(values: Int[Tensor, "n size size"]) -> Int[Tensor, "n points"]:
    """Of every point the first point that equal neighbours lead to."""
    n, size, _ = values.shape
    values = values.permute(1, 2, 0).contiguous()  # (size, size, n): boards lie side by side
    labels = torch.arange(size * size, dtype=torch.int16, device=values.device)
    labels = labels.view(size, size, 1).repeat(1, 1, n)
    rows, columns = (values[1:] != values[:-1]).short(), (values[:, 1:] != values[:, :-1]).short()
    rows, columns = BARRED * rows, BARRED * columns
    while True:
        before = labels.clone()
        for lines, barred in ((labels, rows), (labels.transpose(0, 1), columns.transpose(0, 1))):
            lines[1:] = torch.minimum(lines[1:], torch.maximum(lines[:-1], barred))
            lines[:-1] = torch.minimum(lines[:-1], torch.maximum(lines[1:], barred))
        labels = labels.view(-1, n)
        labels = labels.gather(0, labels.long()).view(size, size, n)  # what that point has found
        if torch.equal(labels, before):
            return labels.view(-1, n).T.long().contiguous()


def chains_of(stones: Int[Tensor, "n size size"]) -> Chains:
    labels = connected(stones)
    return Chains(labels, counted_beside(labels, stones, stones == 0))


def counted_beside(
    labels: Int[Tensor, "n points"],
    stones: Int[Tensor, "n size size"],
    empty: Bool[Tensor, "n size size"],
) -> Int[Tensor, "n points"]:
    """At every stone how many of some empty points its chain has beside it; 0 on empty points."""
    n, points = labels.shape
    counts = torch.zeros(n, points, dtype=torch.int16, device=stones.device)
    counted = []
    neighbours = zip(beside(stones, 0), beside(labels.view(stones.shape), -1), strict=True)
    for colour, label in neighbours:
        new = empty & (colour != 0)
        for other in counted:  # a point is one liberty, however many stones of a chain touch it
            new &= label != other
        counted.append(label)
        counts.scatter_add_(1, label.reshape(n, -1).clamp(min=0), new.reshape(n, -1).short())
    return counts.gather(1, labels)


@checked
def chains(stones: Stones) -> Int[Tensor, "n size size"]:
    """Of every stone the first point of its chain, by which chains are told apart; empty: -1."""
    labels = connected(stones).view(stones.shape)
    return torch.where(stones != 0, labels, NO_POINT)


@checked
def count_liberties(stones: Stones) -> Int[Tensor, "n size size"]:
    """Of every stone how many liberties its chain has; 0 on empty points."""
    return chains_of(stones).liberties.view(stones.shape)


# --- moves ---


def legal_of(boards: Boards, found: Chains) -> Bool[Tensor, "n moves"]:
    stones, shape = boards.stones, boards.stones.shape
    colour = boards.to_move.view(-1, 1, 1)
    n_liberties = found.liberties.view(shape)
    lives = torch.zeros(shape, dtype=torch.bool, device=stones.device)
    for there, free in zip(beside(stones, 2), beside(n_liberties, 0), strict=True):
        lives |= (
            (there == 0) | ((there == colour) & (free > 1)) | ((there == -colour) & (free == 1))
        )
    legal = F.pad((lives & (stones == 0)).flatten(1), (0, 1), value=True)  # a pass
    rows = (boards.ko >= 0).nonzero().flatten()
    legal[rows, boards.ko[rows]] = False
    return legal


def after(boards: Boards, moves: Int[Tensor, " n"], found: Chains) -> Boards:
    """Boards after moves that are legal."""
    n, size, points, moves = len(boards), boards.size, boards.size**2, moves.long()
    stones, colour = boards.stones.flatten(1), boards.to_move.view(-1, 1)
    passes, where = moves == points, moves.clamp(max=points - 1)
    around = neighbours(size).to(stones.device)[where]  # (n, 4), points outside the board
    colours = F.pad(stones, (0, 1), value=2).gather(1, around)
    labels = F.pad(found.labels, (0, 1), value=points).gather(1, around)
    free = F.pad(found.liberties, (0, 1)).gather(1, around)
    taken = (colours == -colour) & (free == 1) & ~passes[:, None]
    gone = torch.zeros(stones.shape, dtype=torch.bool, device=stones.device)
    for label, takes in zip(labels.T, taken.T, strict=True):
        gone |= (found.labels == label[:, None]) & takes[:, None]
    alone = ((colours == -colour) | (colours == 2)).all(dim=1)
    is_ko = alone & (gone.sum(dim=1) == 1)
    ko = torch.where(is_ko, gone.int().argmax(dim=1), NO_POINT)
    stones = stones.masked_fill(gone, 0)
    placed = torch.where(passes, stones.gather(1, where[:, None])[:, 0], boards.to_move)
    stones.scatter_(1, where[:, None], placed[:, None].to(stones.dtype))
    return Boards(stones.view(n, size, size), -boards.to_move, ko)


def neighbours(size: int) -> Int[Tensor, "points 4"]:
    """The points around each point; size * size for one off the board."""
    numbers = torch.arange(size * size).view(1, size, size)
    return torch.stack(beside(numbers, size * size), dim=-1).view(-1, 4)


@checked
def legal_moves(boards: Boards) -> Bool[Tensor, "n moves"]:
    """Which moves are legal: every point and, last, a pass: (n, size * size + 1).

    A pass always is. A point is where it is empty, ko does not forbid it, and the stone has a
    liberty there once what it captures is gone.
    """
    return legal_of(boards, chains_of(boards.stones))


@checked
def play(boards: Boards, moves: Int[Tensor, " n"]) -> Boards:
    """Boards after a move on each; what the moves capture is gone.

    Raises:
        ValueError: a move is illegal; names the first, and why.
    """
    found = chains_of(boards.stones)
    check_legal(boards, moves, legal_of(boards, found))
    return after(boards, moves, found)


def check_legal(
    boards: Boards,
    moves: Int[Tensor, " n"],
    legal: Bool[Tensor, "n moves"],
    kind: str = "board",
    numbers: Int[Tensor, " n"] | None = None,
) -> None:
    """Raise a ValueError unless the moves are legal; it names the board, or its kind and number."""
    points = boards.size**2
    outside = (moves < 0) | (moves > points)
    wrong = outside | ~legal.gather(1, moves.long().clamp(0, points)[:, None])[:, 0]
    if not wrong.any():
        return
    row = int(wrong.int().argmax())
    move = int(moves[row])
    if outside[row]:
        why = f"is outside: points are 0 to {points - 1}, a pass is {points}"
    elif boards.stones.flatten(1)[row, move] != 0:
        why = "is on a stone"
    else:
        why = "is forbidden by ko" if move == boards.ko[row] else "would be suicide"
    number = row if numbers is None else int(numbers[row])
    raise ValueError(f"moves: {move} on {kind} {number} {why}")
