"""Shapes: images of four quadrants, each with one of eight shapes, that a group turns.

A canonical image has every shape in its canonical orientation. A group element acts on the
whole image: all its shapes take the same orientation, and quadrants move.
(Erdogan and Lucic, arXiv 2511.09432, section 5.2 and appendix C.)
"""

import functools
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.identities import derived, identified, joined, part
from saehelpers.runs.wanted import FROM_ZERO, Positive, Seed, Wanted, one_of
from saehelpers.symmetry import Group, orbit, rotations_and_flips

SIZE = 32  # of a quadrant, in pixels
SHAPES = ("rectangle", "diagonal", "c", "l", "t", "triangle", "arrow", "semicircle")
QUADRANTS = ("top left", "top right", "bottom left", "bottom right")
SHAPE_GROUPS = ("C1", "C2", "C4", "D1", "D2", "D4")  # that carry the square of quadrants to itself
TASK_TYPES = ("S", "SO", "SP", "SPO")
N_HELD_OUT = 1024  # compositions of the 4,096
# where test images come from, in the results, by what is on one side of a split alone
SPLITS = {"images": "generated", "compositions": "generated, unseen compositions"}
PARTS = ("any", "train", "test")

OF_SHAPES = Wanted(
    f"numbers of shapes, 0 to {len(SHAPES) - 1}",
    lambda x: x.min() >= 0 and x.max() < len(SHAPES),
)
Drawn = Annotated[Int[Tensor, "n quadrants"], OF_SHAPES]


@checked
@dataclass(frozen=True)
class ShapesData:
    """Canonical images (n, 1, 64, 64) in [0, 1], and the shape in each quadrant (n, 4)."""

    images: Float[Tensor, "n 1 size size"]
    shapes: Drawn


@checked
def split_shapes(
    n_train: Positive, n_test: Positive, by: Annotated[str, one_of(SPLITS)]
) -> tuple[ShapesData, ShapesData]:
    """Training and test images.

    Args:
        by: "images", as in the paper: all are drawn from the same 4,096 compositions, and of the
            test images beside 10,000 others 91 % are bit-identical to one of those. "compositions":
            none of a test image has been trained on.
    """
    own = ("any", "any") if by == "images" else ("train", "test")
    return make_shapes(n_train, 0, own[0]), make_shapes(n_test, 1, own[1])


@checked
def make_shapes(
    n_samples: Positive, seed: Seed, part: Annotated[str, one_of(PARTS)] = "any"
) -> ShapesData:
    """Draw the shapes of every quadrant.

    Args:
        part: "any", each quadrant's shape uniformly, with replacement. "train", uniformly from
            3,072 of the 4,096 compositions; "test", from the other 1,024, each at most once. No
            turn or mirror makes one of these of one of those.

    Raises:
        ValueError: more test images than compositions held out.
    """
    generator = torch.Generator().manual_seed(seed)
    cause = {"shapes": "drawn", "n_samples": n_samples, "seed": seed}
    if part == "any":
        shapes = torch.randint(len(SHAPES), (n_samples, len(QUADRANTS)), generator=generator)
    else:
        own = _compositions()[_held_out() == (part == "test")]
        cause["part"] = part
        if part == "train":
            shapes = own[torch.randint(len(own), (n_samples,), generator=generator)]
        elif n_samples > len(own):
            raise ValueError(
                f"{len(own)} compositions are held out, each once: n_samples must be {len(own)} "
                f"or less, got {n_samples}"
            )
        else:
            shapes = own[torch.randperm(len(own), generator=generator)[:n_samples]]
    tiles = draw_templates()[shapes].unflatten(1, (2, 2))  # (n, row, column, 32, 32)
    images = tiles.permute(0, 1, 3, 2, 4).reshape(n_samples, 1, 2 * SIZE, 2 * SIZE)
    return ShapesData(identified(images, cause), shapes)


def _compositions() -> Int[Tensor, "compositions quadrants"]:
    """All that quadrants can have, in order: the number of one is its digits."""
    return torch.cartesian_prod(*[torch.arange(len(SHAPES))] * len(QUADRANTS))


@functools.cache
def _held_out() -> Bool[Tensor, " compositions"]:
    """Which of the 4,096 compositions, in order, nothing is trained on: 1,024.

    No image of one, under any element of D4, is an image of one that is trained on: what turns or
    mirrors every shape into itself moves quadrants alone, and makes another canonical image.
    Compositions that make each other so are on the same side.
    """
    d4, shapes = Group.named("D4"), _compositions()
    upright = (orientations(d4)[shapes] == 0).all(dim=1)  # (compositions, 8)
    digits = len(SHAPES) ** torch.arange(len(QUADRANTS) - 1, -1, -1)
    moved = shapes[:, quadrant_sources(d4)] @ digits
    kin = torch.where(upright, moved, len(shapes)).amin(dim=1)  # the least of those alike
    chosen, left = torch.zeros(len(shapes), dtype=torch.bool), N_HELD_OUT
    generator = torch.Generator().manual_seed(0)
    sizes = kin.bincount(minlength=len(shapes))
    for least in torch.randperm(len(shapes), generator=generator).tolist():
        if 0 < sizes[least] <= left:
            chosen |= kin == least
            left -= int(sizes[least])
    return chosen


@checked
@dataclass(frozen=True)
class ProbeSamples:
    """Shapes that probes are fitted to and tested on, each sample an image under an element.

    shapes: of every sample (n_train + n_test * turns, 4); elements: under which it is seen. The
    first `n_train` are for fitting, each image once; then each test image `turns` times.
    """

    n_train: Positive
    n_test: Positive
    turns: Positive
    shapes: Drawn
    elements: Annotated[Int[Tensor, " n"], FROM_ZERO]

    def __post_init__(self):
        wanted = self.n_train + self.n_test * self.turns
        if len(self.shapes) != wanted or len(self.elements) != wanted:
            raise ValueError(
                f"shapes and elements must be of n_train + n_test * turns = {wanted} samples, got "
                f"{len(self.shapes)} and {len(self.elements)}"
            )

    @property
    def images(self) -> Int[Tensor, " n_samples"]:
        """Which test image each test sample is: what is drawn anew for an interval."""
        return torch.arange(self.n_test).repeat_interleave(self.turns)

    def orbits(self, train: Float[Tensor, "n order d"], test: Float[Tensor, "m order d"]) -> Tensor:
        """The orbit of activations that each sample is a member of, (n_samples, |G|, d)."""
        tested = part(test, 0, self.n_test)
        if self.turns > 1:
            tested = derived(torch.repeat_interleave, tested, self.turns, 0)
        return joined(part(train, 0, self.n_train), tested)


@checked
def probe_samples(
    train: ShapesData,
    test: ShapesData,
    n_train: Positive,
    n_test: Positive,
    group: Group,
    by: Annotated[str, one_of(SPLITS)],
) -> ProbeSamples:
    """Images for probes: the first of both parts, under random elements.

    Args:
        by: as in `split_shapes`. Of "compositions", each test image is seen under every element.
    """
    for name, wanted, images in (("n_train", n_train, train), ("n_test", n_test, test)):
        if wanted > len(images.shapes):
            raise ValueError(f"{name} must be {len(images.shapes)} or less, got {wanted}")
    turns = group.order if by == "compositions" else 1
    tested = test.shapes[:n_test].repeat_interleave(turns, dim=0)
    shapes = torch.cat([train.shapes[:n_train], tested])
    generator = torch.Generator().manual_seed(2)
    elements = torch.randint(group.order, (len(shapes),), generator=generator)
    if turns > 1:
        elements[n_train:] = torch.arange(group.order).repeat(n_test)
    return ProbeSamples(n_train, n_test, turns, shapes, elements)


@checked
def share_unseen(
    shapes: Drawn, trained_on: Annotated[Int[Tensor, "m quadrants"], OF_SHAPES]
) -> float:
    """Share of images whose composition nothing was trained on."""
    seen = (shapes[:, None] == trained_on.unique(dim=0)).all(dim=2).any(dim=1)
    return 1 - seen.float().mean().item()


def draw_templates() -> Float[Tensor, "shapes size size"]:
    """The eight shapes in canonical orientation, white (1) on black (0).

    Rectangle and diagonal have two orientations under C4, the other six have four; every
    mirror image is also a rotation. The vertical flip leaves only rectangle and C unchanged.
    """
    with extra("notebooks"):
        from skimage.draw import disk, polygon

    far = SIZE - 1
    low, high = 6, far - 6  # the box that shapes fill
    middle = (far - 5) // 2, (far + 5) // 2 + 1  # the six central rows or columns
    canvas = {name: np.zeros((SIZE, SIZE), dtype=np.float32) for name in SHAPES}

    canvas["rectangle"][middle[0] - 2 : middle[1] + 2, low - 2 : high + 3] = 1
    rows, columns = np.indices((SIZE, SIZE))
    inside = (rows >= low) & (rows <= high) & (columns >= low) & (columns <= high)
    canvas["diagonal"][inside & (abs(rows - columns) <= 3)] = 1
    canvas["c"][low : high + 1, low : high + 1] = 1
    canvas["c"][low + 5 : high - 4, low + 5 :] = 0
    canvas["l"][low : high + 1, low : low + 6] = 1
    canvas["l"][high - 5 : high + 1, low : high + 1] = 1
    canvas["t"][low : low + 6, low : high + 1] = 1
    canvas["t"][low : high + 1, middle[0] : middle[1]] = 1
    canvas["triangle"][polygon([low, high, high], [far / 2, low, high])] = 1
    canvas["arrow"][polygon([low, low + 10, low + 10], [far / 2, low, high])] = 1
    canvas["arrow"][low + 8 : high + 1, middle[0] : middle[1]] = 1
    dome = disk((high - 4, far / 2), 11, shape=(SIZE, SIZE))
    canvas["semicircle"][dome] = 1
    canvas["semicircle"][high - 3 :] = 0
    return torch.from_numpy(np.stack([canvas[name] for name in SHAPES]))


@checked
def orientations(group: Group) -> Int[Tensor, "shapes order"]:
    """The orientation that each shape takes under each element, numbered from 0.

    Orientation 0 is canonical. Elements that make the same picture of a shape have the same
    orientation, so that rectangle and diagonal have two, the others four.
    """
    if not group.has_name or rotations_and_flips(group)[0] not in (1, 2, 4):
        raise ValueError(
            f"Shapes has orientations under C1, C2, C4, D1, D2 and D4, not {group.name}"
        )
    quarters = orbit(draw_templates(), Group.named("C4"))  # (shapes, 4, 32, 32)
    turned = orbit(draw_templates(), group)  # (shapes, |G|, 32, 32)
    same = (turned[:, :, None] == quarters[:, None]).flatten(-2).all(dim=-1)
    return same.int().argmax(dim=-1)


@checked
def quadrant_sources(group: Group) -> Int[Tensor, "order quadrants"]:
    """Which canonical quadrant is seen in each quadrant after each element has acted."""
    canonical = torch.arange(4.0).reshape(1, 2, 2)
    return orbit(canonical, group).reshape(group.order, 4).long()


@checked
def element_ceiling(shapes: Drawn, group: Group) -> float:
    """How often the element of an image under a random element can be told, at best.

    An element that leaves every shape of a canonical image as it is, and only moves quadrants,
    makes another canonical image: the two cannot be told apart. Under C4 such images are rare;
    under D4 most shapes are their own mirror images.
    """
    upright = (orientations(group)[shapes] == 0).all(dim=1)  # (n, |G|)
    return (1 / upright.sum(dim=1)).mean().item()


def list_tasks() -> pd.DataFrame:
    """The 180 binary tasks, with columns type, task, shape, orientation, quadrant (-1: any).

    S (8): a shape is present. SO (28): in an orientation. SP (32): in a quadrant. SPO (112):
    in both. Orientation and quadrant are those in the transformed image.
    """
    n_orientations = orientations(Group.named("C4")).max(dim=1).values + 1
    rows = []
    for shape, name in enumerate(SHAPES):
        turns = range(int(n_orientations[shape]))
        places = range(len(QUADRANTS))
        rows.append(("S", name, shape, -1, -1))
        rows += [("SO", f"{name}, turn {o}", shape, o, -1) for o in turns]
        rows += [("SP", f"{name}, {QUADRANTS[p]}", shape, -1, p) for p in places]
        rows += [
            ("SPO", f"{name}, turn {o}, {QUADRANTS[p]}", shape, o, p) for p in places for o in turns
        ]
    tasks = pd.DataFrame(rows, columns=["task_type", "task", "shape", "orientation", "quadrant"])
    return tasks.sort_values("task_type", key=lambda c: c.map(TASK_TYPES.index), kind="stable")


@checked
def task_labels(
    shapes: Drawn, elements: Int[Tensor, " n"], group: Group
) -> Bool[Tensor, "n tasks"]:
    """Labels of the tasks of `list_tasks` for images turned by the given elements."""
    elements = group.checked(elements)
    seen = shapes.gather(1, quadrant_sources(group)[elements])  # (n, quadrants)
    turned = orientations(group)[seen, elements[:, None]]  # (n, quadrants)
    labels = []
    for task in list_tasks().itertuples():
        match = seen == task.shape
        if task.orientation >= 0:
            match = match & (turned == task.orientation)
        labels.append(match[:, task.quadrant] if task.quadrant >= 0 else match.any(dim=1))
    return torch.stack(labels, dim=1)
