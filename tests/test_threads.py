"""Training gives the same bits on any number of threads, and leaves their number as it was."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from saehelpers import Group, SAEConfig, fit_action
from saehelpers.experiments import (
    BaseModelRun,
    EncoderRun,
    load_or_train_base_model,
    load_or_train_encoder,
)
from saehelpers.runs.identities import identity
from saehelpers.runs.threads import one_thread, several_threads
from saehelpers.symmetry import LinearAction, report_action
from saehelpers.training import SAERun, train_sae

ROOT = Path(__file__).parents[1]
ELSEWHERE = """import json, sys
from tests import test_threads
threads = test_threads.torch.get_num_threads
test_threads.torch.set_num_threads(2)
print(json.dumps(test_threads.base_models(sys.argv[1])))
assert threads() == 2"""


def base_models(folder: str) -> dict[str, str]:
    """The identities of small base models that are trained now, in this process."""
    draws = torch.Generator().manual_seed(0)
    images, told = torch.rand(32, 1, 64, 64, generator=draws), {}
    for kind in ("mlp", "cnn", "vit"):
        config = BaseModelRun(kind, identity(images), kind, 16, 64, epochs=1, batch_size=16)
        told[kind] = identity(load_or_train_base_model(config, images, folder)[0])
    pixels = (255 * torch.rand(32, 3, 32, 32, generator=draws)).byte()
    labels = torch.arange(32) % 4
    config = EncoderRun("convnext", identity((pixels, labels)), (16, 32), (1, 1), epochs=1)
    given = (pixels, labels, (pixels, labels), folder)
    return told | {"convnext": identity(load_or_train_encoder(config, *given)[0])}


def test_base_models_have_one_fingerprint_on_any_number_of_threads(tmp_path):
    assert torch.get_num_threads() == 1  # in tests
    ended = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path / "two threads")],
        env=os.environ | {"OMP_NUM_THREADS": "2"}, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert not ended.returncode, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1]) == base_models(str(tmp_path / "one thread"))


@pytest.fixture
def set_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def saes_and_actions() -> list[str]:
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


def test_saes_and_actions_are_the_same_on_any_number_of_threads(set_threads):
    expected = saes_and_actions()
    set_threads(2)
    assert saes_and_actions() == expected
    assert torch.get_num_threads() == 2


def test_several_threads_are_allowed_where_that_is_asked_for(set_threads):
    set_threads(3)
    seen, x = [], torch.randn(32, 1, 8)
    run = SAERun("vanilla", "x", SAEConfig(8, 16, topk=4), epochs=1)

    def look(*_) -> None:
        seen.append(torch.get_num_threads())

    with several_threads(2):
        train_sae(run, x, progress=False, after_epoch=look)
        assert torch.get_num_threads() == 3
    train_sae(run, x, progress=False, after_epoch=look)
    assert seen == [2, 1]


def test_the_number_of_threads_comes_back_after_an_error(set_threads):
    set_threads(2)
    with pytest.raises(KeyError), one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == 2
