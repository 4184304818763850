"""Whose each point of a board is: area, with what unconditional life encloses.

A chain lives unconditionally (Benson, Information Sciences 10 (1976), 17) if it has two vital
regions of those that border on such chains alone: regions of all points but its colour's, whose
every empty point is a liberty of the chain. KataGo's networks are told, and learn, this area.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saehelpers.datasets.go.rules import Stones, beside, connected
from saehelpers.runs.checking import checked


@checked
def area(stones: Stones) -> Int[Tensor, "n size size"]:
    """Whose each point is: 1 black's, -1 white's, 0 neither's.

    Empty points are the colour's that alone is reached from them over empty points, and stones
    their own colour's. But all is a colour's that its unconditionally living chains enclose, if
    at most one point there has none of its stones beside it: what the other one has there is dead.
    """
    labels, is_empty = connected(stones), (stones == 0).flatten(1)
    owners = stones.flatten(1).clone()
    for colour in (1, -1):
        touches = torch.stack([there == colour for there in beside(stones, 0)]).any(dim=0)
        reached = _sums(labels, touches.flatten(1) & is_empty) > 0
        owners += (colour * reached.gather(1, labels) * is_empty).to(stones.dtype)
    for colour in (1, -1):
        owners[enclosed(stones, colour)] = colour
    return owners.view(stones.shape)


@checked
def area_scores(stones: Stones, komi: float = 0.0) -> Float[Tensor, " n"]:
    """By how many points black is ahead: black's area less white's, less komi."""
    return area(stones).flatten(1).sum(dim=1).float() - komi


def _sums(labels: Tensor, counted: Tensor) -> Int[Tensor, "n points"]:
    """At each label how many points with it are counted."""
    return torch.zeros_like(labels).scatter_add_(1, labels, counted.long())


def enclosed(stones: Int[Tensor, "n size size"], colour: int) -> Bool[Tensor, "n points"]:
    """Points in regions that unconditionally living chains of a colour enclose, see `area`."""
    own = stones == colour
    labels = connected(own.to(torch.int8))  # of its chains, and of the regions between them
    n, points = labels.shape
    outside, is_empty = ~own.flatten(1), (stones == 0).flatten(1)
    around = [
        torch.where(there.reshape(n, -1), label.reshape(n, -1), -1)
        for there, label in zip(
            beside(own, False), beside(labels.view(stones.shape), -1), strict=True
        )
    ]  # the chains above, below, left and right of every point, or -1
    regions, chains = _vital(labels, is_empty, around)
    inner = outside & (torch.stack(around) < 0).all(dim=0)
    closed = (_sums(labels, outside) > _sums(labels, inner)) & (_sums(labels, inner) <= 1)

    lives = own.flatten(1) & (labels == torch.arange(points, device=labels.device))
    intact = torch.ones_like(lives)
    while True:
        counted = intact.view(-1)[regions].long()
        n_vital = torch.zeros(n * points, dtype=torch.long, device=labels.device)
        n_vital.scatter_add_(0, chains, counted)
        still = lives & (n_vital.view(n, points) >= 2)
        beside_dead = torch.zeros_like(outside)
        for chain in around:
            beside_dead |= (chain >= 0) & ~still.gather(1, chain.clamp(min=0))
        intact = _sums(labels, beside_dead & outside) == 0
        if torch.equal(still, lives):
            return (closed & intact).gather(1, labels) & outside
        lives = still


def _vital(
    labels: Tensor, is_empty: Tensor, around: list[Tensor]
) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    """(region, chain) where the region is vital to the chain, as places in all boards' labels."""
    n, points = labels.shape
    first = torch.arange(n, device=labels.device)[:, None] * points
    region, pairs = labels + first, []
    for i, chain in enumerate(around):
        new = is_empty & (chain >= 0)
        for other in around[:i]:
            new &= chain != other
        pairs.append(((region * points) + chain)[new])
    pairs, counts = torch.cat(pairs).unique(return_counts=True)
    region, chain = pairs // points, pairs % points
    is_vital = counts == _sums(labels, is_empty).view(-1)[region]
    region, chain = region[is_vital], chain[is_vital]
    return region, chain + region // points * points
