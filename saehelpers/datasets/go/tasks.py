"""Yes-or-no questions about points of a board, whose answers are decided by the rules.

Without a direction, a turned board has the turned answers; with one, "up" becomes "left", too, when
the board is turned to the left. Liberties and eyes are of the chain that a stone belongs to;
"opposes" is of the other colour than the stone at the point. What comes later in a game, and what
is whose at its end, is as it was played.
"""

from collections.abc import Callable
from typing import Annotated

import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saehelpers.datasets.go.games import Games, turned_points
from saehelpers.datasets.go.ladders import find_ladders
from saehelpers.datasets.go.later import Later, later_in
from saehelpers.datasets.go.planes import Positions
from saehelpers.datasets.go.rules import (
    NO_POINT,
    Boards,
    Chains,
    after,
    beside,
    chains_of,
    counted_beside,
    legal_of,
)
from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import FROM_ZERO
from saehelpers.symmetry import Group

DIRECTIONS = ("up", "down", "left", "right")
CORNERS = ("upper left", "upper right", "lower left", "lower right")
KINDS = ("without direction", "with direction")
PLACES = dict(zip((*DIRECTIONS, *CORNERS), (1, 7, 3, 5, 0, 2, 6, 8), strict=True))  # of 3 x 3
AT_ONCE = 2**15  # boards that moves are tried on
SOON, LATER = 5, 20  # moves


@checked
def list_point_tasks() -> pd.DataFrame:
    """A row with task_type and task for each question of `point_tasks`, in its order."""
    rows = [(KINDS[0], name) for name in UNDIRECTED]
    rows += [(KINDS[1], f"{name} {where}") for name in DIRECTED for where in _wheres(name)]
    return pd.DataFrame(rows, columns=["task_type", "task"])


@checked
def point_tasks(games: Games, positions: Positions) -> Bool[Tensor, "n tasks size size"]:
    """The answers at every point of positions of these games; see `list_point_tasks`."""
    known = _Known(games, positions)
    found = [question(known) for question in UNDIRECTED.values()]
    for question in DIRECTED.values():
        found += question(known)
    return torch.stack(found, dim=1)


@checked
def turned_tasks(group: Group) -> Int[Tensor, "order tasks"]:
    """Which question each element of C_n or D_n makes of each: the same, or in another direction.

    point_tasks of turned games, [:, turned_tasks(group)[g]], are those of the others, turned.
    """
    numbers = {name: number for number, name in enumerate(list_point_tasks()["task"])}
    turned = torch.arange(len(numbers)).repeat(group.order, 1)
    where_of = {place: where for where, place in PLACES.items()}
    for g, points in enumerate(turned_points(group, 3).tolist()):
        for name in DIRECTED:
            for where in _wheres(name):
                there = where_of[points[PLACES[where]]]
                turned[g, numbers[f"{name} {where}"]] = numbers[f"{name} {there}"]
    return turned


@checked
def turned_labels(
    answers: Bool[Tensor, "n tasks size size"],
    points: Annotated[Int[Tensor, "n k"], FROM_ZERO],
    elements: Int[Tensor, "n k"],
    group: Group,
) -> Bool[Tensor, "samples tasks"]:
    """Answers at points (row * size + column) of boards, each as its element has turned it.

    "up" is up on the turned board: a sample's label is what point_tasks of the turned board has
    where the point has come to.
    """
    elements = group.checked(elements).flatten()
    sources = turned_tasks(group).argsort(dim=1)[elements]  # (samples, tasks)
    own = answers.flatten(2).mT.gather(1, points[..., None].expand(-1, -1, answers.shape[1]))
    return own.flatten(0, 1).gather(1, sources)


# --- what is known of positions ---


class _Known:
    """What questions are answered from; all (n, size, size) but for what says otherwise."""

    def __init__(self, games: Games, positions: Positions):
        stones, boards = positions.stones[:, 0], positions.boards
        found = chains_of(stones)
        self.stones, self.size = stones, positions.size
        self.to_move = positions.to_move.view(-1, 1, 1)
        self.is_stone, self.is_empty = stones != 0, stones == 0
        self.liberties = found.liberties.view(stones.shape)
        self.labels = found.labels.view(stones.shape)
        n_stones = torch.zeros_like(found.labels).scatter_add_(
            1, found.labels, torch.ones_like(found.labels)
        )
        self.chain_size = n_stones.gather(1, found.labels).view(stones.shape) * self.is_stone
        self.around = beside(stones, 2)  # each (n, size, size); 2 off the board
        self.ladders = find_ladders(boards)
        self.tried = _Tried(boards, found)
        eyes = [
            self.is_empty & _all([(there == colour) | (there == 2) for there in self.around])
            for colour in (1, -1)
        ]
        self.eyes = torch.stack(eyes, dim=1)  # (n, 2, size, size), black's and white's
        self.n_eyes = counted_beside(found.labels, stones, self.eyes.any(dim=1))
        self.n_eyes = self.n_eyes.view(stones.shape)
        self.later: Later = later_in(games, positions, LATER)

    def opposing(self, holds: Tensor | None = None) -> list[Tensor]:
        """Whether a stone has one of the other colour, of which something holds, on each side."""
        held = [True] * 4 if holds is None else beside(holds.byte(), 0)
        return [
            self.is_stone & (there == -self.stones) & (own if own is True else own.bool())
            for there, own in zip(self.around, held, strict=True)
        ]

    def of_mover(self, per_colour: Tensor) -> Tensor:
        """Of black's and white's (n, 2, size, size) those of the player to move."""
        return torch.where(self.to_move > 0, per_colour[:, 0], per_colour[:, 1])

    def of_own(self, per_colour: Tensor) -> Tensor:
        """Of black's and white's (n, 2, size, size) those of the stone at each point."""
        return torch.where(self.stones > 0, per_colour[:, 0], per_colour[:, 1])

    def captured(self, moves: int) -> Tensor:
        return self.is_stone & (self.later.captured_after <= moves)


class _Tried:
    """Every move of both colours, tried: (n, 2, size, size), black's and white's.

    liberties: of the chain that a move makes, 0 where it is illegal, ko left out. takes: it
    captures. takes_ko: what it captures could take back at once, but for the rule.
    """

    def __init__(self, boards: Boards, found: Chains):
        n, size = len(boards), boards.size
        points = size**2
        liberties = torch.zeros(n, 2, points, dtype=torch.int16)
        takes = torch.zeros(n, 2, points, dtype=torch.bool)
        takes_ko = takes.clone()
        for i, colour in enumerate((1, -1)):
            free = torch.full((n,), NO_POINT)
            mover = Boards(boards.stones, torch.full_like(boards.to_move, colour), free)
            rows, moves = legal_of(mover, found)[:, :-1].nonzero().unbind(1)
            for some, move in zip(rows.split(AT_ONCE), moves.split(AT_ONCE), strict=True):
                tried = Boards(mover.stones[some], mover.to_move[some], mover.ko[some])
                done = after(tried, move, Chains(found.labels[some], found.liberties[some]))
                now = chains_of(done.stones).liberties.gather(1, move[:, None])[:, 0]
                liberties[some, i, move] = now.short()
                n_before = (tried.stones != 0).flatten(1).sum(dim=1)
                takes[some, i, move] = (done.stones != 0).flatten(1).sum(dim=1) <= n_before
                takes_ko[some, i, move] = done.ko != NO_POINT
        shape = (n, 2, size, size)
        self.liberties, self.takes = liberties.view(shape), takes.view(shape)
        self.takes_ko = takes_ko.view(shape)


def _all(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).all(dim=0)


def _any(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).any(dim=0)


# --- without a direction ---


def _connects(known: _Known) -> Tensor:
    """The player to move joins two chains."""
    labels = [
        torch.where(there == known.to_move, label, -1)
        for there, label in zip(known.around, beside(known.labels, -1), strict=True)
    ]
    highest = torch.stack(labels).amax(dim=0)
    other = _any([(label >= 0) & (label != highest) for label in labels])
    return known.is_empty & other


def _races(known: _Known) -> Tensor:
    """Semeai: chains without an eye and of three liberties or fewer, one beside the other."""
    weak = known.is_stone & (known.liberties <= 3) & (known.n_eyes == 0)
    return weak & _any(known.opposing(weak))


def _touches_weaker(known: _Known) -> Tensor:
    weaker = [
        there & (free < known.liberties)
        for there, free in zip(known.opposing(), beside(known.liberties, 0), strict=True)
    ]
    return _any(weaker)


def _from_edge(known: _Known, line: int) -> Tensor:
    rows = torch.arange(known.size)
    near = torch.minimum(rows, known.size - 1 - rows)
    lines = torch.minimum(near[:, None], near[None]) + 1
    return (lines == line).expand_as(known.stones)


def _liberties(number: int) -> Callable[[_Known], Tensor]:
    return lambda known: known.is_stone & (known.liberties == number)


UNDIRECTED: dict[str, Callable[[_Known], Tensor]] = {
    "own stone": lambda known: known.stones == known.to_move,
    "opposing stone": lambda known: known.stones == -known.to_move,
    "in atari": _liberties(1),
    "two liberties": _liberties(2),
    "three liberties": _liberties(3),
    "five liberties or more": lambda known: known.liberties >= 5,
    "alone": lambda known: known.chain_size == 1,
    "chain of three or more": lambda known: known.chain_size >= 3,
    "chain of six or more": lambda known: known.chain_size >= 6,
    "two neighbours oppose": lambda known: torch.stack(known.opposing()).sum(dim=0) >= 2,
    "beside an opposing chain in atari": lambda known: _any(known.opposing(known.liberties == 1)),
    "beside a chain of fewer liberties": _touches_weaker,
    "in a race": _races,
    "in a ladder": lambda known: known.ladders.captured,
    "has an eye": lambda known: known.n_eyes >= 1,
    "has two eyes": lambda known: known.n_eyes >= 2,
    "captured within 5 moves": lambda known: known.captured(SOON),
    "captured within 20 moves": lambda known: known.captured(LATER),
    "dead at the end": lambda known: known.is_stone & (known.later.owner == -known.stones),
    "an eye": lambda known: known.eyes.any(dim=1),
    "an own eye": lambda known: known.of_mover(known.eyes),
    "takes a ko": lambda known: known.tried.takes_ko.any(dim=1),
    "captures": lambda known: known.of_mover(known.tried.takes),
    "self-atari": lambda known: known.of_mover(known.tried.liberties) == 1,
    "connects": _connects,
    "starts a ladder": lambda known: known.of_mover(known.ladders.attacks.flip(1)),
    "played within 5 moves": lambda known: known.later.played_after <= SOON,
    "own at the end": lambda known: known.later.owner == known.to_move,
    "changes hands": lambda known: (
        (known.later.owner == known.to_move) & (known.later.owner_now != known.to_move)
    ),
    "first line": lambda known: _from_edge(known, 1),
    "second line": lambda known: _from_edge(known, 2),
}


# --- with a direction: of up, down, left and right, or of the corners ---


def _nearest_edge(known: _Known) -> list[Tensor]:
    rows = torch.arange(known.size)[:, None].repeat(1, known.size)
    distances = torch.stack([rows, known.size - 1 - rows, rows.T, known.size - 1 - rows.T])
    return [near.expand_as(known.stones) for near in _strictly_least(distances)]


def _corner(known: _Known) -> list[Tensor]:
    twice = 2 * torch.arange(known.size)
    first, second = twice < known.size - 1, twice > known.size - 1
    pairs = [(rows, columns) for rows in (first, second) for columns in (first, second)]
    return [(rows[:, None] & columns[None]).expand_as(known.stones) for rows, columns in pairs]


def _escapes(known: _Known) -> list[Tensor]:
    """A move there gives a chain of two liberties or fewer more than it has."""
    weak = known.is_stone & (known.liberties <= 2)
    gained = []
    for i, there in enumerate(known.around):
        after_move = known.of_own(
            torch.stack([beside(part, 0)[i] for part in known.tried.liberties.unbind(1)], dim=1)
        )
        gained.append(weak & (there == 0) & (after_move > known.liberties))
    return gained


def _nearest_opponent(known: _Known) -> list[Tensor]:
    """Where the nearest stone of the other colour is, of those more that way than to the side."""
    points = torch.arange(known.size**2)
    rows, columns = points // known.size, points % known.size
    down, right = rows - rows[:, None], columns - columns[:, None]  # (from, to)
    nearest = []
    for ahead, aside in ((-down, right), (down, right), (-right, down), (right, down)):
        there = torch.full((2, *known.stones.shape), known.size)
        for distance in range(known.size - 1, 0, -1):
            cone = ((ahead == distance) & (aside.abs() < ahead)).float()
            for i, colour in enumerate((-1, 1)):  # those that oppose black, and white
                seen = (known.stones == colour).flatten(1).float() @ cone.T
                there[i][(seen > 0).view(known.stones.shape)] = distance
        nearest.append(torch.where(known.stones > 0, *there))
    return [known.is_stone & there for there in _strictly_least(torch.stack(nearest))]


def _strictly_least(distances: Tensor) -> list[Tensor]:
    """Which of four is less than the other three."""
    least = distances == distances.amin(dim=0)
    return list(least & (least.sum(dim=0) == 1))


def _borders(known: _Known) -> list[Tensor]:
    """At the end the point is one player's, and the neighbour there the other's."""
    owner = known.later.owner
    return [(owner != 0) & (there == -owner) for there in beside(owner, 0)]


DIRECTED: dict[str, Callable[[_Known], list[Tensor]]] = {
    "opposed": lambda known: known.opposing(),
    "nearest edge": _nearest_edge,
    "corner": _corner,
    "escapes": _escapes,
    "nearest opponent": _nearest_opponent,
    "border at the end": _borders,
    "stone captured within 20 moves": lambda known: [
        there.bool() for there in beside(known.captured(LATER).byte(), 0)
    ],
}


def _wheres(name: str) -> tuple[str, ...]:
    return CORNERS if name == "corner" else DIRECTIONS
