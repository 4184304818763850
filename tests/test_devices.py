"""The tensors of a training of dense SAEs are where its activations are, as a GPU asks for.

Checked without one: on torch's "meta" device, where nothing is computed, an operation fails that
reads a tensor which stayed on the CPU.
"""

import dataclasses
from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from saehelpers.networks import scaling
from saehelpers.runs import checking
from saehelpers.saes import SAEConfig
from saehelpers.training import side_by_side as training
from saehelpers.training.methods import SAERun
from saehelpers.training.side_by_side import train_saes

SMALL = SAEConfig(16, 32, topk=4)
CASES = {
    "reconstruction": {},
    "canonical": {"objective": "canonical"},
    "latent_inv": {"objective": "latent_inv"},
    "output_inv": {"objective": "output_inv"},
    "oriented": {"objective": "oriented"},
    "self_oriented": {"objective": "self_oriented"},
    "crosscoder": {
        "objective": "crosscoder",
        "sae": dataclasses.replace(SMALL, dictionary="blocks", group_order=4),
    },
    "matryoshka": {
        "objective": "matryoshka",
        "sae": dataclasses.replace(SMALL, prefixes=(8, 32)),
    },
    "L1": {
        "sparsity": "l1",
        "lambda_sparsity": 0.1,
        "sae": dataclasses.replace(SMALL, activation="relu"),
    },
    "BatchTopK": {"sae": dataclasses.replace(SMALL, activation="batch_topk")},
    "JumpReLU": {
        "sparsity": "lp",
        "lambda_sparsity": 0.1,
        "p": 0.5,
        "sae": dataclasses.replace(SMALL, activation="jumprelu"),
    },
    "heads": {
        "sae": dataclasses.replace(
            SMALL, dictionary="block_diagonal", n_heads=2, topk_per_head=True
        )
    },
    "AuxK": {"auxk": 4, "dead_after": 2},
}


class OneDevice(TorchDispatchMode):
    """Raises where tensors of several devices meet, but for copies and lone numbers."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        options = options or {}
        tensors = [x for x in tree_leaves((arguments, options)) if isinstance(x, torch.Tensor)]
        devices = {x.device.type for x in tensors if x.ndim or x.device.type != "cpu"}
        assert len(devices) < 2 or "copy" in str(function), (function, devices)
        return function(*arguments, **options)


@pytest.fixture
def without_values(monkeypatch):
    """What asks for a value gets one."""
    adam = torch.optim.Adam
    for name, value in (("item", 1.0), ("__bool__", True)):
        monkeypatch.setattr(torch.Tensor, name, lambda self, value=value: value)
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: [1.0] * self.numel())
    monkeypatch.setattr(torch.optim, "Adam", lambda parts, rate, **_: adam(parts, rate))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(training, "check_orbits", lambda activations: None)
    monkeypatch.setattr(checking, "check_finite", lambda name, value: None)
    monkeypatch.setattr(scaling, "check_scale", lambda *_: None)
    monkeypatch.setattr(training, "unstack", lambda saes: [])


@pytest.mark.parametrize("name", CASES)
def test_training_never_reads_from_another_device(name, without_values):
    options = {"sae": SMALL, "epochs": 1, "batch_size": 16} | CASES[name]
    configs = [SAERun("any", "any", seed=seed, **options) for seed in (0, 1)]
    with OneDevice():
        train_saes(configs, [torch.empty(40, 4, 16, device="meta")], progress=False)
