"""Training gives the same bits on any number of threads, and leaves their number as it was."""

import json
import os
import subprocess
import sys

import pytest
import torch

from saehelpers import Group, SAEConfig, fit_action
from saehelpers.runs.identities import identity
from saehelpers.runs.threads import one_thread
from saehelpers.symmetry import LinearAction, report_action
from saehelpers.training import SAERun, train_sae

TRAIN = """
import json, sys
from pathlib import Path
import torch
from saehelpers.experiments import EncoderRun, load_or_train_encoder
from saehelpers.experiments import BaseModelRun, load_or_train_base_model
from saehelpers.runs.identities import identity

draws = torch.Generator().manual_seed(0)
images = torch.rand(64, 1, 64, 64, generator=draws)
found = {"threads": torch.get_num_threads()}
for kind in ("mlp", "cnn", "vit"):
    config = BaseModelRun(kind, identity(images), kind, 16, 64, epochs=1, batch_size=32)
    model, _ = load_or_train_base_model(config, images, Path(sys.argv[1]))
    found[kind] = identity(model)
pixels = (255 * torch.rand(32, 3, 32, 32, generator=draws)).byte()
labels = torch.arange(32) % 4
config = EncoderRun("convnext", identity((pixels, labels)), (16, 32), (1, 1), epochs=1)
model, _ = load_or_train_encoder(config, pixels, labels, (pixels, labels), Path(sys.argv[1]))
found["convnext"] = identity(model)
assert torch.get_num_threads() == found["threads"]
print(json.dumps(found))
"""


def test_base_models_have_one_fingerprint_on_any_number_of_threads(tmp_path):
    found = []
    for n_threads in ("1", "2"):
        ended = subprocess.run(
            [sys.executable, "-c", TRAIN, str(tmp_path / n_threads)],
            env=os.environ | {"OMP_NUM_THREADS": n_threads}, capture_output=True, text=True,
        )  # fmt: skip
        assert not ended.returncode, ended.stderr
        found.append(json.loads(ended.stdout.splitlines()[-1]))
    assert [one.pop("threads") for one in found] == [1, 2]
    assert found[0] == found[1]


@pytest.fixture(params=[1, 2])
def n_threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def made() -> list[str]:
    draws, group = torch.Generator().manual_seed(0), Group.named("C4")
    rotation = LinearAction.from_generators(group, [torch.eye(64).roll(16, 0)])
    x = rotation.orbit(torch.randn(2000, 64, generator=draws))
    x = x + 0.1 * torch.randn(x.shape, generator=draws)
    sae = SAEConfig(64, 128, topk=4, dictionary="archetypal", n_archetypes=100, encoder="linear")
    run = SAERun("archetypal", identity(x), sae, epochs=1)
    told = [identity(dict(train_sae(run, x[:, :1], progress=False)[0].state_dict()))]
    for method in ("adam", "orthogonal", "least_squares"):
        action = fit_action(x, group, method, epochs=1, progress=False)
        told += [identity(action.matrices), identity(report_action(action, x))]
    return told


MADE: list[list[str]] = []


def test_saes_and_actions_are_the_same_on_any_number_of_threads(n_threads):
    MADE.append(made())
    assert torch.get_num_threads() == n_threads
    assert all(told == MADE[0] for told in MADE)


def test_the_number_of_threads_comes_back_after_an_error(n_threads):
    with pytest.raises(KeyError), one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == n_threads
