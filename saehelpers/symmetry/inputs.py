"""How a group acts on inputs: a function `act(inputs, element)` beside the group."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Shaped
from torch import Tensor

from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import NOT_EMPTY
from saehelpers.symmetry.groups import Group, rotations_and_flips

InputAction = Callable[[Tensor, int], Tensor]
CHECKED_INPUTS = 4
EXACT = 1e-3  # of the inputs' norm: rounding errors are smaller


@checked
def image_action(group: Group) -> InputAction:
    """How C_n and D_n act on images: `act(images, element)`, images (..., H, W).

    Element g^p h^q flips q times, upside down, then rotates p times by 2 pi / n,
    counter-clockwise.

    Rotations by multiples of 90 degrees are exact (`torch.rot90`). Any other angle is
    interpolated bilinearly, with zeros from outside: such an action is a group action only
    approximately. On 64x64 Shapes images, eight rotations by 45 degrees change an image by
    about 40 % of its standard deviation (the corners are lost, edges blur).

    Raises:
        ValueError: another group; and of `act`, an element that is not the group's, or images
            that are not square where a rotation needs them to be.
    """
    if not group.has_name:
        raise ValueError(
            f"how {group.name} acts on inputs must be given, as a function act(inputs, element): "
            "only C_n and D_n act on images by themselves"
        )
    return partial(_turn_images, group)


@checked
def action_by_generators(
    group: Group, functions: Sequence[Callable[[Tensor], Tensor]]
) -> InputAction:
    """The action of a function `inputs -> inputs` for each of `group.generators`.

    An element applies them one after another, as its word in `group.words` says.

    Raises:
        ValueError: there is not one function for each generator.
    """
    if len(functions) != len(group.generators):
        raise ValueError(
            f"{group.name} has {len(group.generators)} generators, each of which needs a "
            f"function, got {len(functions)} functions"
        )
    return partial(_apply_word, group, tuple(functions))


@checked
def restricted_action(
    act: InputAction, elements: Annotated[Sequence[int], NOT_EMPTY]
) -> InputAction:
    """How a subgroup acts, whose element i is `elements[i]` of the group (`Group.subgroup`)."""
    return partial(_act_within, act, tuple(elements))


@checked
def input_action(
    group: Group, act: InputAction | None, inputs: Shaped[Tensor, "n *shape"]
) -> InputAction:
    """`act` itself, if it is an action on these inputs; the `image_action` if it is None.

    Raises:
        ValueError: see `check_input_action` and `image_action`.
    """
    if act is None:
        return image_action(group)
    check_input_action(group, act, inputs)
    return act


@checked
def orbit(
    inputs: Shaped[Tensor, "n *shape"], group: Group, act: InputAction | None = None
) -> Shaped[Tensor, "n order *shape"]:
    """Every element applied to every input; by the `image_action` if none is given."""
    act = image_action(group) if act is None else act
    return torch.stack([act(inputs, element) for element in range(group.order)], dim=1)


@checked
def act_each(
    inputs: Shaped[Tensor, "n *shape"], elements, group: Group, act: InputAction | None = None
) -> Shaped[Tensor, "n *shape"]:
    """Apply to each input an element of its own; by the `image_action` if none is given.

    Raises:
        ValueError: `elements` is not a tensor (n) of elements of the group.
    """
    act = image_action(group) if act is None else act
    elements = group.checked(elements)
    check_shape("elements", elements, inputs.shape[:1], "inputs")
    result = torch.empty_like(inputs)
    for element in range(group.order):
        rows = (elements == element).nonzero().flatten()
        if len(rows):  # interpolation knows no empty batches
            result[rows] = act(inputs[rows], element)
    return result


def check_shape(name: str, elements: int | Tensor, shape: tuple[int, ...], whose: str) -> None:
    """Raise a ValueError unless elements are a tensor of this shape: one for each of some."""
    if not isinstance(elements, Tensor) or elements.shape != shape:
        found = f"shape {tuple(elements.shape)}" if isinstance(elements, Tensor) else elements
        raise ValueError(
            f"{name} must be a tensor of shape {tuple(shape)}, got {found}: one for each of the "
            f"{whose}"
        )


@checked
def check_input_action(group: Group, act: InputAction, inputs: Shaped[Tensor, "n *shape"]) -> None:
    """Raise a ValueError unless `act` is an action of the group, on the first few inputs.

    Element 0 must leave them. To act by h and then by g must be to act by g h: exactly where
    the inverses of g and h undo them; else, as with rotations that interpolate, within 90 % of
    the inputs' norm, and not by giving exactly what another element would.
    """
    some = inputs[:CHECKED_INPUTS]
    made = []
    for element in range(group.order):
        made.append(act(some, element))
        if made[-1].shape != some.shape:
            raise ValueError(
                f"act must keep the shape of inputs {tuple(some.shape)}, element {element} "
                f"makes it {tuple(made[-1].shape)}"
            )
    orbits = torch.stack([part.flatten().float() for part in made])  # (|G|, size)
    norm = some.float().norm()

    def distance(turned: Tensor) -> Tensor:
        """From what each element makes of the inputs, in units of their norm: (|G|)"""
        return (orbits - turned.flatten().float()).norm(dim=1) / norm.clamp(min=1e-30)

    if distance(some)[0] > EXACT:
        raise ValueError(f"act must leave inputs as they are under element 0 of {group.name}")
    undone = [
        bool(distance(act(made[h], group.inverse(h)))[0] <= EXACT) for h in range(group.order)
    ]
    for g in group.generators:
        for h in range(group.order):
            apart = distance(act(made[h], g))
            wanted = group.compose(g, h)
            same = (apart <= EXACT).nonzero().flatten().tolist()
            exact = undone[g] and undone[h]
            if wanted not in same and (exact or len(same) == 1 or apart[wanted] > 0.9):
                instead = f": it does what element {same[0]} does" if len(same) == 1 else ""
                raise ValueError(
                    f"act is no action of {group.name}: to act by {h} and then by {g} must be to "
                    f"act by {wanted}, and is off by {apart[wanted]:.1%} of the inputs' "
                    f"norm{instead}"
                )


def _apply_word(group: Group, functions: tuple[Callable, ...], inputs: Tensor, element) -> Tensor:
    for letter in reversed(group.words[group.checked(element)]):
        inputs = functions[letter](inputs)
    return inputs


def _act_within(act: InputAction, elements: tuple[int, ...], inputs: Tensor, element) -> Tensor:
    return act(inputs, elements[element])


def _turn_images(group: Group, images: Tensor, element) -> Tensor:
    n_rotations, _ = rotations_and_flips(group)
    q, p = divmod(group.checked(element), n_rotations)
    height, width = images.shape[-2:]
    if n_rotations > 2 and height != width:
        raise ValueError(f"{group.name} acts on square images, got {height} x {width}")
    if q:
        images = images.flip(-2)
    quarters, rest = divmod(4 * p, n_rotations)
    if rest == 0:
        return torch.rot90(images, quarters, dims=(-2, -1))
    return _rotate(images, 2 * math.pi * p / n_rotations)


def _rotate(images: Tensor, angle: float) -> Tensor:
    """Rotate counter-clockwise by `angle` radians, bilinearly, zeros from outside."""
    flat = images.reshape(-1, 1, *images.shape[-2:])  # (N, 1, H, W)
    cosine, sine = math.cos(angle), math.sin(angle)
    # where each output pixel comes from, in (x, y) with y pointing down
    inverse = torch.tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0]], device=images.device)
    grid = F.affine_grid(
        inverse.to(images).expand(len(flat), 2, 3), list(flat.shape), align_corners=False
    )
    rotated = F.grid_sample(flat, grid, padding_mode="zeros", align_corners=False)
    return rotated.reshape(images.shape)
