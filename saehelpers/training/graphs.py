"""Updates on a GPU, recorded once and replayed.

A step of a small SAE is a hundred short kernels, and launching them takes far longer than running
them. A CUDA graph launches all of them at once.
"""

import functools
import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # updates before the recording, in which libraries set up what must not be part of it
APART = 0.01  # of what an update moves: by so much a replayed one may differ from a launched one


class Replayed:
    """An update of the weights (index, uniform) -> terms as a CUDA graph.

    The first updates, and those of a batch of another shape (the last of an epoch, say), are
    launched. So are all, with a warning, where an update cannot be recorded, as it looks at a
    value, or where the recording, tried once from the same weights, moves them elsewhere. What an
    update reads besides its arguments must stay where it is in memory.

    Args:
        state: gives the tensors that an update changes.
    """

    def __init__(
        self,
        update: Callable[[Tensor, Tensor], dict[str, Tensor]],
        state: Callable[[], list[Tensor]],
    ):
        self.update, self.state = update, state
        self.made, self.is_dynamic = 0, False
        self.arguments: tuple[Tensor, ...] = ()
        self.graph: torch.cuda.CUDAGraph | None = None
        self.terms: dict[str, Tensor] = {}

    def __call__(self, index: Tensor, uniform: Tensor) -> dict[str, Tensor]:
        """The terms, which the next call may overwrite."""
        if not self.arguments:
            self.arguments = index.clone(), uniform.clone()
        if self.is_dynamic or index.shape != self.arguments[0].shape:
            return self.update(index, uniform)
        for own, given in zip(self.arguments, (index, uniform), strict=True):
            own.copy_(given)
        with torch.cuda.device_of(index):
            if self.graph is None:
                return self._warm_up() if self.made < WARM_UP else self._record()
            self.graph.replay()
        return self.terms

    def _warm_up(self) -> dict[str, Tensor]:
        """An update, on a stream of its own, as a recording will be."""
        self.made += 1
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            terms = self.update(*self.arguments)
        here.wait_stream(aside)
        return terms

    def _record(self) -> dict[str, Tensor]:
        """An update, launched, and a recording of it that is tried beside it."""
        graph, terms, why = torch.cuda.CUDAGraph(), {}, ""
        try:
            with torch.cuda.graph(graph):
                terms = self.update(*self.arguments)
        except RuntimeError as error:
            why = str(error)
        launched, apart = {}, 0.0
        if not why:
            own = functools.partial(self.update, *self.arguments)
            launched, apart = tried(own, graph.replay, self.state())
            why = f"a recorded one differs by {apart:.2g} of it" if not apart <= APART else ""
        if why:
            self.is_dynamic = True
            warnings.warn(f"updates are launched one by one: {why}", stacklevel=2)
        else:
            self.graph, self.terms = graph, terms
        return launched or self.update(*self.arguments)


def tried(
    update: Callable[[], dict[str, Tensor]], replay: Callable[[], object], state: list[Tensor]
) -> tuple[dict[str, Tensor], float]:
    """What an update returns, and how far from its own a replayed one moves the state.

    As a share of the way: sum |replayed - updated| / sum |updated - before|. The state is left as
    the update has it.
    """
    before = [tensor.detach().clone() for tensor in state]
    replay()
    replayed = [tensor.detach().clone() for tensor in state]
    with torch.no_grad():
        for tensor, old in zip(state, before, strict=True):
            tensor.copy_(old)
    terms = update()

    def distance(others: list[Tensor]) -> float:
        pairs = zip(state, others, strict=True)
        return sum((own.detach().double() - other).abs().sum().item() for own, other in pairs)

    apart, way = distance(replayed), distance(before)
    return terms, apart / way if way else math.inf if apart else 0.0
