"""Ladders: which stones can be captured by atari upon atari, on many boards at once.

A chain with one liberty is captured if its owner, to move, cannot get it more than one that
lasts; one with two, if the other player can take one of them so that this holds. The owner plays
the liberty or takes a chain around it that is in atari; the other player plays a liberty. Three
liberties, or two when it is the owner's turn, are an escape, and so is a ko that the other player
has just taken: but not at the first move, since a ko there may be won elsewhere.

All searches of all boards go on side by side, one move deeper at a time, and what follows from
the ends is handed back at the end.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saehelpers.datasets.go.rules import (
    NO_POINT,
    Boards,
    Chains,
    after,
    beside,
    chains_of,
    legal_of,
)
from saehelpers.runs.checking import checked

POINTS_AT_ONCE = 2**16  # of boards, whose searches look at 20 times as many side by side
WIDEST = 128  # boards that one search looks at side by side; what is wider is no ladder


@checked
@dataclass(frozen=True)
class Ladders:
    """Stones that can be captured in a ladder (n, size, size), and the moves that start one.

    attacks: (n, 2, size, size), against black chains of two liberties and against white ones.
    """

    captured: Bool[Tensor, "n size size"]
    attacks: Bool[Tensor, "n 2 size size"]


@checked
def find_ladders(boards: Boards) -> Ladders:
    """The ladders of every board, whoever is to move.

    A search that has more than 128 boards at one depth, or more moves than one and a half times
    the points of the board, ends without a ladder.
    """
    at_once = max(POINTS_AT_ONCE // boards.size**2, 1)
    parts = [_find(_rows(boards, rows)) for rows in torch.arange(len(boards)).split(at_once)]
    return Ladders(
        torch.cat([part.captured for part in parts]), torch.cat([part.attacks for part in parts])
    )


def _find(boards: Boards) -> Ladders:
    found = chains_of(boards.stones)
    n, points = found.labels.shape
    numbers = torch.arange(points, device=found.labels.device)
    firsts = (found.labels == numbers) & (boards.stones.flatten(1) != 0)
    captured = torch.zeros(n, points, dtype=torch.bool, device=numbers.device)
    attacks = captured[:, None].repeat(1, 2, 1)

    rows, chain = (firsts & (found.liberties == 2)).nonzero().unbind(1)
    of_two, part = _to_move(boards, rows, chain, attacks=True), _part(found, rows)
    parents, moves = _moves(of_two, chain, part, defends=False)
    attacked = _after(of_two, parents, moves, part)
    rows, chain = rows[parents], chain[parents]

    rows_of_one, chain_of_one = (firsts & (found.liberties == 1)).nonzero().unbind(1)
    of_one = _to_move(boards, rows_of_one, chain_of_one, attacks=False)
    roots = Boards(
        torch.cat([attacked.stones, of_one.stones]),
        torch.cat([attacked.to_move, of_one.to_move]),
        torch.full((len(rows) + len(rows_of_one),), NO_POINT, device=rows.device),
    )
    works, is_lost = _captured(roots, torch.cat([chain, chain_of_one])).split(
        [len(rows), len(rows_of_one)]
    )
    captured[rows[works], chain[works]] = True
    captured[rows_of_one, chain_of_one] = is_lost
    is_white = boards.stones.flatten(1)[rows, chain] < 0
    attacks[rows[works], is_white[works].long(), moves[works]] = True

    captured = captured.gather(1, found.labels) & (boards.stones != 0).flatten(1)
    shape = boards.stones.shape
    return Ladders(captured.view(shape), attacks.view(n, 2, *shape[1:]))


def _to_move(boards: Boards, rows: Tensor, chain: Tensor, attacks: bool) -> Boards:
    """Copies of some boards, where the owner of a chain is to move, or who attacks it."""
    colours = boards.stones.flatten(1)[rows, chain]
    return Boards(boards.stones[rows], -colours if attacks else colours, boards.ko[rows])


def _part(found: Chains, rows: Tensor) -> Chains:
    return Chains(found.labels[rows], found.liberties[rows])


def _after(boards: Boards, rows: Tensor, moves: Tensor, found: Chains) -> Boards:
    return after(_rows(boards, rows), moves, _part(found, rows))


def _rows(boards: Boards, rows: Tensor) -> Boards:
    return Boards(boards.stones[rows], boards.to_move[rows], boards.ko[rows])


def _moves(
    boards: Boards, chain: Tensor, found: Chains, defends: bool
) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """(row, move) of the legal moves of a ladder; `chain` is a stone of what is chased."""
    shape = boards.stones.shape
    label = found.labels.gather(1, chain[:, None])
    own = (found.labels == label).view(shape)
    touched = torch.stack(beside(own.byte(), 0)).any(dim=0)
    wanted = touched & (boards.stones == 0)
    if defends:
        in_atari = touched & (boards.stones != 0) & ~own & (found.liberties == 1).view(shape)
        rows = in_atari.flatten(1).any(dim=1).nonzero().flatten()
        if len(rows):
            wanted[rows] |= _last_liberties(boards, found, in_atari, rows)
    else:
        wanted &= ~_lets_escape(boards, wanted)
    legal = legal_of(boards, found)[:, :-1]
    rows, moves = (wanted.flatten(1) & legal).nonzero().unbind(1)
    return rows, moves


def _last_liberties(boards: Boards, found: Chains, in_atari: Tensor, rows: Tensor) -> Tensor:
    """On some boards, the liberties of the chains that one of these stones belongs to."""
    labels, stones = found.labels[rows], boards.stones[rows]
    chosen = torch.zeros_like(labels).scatter_reduce(
        1, labels, in_atari[rows].flatten(1).long(), "amax"
    )
    taken = (chosen.gather(1, labels).bool() & (stones != 0).flatten(1)).view(stones.shape)
    return torch.stack(beside(taken.byte(), 0)).any(dim=0) & (stones == 0)


def _lets_escape(boards: Boards, liberties: Tensor) -> Tensor:
    """Moves that are of no use: at the chain's other liberty, apart, its owner finds three."""
    empty = torch.stack(beside((boards.stones == 0).byte(), 0)).sum(dim=0)
    wide = liberties & (empty >= 3)
    adjacent = liberties & torch.stack(beside(liberties.byte(), 0)).any(dim=0)
    apart = ~adjacent.flatten(1).any(dim=1)
    others = wide.flatten(1).sum(dim=1)[:, None, None] - wide.long()
    return liberties & (others > 0) & apart[:, None, None]


def _captured(boards: Boards, chain: Int[Tensor, " m"]) -> Bool[Tensor, " m"]:
    """Whether chains of one liberty, whose owner is to move, are captured in a ladder."""
    levels: list[tuple[Tensor, Tensor]] = []  # of each depth, its boards' parents and outcomes
    search = torch.arange(len(chain), device=chain.device)
    n_searches, parents, deepest = len(chain), search, 3 * boards.size**2 // 2
    while len(chain):
        depth = len(levels)
        defends = depth % 2 == 0
        found = chains_of(boards.stones)
        free = found.liberties.gather(1, chain[:, None])[:, 0]
        wide = search.bincount(minlength=n_searches)[search] > WIDEST
        if defends:
            escaped, lost = (free > 1) | (boards.ko != NO_POINT), torch.zeros_like(wide)
        else:
            escaped, lost = free > 2, free < 2
        goes_on = ~(escaped | lost | wide) & (depth < deepest)
        levels.append((parents, lost | (goes_on & defends)))  # the owner who has no move is lost
        left = goes_on.nonzero().flatten()
        boards, part = _rows(boards, left), _part(found, left)
        rows, moves = _moves(boards, chain[left], part, defends)
        boards = _after(boards, rows, moves, part)
        parents = left[rows]
        chain, search = chain[parents], search[parents]
    for depth in reversed(range(1, len(levels))):
        parents, outcome = levels[depth]
        # one way out is enough for the owner, who moves first; one that works for the other
        choice = depth % 2 == 0
        levels[depth - 1][1][parents[outcome == choice]] = choice
    return levels[0][1] if levels else chain.bool()
