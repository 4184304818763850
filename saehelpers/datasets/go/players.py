"""Simple players to beat, as policies that `play_games` takes, and who has won."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from saehelpers.datasets.go.games import Games, final_boards
from saehelpers.datasets.go.rules import beside
from saehelpers.datasets.go.scoring import area_scores
from saehelpers.runs.checking import checked

CERTAIN = 100.0  # logits: always


@checked
def random_player(planes: Float[Tensor, "n planes size size"]) -> Float[Tensor, "n moves"]:
    """Logits of one that draws any legal move, a pass as often as any other."""
    return torch.zeros(len(planes), planes.shape[-1] ** 2 + 1)


@checked
def capture_first(planes: Float[Tensor, "n planes size size"]) -> Float[Tensor, "n moves"]:
    """Logits of one that captures whenever it can, and else draws any legal move."""
    in_atari = planes[:, 2] * planes[:, 3]  # the opponent's stones of one liberty
    near = torch.stack(beside(in_atari, 0)).amax(dim=0)
    captures = near * (1 - planes[:, 1] - planes[:, 2])
    return F.pad(CERTAIN * captures.flatten(1), (0, 1))


@checked
def policy_wins(games: Games) -> Float[Tensor, " n"]:
    """1 where the policy has won a game of `play_games` against an opponent, 1/2 for a draw.

    By area and komi.
    """
    ahead = (area_scores(final_boards(games).stones) - games.komi).sign()
    has_black = torch.arange(len(games)) % 2 == 0
    return 0.5 + 0.5 * torch.where(has_black, ahead, -ahead)
