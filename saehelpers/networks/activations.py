"""Read and replace activations at any named module of any model, by forward hooks."""

import difflib
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from saehelpers.runs.precision import full_precision

STANDARDISATION_ROWS = 2**20  # that are looked at in one go


@contextmanager
def splice(model: nn.Module, edits: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Within the context, each named module's output is passed through its function.

    "name.input" is what goes into a module instead of what comes out of it. Of a module that
    returns a tuple, the first item is passed on and replaced; of one that takes several
    arguments, the first. The model is restored at the end, also after an error.

    Raises:
        ValueError: the model has no module of that name; names the nearest.
    """
    modules = dict(model.named_modules())
    for name in edits:
        if name.removesuffix(".input") not in modules:
            nearest = difflib.get_close_matches(name, filter(None, modules), n=5, cutoff=0.0)
            raise ValueError(f"no module {name!r}; nearest are {', '.join(nearest)}")
    handles = []
    try:
        for name, edit in edits.items():
            module = modules[name.removesuffix(".input")]
            if name.endswith(".input"):
                handles.append(module.register_forward_pre_hook(_input_hook(edit)))
            else:
                handles.append(module.register_forward_hook(_hook(edit)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(edit: Callable[[Tensor], Tensor]) -> Callable:
    def replace(module, inputs, output):
        if isinstance(output, tuple):
            return (edit(output[0]), *output[1:])
        return edit(output)

    return replace


def _input_hook(edit: Callable[[Tensor], Tensor]) -> Callable:
    return lambda module, inputs: (edit(inputs[0]), *inputs[1:])


def at_positions(edit: Callable[[Tensor], Tensor], positions: Iterable[int]) -> Callable:
    """An edit of some positions alone: x[:, positions] of activations (n, context, d)."""
    positions = list(positions)

    def replace(x: Tensor) -> Tensor:
        edited = x.clone()
        edited[:, positions] = edit(x[:, positions])
        return edited

    return replace


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
            done = name in modules

    def stop(x: Tensor) -> Tensor:
        nonlocal done
        done = True
        return x

    stops = {module: stop for module in modules if module.endswith(".input")}
    handles = [
        child.register_forward_hook(partial(keep, name)) for name, child in model.named_modules()
    ]
    try:
        with splice(model, stops):
            yield kept
    finally:
        for handle in handles:
            handle.remove()


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


@torch.no_grad()
def read_activations(
    model: nn.Module, inputs: Tensor, module: str, batch_size: int = 256
) -> Tensor:
    """Outputs of the named module for every input, on the CPU: (n, ...) -> (n, *output).

    "name.input" reads what goes into it (see `splice`). Inputs go through the model in
    batches, on the model's own device, and no further than that module.
    """
    device = next(model.parameters()).device
    collected: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        collected.append(output.cpu())
        raise _Read

    with splice(model, {module: keep}):
        for batch in inputs.split(batch_size):
            with suppress(_Read):
                model(batch.to(device))
    return torch.cat(collected)


class _Read(Exception):  # noqa: N818 (no error)
    """What was to be read has been read: nothing behind it needs to run."""


def orbit_activations(model: nn.Module, images: Tensor, group, module: str = "encoder") -> Tensor:
    """Activations of the whole orbit of every image: (n, C, H, W) -> (n, |G|, d).

    `group` is a `saehelpers.symmetry.Group`; `[:, 0]` of the result is canonical.
    """
    per_element = [
        read_activations(model, group.act(images, element), module)
        for element in range(group.order)
    ]
    return torch.stack(per_element, dim=1)


def standardisation(
    activations: Real[Tensor, "*n d"], n_heads: int = 1
) -> tuple[Float[Tensor, " d"], Tensor]:
    """(mean, scale) such that (x - mean) / scale has mean zero and mean squared norm d.

    Of the concatenated outputs of several attention heads, each has a scale of its own: the
    scale is (d), the same within a head, instead of (). Computed in float32, or in float64 for
    activations in float64. Warns where a few rows carry most of the variance, and says how to
    leave them out.

    Raises:
        ValueError: the activations (of a head) are all the same, but for rounding; or they, or
            their squares, are no finite numbers.
    """
    rows, shape = activations.flatten(0, -2), tuple(activations.shape)
    parts = rows.split(STANDARDISATION_ROWS)  # larger than memory, they pass through it
    mean = sum(len(part) / len(rows) * full_precision(part).mean(0) for part in parts)
    variances, distances = [], []
    for part in parts:
        squares = [head.pow(2) for head in (full_precision(part) - mean).chunk(n_heads, -1)]
        variances.append(len(part) / len(rows) * torch.stack([head.mean() for head in squares]))
        distances.append(sum(head.sum(-1) for head in squares))  # of each row from the mean
    scale = sum(variances).sqrt()  # (n_heads)
    if not scale.isfinite().all():
        raise ValueError(
            f"activations of shape {shape} and type {activations.dtype} have the scale "
            f"{scale[~scale.isfinite()][0].item()}: they, or their squares, are no finite numbers"
        )
    largest = torch.stack([head.abs().max() for head in mean.chunk(n_heads)])
    differ = scale > 4 * torch.finfo(mean.dtype).eps * largest
    if not differ.all():
        heads = f" in heads {(~differ).nonzero().flatten().tolist()}" if n_heads > 1 else ""
        raise ValueError(f"activations of shape {shape} are all the same{heads}")
    _warn_of_heavy_rows(torch.cat(distances), shape)
    return mean, scale[0] if n_heads == 1 else scale.repeat_interleave(len(mean) // n_heads)


def _warn_of_heavy_rows(squared: Float[Tensor, " rows"], shape: tuple[int, ...]) -> None:
    """`squared`: distances of rows from their mean. Those above the widest gap are heavy."""
    n_few = len(squared) // 8
    if not n_few or squared.topk(n_few).values.sum() < 0.75 * squared.sum():
        return
    largest = squared.topk(n_few + 1).values.clamp(min=torch.finfo(squared.dtype).tiny)
    n_heavy = int((largest[:-1] / largest[1:]).argmax()) + 1
    share = largest[:n_heavy].sum() / squared.sum()
    cut = largest[n_heavy - 1 : n_heavy + 1].double().log().mean().exp().sqrt()
    of_a_sample = ".flatten(1).amax(1)" if len(shape) > 2 else ""
    warnings.warn(
        f"{n_heavy} of {len(squared)} rows carry {share:.1%} of the variance of activations of "
        f"shape {shape}: they decide the scale, beside which the others hardly count. In language "
        "models such rows are often the first token's: leave it out, x[:, 1:], or `positions` of "
        "an end-to-end run. To leave out what is heavy: "
        f"x = x[(x - x.flatten(0, -2).mean(0)).norm(dim=-1){of_a_sample} < {cut:.3g}]",
        stacklevel=3,
    )
