"""What becomes of positions in their games: which stones go, where is played, what is whose."""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from saehelpers.datasets.go.games import Games, final_boards, replay
from saehelpers.datasets.go.planes import Positions
from saehelpers.datasets.go.rules import NO_POINT
from saehelpers.datasets.go.scoring import area


class Later(NamedTuple):
    """What becomes of every point.

    captured_after, played_after: moves until its stone is captured, or a stone is played there; one
    more than are looked at, if none is. owner_now, owner: whose it is now, and at the end: 1, -1
    or 0.
    """

    captured_after: Int[Tensor, "n size size"]
    played_after: Int[Tensor, "n size size"]
    owner_now: Int[Tensor, "n size size"]
    owner: Int[Tensor, "n size size"]


def later_in(games: Games, positions: Positions, n_moves: int) -> Later:
    """What becomes of positions of these games within so many moves, and at the end.

    Raises:
        ValueError: positions are not of these games.
    """
    n, size = len(positions), positions.size
    every, last = replay(games), final_boards(games).stones
    lengths = games.lengths
    ends = lengths.cumsum(0)
    own = positions.game
    is_there = (own < len(games)) & (positions.ply < lengths[own.clamp(max=len(games) - 1)])
    place = (ends - lengths)[own.clamp(max=len(games) - 1)] + positions.ply
    place = torch.where(is_there, place, 0)
    if games.size != size or not (
        is_there.all() and torch.equal(every.stones[place, 0], positions.stones[:, 0])
    ):
        raise ValueError("positions must be of these games: there is one that they do not have")
    captured = torch.full((n, size, size), n_moves + 1)
    played = captured.clone().flatten(1)
    for moves in range(n_moves, 0, -1):
        # the stones after so many moves: those of the last board where the game has ended
        at = positions.ply + moves
        goes_on = at < lengths[own]
        then = torch.where(
            goes_on[:, None, None],
            every.stones[(place + moves).clamp(max=len(every) - 1), 0],
            last[own],
        )
        captured[(then != positions.stones[:, 0]) & (positions.stones[:, 0] != 0)] = moves
        at_end = games.moves.shape[1] - 1
        move = games.moves[own, (at - 1).clamp(max=at_end)]
        rows = ((at - 1 <= at_end) & (move != NO_POINT) & (move < size**2)).nonzero().flatten()
        played[rows, move[rows]] = moves
    now = area(positions.stones[:, 0])
    return Later(captured, played.view(n, size, size), now, area(last)[own])
