"""Activation functions of SAEs, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from saehelpers.runs import Registry
from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Config
from saehelpers.saes.sparse import AbsTopK, BatchTopK, BlockTopK, Gated, JumpReLU, TopK

ACTIVATIONS = Registry(
    "activation",
    f"{__name__}:ACTIVATIONS",
    {
        "topk": lambda config: TopK(config.topk),
        "batch_topk": lambda config: BatchTopK(config.topk),
        "block_topk": lambda config: BlockTopK(config.topk, config.group_order),
        "abs_topk": lambda config: AbsTopK(config.topk),
        "relu": lambda config: nn.ReLU(inplace=True),
        "jumprelu": lambda config: JumpReLU(
            config.n_latents, config.initial_threshold, 2 * config.initial_threshold
        ),
        "gated": lambda config: Gated(config.n_latents),
    },
    field="activation",
)


@checked
def activation(name: Any) -> Callable[[Callable], Callable]:
    """Add an activation function: `@activation("mine")` above it, or above a module's class.

    A function takes pre-activations (*inst, batch, n_latents) and returns latents of that shape. A
    class is made from an SAEConfig; its parameters have a leading axis of instances while SAEs
    are trained side by side. Where the name contains "topk", `config.topk` counts.

    Raises:
        ValueError: another activation function has the name, or it is no function.
    """

    def made(function: Any) -> Callable[[Any], Callable]:
        if not callable(function):
            raise ValueError(f"the activation {name!r} must be a function, got {function!r}")
        return function if isinstance(function, type) else _Always(function)

    return ACTIVATIONS.adding(name, made)


@checked
def make_activation(config: Config) -> Callable[[Tensor], Tensor]:
    """The activation function that an SAEConfig asks for."""
    return ACTIVATIONS[config.activation](config)


@dataclass(frozen=True)
class _Always:
    """The same function for every config."""

    function: Callable

    def __call__(self, config: Any) -> Callable:
        return self.function
