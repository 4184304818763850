"""Games of Go as their moves: replayed, played by a network's policy, and kept in a small file."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from saehelpers.datasets.go.ladders import find_ladders
from saehelpers.datasets.go.planes import (
    N_BOARDS,
    N_MOVES,
    PastLadders,
    Positions,
    planes_of,
)
from saehelpers.datasets.go.rules import (
    NO_POINT,
    Boards,
    Chains,
    Colours,
    Size,
    Stones,
    after,
    chains_of,
    check_legal,
    empty_boards,
    legal_of,
)
from saehelpers.runs.checking import checked
from saehelpers.runs.files import save_tensors, temporary_path
from saehelpers.runs.identities import identified, identity
from saehelpers.runs.wanted import Count, Positive, Seed, Wanted
from saehelpers.symmetry import Group, image_action

Policy = Callable[[Tensor], Tensor]
RULES = "area, simple ko, no suicide"  # changed when other games are played
BATCH = 256  # positions that a policy is given at a time


def _are_in_a_row(moves: Tensor) -> bool:
    gone_on = (moves[:, :-1] != NO_POINT) | (moves[:, 1:] == NO_POINT)
    return bool((moves >= NO_POINT).all() and gone_on.all())


@checked
@dataclass(frozen=True)
class Games:
    """Games on boards of one size.

    stones, first: the board and who plays first, empty and black but for handicaps. moves:
    points, size * size for a pass, and -1 behind the last one. komi: what white is given.
    """

    stones: Stones
    first: Colours
    moves: Annotated[
        Int[Tensor, "n plies"],
        Wanted("points, with -1 behind the last move alone", _are_in_a_row),
    ]
    komi: Float[Tensor, " n"]

    @property
    def size(self) -> int:
        return self.stones.shape[-1]

    @property
    def lengths(self) -> Int[Tensor, " n"]:
        return (self.moves != NO_POINT).sum(dim=1)

    def __len__(self) -> int:
        return len(self.stones)


@checked
def replay(games: Games) -> Positions:
    """Every position that somebody moved in, game after game.

    Raises:
        ValueError: a move is illegal; names the game, and why.
    """
    parts = [now for now, _, _ in _replayed(games, _start(games))]
    together = [torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Positions)]
    order = torch.cat([part.game for part in parts]).argsort(stable=True)
    return _told(Positions(*together)[order], {"replayed": games})


@checked
def draw_positions(
    games: Games,
    n_positions: Positive,
    seed: Seed = 0,
    start: Count = 0,
    stop: Count | None = None,
) -> Positions:
    """Positions of games[start:stop], drawn from all that somebody moved in, game after game.

    All of them, if there are no more.
    """
    every, generator = replay(games), torch.Generator().manual_seed(seed)
    chosen = range(len(games))[start:stop]
    own = ((every.game >= start) & (every.game < start + len(chosen))).nonzero().flatten()
    rows = own[torch.randperm(len(own), generator=generator)[:n_positions]].sort().values
    drawn = {"number": n_positions, "seed": seed, "of": chosen}
    return _told(every[rows], {"drawn from": games} | drawn)


def _told(positions: Positions, cause: dict) -> Positions:
    """Positions whose tensors are told by what they come from."""
    told = identity(cause)
    values = {f.name: getattr(positions, f.name) for f in fields(Positions)}
    return Positions(**{name: identified(x, {name: told}) for name, x in values.items()})


@checked
def final_boards(games: Games) -> Boards:
    """The boards after the last move of every game."""
    start = _start(games)
    stones, to_move, ko = games.stones.clone(), games.first.clone(), start.ko[:, 0].clone()
    for now, moves, found in _replayed(games, start):
        last, rows = after(now.boards, moves, found), now.game
        stones[rows], to_move[rows], ko[rows] = last.stones, last.to_move, last.ko
    return Boards(stones, to_move, ko)


def _replayed(games: Games, now: Positions) -> Iterator[tuple[Positions, Tensor, Chains]]:
    """At each ply the positions that somebody moves in, the moves, and their chains."""
    for played in games.moves.T:
        now = now[(played[now.game] != NO_POINT).nonzero().flatten()]
        if not len(now):
            return
        moves, found = played[now.game], chains_of(now.stones[:, 0])
        check_legal(now.boards, moves, legal_of(now.boards, found), "game", now.game)
        yield now, moves, found
        now = _moved(now, moves, found)


def _start(games: Games) -> Positions:
    n = len(games)
    return Positions(
        games.stones[:, None].repeat(1, N_BOARDS, 1, 1),
        torch.full((n, N_BOARDS), NO_POINT),
        games.first,
        torch.full((n, N_MOVES), NO_POINT),
        games.komi,
        torch.arange(n),
        torch.zeros(n, dtype=torch.long),
    )


def _moved(now: Positions, moves: Int[Tensor, " n"], found: Chains) -> Positions:
    boards = after(now.boards, moves, found)
    return Positions(
        torch.cat([boards.stones[:, None], now.stones[:, :-1]], dim=1),
        torch.cat([boards.ko[:, None], now.ko[:, :-1]], dim=1),
        boards.to_move,
        torch.cat([moves[:, None], now.moves[:, :-1]], dim=1),
        now.komi,
        now.game,
        now.ply + 1,
    )


@checked
@torch.no_grad()
def play_games(
    policy: Policy,
    n_games: Positive,
    size: Size = 9,
    komi: float = 7.0,
    seed: Seed = 0,
    opponent: Policy | None = None,
) -> Games:
    """Games side by side, each move drawn from a policy, until both pass one after the other.

    A game also ends after twice as many moves as there are points. Games are told by the policy
    (a network's by its weights), the seed and the settings: see `saehelpers.runs.identities`.

    Args:
        policy: what gives the logits (n, size * size + 1) of moves, a pass last, for the planes
            of `input_planes`. Illegal moves are left out.
        opponent: another policy, which has white in the first, third, ... game and black in the
            others; by default the policy plays itself.
    """
    points = size**2
    generator = torch.Generator().manual_seed(seed)
    boards = empty_boards(n_games, size)
    moves = torch.full((n_games, 2 * points), NO_POINT)
    games = Games(boards.stones, boards.to_move, moves, torch.full((n_games,), float(komi)))
    now, captured = _start(games), None
    for ply in range(2 * points):
        found, ladders = chains_of(now.stones[:, 0]), find_ladders(now.boards)
        new = ladders.captured[:, None]
        captured = new.repeat(1, N_BOARDS, 1, 1) if captured is None else captured
        captured = torch.cat([new, captured[:, :-1]], dim=1)
        inputs = planes_of(now, PastLadders(captured, ladders.attacks))
        logits = _logits(now, inputs, policy, opponent)
        # Gumbel's noise, drawn for all games: no game depends on how long others are
        noise = -(-torch.rand(n_games, points + 1, generator=generator).log()).log()
        logits = logits.masked_fill(~legal_of(now.boards, found), -torch.inf)
        chosen = (logits + noise[now.game]).argmax(dim=1)
        moves[now.game, ply] = chosen
        going = ((chosen != points) | (now.moves[:, 0] != points)).nonzero().flatten()
        now, captured = _moved(now, chosen, found)[going], captured[going]
        if not len(now):
            break
    cause = _played_by(policy, n_games, size, komi, seed, opponent)
    return replace(games, moves=identified(moves[:, : ply + 1].clone(), cause))


def _played_by(policy, n_games, size, komi, seed, opponent) -> dict:
    """What decides the moves of games that are played."""
    drawn = {"n_games": n_games, "size": size, "komi": komi, "seed": seed, "rules": RULES}
    return drawn | {"policy": policy, "opponent": opponent}


@checked
def load_or_play_games(
    policy: Policy,
    n_games: Positive,
    folder: Path | str,
    size: Size = 9,
    komi: float = 7.0,
    seed: Seed = 0,
) -> Games:
    """Games as `play_games` plays them, from the folder where they were played before.

    Raises:
        TypeError: what decides the policy's moves cannot be told: give it an attribute `version`.
    """
    cause = _played_by(policy, n_games, size, komi, seed, None)
    path = Path(folder) / f"games-{identity(cause)}.safetensors"
    if not path.exists():
        save_games(path, play_games(policy, n_games, size, komi, seed))
    games = load_games(path)
    return replace(games, moves=identified(games.moves, cause))


def _logits(now: Positions, inputs: Tensor, policy: Policy, opponent: Policy | None) -> Tensor:
    if opponent is None:
        return torch.cat([policy(batch) for batch in inputs.split(BATCH)]).float()
    logits = torch.zeros(len(now), now.size**2 + 1)
    is_policys = (now.to_move > 0) == (now.game % 2 == 0)
    for rows, player in ((is_policys, policy), (~is_policys, opponent)):
        for batch in rows.nonzero().flatten().split(BATCH):
            if len(batch):
                logits[batch] = player(inputs[batch]).float()
    return logits


@checked
def save_games(path: Path | str, games: Games) -> Path:
    """Write games to a safetensors file: two bytes a move."""
    tensors = {f.name: getattr(games, f.name) for f in fields(Games)}
    path, tensors["moves"] = Path(path), games.moves.short()
    with temporary_path(path) as temporary:
        save_tensors(temporary, tensors)
    return path


@checked
def load_games(path: Path | str) -> Games:
    """The games of a file that `save_games` has written.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, or cut short; or a move in it is illegal.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of games at {path}")
    try:
        tensors = load_file(path)
        games = Games(**(tensors | {"moves": tensors["moves"].long()}))
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no file of games, or is cut short: {error}") from error
    final_boards(games)
    return games


@checked
def turned_points(group: Group, size: Size) -> Int[Tensor, "order moves"]:
    """Where each element of C_n or D_n takes each move: a point to a point, a pass to a pass.

    As `image_action` acts on boards: policies of turned positions are
    `policy(act(inputs, g))[:, turned_points(group, size)[g]]` beside those of the others.
    """
    act, points = image_action(group), torch.arange(size**2).view(1, size, size)
    sources = torch.stack([act(points, g).flatten() for g in range(group.order)])
    return F.pad(sources.argsort(dim=1), (0, 1), value=size**2)
