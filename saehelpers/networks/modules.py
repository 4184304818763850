"""Modules of any model: found by name, and the tensor that goes into one and comes out of one."""

import copy
import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from saehelpers.runs.checking import checked

Edit = Callable[[Tensor], Tensor]


class Place(NamedTuple):
    """Where a model is read or edited: a module, by its own name; its input, or its output."""

    name: str
    module: nn.Module
    is_input: bool


def find_place(model: nn.Module, name: str) -> Place:
    """The place of a name: of a module, or with ".input" behind it, of what goes into one.

    Names are those of `model.named_modules()`, or other paths of attributes to the same modules,
    such as the aliases of TransformerLens ("blocks.1.hook_resid_post").

    Raises:
        ValueError: the model has no module of that name; names the nearest.
    """
    modules = dict(model.named_modules())
    if name in modules:
        return Place(name, modules[name], False)
    bare = name.removesuffix(".input")
    if bare in modules:
        return Place(bare, modules[bare], True)
    try:
        aliased = functools.reduce(getattr, bare.split("."), model)
    except AttributeError:
        aliased = None
    for own_name, module in modules.items():
        if module is aliased:
            return Place(own_name, module, bare != name)
    nearest = difflib.get_close_matches(name, filter(None, modules), n=5, cutoff=0.0)
    raise ValueError(f"no module {name!r}; nearest are {', '.join(nearest)}")


def hook(place: Place, edit: Edit) -> torch.utils.hooks.RemovableHandle:
    """Pass a place's tensor through a function, whenever the module runs."""
    if place.is_input:
        return place.module.register_forward_pre_hook(
            functools.partial(edit_input, place.name, edit), with_kwargs=True
        )
    return place.module.register_forward_hook(functools.partial(_edit_output, place.name, edit))


def _edit_output(name: str, edit: Edit, module: nn.Module, inputs: tuple, output: Any) -> Any:
    found, edited = _edited(output, edit)
    if not found:
        raise ValueError(f"the module {name!r} returns {_kind(output)}: there is no tensor in it")
    return edited


def edit_input(
    name: str, edit: Edit, module: nn.Module, inputs: tuple, options: dict
) -> tuple[tuple, dict]:
    """Arguments of a module with the first tensor among them edited; `name` is for errors."""
    found, edited = _edited(inputs, edit)
    if found:
        return edited, options
    order = list(inspect.signature(type(module).forward).parameters)
    known = [key for key in order if key in options]
    ordered = {key: options[key] for key in [*known, *options]}
    found, edited = _edited(ordered, edit)
    if not found:
        given = _kind((*inputs, *options.values()))
        raise ValueError(f"the module {name!r} is given {given}: there is no tensor in it")
    return inputs, edited


def _edited(value: Any, edit: Edit) -> tuple[bool, Any]:
    """Whether there is a tensor, and the value with its first one edited."""
    if isinstance(value, Tensor):
        return True, edit(value)
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, tuple | list):
        items = list(enumerate(value))
    else:
        return False, value
    for key, item in items:
        found, edited = _edited(item, edit)
        if found:
            return True, _with(value, key, edited)
    return False, value


def _with(value: Any, key: Any, item: Any) -> Any:
    """A copy of a dict, a ModelOutput of transformers, a list or a tuple with another item."""
    if not isinstance(value, tuple):
        value = copy.copy(value)
        value[key] = item
        return value
    items = (*value[:key], item, *value[key + 1 :])
    return type(value)(*items) if hasattr(value, "_fields") else items


def _kind(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_kind, value))})"
    return type(value).__name__


@checked
@contextmanager
def evaluation_mode(*models: nn.Module) -> Iterator[None]:
    """Within the context the models are in evaluation mode; at the end, every module as it was."""
    training = [module for model in models for module in model.modules() if module.training]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def in_evaluation_mode(function: Callable) -> Callable:
    """The function, with all models among its arguments, also in dicts, in evaluation mode."""

    @functools.wraps(function)
    def run(*arguments, **options):
        given = [*arguments, *options.values()]
        values = [v for x in given for v in (x.values() if isinstance(x, Mapping) else [x])]
        with evaluation_mode(*[value for value in values if isinstance(value, nn.Module)]):
            return function(*arguments, **options)

    return run


def check_ran(
    model: nn.Module, names: Iterable[str], ran: Iterable[str], run: Callable[[], Any]
) -> None:
    """Raise a ValueError for the first of these modules that did not run: names those that do.

    ran: those that did; run: runs the model once more, to see what does.
    """
    missing = [name for name in names if name not in set(ran)]
    if not missing:
        return
    running: dict[str, None] = {}
    handles = [
        module.register_forward_hook(lambda *_, name=name: running.setdefault(name))
        for name, module in model.named_modules()
        if name
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    nearest = difflib.get_close_matches(missing[0], running, n=5, cutoff=0.0)
    raise ValueError(
        f"the module {missing[0]!r} does not run when {type(model).__name__} reads these inputs; "
        f"nearest of those that do are {', '.join(nearest)}"
    )
