"""How far what a Go network says of positions changes: between views, or with recons inside."""

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saehelpers.networks.go import GoOpinion
from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import NOT_EMPTY

Legal = Bool[Tensor, "n moves"]


@checked
def opinion_changes(
    before: GoOpinion, after: GoOpinion, legal: Legal
) -> dict[str, Float[Tensor, " n"]]:
    """What changes, of each position.

    policy_kl: KL(before || after) over legal moves, in nats. same_move: 1 where the best move is
    the same. value_change: of the probability to win. score_change: in points. ownership_change:
    mean over the board. All but the first two are absolute.
    """
    p, q = (_log_policy(opinion, legal) for opinion in (before, after))
    win_before, win_after = (opinion.value.softmax(1)[:, 0] for opinion in (before, after))
    return {
        "policy_kl": _kl(p, q),
        "same_move": (p.argmax(1) == q.argmax(1)).float(),
        "value_change": (win_before - win_after).abs(),
        "score_change": (before.score - after.score).abs(),
        "ownership_change": (before.ownership - after.ownership).abs().mean(dim=(1, 2)),
    }


@checked
def view_disagreement(
    views: Annotated[Sequence[GoOpinion], NOT_EMPTY], legal: Legal
) -> dict[str, Float[Tensor, " n"]]:
    """How far views of the same positions differ, of each position: see `viewed_opinions`.

    policy_kl: mean over views of KL(view || mean policy) over legal moves, in nats. same_move: the
    share of views whose best move is that of the mean policy. value_spread: standard deviation of
    the probability to win.
    """
    policies = torch.stack([_log_policy(view, legal) for view in views])
    mean = policies.exp().mean(dim=0).log()
    wins = torch.stack([view.value.softmax(1)[:, 0] for view in views])
    best = policies.argmax(dim=2) == mean.argmax(dim=1)
    return {
        "policy_kl": torch.stack([_kl(policy, mean) for policy in policies]).mean(dim=0),
        "same_move": best.float().mean(dim=0),
        "value_spread": wins.std(dim=0, correction=0),
    }


def _log_policy(opinion: GoOpinion, legal: Tensor) -> Tensor:
    return opinion.policy.masked_fill(~legal, -torch.inf).log_softmax(dim=1)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of logarithms, moves of no chance left out."""
    terms = p.exp() * (p - q)
    return torch.where(p.isfinite(), terms, 0).sum(dim=1)
