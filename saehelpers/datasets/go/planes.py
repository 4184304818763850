"""Positions of games, and what a KataGo network is given of them (its inputs of version 7).

One tensor (n, 41, size, size), so that a group acts on it as on images: 22 planes of the board,
and 19 numbers that hold for all of it, each as a plane. All is as the player to move sees it.

    0 on the board; 1 own stones, 2 the opponent's; 3, 4, 5 stones of chains with 1, 2, 3 liberties;
    6 forbidden by ko; 9 to 13 the last five moves, newest first; 14, 15, 16 stones that can be
    captured in a ladder now, one and two turns ago; 17 moves that start a ladder; 18 own area, 19
    the opponent's
    22 to 26 whether the last five moves were passes; 27 own komi / 20; 36 whether a pass would end
    the game; 40 a wave of komi: how near it is to one that lets a game be drawn
    all others are 0: area scoring, simple ko, no suicide
"""

from dataclasses import dataclass, fields
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saehelpers.datasets.go.ladders import find_ladders
from saehelpers.datasets.go.rules import BOARDS, KO, Boards, Colours, are_boards, chains_of
from saehelpers.datasets.go.scoring import area
from saehelpers.runs.checking import checked
from saehelpers.runs.identities import identified
from saehelpers.runs.wanted import Wanted

N_SPATIAL, N_GLOBAL = 22, 19
N_PLANES = N_SPATIAL + N_GLOBAL
N_MOVES, N_BOARDS = 5, 3  # of the past that are told


@checked
@dataclass(frozen=True)
class Positions:
    """Positions side by side, each with what came before it.

    stones, ko: of the board now, one and two turns ago (of the first one, before that). moves:
    the last five, newest first, a pass as size * size, and -1 where there was none. komi: what
    white is given. game, ply: where each position is from.
    """

    stones: Annotated[
        Int[Tensor, "n 3 size size"],
        Wanted(BOARDS, lambda stones: are_boards(stones.flatten(0, 1))),
    ]
    ko: Annotated[Int[Tensor, "n 3"], KO]
    to_move: Colours
    moves: Int[Tensor, "n 5"]
    komi: Float[Tensor, " n"]
    game: Int[Tensor, " n"]
    ply: Int[Tensor, " n"]

    @property
    def size(self) -> int:
        return self.stones.shape[-1]

    @property
    def boards(self) -> Boards:
        """The boards as they are now."""
        return Boards(self.stones[:, 0], self.to_move, self.ko[:, 0])

    def __len__(self) -> int:
        return len(self.stones)

    def __getitem__(self, rows: Tensor | slice) -> "Positions":
        return Positions(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


class PastLadders(NamedTuple):
    """Stones that could be captured in a ladder on each board, and the moves that start one now."""

    captured: Bool[Tensor, "n 3 size size"]
    attacks: Bool[Tensor, "n 2 size size"]


@checked
def input_planes(positions: Positions, ladders: bool = True) -> Float[Tensor, "n 41 size size"]:
    """What the network is given of positions; planes 14 to 17 are 0 without ladders."""
    planes = planes_of(positions, past_ladders(positions) if ladders else None)
    return identified(planes, {"input planes": positions, "ladders": ladders})


def past_ladders(positions: Positions) -> PastLadders:
    """Searched once for each board, of positions that follow one another."""
    n, size = len(positions), positions.size
    boards = positions.stones.flatten(2).long()
    boards = torch.cat([boards, positions.ko[:, :, None]], dim=2).flatten(0, 1)
    boards, which = boards.unique(dim=0, return_inverse=True)
    stones = boards[:, :-1].view(-1, size, size).to(torch.int8)
    found = find_ladders(Boards(stones, torch.ones_like(boards[:, 0]), boards[:, -1]))
    which = which.view(n, N_BOARDS)
    return PastLadders(found.captured[which], found.attacks[which[:, 0]])


def planes_of(positions: Positions, ladders: PastLadders | None) -> Tensor:
    n, size, points = len(positions), positions.size, positions.size**2
    stones, colour = positions.stones[:, 0], positions.to_move
    planes = torch.zeros(n, N_PLANES, size, size, device=stones.device)
    owned = stones * colour[:, None, None]
    planes[:, 0] = 1
    planes[:, 1], planes[:, 2] = owned == 1, owned == -1
    free = chains_of(stones).liberties.view(stones.shape)
    for i in (1, 2, 3):
        planes[:, 2 + i] = free == i
    spatial = planes.view(n, N_PLANES, points)
    _mark(spatial[:, 6], positions.ko[:, 0], points)
    for i, moves in enumerate(positions.moves.T):
        _mark(spatial[:, 9 + i], moves, points)
        spatial[:, N_SPATIAL + i] = (moves == points)[:, None].float()
    if ladders is not None:
        planes[:, 14:17] = ladders.captured.float()
        against = (colour > 0).long()  # the opponent's chains: white ones where black is to move
        planes[:, 17] = ladders.attacks[torch.arange(n, device=colour.device), against].float()
    owners = area(stones) * colour[:, None, None]
    planes[:, 18], planes[:, 19] = owners == 1, owners == -1
    komi = -colour * positions.komi
    told = planes[:, N_SPATIAL:]
    told[:, 5] = (komi.clamp(-points - 1, points + 1) / 20)[:, None, None]
    told[:, 14] = (positions.moves[:, 0] == points)[:, None, None]
    told[:, 18] = _wave(komi, points)[:, None, None]
    return planes


def _mark(plane: Tensor, places: Tensor, points: int) -> None:
    """1 at a point of each row; nothing where it is none, or a pass."""
    rows = ((places >= 0) & (places < points)).nonzero().flatten()
    plane[rows, places[rows].long()] = 1


def _wave(komi: Tensor, points: int) -> Tensor:
    """0 at komi that lets a game be drawn, 1/2 half a point above it, -1/2 half a point below."""
    parity = points % 2
    above = (komi - parity) % 2
    return torch.where(above < 0.5, above, torch.where(above < 1.5, 1 - above, above - 2))
