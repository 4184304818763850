"""What users add in a notebook cell or a script trains, is measured and drawn as what is built in.

Nothing here stands in a module that another process could import.
"""

import dataclasses
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import matplotlib.pyplot as plt
import pytest
import submitit
import torch
from torch import nn
from torch.testing import assert_close

from saehelpers import SAEConfig, SAERun, figures, load, runs
from saehelpers.experiments import load_or_train_saes, measure_runs
from saehelpers.runs import REGISTRIES, identity, results
from saehelpers.saes import (
    SAE,
    GroupCrosscoder,
    activation,
    dictionary,
    make_sae,
    save_sae_lens,
    stack,
)
from saehelpers.symmetry import Group
from saehelpers.training import (
    METHODS,
    OBJECTIVES,
    OrbitBatch,
    method,
    method_run,
    method_runs,
    objective,
    squared_error,
    train_sae,
    train_saes,
)
from saehelpers.training.loss import Loss, total_loss

pytestmark = pytest.mark.usefixtures("clean_registries")
SAE_CONFIG = SAEConfig(8, 12, "topk", topk=3, encoder_hidden=16)
SETTINGS = {"epochs": 2, "batch_size": 64, "learning_rate": 1e-2}
GROUP = Group.named("C4")


def add_one_of_each() -> None:
    """By value: none of these can be imported."""
    weight = 0.5

    @objective("pulled", reads=("canonical", "transformed"))
    def pulled(sae, batch):
        """Recons of both members, and what lies between their latents."""
        x, y = sae.encode(batch.canonical), sae.encode(batch.transformed)
        terms = {
            "reconstruction": squared_error(batch.canonical, sae.decode(x)),
            "pull": weight * (x - y).abs().sum(-1).mean(-1),
        }
        return terms, x

    @activation("shifted")
    class Shifted(nn.Module):
        """max(0, x - threshold), with a threshold for each latent that is learnt."""

        def __init__(self, config):
            super().__init__()
            self.threshold = nn.Parameter(torch.full((config.n_latents,), 0.05))

        def forward(self, x):
            return (x - self.threshold.unsqueeze(-2)).relu()

    @dictionary("non_negative")
    class NonNegative(SAE):
        @property
        def dictionary(self):
            return self.decoder_weight.relu()

    method("mine", "pulled", width=2, dictionary="non_negative", symmetric=True)


def own_runs(activations: torch.Tensor) -> list[SAERun]:
    sae = dataclasses.replace(SAE_CONFIG, activation="shifted")
    return method_runs(["mine"], [3], [0, 1], identity(activations), sae, GROUP, **SETTINGS)


def measured(config) -> dict[str, float]:
    """Of an SAE that is made anew where it is measured: there, all has to be known."""
    sae = make_sae(config.sae, config.seed)
    return {
        "width": METHODS[config.name].width,
        "below_zero": float((sae.dictionary < 0).any()),
        "threshold": sae.activation.threshold.sum().item(),
    }


def train_and_measure(toy, folder, executor) -> tuple[list[dict], list[tuple]]:
    """Weights, and rows of measurements."""
    configs = own_runs(toy.activations)
    saes = load_or_train_saes(configs, toy.activations, folder / "models", executor=executor)
    jobs = [(config, {"experiment": "test"}, (config,)) for config in configs]
    table = measure_runs(measured, jobs, folder / "rows.csv", executor)
    rows = table.sort_values(["run_id", "metric"])[["run_id", "method", "metric", "value"]]
    return [sae.state_dict() for sae in saes], list(rows.itertuples(index=False, name=None))


@pytest.fixture
def here(toy, tmp_path):
    """What comes out in a thread of this process."""
    add_one_of_each()
    with ThreadPoolExecutor(1) as executor:
        return train_and_measure(toy, tmp_path / "here", executor)


def assert_same(found, expected) -> None:
    for weights, expected_weights in zip(found[0], expected[0], strict=True):
        assert weights.keys() == expected_weights.keys()
        assert all(torch.equal(weights[name], tensor) for name, tensor in expected_weights.items())
    assert found[1] == expected[1]


def batch_of(orbits: torch.Tensor, instances: tuple[int, ...] = (2,)) -> OrbitBatch:
    """All samples, for each instance, the elements in turn; standardised already."""
    n, order, d = orbits.shape
    starts = (torch.arange(n) * order).expand(*instances, -1)
    elements = (torch.arange(n) % order).expand(*instances, -1)
    rows = orbits.flatten(0, 1)
    return OrbitBatch(rows, starts, elements, order, torch.zeros(1, d), torch.ones(1, 1))


# --- in this process ---


def test_what_was_added_is_trained(toy, here):
    (first, second), rows = here
    assert not torch.equal(first["decoder_weight"], second["decoder_weight"])
    assert not torch.equal(first["activation.threshold"], torch.full((24,), 0.05))
    assert {(metric, round(value, 3)) for *_, metric, value in rows} == {
        ("width", 2), ("below_zero", 0), ("threshold", 1.2),
    }  # fmt: skip
    sae = make_sae(own_runs(toy.activations)[0].sae)
    sae.load_state_dict(first)
    assert type(sae).__name__ == "NonNegative"


def test_added_terms_count_as_they_are(toy):
    add_one_of_each()
    sae = stack([make_sae(SAE_CONFIG, seed) for seed in (0, 1)])
    batch = batch_of(toy.activations[:20])
    terms = total_loss(sae, batch, Loss("pulled", lambda_sym=100.0, lambda_mse=0.25))
    x, y = sae.encode(batch.canonical), sae.encode(batch.transformed)
    assert set(terms) == {"loss", "reconstruction", "pull", "mse"}
    assert_close(terms["pull"], 0.5 * (x - y).abs().sum((-2, -1)) / 20)
    assert_close(terms["loss"], terms["reconstruction"] + terms["pull"] + 0.25 * terms["mse"])
    config = method_run("mine", "toy", SAE_CONFIG, GROUP, **SETTINGS)
    _, history = train_sae(config, toy.activations, progress=False)
    assert history["loss"].tolist() == pytest.approx(
        (history.reconstruction + history.pull).tolist()
    )


def test_a_symmetry_term_is_weighted_by_lambda_sym(toy):
    @objective("moved", reads="canonical")
    def moved(sae, batch):
        latents = sae.latents(batch.canonical)
        error = squared_error(batch.canonical, sae.decode(latents))
        return {"symmetry": 2 * error, "reconstruction": error}, latents

    terms = total_loss(make_sae(SAE_CONFIG), batch_of(toy.activations[:20], ()), Loss("moved", 3.0))
    assert_close(terms["loss"], 7 * terms["reconstruction"])


@pytest.mark.parametrize("options", [{}, {"auxk": 4, "dead_after": 64}])
@pytest.mark.parametrize("name", ["reconstruction", "canonical", "latent_inv", "oriented"])
def test_an_objective_like_one_that_is_built_in_gives_the_same_bits(toy, name, options):
    built_in = OBJECTIVES[name]

    @objective("same", built_in.reads, built_in.target)
    def same(sae, batch):
        return built_in.function(sae, batch)

    settings = {**SETTINGS, **options}
    trained = [
        train_sae(
            SAERun("test", "toy", SAE_CONFIG, of, **settings), toy.activations, progress=False
        )
        for of in (name, "same")
    ]
    (expected, expected_history), (found, history) = trained
    for key, weights in expected.state_dict().items():
        assert torch.equal(found.state_dict()[key], weights), key
    assert history.equals(expected_history)


def test_an_objective_of_whole_orbits_may_have_a_dictionary_of_its_own(toy):
    @dictionary("own_blocks")
    class OwnBlocks(GroupCrosscoder):
        pass

    @objective("own_crosscoder", reads="canonical", target="orbit", dictionary="own_blocks")
    def own_crosscoder(sae, batch):
        return OBJECTIVES["crosscoder"].function(sae, batch)

    method("own", "own_crosscoder", dictionary="own_blocks", symmetric=True)
    trained = [
        train_sae(
            method_run(name, "toy", SAE_CONFIG, GROUP, lambda_mse=0.5, **SETTINGS),
            toy.activations,
            progress=False,
        )
        for name in ("crosscoder", "own")
    ]
    assert trained[1][1].equals(trained[0][1])  # in units of all of an orbit, both
    for name in ("crosscoder", "own"):
        config = method_run(name, "toy", SAE_CONFIG, GROUP)
        with pytest.raises(ValueError, match="says orbits of 4 elements"):
            train_sae(config, toy.activations[:, :2])
    assert type(trained[1][0]) is OwnBlocks
    with pytest.raises(
        ValueError, match="'own_crosscoder' and a dictionary of 'own_blocks' go tog"
    ):
        SAERun("test", "toy", SAE_CONFIG, "own_crosscoder")
    own = dataclasses.replace(SAE_CONFIG, dictionary="own_blocks", group_order=4)
    with pytest.raises(ValueError, match="lambda_mse has no meaning for 'own_crosscoder'"):
        SAERun("test", "toy", own, "own_crosscoder", lambda_mse=0.5)
    free = dataclasses.replace(SAE_CONFIG, dictionary="free")

    @objective("of_members", reads="orbit")
    def of_members(sae, batch):
        return OBJECTIVES["self_oriented"].function(sae, batch)

    with pytest.raises(ValueError, match="auxk needs to know what is read: not with 'of_members'"):
        SAERun("test", "toy", free, "of_members", auxk=2)
    configs = [SAERun("test", "toy", free, "of_members", seed=seed, **SETTINGS) for seed in (0, 1)]
    with pytest.raises(
        ValueError, match="an objective that reads whole orbits needs orbits of one"
    ):
        train_saes(configs, [toy.activations, toy.activations[:, :2]], progress=False)


def test_a_function_is_an_activation_also_of_heads(toy):
    @activation("relu_again")
    def relu_again(x):
        return x.relu()

    heads = dataclasses.replace(
        SAE_CONFIG, dictionary="block_diagonal", n_heads=2, encoder="linear"
    )
    for config in (SAE_CONFIG, heads):
        histories = []
        for name in ("relu", "relu_again"):
            sae = dataclasses.replace(config, activation=name)
            sparsity = {"sparsity": "l1", "lambda_sparsity": 0.1}
            run = SAERun("test", "toy", sae, **sparsity, **SETTINGS)
            histories.append(train_sae(run, toy.activations, progress=False)[1])
        assert histories[0].equals(histories[1])


def test_a_name_with_topk_says_that_topk_counts():
    @activation("signed_topk")
    def signed_topk(x):
        return x * (x.abs() >= x.abs().topk(3, dim=-1).values[..., -1:])

    config = dataclasses.replace(SAE_CONFIG, activation="signed_topk")
    assert not make_sae(config).is_sparse
    assert method_run("vanilla", "toy", config, GROUP).sae.topk == 3
    with pytest.raises(ValueError, match="topk must be between 1 and n_latents = 12, got 13"):
        dataclasses.replace(config, topk=13)


def test_saelens_has_no_place_for_an_added_activation(tmp_path):
    activation("own")(torch.relu)
    sae = make_sae(dataclasses.replace(SAE_CONFIG, activation="own", encoder="linear"))
    with pytest.raises(ValueError, match="its activation function is 'own'"):
        save_sae_lens(sae, tmp_path / "sae")


def test_what_was_added_is_loaded_where_it_is_known(here, tmp_path):
    (folder, *_) = sorted((tmp_path / "here" / "models").glob("mine-*"))
    assert type(load(folder)).__name__ == "NonNegative"
    for registry in REGISTRIES:
        for name in registry.added:
            del registry[name]
    with pytest.raises(ValueError, match=r"unknown activation .*What a notebook has added"):
        load(folder)


# --- wrong functions ---


def test_an_objective_that_takes_something_else():
    for wrong in (lambda sae: None, lambda: None, lambda sae, batch, more: None):
        with pytest.raises(ValueError, match=r"'mine' must be a function \(sae, batch\): "):
            objective("mine")(wrong)
    with pytest.raises(ValueError, match=r"'mine' must be a function \(sae, batch\): 3 is not"):
        objective("mine")(3)
    assert "mine" not in OBJECTIVES


def test_an_objective_of_unknown_activations():
    for reads, target in (("both", None), (("canonical", "both"), None), ("canonical", "both")):
        with pytest.raises(ValueError, match=r"(reads|target).* must be one of .*, got 'both'"):
            objective("mine", reads, target)(lambda sae, batch: None)


@pytest.mark.parametrize(
    "returned, message",
    [
        (lambda error, latents: None, "terms by name and a tensor, got NoneType"),
        (lambda error, latents: error, "terms by name and a tensor, got Tensor"),
        (lambda error, latents: (error, latents), "terms by name and a tensor, got tuple"),
        (lambda error, latents: ({}, latents), "no term 'reconstruction' among none"),
        (
            lambda error, latents: ({"error": error}, latents),
            "no term 'reconstruction' among error",
        ),
        (
            lambda error, latents: ({"reconstruction": error, "loss": error}, latents),
            "the name 'loss' is taken: call this term otherwise",
        ),
        (
            lambda error, latents: ({"reconstruction": error.mean()}, latents),
            r"the term 'reconstruction' must have shape \(1,\), got \(\)",
        ),
        (
            lambda error, latents: ({"reconstruction": error, "more": 1.0}, latents),
            r"the term 'more' must have shape \(1,\), got float",
        ),
        (
            lambda error, latents: ({"reconstruction": error}, latents[..., 0]),
            r"the latents must have shape \(1, 64, 12\), got \(1, 64\)",
        ),
        (
            lambda error, latents: ({"reconstruction": error}, None),
            r"the latents must have shape \(1, 64, 12\), got NoneType",
        ),
    ],
)
def test_an_objective_that_returns_something_else(toy, returned, message):
    @objective("mine")
    def mine(sae, batch):
        latents = sae.encode(batch.transformed)
        return returned(squared_error(batch.transformed, sae.decode(latents)), latents)

    config = SAERun("test", "toy", SAE_CONFIG, "mine", **SETTINGS)
    with pytest.raises(
        ValueError, match=r"the objective 'mine' must return \(terms, latents\): .*" + message
    ):
        train_sae(config, toy.activations, progress=False)


# --- in other processes ---


def test_in_worker_processes(toy, here, tmp_path):
    assert_same(train_and_measure(toy, tmp_path, None), here)


def test_workers_learn_of_a_cell_that_is_run_again(toy, tmp_path):
    def add(factor):
        @objective("mine")
        def mine(sae, batch):
            terms, latents = OBJECTIVES["reconstruction"].function(sae, batch)
            return {"reconstruction": factor * terms["reconstruction"]}, latents

    weights = []
    for factor in (1.0, 100.0, 1.0):
        add(factor)
        config = SAERun("test", identity(toy.activations), SAE_CONFIG, "mine", epochs=1)
        (sae,) = load_or_train_saes([config], toy.activations, tmp_path)
        weights.append(runs.fingerprint(sae.state_dict()))
    assert weights[0] == weights[2] != weights[1]
    assert len(list(tmp_path.glob("test-*"))) == 2


@pytest.mark.filterwarnings("ignore")  # dask's and tornado's own, at the end of a cluster
def test_on_a_cluster_of_dask(toy, here, tmp_path):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            dashboard_address=None,
            local_directory=str(tmp_path),
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert_same(train_and_measure(toy, tmp_path, client.get_executor()), here)


def test_on_the_executor_of_submitit(toy, here, tmp_path):
    executor = submitit.LocalExecutor(tmp_path)
    executor.update_parameters(timeout_min=10)
    assert_same(train_and_measure(toy, tmp_path, executor), here)


SCRIPT = """
import sys

import torch
from saehelpers import SAE, SAEConfig, SAERun
from saehelpers.experiments import load_or_train_saes
from saehelpers.runs import identity
from saehelpers.saes import activation, dictionary
from saehelpers.symmetry import Group
from saehelpers.training import method, method_run, objective, squared_error

POWER = 2

@objective("mine", reads="canonical", target="transformed")
def mine(sae, batch):
    latents = sae.encode(batch.canonical)
    error = squared_error(batch.transformed, sae.decode(latents))
    return {"reconstruction": error, "size": latents.pow(POWER).sum(-1).mean(-1)}, latents

@activation("soft")
def soft(x):
    return torch.nn.functional.softplus(x)

@dictionary("halved")
class Halved(SAE):
    @property
    def dictionary(self):
        return self.decoder_weight / POWER

method("halved", "mine", dictionary="halved", width=POWER)

orbits = torch.randn(64, 4, 8, generator=torch.Generator().manual_seed(0))
sae = SAEConfig(8, 4, "soft", encoder="linear")
config = method_run("halved", identity(orbits), sae, Group.named("C4"), epochs=1)
for _ in range(2):
    load_or_train_saes([config], orbits, sys.argv[1])
    (loaded,) = load_or_train_saes([config], orbits, sys.argv[1])
    print(type(loaded).__name__, loaded.dictionary.shape, flush=True)
    POWER = 4  # and so it is another objective, dictionary, and run
"""


def test_from_a_script(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "models")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Halved torch.Size([8, 8])") == 2
    histories = [p.read_text() for p in (tmp_path / "models").glob("halved-*/history.csv")]
    assert len(histories) == 2
    assert all("size" in history.splitlines()[0].split(",") for history in histories)
    assert histories[0] != histories[1]


COMPILED = """
import torch
from saehelpers import SAEConfig, SAERun
from saehelpers.training import objective, squared_error, train_sae

def trained(compiled):
    sae = SAEConfig(8, 12, topk=3, encoder_hidden=16)
    config = SAERun("test", "random", sae, "mine", epochs=2, batch_size=64, compiled=compiled)
    orbits = torch.randn(128, 4, 8, generator=torch.Generator().manual_seed(0))
    return train_sae(config, orbits, progress=False)[1]["loss"].tolist()

losses = []
for factor in (1.0, 3.0):  # a cell that is run again
    @objective("mine", reads=("canonical", "transformed"))
    def mine(sae, batch):
        latents = sae.encode(batch.canonical)
        error = squared_error(batch.canonical, sae.decode(latents))
        moved = squared_error(batch.transformed, sae(batch.transformed))
        return {"reconstruction": error, "moved": factor * moved}, latents
    expected, found = trained(False), trained(True)
    assert max(abs(a - b) for a, b in zip(expected, found)) < 1e-4, (expected, found)
    losses.append(found)
assert losses[1][0] > 1.5 * losses[0][0]
assert torch._dynamo.utils.counters["graph_break"] == {}
"""


@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a C++ compiler")
def test_an_added_objective_is_compiled():
    # in a process of its own: the compiler cannot read what checks shapes in tests
    subprocess.run([sys.executable, "-c", COMPILED], check=True)


# --- figures ---


def test_added_methods_are_drawn(here, tmp_path):
    table = results.latest(results.read(tmp_path / "here" / "rows.csv"))
    assert len(figures.of_width(table, 12)) == len(table)  # twice as wide, as the method says
    assert figures.of_width(table, 24).empty
    summary = figures.summarise(table[table["metric"] == "threshold"], ["method", "n_latents"])
    fig, ax = plt.subplots()
    figures.curves(ax, summary, "n_latents", ["mine"])
    assert ax.get_legend_handles_labels()[1] == ["mine"]
    assert ax.lines[0].get_color() == figures.colour("mine")
    plt.close(fig)
