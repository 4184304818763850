"""What the calls share: a group, activations, SAEs, models, all small, each made once."""

import concurrent.futures
import functools
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from saehelpers.datasets import ImageSet, ToyData, go, make_toy, train_tokeniser
from saehelpers.datasets.synthetic import SyntheticFeatures
from saehelpers.experiments import ActionRun, Subject
from saehelpers.experiments.calibration import METRICS
from saehelpers.networks import GoNetwork, make_autoencoder, make_go_network, make_gpt2
from saehelpers.runs import identity
from saehelpers.runs.results import COLUMNS
from saehelpers.saes import EquivariantSAE, SAEConfig, make_sae
from saehelpers.symmetry import Group
from saehelpers.training import EndToEndRun, SAERun, model_id

C4, C2 = Group.named("C4"), Group.named("C2")
D, N, N_LATENTS = 8, 24, 12
TEXT = [f"the {i % 7} cats sat on {i % 5} mats, and {i} more" for i in range(40)]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator())


def whole(largest: int, *shape: int) -> Tensor:
    return torch.randint(largest, shape, generator=generator())


@functools.cache
def toy() -> ToyData:
    return make_toy(N, 4, 4, seed=0, d=D)


@functools.cache
def go_network() -> GoNetwork:
    return make_go_network(n_blocks=2, channels=4)


@functools.cache
def go_games() -> go.Games:
    """Two short games on small boards."""
    boards = go.empty_boards(2, 3)
    return go.Games(boards.stones, boards.to_move, torch.tensor([[4, 0], [1, 9]]), torch.zeros(2))


@functools.cache
def go_planes() -> Tensor:
    return go.input_planes(go.replay(go_games()))


def orbits() -> Tensor:
    return random(N, 4, D)


@functools.cache
def config(**changes) -> SAEConfig:
    return SAEConfig(D, N_LATENTS, topk=3, encoder="linear", **changes)


@functools.cache
def sae(**changes):
    return make_sae(config(**changes)).eval().requires_grad_(False)


@functools.cache
def trained(**changes):
    """One that gradients reach."""
    return make_sae(config(**changes))


@functools.cache
def equivariant() -> EquivariantSAE:
    return EquivariantSAE(sae(), toy().action).eval()


def run(**changes) -> SAERun:
    settings = {"epochs": 1, "batch_size": 8, **changes}
    return SAERun("vanilla", identity(orbits()), config(), **settings)


def latents() -> Tensor:
    return sae().encode(random(N, D))


def images(n: int = 6, channels: int = 1, size: int = 16) -> Tensor:
    return torch.rand(n, channels, size, size, generator=generator())


def pictures(n: int = 6, size: int = 16) -> Tensor:
    return (255 * images(n, 3, size)).to(torch.uint8)


def image_set() -> ImageSet:
    return ImageSet(pictures(), whole(2, 6), ("a", "b"), "here")


@functools.cache
def autoencoder() -> nn.Module:
    return make_autoencoder("mlp", D, 16, 16).eval().requires_grad_(False)


@functools.cache
def convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, D, 3, padding=1)).eval().requires_grad_(False)


@functools.cache
def tokeniser():
    return train_tokeniser(TEXT, 280)


@functools.cache
def gpt2() -> nn.Module:
    model = make_gpt2(32, 8, D, n_layers=2, n_heads=2).eval().requires_grad_(False)
    model.set_attn_implementation("eager")
    return model


def tokens(n: int = 6) -> Tensor:
    return whole(32, n, 8)


MODULE = "transformer.h.0"


def end_to_end_run(**changes) -> EndToEndRun:
    settings = {"epochs": 1, "batch_size": 2, "blocks_per_epoch": 4, "autocast": False, **changes}
    return EndToEndRun("e2e", model_id("gpt2", gpt2()), identity(tokens()), MODULE, config(),
                       **settings)  # fmt: skip


@functools.cache
def features() -> SyntheticFeatures:
    return SyntheticFeatures(random(4, D), 0.3)


def action_run(**changes) -> ActionRun:
    settings = {"method": "least_squares", **changes}
    return ActionRun("action", identity(orbits()), "C4", **settings)


def subject() -> Subject:
    return Subject(autoencoder(), pd.DataFrame(), orbits(), orbits(), toy().action, action_run())


def fresh(name: str) -> Path:
    """A path at which there is nothing, below the current folder."""
    fresh.number += 1
    return Path(f"{name}-{fresh.number}")


fresh.number = 0


def score_table() -> pd.DataFrame:
    """F1 of recons by two probes, as `figures.mean_f1` gives it."""
    rows = [
        {"base_model": "mlp", "group": "C4", "topk": 4, "truncation": 8, "task_type": kind,
         "probe": probe, "features": "recons", "element": element, "method": method,
         "base_seed": 0, "seed": seed, "task": "a",
         "value": 0.5 + 0.1 * seed, "metric": "f1", "n_latents": 12, "epochs": 3,
         "experiment": "shapes", "dataset": "shapes"}
        for kind in ("S", "SO") for probe in ("xgboost", "logistic") for seed in (0, 1)
        for method, element in (("vanilla", "none"), ("canonical", "true"), ("latent_inv", "true"),
                                ("output_inv", "true"))
    ]  # fmt: skip
    return pd.DataFrame(rows).astype({"topk": "Int64", "truncation": "Int64"})


def summary() -> pd.DataFrame:
    return pd.DataFrame(
        {"method": ["vanilla", "canonical"], "topk": ["4", "4"], "mean": [0.5, 0.6],
         "se": [0.1, 0.1], "seeds": [2, 2]}
    )  # fmt: skip


@functools.cache
def threads():
    return concurrent.futures.ThreadPoolExecutor(1)


@functools.cache
def attention_sae():
    """An SAE that gives back what it reads, so that it counts as trained on it."""
    made = make_sae(SAEConfig(D, D, topk=D, encoder="linear"))
    made.encoder_weights[0].data.copy_(torch.eye(D))
    made.decoder_weight.data.copy_(torch.eye(D))
    return made.eval().requires_grad_(False)


def narrow_features() -> SyntheticFeatures:
    return SyntheticFeatures(random(4, 5), 0.3)


def card_rows() -> pd.DataFrame:
    """Of two kinds of worlds, in each a latent that is true and one that is not."""
    own = {"experiment": "trust", "run_id": "a-1", "base_seed": 0, "seed": 0, "method": "topk",
           "n_latents": 2, "topk": 2}  # fmt: skip
    rows = [
        own | {"data_source": kind, "task": latent, "metric": metric,
               "value": 50.0 if metric == "firings" else float(latent == "1")}
        for kind in ("toy", "orbits") for latent in ("0", "1") for metric in METRICS
    ]  # fmt: skip
    rows += [own | {"data_source": "toy", "task": "", "metric": "fvu", "value": 0.5}]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def task_rows() -> pd.DataFrame:
    """Of two SAEs, in each a latent that answers a task and one that does not."""
    own = {"experiment": "trust_tasks", "dataset": "shapes", "base_model": "mlp", "base_seed": 0,
           "method": "vanilla", "n_latents": 2, "topk": 2}  # fmt: skip
    return pd.DataFrame([
        own | {"seed": seed, "run_id": f"a-{seed}", "task": latent, "metric": metric,
               "value": 50.0 if metric == "firings" else float(latent == "1")}
        for seed in (0, 1) for latent in ("0", "1") for metric in ("f1", *METRICS)
    ], columns=list(COLUMNS))  # fmt: skip
