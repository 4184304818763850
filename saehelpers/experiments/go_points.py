"""What there is to show and to probe of a Go network: positions and their points, turned."""

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saehelpers.datasets.go import (
    N_SPATIAL,
    Games,
    Positions,
    point_tasks,
    turned_labels,
    turned_points,
)
from saehelpers.networks import neighbourhoods, read_activations, to_feature_maps
from saehelpers.runs.checking import checked
from saehelpers.runs.identities import identified
from saehelpers.runs.wanted import FROM_ZERO, Name, Positive, Seed
from saehelpers.symmetry import Group, act_each, image_action


@checked
@dataclass(frozen=True)
class GoPoints:
    """Samples are points of positions, n * k of them, position after position.

    planes: what a network is given of the turned positions. points: where the points have come to.
    elements: that have turned each sample's position. labels: see `turned_labels`.
    """

    planes: Float[Tensor, "n planes size size"]
    points: Annotated[Int[Tensor, "n k"], FROM_ZERO]
    elements: Annotated[Int[Tensor, " samples"], FROM_ZERO]
    labels: Bool[Tensor, "samples tasks"]

    @checked
    def around(self, width: Positive) -> Float[Tensor, "samples features"]:
        """The input planes of the board in squares around the points."""
        inputs = neighbourhoods(self.planes[:, :N_SPATIAL], self.points, width)
        return identified(inputs, {"inputs": self.planes, "at": self.points, "width": width})

    @checked
    def read(self, network: nn.Module, module: Name) -> Float[Tensor, "samples d"]:
        """Activations of a network at the points."""
        read = read_activations(network, self.planes, module)
        maps = to_feature_maps(read)
        return identified(neighbourhoods(maps, self.points), {"read": read, "at": self.points})


@checked
def turned_samples(
    games: Games,
    positions: Positions,
    planes: Float[Tensor, "n planes size size"],
    points: Annotated[Int[Tensor, "n k"], FROM_ZERO],
    group: Group,
    seed: Seed = 0,
) -> GoPoints:
    """Points (row * size + column) of positions, each position turned by an element that is drawn.

    Args:
        planes: of the positions as they are.
    """
    n, k = points.shape
    generator = torch.Generator().manual_seed(seed)
    elements = torch.randint(group.order, (n,), generator=generator)
    each = elements.repeat_interleave(k)
    turned = turned_points(group, positions.size)[elements].gather(1, points)
    labels = turned_labels(point_tasks(games, positions), points, each.view(n, k), group)
    cause = {"planes": planes, "turned by": elements}
    return GoPoints(identified(act_each(planes, elements, group), cause), turned, each, labels)


@checked
def turned_boards(
    positions: Positions, planes: Float[Tensor, "n planes size size"], group: Group
) -> tuple[
    Float[Tensor, "turned planes size size"],
    Int[Tensor, "turned size size"],
    Int[Tensor, " turned"],
]:
    """Positions under every element, all under the first one first: planes, stones, last moves.

    A last move is a point (row * size + column), size * size for a pass, -1 where there was none.

    Args:
        planes: of the positions as they are.
    """
    act, points = image_action(group), turned_points(group, positions.size)
    stones, moves = positions.stones[:, 0], positions.moves[:, 0]
    views = [
        (act(planes, g), act(stones, g), torch.where(moves < 0, -1, points[g][moves]))
        for g in range(group.order)
    ]
    turned, boards, last = map(torch.cat, zip(*views, strict=True))
    return turned, boards, last
