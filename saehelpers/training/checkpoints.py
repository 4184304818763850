"""Checkpoints: what training goes on from where it was stopped.

A safetensors file of the model's tensors and Adam's moments, read and written as a whole: several
processes may have one. Its fingerprint tells whether it is as it was written.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from saehelpers import runs
from saehelpers.runs import distributed
from saehelpers.runs.identities import identity

MOMENTS = {"step", "exp_avg", "exp_avg_sq"}


def save_checkpoint(
    path: Path, of: str, model: nn.Module, optimiser: torch.optim.Adam, turned: list[bool],
    epoch: int, rows: list[dict],
) -> None:  # fmt: skip
    """Write a checkpoint, in which moments have the shape of their parameters.

    Args:
        of: tells what is trained.
        turned: which parameters the optimiser has the other way round.
        epoch: that is next; rows: the history so far.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for i, state in optimiser.state_dict()["state"].items():
        state = _turn(state) if turned[i] else state
        tensors |= {f"adam.{i}.{name}": value for name, value in state.items()}
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    metadata = {"epoch": str(epoch), "history": json.dumps(rows), "of": of}
    metadata["fingerprint"] = identity((metadata, tensors))
    runs.write_atomically(path, save(tensors, metadata=metadata))


def resume(
    path: Path | None, of: str, model: nn.Module, optimiser: torch.optim.Adam, turned: list[bool]
) -> tuple[int, list[dict]]:
    """(first epoch, history so far), after loading the checkpoint if there is one.

    Raises:
        ValueError: it is damaged, or of another training.
    """
    if path is None:
        return 0, []
    try:
        data = path.read_bytes()
    except FileNotFoundError:  # also if another process has just removed it
        return 0, []
    try:
        metadata, tensors = _read(data)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"the checkpoint {path} is damaged: delete it ({error})") from error
    if metadata.get("of", of) != of:
        raise ValueError(
            f"the checkpoint {path} is of another training: choose another path, or delete it"
        )
    try:
        epoch, rows = int(metadata["epoch"]), json.loads(metadata["history"])
        weights, moments = _taken_apart(tensors)
        _check_moments(moments, optimiser, turned)
        model.load_state_dict(weights)
    except (RuntimeError, LookupError, ValueError) as error:
        raise ValueError(f"the checkpoint {path} is damaged: delete it ({error!r})") from error
    optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
    return epoch, rows


def remove_checkpoint(path: Path) -> None:
    """Once what was trained is safe."""
    if distributed.is_first():
        path.unlink(missing_ok=True)


def _read(data: bytes) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What a checkpoint says, but for its fingerprint, and its tensors."""
    tensors = load(data)
    length = int.from_bytes(data[:8], "little")  # of the header
    metadata = dict(json.loads(data[8 : 8 + length]).get("__metadata__") or {})
    told = metadata.pop("fingerprint", None)
    saved_before = "of" not in metadata  # by an earlier release, which could not tell
    if told != identity((metadata, tensors)) and not (told is None and saved_before):
        raise ValueError("it is not as it was written")
    return metadata, tensors


def _taken_apart(
    tensors: dict[str, Tensor],
) -> tuple[dict[str, Tensor], dict[int, dict[str, Tensor]]]:
    """Weights by name, and moments by the number of their parameter."""
    weights: dict[str, Tensor] = {}
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, rest = name.split(".", 1)
        if kind == "model":
            weights[rest] = tensor
        else:
            index, key = rest.split(".")
            moments.setdefault(int(index), {})[key] = tensor
    return weights, moments


def _check_moments(
    moments: dict[int, dict[str, Tensor]], optimiser: torch.optim.Adam, turned: list[bool]
) -> None:
    """Turn them as the optimiser has them; raise a ValueError unless they fit its parameters."""
    parameters: list[Any] = optimiser.param_groups[0]["params"]
    if not moments:
        raise ValueError("it has no moments")
    for i, state in moments.items():
        if turned[i]:
            state = {name: value.contiguous() for name, value in _turn(state).items()}
            moments[i] = state
        shapes = {name: value.shape for name, value in state.items() if name != "step"}
        if set(state) != MOMENTS or set(shapes.values()) != {parameters[i].shape}:
            raise ValueError(f"its moments of parameter {i} do not fit")


def _turn(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.mT if value.ndim > 1 else value for name, value in state.items()}
