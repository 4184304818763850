"""Updates on a GPU, recorded once and replayed.

A step of a small SAE is a hundred short kernels. To launch them one by one, as PyTorch does, takes
far longer than to run them; a CUDA graph launches all of them at once.
"""

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # updates before the recording, in which libraries set up what must not be part of it
APART = 0.1  # of the way of a tensor: by so much a replayed update may differ from a launched one


class Replayed:
    """An update of the weights (index, uniform) -> terms as a CUDA graph.

    The first updates, and those of a batch of another shape (the last of an epoch, say), are
    launched kernel by kernel. So are all, with a warning, where an update cannot be recorded, as
    it copies a value to the CPU, or where the recording of one batch, tried on the next, moves any
    tensor elsewhere. What an update reads besides its arguments must stay where it is in memory,
    and nothing else in Python may change from one update to the next.

    Args:
        state: gives the tensors that an update changes.
    """

    def __init__(
        self,
        update: Callable[[Tensor, Tensor], dict[str, Tensor]],
        state: Callable[[], list[Tensor]],
    ):
        self.update, self.state = update, state
        self.made, self.is_tried, self.is_dynamic = 0, False, False
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
            if self.made < WARM_UP:
                return self._warm_up()
            if self.graph is None:
                return self._record()
            if not self.is_tried:
                return self._try()
            self.graph.replay()
        return self.terms

    def _warm_up(self) -> dict[str, Tensor]:
        """An update on the stream that will record one."""
        self.made += 1
        here, aside = torch.cuda.current_stream(), _aside(torch.cuda.current_device())
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            terms = self.update(*self.arguments)
        here.wait_stream(aside)
        return terms

    def _record(self) -> dict[str, Tensor]:
        """An update, after a recording of it, which moves nothing."""
        here, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=_aside(torch.cuda.current_device())):
                self.terms = self.update(*self.arguments)
            self.graph = graph
        except RuntimeError as error:
            self._give_up(str(error))
        finally:
            torch.cuda.set_stream(here)  # which stays another where a recording fails
        return self.update(*self.arguments)

    def _try(self) -> dict[str, Tensor]:
        """An update, and whether the recording would have made the same."""
        self.is_tried = True
        own = functools.partial(self.update, *self.arguments)
        terms, apart = tried(own, self.graph.replay, self.state())
        if not apart <= APART:
            self.graph, self.terms = None, {}
            finite = bool(terms["loss"].isfinite().all())
            self._give_up(f"a recorded one differs by {apart:.2g} of its way" if finite else "")
        return terms

    def _give_up(self, why: str) -> None:
        self.is_dynamic = True
        if why:
            warnings.warn(f"updates are launched kernel by kernel: {why}", stacklevel=2)


@functools.cache
def _aside(device: int) -> torch.cuda.Stream:
    """The stream of a device that recordings are made on: libraries keep memory for each."""
    return torch.cuda.Stream(device)


def tried(
    update: Callable[[], dict[str, Tensor]], replay: Callable[[], object], state: list[Tensor]
) -> tuple[dict[str, Tensor], float]:
    """What an update returns, and how far from its own a replayed one moves the state.

    The largest share of the way that there is of any tensor: sum |replayed - updated| over
    sum |updated - before|. The state is left as the update has it. Copies are on the CPU.
    """
    before = [tensor.detach().to("cpu", copy=True) for tensor in state]
    replay()
    replayed = [tensor.detach().to("cpu", copy=True) for tensor in state]
    with torch.no_grad():
        for tensor, old in zip(state, before, strict=True):
            tensor.copy_(old)
    terms = update()
    shares = []
    for tensor, old, other in zip(state, before, replayed, strict=True):
        updated = tensor.detach().cpu()
        if not torch.equal(updated, other):
            apart, way = ((updated - each).abs().double().sum() for each in (other, old))
            shares.append(apart / way)
    return terms, torch.stack(shares).max().item() if shares else 0.0
