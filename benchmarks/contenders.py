"""Who takes part in `training.py`: a process for each, which makes steps when it is told to.

python benchmarks/contenders.py NAME N_LATENTS K
"""

import contextlib
import functools
import importlib.util
import itertools
import sys
import time
import types
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from peers import peak_rise, reset_peak
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
D, BATCH, LATENTS = {
    "cpu": (256, 1024, (512, 4096, 16_384)),
    "cuda": (768, 8192, (4096, 16_384, 32_768)),
}[DEVICE]
THREADS = 2
EPOCH = 16  # batches
TURNS_ALONE = 4  # of `Alone`, the first of which is not counted
LEARNING_RATE = 3e-4
FLOOR = ("product", "top-k", "Adam")


def wait() -> None:
    """Until the GPU has done what it was told, where there is one."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


class MeasuredError(Exception):
    """Of `Alone`, when all turns are taken: the way out of a training."""


class Turns:
    """Steps are made when the other side asks for them, and the time of one is reported."""

    def __init__(self, steps: int):
        self.steps, self.memory = steps, reset_peak(DEVICE)

    def begin(self) -> None:
        if not sys.stdin.readline():
            sys.exit()
        self.start = time.perf_counter()

    def end(self) -> None:
        wait()
        milliseconds = 1e3 * (time.perf_counter() - self.start) / self.steps
        print(milliseconds, peak_rise(self.memory, DEVICE), flush=True)

    def take(self, step: Callable[[], object]) -> None:
        while True:
            self.begin()
            for _ in range(self.steps):
                step()
            self.end()


class Alone(Turns):
    """The same where nobody else has to be let in: in this process, one turn after another."""

    def __init__(self, steps: int, turns: int = TURNS_ALONE):
        super().__init__(steps)
        self.turns, self.found = turns, []

    def begin(self) -> None:
        if len(self.found) == self.turns:
            raise MeasuredError(self.found)
        self.start = time.perf_counter()

    def end(self) -> None:
        wait()
        milliseconds = 1e3 * (time.perf_counter() - self.start) / self.steps
        self.found.append((milliseconds, peak_rise(self.memory, DEVICE)))


@functools.cache
def activations(n_samples: int = EPOCH * BATCH) -> Tensor:
    """Sparse sums of 1,024 directions."""
    there = {"generator": torch.Generator(DEVICE).manual_seed(0), "device": DEVICE}
    directions = normalize(torch.randn(1024, D, **there), dim=1)
    parts = []
    for part in torch.arange(n_samples).split(2**16):
        features = torch.rand(len(part), 1024, **there) < 1 / 64
        parts.append(features.float() @ directions)
    return torch.cat(parts)


def batches() -> Iterator[Tensor]:
    return itertools.cycle(activations().split(BATCH))


# --- other libraries, plain PyTorch ---


def bare_package(name: str) -> None:
    """Let modules of a package be imported without what it imports itself: vision models, ..."""
    if name in sys.modules:
        return
    package = types.ModuleType(name)
    package.__path__ = list(importlib.util.find_spec(name).submodule_search_locations)
    sys.modules[name] = package


def sae_lens(n_latents: int, k: int, sparse: bool = False) -> Callable[[], object]:
    """A step of the trainer that its runner and `train_toy_sae` use."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    options = {"use_sparse_activations": True, "rescale_acts_by_decoder_norm": False}
    options = options if sparse else {}  # autograd has no sparse view, which rescaling needs
    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(d_in=D, d_sae=n_latents, k=k, device=DEVICE, **options)
    )
    config = SAETrainerConfig(
        n_checkpoints=0, checkpoint_path=None, save_final_checkpoint=False, device=DEVICE,
        total_training_samples=10**9, autocast=False, lr=LEARNING_RATE, lr_end=LEARNING_RATE,
        lr_scheduler_name="constant", lr_warm_up_steps=0, lr_decay_steps=0, n_restart_cycles=1,
        adam_beta1=0.9, adam_beta2=0.999, train_batch_size_samples=BATCH,
        dead_feature_window=1000, feature_sampling_window=2000,
        logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    trainer, x = SAETrainer(config, sae, iter(())), batches()
    return lambda: trainer._train_step(sae, next(x))


def dictionary_learning(n_latents: int, k: int) -> Callable[[], object]:
    bare_package("dictionary_learning")
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=10**6, activation_dim=D, dict_size=n_latents, k=k, layer=0, lm_name="none",
        lr=LEARNING_RATE, device=DEVICE, seed=0,
    )  # fmt: skip
    x, number = batches(), itertools.count()
    return lambda: trainer.update(next(number), next(x))


def overcomplete(n_latents: int, k: int) -> Callable[[], object]:
    bare_package("overcomplete")
    from overcomplete.sae import TopKSAE, train_sae

    sae, x = TopKSAE(D, nb_concepts=n_latents, top_k=k, device=DEVICE), batches()
    optimiser = torch.optim.Adam(sae.parameters(), LEARNING_RATE)

    def loss(x, recons, pre_codes, codes, dictionary):
        return (x - recons).square().mean()

    return lambda: train_sae(sae, [(next(x),)], loss, optimiser, nb_epochs=1, monitoring=0,
                             device=DEVICE)  # fmt: skip


def sparsify(n_latents: int, k: int) -> Callable[[], object]:
    """The steps of its trainer, with Adam; on a GPU its products are in bfloat16."""
    bare_package("sparsify")
    with contextlib.redirect_stdout(sys.stderr):  # it says that it does without Triton
        from sparsify.config import SparseCoderConfig
        from sparsify.sparse_coder import SparseCoder

    sae, x = SparseCoder(D, SparseCoderConfig(num_latents=n_latents, k=k), DEVICE), batches()
    optimiser = torch.optim.Adam(sae.parameters(), LEARNING_RATE)

    def step() -> None:
        sae.set_decoder_norm_to_unit_norm()
        sae(next(x)).fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        optimiser.zero_grad()

    return step


class DenseTopK(nn.Module):
    """A TopK SAE in plain PyTorch; with one width, or a hidden layer before the latents."""

    def __init__(self, k: int, *widths: int):
        super().__init__()
        layers = [[nn.ReLU(), nn.Linear(n_in, n_out)] for n_in, n_out in itertools.pairwise(widths)]
        self.encoder = nn.Sequential(*itertools.chain(*layers))[1:]
        self.decoder, self.k = nn.Linear(widths[-1], widths[0]), k

    def forward(self, x: Tensor) -> Tensor:
        before = self.encoder(x)
        values, indices = before.topk(self.k, dim=-1, sorted=False)
        return self.decoder(torch.zeros_like(before).scatter(-1, indices, values.relu()))


def dense(n_latents: int, k: int, autocast: bool = False) -> Callable[[], object]:
    sae, x = DenseTopK(k, D, n_latents).to(DEVICE), batches()
    optimiser = torch.optim.Adam(sae.parameters(), LEARNING_RATE, fused=True)

    def step() -> None:
        optimiser.zero_grad()
        rows = next(x)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
            recons = sae(rows)
        mse_loss(recons.float(), rows).backward()
        optimiser.step()

    return step


# --- ours, and what must be done ---


def our_run(n_latents: int, k: int, autocast: bool = False, **settings):
    from saehelpers import SAEConfig, SAERun

    config = SAEConfig(D, n_latents, "topk", k, encoder="linear")
    settings = {"epochs": 10**6, "batch_size": BATCH, "learning_rate": LEARNING_RATE} | settings
    return SAERun("ours", "random", config, autocast=autocast, **settings)


def ours(n_latents: int, k: int, autocast: bool = False, path: str = "") -> None:
    """`train_saes` itself, an epoch at a time, with what it measures after each.

    path: "dense" or "sparse", whichever is faster elsewhere.
    """
    from saehelpers.saes.sparse import choice

    bounds = choice.FASTER_FROM[DEVICE]
    if path:
        least = {"dense": float("inf"), "sparse": 0}[path]
        choice.FASTER_FROM[DEVICE] = choice.Bounds(least, least, least)
    try:
        take_turns_in_training([our_run(n_latents, k, autocast)], activations())
    finally:
        choice.FASTER_FROM[DEVICE] = bounds


def take_turns_in_training(configs: list, x: Tensor) -> None:
    from saehelpers import train_saes
    from saehelpers.runs import several_threads

    turns = Turns(-(-len(x) // configs[0].batch_size))

    def next_turn(*_) -> None:
        turns.end()
        turns.begin()

    turns.begin()
    with several_threads(THREADS):
        train_saes(configs, [x[:, None]], progress=False, after_epoch=next_turn)


def floor(part: str, n_latents: int, k: int) -> Callable[[], object]:
    """What no step can do without: the product, top-k, or Adam's pass over the weights."""
    from saehelpers.saes.sparse import fast_products, top_k

    x, weight = activations(BATCH), torch.randn(n_latents, D, device=DEVICE)
    if part == "Adam":
        parameters = [nn.Parameter(torch.randn_like(weight)) for _ in range(2)]
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        return torch.optim.Adam(parameters, LEARNING_RATE, fused=True).step
    found = torch.empty(BATCH // 4, n_latents, device=DEVICE)

    @fast_products(DEVICE)
    def product() -> None:
        for rows in x.split(len(found)):
            torch.mm(rows, weight.T, out=found)

    product()
    return product if part == "product" else lambda: [top_k(found, k) for _ in range(4)]


# --- Shapes: 128 hidden units, 32 latents, batches of 128 ---


def shapes_loader() -> None:
    """What one writes first: a DataLoader and Adam as they come."""
    sae, x = DenseTopK(8, D, 128, 32).to(DEVICE), activations(12_800)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), 128, shuffle=True)
    optimiser, turns = torch.optim.Adam(sae.parameters(), LEARNING_RATE), Turns(len(loader))
    while True:
        turns.begin()
        for (rows,) in loader:
            optimiser.zero_grad()
            mse_loss(sae(rows), rows).backward()
            optimiser.step()
        turns.end()


def shapes_ours(n_instances: int, launched: bool = False) -> None:
    """`train_saes`, on a GPU as a CUDA graph, unless its kernels are to be launched one by one."""
    from saehelpers import SAEConfig, SAERun
    from saehelpers.training import fitting

    config = SAEConfig(D, 32, "topk", 8, encoder_hidden=128)
    configs = [SAERun("ours", "random", config, epochs=10**6, seed=s) for s in range(n_instances)]
    as_launched = mock.patch.object(fitting, "Replayed", lambda update, state: update)
    with as_launched if launched else contextlib.nullcontext():
        take_turns_in_training(configs, activations(12_800))


def shapes_dense(graph: bool) -> None:
    """Steps in plain PyTorch, launched one by one, or once for all as a CUDA graph."""
    sae, rows = DenseTopK(8, D, 128, 32).to(DEVICE), activations(128)
    optimiser = torch.optim.Adam(sae.parameters(), LEARNING_RATE, fused=True, capturable=graph)

    def step() -> None:
        optimiser.zero_grad(set_to_none=False)
        mse_loss(sae(rows), rows).backward()
        optimiser.step()

    if not graph:
        Turns(200).take(step)
    aside = torch.cuda.Stream()
    with torch.cuda.stream(aside):  # what is made at first must not be part of the graph
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        step()
    Turns(200).take(captured.replay)


def contend(name: str, n_latents: int, k: int) -> None:
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    if name in ("shapes, launched", "shapes, graph"):
        shapes_dense("graph" in name)
    elif name.startswith("shapes"):
        shapes_ours(k, "launched" in name) if "ours" in name else shapes_loader()
    elif name.startswith("ours"):
        path = next((path for path in ("dense", "sparse") if path in name), "")
        ours(n_latents, k, "bf16" in name, path)
    elif name in FLOOR:
        Turns(4).take(floor(name, n_latents, k))
    else:
        makers = {
            "sae-lens": sae_lens,
            "sae-lens, sparse": lambda n, k: sae_lens(n, k, True),
            "dictionary-learning": dictionary_learning,
            "overcomplete": overcomplete,
            "sparsify": sparsify,
            "dense, fused Adam": dense,
            "dense, bf16": lambda n, k: dense(n, k, True),
        }
        step = makers[name](n_latents, k)
        Turns(4).take(step)


def alone(name: str, n_latents: int, k: int) -> list[tuple[float, float]]:
    """(milliseconds a step, MiB) of every turn of one contender, in this process."""
    global Turns
    Turns = Alone
    try:
        contend(name, n_latents, k)
    except MeasuredError as done:
        return done.args[0]
    raise RuntimeError(f"{name} ended before it was measured")


if __name__ == "__main__":
    contend(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
