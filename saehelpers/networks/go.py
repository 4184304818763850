"""KataGo's networks in torch (Wu, arXiv 1902.10565), and a small one of the kind from a seed.

Residual blocks, given `saehelpers.datasets.go.input_planes` of positions on boards of one size:

    x = stem(spatial planes) + from_global(global numbers)
    x = block(x) for each of blocks                          blocks.7 gives what block 8 takes
    policy, value, score, ownership = heads(relu(norm(x)))

All maps inside, x above all, are (n, size, size, channels): a point of a board is a vector, which
an SAE takes and gives.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saehelpers.datasets.go import N_GLOBAL, N_PLANES, N_SPATIAL, turned_points
from saehelpers.networks.activations import splice
from saehelpers.networks.modules import find_place
from saehelpers.runs.checking import checked
from saehelpers.runs.identities import identified
from saehelpers.runs.wanted import Name, Positive, Seed, at_least
from saehelpers.symmetry import Group, image_action

POINTS_OF_SCORE = 20.0  # what one stands for in the network's score
N_SCORES = 4  # mean, spread, lead, time left


class GoOpinion(NamedTuple):
    """What a network says of positions, as their player to move sees them.

    policy: logits of moves, a pass last. value: logits of win, loss and no result. score: by how
    many points it will be won, komi counted. ownership: 1 own, -1 the opponent's at the end.
    """

    policy: Float[Tensor, "n moves"]
    value: Float[Tensor, "n 3"]
    score: Float[Tensor, " n"]
    ownership: Float[Tensor, "n size size"]


class Norm(nn.Module):
    """x scale + bias for each channel: a batch normalisation whose statistics are fixed."""

    def __init__(self, channels: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, x, self.scale)


class Conv(nn.Conv2d):
    """A convolution of maps whose channels come last."""

    def __init__(self, n_in: int, n_out: int, width: int = 3):
        super().__init__(n_in, n_out, width, padding=width // 2, bias=False)

    def forward(self, x: Float[Tensor, "n size size c"]) -> Float[Tensor, "n size size c_out"]:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def pooled(x: Float[Tensor, "n size size c"]) -> Float[Tensor, "n c3"]:
    """Mean, mean times (size - 14) / 10, and maximum of every channel."""
    mean = x.mean(dim=(1, 2))
    return torch.cat([mean, mean * (x.shape[1] - 14) / 10, x.amax(dim=(1, 2))], dim=1)


class Block(nn.Module):
    """x + conv2(relu(norm2(conv1(relu(norm1(x))))))"""

    def __init__(self, channels: int, mid: int):
        super().__init__()
        self.norm1, self.conv1 = Norm(channels), Conv(channels, mid)
        self.norm2, self.conv2 = Norm(mid), Conv(mid, channels)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(self.norm1(x).relu())
        return x + self.conv2(self.norm2(inner).relu())


class PoolingBlock(nn.Module):
    """A block, to whose middle every point is added what is pooled over the board.

    inner = relu(norm1(x)); middle = conv1(inner) + linear(pooled(relu(pool_norm(pool(inner)))))
    """

    def __init__(self, channels: int, mid: int, n_pooled: int):
        super().__init__()
        self.norm1, self.conv1 = Norm(channels), Conv(channels, mid)
        self.pool, self.pool_norm = Conv(channels, n_pooled), Norm(n_pooled)
        self.linear = nn.Linear(3 * n_pooled, mid, bias=False)
        self.norm2, self.conv2 = Norm(mid), Conv(mid, channels)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm1(x).relu()
        added = self.linear(pooled(self.pool_norm(self.pool(inner)).relu()))
        middle = self.conv1(inner) + added[:, None, None]
        return x + self.conv2(self.norm2(middle).relu())


class PolicyHead(nn.Module):
    """Logits of every point and of a pass."""

    def __init__(self, channels: int, n_points: int, n_pooled: int):
        super().__init__()
        self.conv, self.pool = Conv(channels, n_points, 1), Conv(channels, n_pooled, 1)
        self.pool_norm = Norm(n_pooled)
        self.linear = nn.Linear(3 * n_pooled, n_points, bias=False)
        self.norm, self.points = Norm(n_points), Conv(n_points, 1, 1)
        self.passing = nn.Linear(3 * n_pooled, 1, bias=False)

    def forward(self, x: Tensor) -> Float[Tensor, "n moves"]:
        whole = pooled(self.pool_norm(self.pool(x)).relu())
        middle = self.conv(x) + self.linear(whole)[:, None, None]
        points = self.points(self.norm(middle).relu()).flatten(1)
        return torch.cat([points, self.passing(whole)], dim=1)


class ValueHead(nn.Module):
    """Logits of win, loss and no result; the score; whose each point will be."""

    def __init__(self, channels: int, n_values: int, hidden: int):
        super().__init__()
        self.conv, self.norm = Conv(channels, n_values, 1), Norm(n_values)
        self.hidden = nn.Linear(3 * n_values, hidden)
        self.value, self.score = nn.Linear(hidden, 3), nn.Linear(hidden, N_SCORES)
        self.ownership = Conv(n_values, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inner = self.norm(self.conv(x)).relu()
        mean, width = inner.mean(dim=(1, 2)), inner.shape[1] - 14
        whole = torch.cat([mean, mean * width / 10, mean * (width**2 / 100 - 0.1)], dim=1)
        hidden = self.hidden(whole).relu()
        score = self.score(hidden)[:, 0] * POINTS_OF_SCORE
        return self.value(hidden), score, self.ownership(inner)[..., 0].tanh()


class GoNetwork(nn.Module):
    """A network that takes positions as planes (n, 41, size, size); see `GoOpinion`."""

    def __init__(
        self,
        channels: int,
        blocks: list[nn.Module],
        policy: PolicyHead,
        value: ValueHead,
        width: int = 5,
    ):
        super().__init__()
        self.stem = Conv(N_SPATIAL, channels, width)
        self.from_global = nn.Linear(N_GLOBAL, channels, bias=False)
        self.blocks, self.norm = nn.ModuleList(blocks), Norm(channels)
        self.policy_head, self.value_head = policy, value

    def trunk(self, planes: Tensor) -> Tensor:
        whole = self.from_global(planes[:, N_SPATIAL:, 0, 0])
        x = self.stem(planes[:, :N_SPATIAL].permute(0, 2, 3, 1)) + whole[:, None, None]
        for block in self.blocks:
            x = block(x)
        return self.norm(x).relu()

    def forward(self, planes: Float[Tensor, "n planes size size"]) -> GoOpinion:
        x = self.trunk(_known(planes))
        return GoOpinion(self.policy_head(x), *self.value_head(x))

    def policy(self, planes: Float[Tensor, "n planes size size"]) -> Float[Tensor, "n moves"]:
        """Logits of moves alone, as `play_games` takes them."""
        return self.policy_head(self.trunk(_known(planes)))


def _known(planes: Tensor) -> Tensor:
    if planes.ndim != 4 or planes.shape[1] != N_PLANES or planes.shape[2] != planes.shape[3]:
        raise ValueError(
            f"planes must have the shape (n, {N_PLANES}, size, size), got {tuple(planes.shape)}: "
            "see saehelpers.datasets.go.input_planes"
        )
    return planes


@checked
def make_go_network(
    n_blocks: Annotated[int, at_least(2)] = 4, channels: Positive = 16, seed: Seed = 0
) -> GoNetwork:
    """A small network of the same kind with random weights: it knows nothing of Go."""
    half = max(channels // 2, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        blocks = [
            PoolingBlock(channels, half, half) if i % 5 == 1 else Block(channels, channels)
            for i in range(n_blocks)
        ]
        policy, value = PolicyHead(channels, half, half), ValueHead(channels, half, channels)
        network = GoNetwork(channels, blocks, policy, value)
    return network.eval().requires_grad_(False)


@checked
def with_random_weights(network: nn.Module, seed: Seed = 0) -> nn.Module:
    """A network's architecture, which has learnt nothing: the numbers of every tensor, shuffled."""
    generator, shuffled = torch.Generator().manual_seed(seed), copy.deepcopy(network)
    for tensor in shuffled.state_dict().values():
        order = torch.randperm(tensor.numel(), generator=generator)
        tensor.copy_(tensor.flatten()[order].view_as(tensor))
    return identified(shuffled, {"shuffled": network, "seed": seed})


@checked
@torch.no_grad()
def read_opinions(
    network: GoNetwork, planes: Float[Tensor, "n planes size size"], batch_size: Positive = 64
) -> GoOpinion:
    """What a network says of many positions, in batches."""
    parts = [network(batch) for batch in planes.split(batch_size)]
    return GoOpinion(*map(torch.cat, zip(*parts, strict=True)))


@checked
def viewed_opinions(
    network: GoNetwork, planes: Float[Tensor, "n planes size size"], group: Group
) -> list[GoOpinion]:
    """What it says of positions that each element of C_n or D_n has turned, turned back."""
    act, points = image_action(group), turned_points(group, planes.shape[-1])
    views = []
    for g in range(group.order):
        seen = read_opinions(network, act(planes, g))
        ownership = act(seen.ownership, group.inverse(g))
        views.append(seen._replace(policy=seen.policy[:, points[g]], ownership=ownership))
    return views


@checked
def reconstructing(
    network: GoNetwork, module: Name, recons: Callable[[Tensor], Tensor]
) -> AbstractContextManager[None]:
    """Within the context, the maps of a module are replaced by recons (n, d) of their points."""
    return splice(network, {module: partial(_at_points, recons)})


@checked
def spliced_policy(
    network: GoNetwork, module: Name, recons: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """The policy of a network with recons in the place of a module's maps, see `reconstructing`.

    Raises:
        ValueError: the network has no module of that name; names the nearest.
    """
    find_place(network, module)
    return partial(_spliced_policy, network, module, recons)


def _at_points(recons: Callable[[Tensor], Tensor], maps: Tensor) -> Tensor:
    return recons(maps.flatten(0, -2)).view_as(maps)


def _spliced_policy(network: GoNetwork, module: str, recons, planes: Tensor) -> Tensor:
    with reconstructing(network, module, recons):
        return network.policy(planes)
