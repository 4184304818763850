"""Read and replace activations at any named module of any model, by forward hooks."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import torch
from jaxtyping import Float
from torch import Tensor, nn


@contextmanager
def splice(model: nn.Module, edits: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Within the context, each named module's output is passed through its function.

    "name.input" is what goes into a module instead of what comes out of it. Of a module that
    returns a tuple, the first item is passed on and replaced; of one that takes several
    arguments, the first. The model is restored at the end, also after an error.

    Raises:
        ValueError: the model has no module of that name.
    """
    modules = dict(model.named_modules())
    missing = [name for name in edits if name.removesuffix(".input") not in modules]
    if missing:
        raise ValueError(f"no module {missing[0]!r}; known are {', '.join(filter(None, modules))}")
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
    activations: Float[Tensor, "*n d"], n_heads: int = 1
) -> tuple[Float[Tensor, " d"], Tensor]:
    """(mean, scale) such that (x - mean) / scale has mean zero and mean squared norm d.

    Of the concatenated outputs of several attention heads, each has a scale of its own: the
    scale is (d), the same within a head, instead of ().

    Raises:
        ValueError: the activations (of a head) are all the same.
    """
    mean = activations.flatten(0, -2).mean(0)
    squares = (activations - mean).pow(2).flatten(0, -2).unflatten(-1, (n_heads, -1))
    scale = squares.mean((0, 2)).sqrt()  # (n_heads)
    if not (scale > 0).all():
        heads = f" in heads {(scale == 0).nonzero().flatten().tolist()}" if n_heads > 1 else ""
        raise ValueError(f"activations of shape {tuple(activations.shape)} are all the same{heads}")
    return mean, scale[0] if n_heads == 1 else scale.repeat_interleave(len(mean) // n_heads)
