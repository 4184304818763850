"""Read and replace activations at any named module of any model, by forward hooks."""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Annotated, Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from saehelpers.networks.modules import Edit, check_ran, find_place, hook, in_evaluation_mode
from saehelpers.runs.checking import checked
from saehelpers.runs.identities import identified
from saehelpers.runs.precision import full_precision
from saehelpers.runs.wanted import FROM_ZERO, Positive
from saehelpers.symmetry import Group, InputAction, input_action


@checked
@contextmanager
def splice(model: nn.Module, edits: Mapping[str, Edit]) -> Iterator[None]:
    """Within the context, each named module's output is passed through its function.

    "name.input" is what goes into a module instead of what comes out of it. Of several things
    that come out, or go in, the first tensor is passed on and replaced, in whatever it is: a
    tuple, a dict, a ModelOutput of transformers, one within the other. Of arguments given by
    keyword, the first in the order of the module's `forward`. The model is restored at the end,
    also after an error.

    Raises:
        ValueError: the model has no module of that name; names the nearest. When the module
            runs: there is no tensor in what it returns, or is given.
    """
    places = [(find_place(model, name), edit) for name, edit in edits.items()]
    handles = []
    try:
        for place, edit in places:
            handles.append(hook(place, edit))
        yield
    finally:
        for handle in handles:
            handle.remove()


@checked
def chosen_positions(x: Tensor, positions: Iterable[int]) -> Tensor:
    """x[:, positions] of activations (n, context, d); all of them if no position is given.

    Raises:
        ValueError: the activations have no axis of positions.
    """
    chosen = list(positions)
    if chosen and x.ndim < 3:
        raise ValueError(
            f"positions are those of activations x (n, context, d), these are {tuple(x.shape)}: "
            "choose a module that keeps contexts apart, such as the one around it"
        )
    return x[:, chosen] if chosen else x


@checked
def at_positions(edit: Edit, positions: Iterable[int]) -> Edit:
    """An edit of some positions alone: x[:, positions] of activations (n, context, d)."""
    positions = list(positions)

    def replace(x: Tensor) -> Tensor:
        part = edit(chosen_positions(x, positions))
        edited = x.clone()
        edited[:, positions] = part
        return edited

    return replace


@checked
@contextmanager
def reading(model: nn.Module, modules: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Within the context, what the named modules return is kept, in the order they run in.

    Raises:
        ValueError: the model has no module of that name; names the nearest.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> Tensor:
        found[name] = output
        return output

    with splice(model, {name: partial(keep, name) for name in modules}):
        yield found


# --- running a part of a model ---


@checked
@contextmanager
def recording_prefix(model: nn.Module, modules: Collection[str]) -> Iterator[dict[str, list[Any]]]:
    """Within the context, keeps what ran before the first of `modules`, and itself, returned.

    Of modules within one another, the outermost that is done; one output for each call. What
    is kept lets `replaying` run the model from there onward.
    """
    kept: dict[str, list[Any]] = {}
    done = False

    def keep(name: str, this: nn.Module, inputs: tuple, output: Any) -> None:
        nonlocal done
        if not done:
            for inner in [other for other in kept if other.startswith(f"{name}.")]:
                del kept[inner]
            kept.setdefault(name, []).append(output)
            done = name in ends

    def stop(x: Tensor) -> Tensor:
        nonlocal done
        done = True
        return x

    places = {module: find_place(model, module) for module in modules}
    ends = {place.name for place in places.values() if not place.is_input}
    stops = {module: stop for module, place in places.items() if place.is_input}
    handles = [
        child.register_forward_hook(partial(keep, name)) for name, child in model.named_modules()
    ]
    try:
        with splice(model, stops):
            yield kept
    finally:
        for handle in handles:
            handle.remove()


@checked
@contextmanager
def replaying(model: nn.Module, outputs: Mapping[str, list[Any]]) -> Iterator[None]:
    """Within the context, the named modules return these outputs, call by call, and do not run.

    Their hooks do. The model is restored at the end, also after an error.
    """
    modules = dict(model.named_modules())
    # not by setattr: wrappers hand that on to the module that they wrap
    attributes = {name: vars(modules[name]) for name in outputs}
    own = {name: found.get("forward") for name, found in attributes.items()}

    def replay(calls: Iterator[Any], *inputs, **options) -> Any:
        return next(calls)

    try:
        for name, calls in outputs.items():
            attributes[name]["forward"] = partial(replay, iter(calls))
        yield
    finally:
        for name, forward in own.items():
            if forward is None:
                attributes[name].pop("forward", None)
            else:
                attributes[name]["forward"] = forward


# --- activations of many inputs ---


@checked
@torch.no_grad()
@in_evaluation_mode
def read_activations(
    model: nn.Module, inputs: Tensor, module: str, batch_size: Positive = 256
) -> Tensor:
    """Outputs of the named module for every input, on the CPU: (n, ...) -> (n, *output).

    "name.input" reads what goes into it, and of several tensors the first is read (see `splice`);
    rows of all contexts one after another, (n * context, d), are taken apart into (n, context,
    d). In float32, whatever the model computes in (float64 stays). Inputs go through the model
    in batches, on the model's own device and, numbers with a fraction, in its own precision, in
    evaluation mode, and no further than that module. Of a module that runs several times, what
    it returns first.

    Raises:
        ValueError: the model has no such module, it does not run, or returns no tensor, or not
            as many rows as inputs; or the model draws at random, so that two reads differ.
    """
    parameter = next(itertools.chain(model.parameters(), model.buffers()), inputs)
    collected: list[Tensor] = []

    def read(batch: Tensor) -> Tensor | None:
        found = None

        def keep(output: Tensor) -> Tensor:
            nonlocal found
            found = output
            raise _Read

        with splice(model, {module: keep}), suppress(_Read):
            _run(model, batch, module)
        return found

    for batch in inputs.split(batch_size):
        batch = batch.to(parameter.device)
        if batch.is_floating_point() and parameter.is_floating_point():
            batch = batch.to(parameter.dtype)
        elif (
            batch.ndim == 2 and not batch.is_floating_point()
        ):  # tokens, which are kept in 16 or 32 bits; pixels have four axes
            batch = batch.long()
        state = None if collected else _random_state(batch.device)
        output = read(batch)
        if output is None:
            check_ran(model, [module], [], partial(model, batch))
        if state is not None and not torch.equal(state, _random_state(batch.device)):
            _check_same(output, read(batch), model, module)
        collected.append(_per_input(output, len(batch), module))
    return identified(torch.cat(collected), {"network": model, "inputs": inputs, "module": module})


@checked
def token_activations(
    model: nn.Module,
    tokens: Annotated[Integer[Tensor, "n context"], FROM_ZERO],
    module: str,
    batch_size: Positive = 256,
) -> Float[Tensor, "samples 1 d"]:
    """Outputs of the named module at every token, as orbits of one: (n * context, 1, d)."""
    read = read_activations(model, tokens, module, batch_size)
    return identified(read.flatten(0, 1)[:, None], {"tokens of": read})


def _run(model: nn.Module, batch: Tensor, module: str) -> None:
    try:
        model(batch)
    except (AttributeError, TypeError, ValueError) as error:
        if not (hasattr(model, "vision_model") and hasattr(model, "text_model")):
            raise
        name = type(model).__name__
        raise ValueError(
            f"{name} reads images and texts together: give its `vision_model` (or `text_model`) "
            f"instead of it, with names from there, such as {module.partition('.')[2]!r}"
        ) from error


def _random_state(device: torch.device) -> Tensor:
    """Of the generator that operations on a device draw from."""
    if device.type == "cpu":
        return torch.get_rng_state()
    return torch.get_device_module(device).get_rng_state()


def _check_same(output: Tensor, again: Tensor, model: nn.Module, module: str) -> None:
    """Raise a ValueError if two reads of the same inputs differ by more than rounding."""
    if output.shape == again.shape and torch.allclose(output, again, rtol=1e-2, atol=1e-3):
        return
    raise ValueError(
        f"two reads of {module!r} of the same inputs differ: {type(model).__name__} draws at "
        "random, also in evaluation mode, as models do that mask their inputs (MAE). Load its "
        "weights into a model that does not (`load_encoder` does that for MAE), or read a module "
        "before the draw"
    )


def _per_input(output: Tensor, n: int, module: str) -> Tensor:
    """An output's rows by input, on the CPU and in full precision: (n, ...)."""
    output = output.cpu()
    if output.is_floating_point():
        output = full_precision(output)
    if output.ndim and len(output) == 1:  # the same for every input, such as positions
        return output.expand(n, *output.shape[1:])
    if not output.ndim or len(output) % n:
        raise ValueError(
            f"the module {module!r} returns {tuple(output.shape)} for {n} inputs: which rows are "
            "whose cannot be told"
        )
    return output if len(output) == n else output.unflatten(0, (n, -1))


class _Read(Exception):  # noqa: N818 (no error)
    """What was to be read has been read: nothing behind it needs to run."""


@checked
def orbit_activations(
    model: nn.Module,
    inputs: Tensor,
    group: Group,
    module: str = "encoder",
    act: InputAction | None = None,
) -> Tensor:
    """Activations of the whole orbit of every input: (n, ...) -> (n, |G|, d).

    `[:, 0]` of the result is canonical.

    Args:
        act: what an element makes of inputs, `act(inputs, element)`; by default the
            `image_action` of C_n and D_n on images (n, C, H, W).

    Raises:
        ValueError: `act` is no action of the group on these inputs (see `check_input_action`),
            or none is given for a group that needs one.
    """
    given, act = act, input_action(group, act, inputs)
    per_element = [
        read_activations(model, act(inputs, element), module) for element in range(group.order)
    ]
    acted = None if given is None else [act(inputs[:1], element) for element in group.generators]
    cause = {"network": model, "inputs": inputs, "module": module, "group": group, "act": acted}
    return identified(torch.stack(per_element, dim=1), cause)
