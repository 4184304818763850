"""What several test modules share: small data with a known group action."""

import pytest
import torch

from saehelpers.datasets.toy import ToyData, make_toy
from saehelpers.runs import REGISTRIES
from saehelpers.saes import SAEConfig
from saehelpers.symmetry import Group, LinearAction
from saehelpers.training import fitting
from saehelpers.training.side_by_side import train_saes
from tests.walking import family_of, made_small, own_cores

torch.set_num_threads(1)

D = 8


def pytest_collection_modifyitems(items):
    """Of several processes, one runs the notebooks that read what others made, in their order."""
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.xdist_group(family_of(item.name[:2])))


class SmallRuns:
    """What nbmake makes of a notebook is what its parameters are walked from."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        if item.path.suffix != ".ipynb":
            return (yield)
        with made_small(item.name[:2]), own_cores():
            return (yield)


def pytest_configure(config):
    """Notebooks lie in another folder, where the hooks of this file are not called."""
    config.pluginmanager.register(SmallRuns())


def pytest_terminal_summary(terminalreporter):
    """How many parameters of notebooks were walked."""
    counts = {
        outcome: sum("a_changed_value_remakes" in report.nodeid for report in reports)
        for outcome, reports in terminalreporter.stats.items()
        if outcome in ("passed", "failed")
    }
    if sum(counts.values()):
        told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        terminalreporter.write_line(f"parameters walked: {sum(counts.values())} ({told})")


@pytest.fixture(autouse=True)
def same_weights():
    """What a test draws without a generator of its own is the same in every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def toy() -> ToyData:
    """4 orthonormal features in R^8, turned by C4."""
    return make_toy(256, 4, 4, seed=0, d=D)


@pytest.fixture(scope="session")
def c4_action(toy: ToyData) -> LinearAction:
    return toy.action


@pytest.fixture(scope="session")
def d4_action() -> LinearAction:
    """Four copies of the symmetries of a square, in a random orthonormal basis of R^8."""
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(D, D, generator=generator)).Q
    quarter_turn = torch.block_diag(*[torch.tensor([[0.0, -1.0], [1.0, 0.0]])] * 4)
    mirror = torch.block_diag(*[torch.diag(torch.tensor([1.0, -1.0]))] * 4)
    return LinearAction.from_generators(
        Group.named("D4"), [basis @ quarter_turn @ basis.T, basis @ mirror @ basis.T]
    )


@pytest.fixture(scope="session")
def action(request, c4_action, d4_action) -> LinearAction:
    """The action of C4 or of D4: parametrised indirectly, by the group's name."""
    return {"C4": c4_action, "D4": d4_action}[request.param]


@pytest.fixture
def small_config() -> SAEConfig:
    return SAEConfig(d=D, n_latents=12, topk=3, encoder_hidden=16)


@pytest.fixture
def clean_registries():
    """What a test adds is gone after it."""
    yield
    for registry in REGISTRIES:
        for name in registry.added:
            del registry[name]


@pytest.fixture
def train_interrupted(tmp_path, monkeypatch):
    """Trains SAEs, stops in the third epoch, and goes on from the checkpoint."""
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)

    def stop(epoch, sae):
        if epoch == 2:
            raise KeyboardInterrupt

    def train(configs, activations):
        settings = {"checkpoint": tmp_path / "checkpoint", "progress": False}
        with pytest.raises(KeyboardInterrupt):
            train_saes(configs, activations, after_epoch=stop, **settings)
        return train_saes(configs, activations, **settings)[0]

    return train
