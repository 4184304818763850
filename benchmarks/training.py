"""A training step of TopK SAEs: beside other libraries, plain PyTorch, and what must be done.

    python benchmarks/training.py [table | loss | shapes]

The peers run in environments of their own. Every contender has a process; they take turns of a
few steps each, so that what else the machine does falls on all alike. A step includes Adam's.
"""

import importlib.util
import itertools
import os
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator

import torch
from peers import peak_rise, python_with, reset_peak
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize

D, BATCH, THREADS = 256, 1024, 2
LATENTS, TOPKS = (512, 4096, 16_384), (8, 32)
TURNS = 6  # the first of which is not counted
EPOCH = 16  # batches
LEARNING_RATE = 3e-4
PEERS = {
    "sae-lens": ("sae-lens==6.28.1", "pyarrow<20"),  # it asks for numpy 1, pyarrow for numpy 2
    "sae-lens, sparse": ("sae-lens==6.28.1", "pyarrow<20"),
    "dictionary-learning": ("dictionary-learning==0.1.0",),
    "overcomplete": ("overcomplete==0.3.0",),
}
OTHERS = ("dense, fused Adam", "dense, bf16", "ours", "ours, bf16")
FLOOR = ("product", "top-k", "Adam")


class Turns:
    """Steps are made when the other side asks for them, and the time of one is reported."""

    def __init__(self, steps: int):
        self.steps, self.memory = steps, reset_peak()

    def begin(self) -> None:
        if not sys.stdin.readline():
            sys.exit()
        self.start = time.perf_counter()

    def end(self) -> None:
        milliseconds = 1e3 * (time.perf_counter() - self.start) / self.steps
        print(milliseconds, peak_rise(self.memory), flush=True)

    def take(self, step: Callable[[], object]) -> None:
        while True:
            self.begin()
            for _ in range(self.steps):
                step()
            self.end()


def activations(n_samples: int = EPOCH * BATCH) -> Tensor:
    """Sparse sums of 1,024 directions."""
    generator = torch.Generator().manual_seed(0)
    directions = normalize(torch.randn(1024, D, generator=generator), dim=1)
    return (torch.rand(n_samples, 1024, generator=generator) < 1 / 64).float() @ directions


def batches() -> Iterator[Tensor]:
    return itertools.cycle(activations().split(BATCH))


# --- contenders ---


def bare_package(name: str) -> None:
    """Let modules of a package be imported without what it imports itself: vision models, ..."""
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
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=D, d_sae=n_latents, k=k, **options))
    config = SAETrainerConfig(
        n_checkpoints=0, checkpoint_path=None, save_final_checkpoint=False, device="cpu",
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
        lr=LEARNING_RATE, device="cpu", seed=0,
    )  # fmt: skip
    x, number = batches(), itertools.count()
    return lambda: trainer.update(next(number), next(x))


def overcomplete(n_latents: int, k: int) -> Callable[[], object]:
    bare_package("overcomplete")
    from overcomplete.sae import TopKSAE, train_sae

    sae, x = TopKSAE(D, nb_concepts=n_latents, top_k=k, device="cpu"), batches()
    optimiser = torch.optim.Adam(sae.parameters(), LEARNING_RATE)

    def loss(x, recons, pre_codes, codes, dictionary):
        return (x - recons).square().mean()

    return lambda: train_sae(sae, [(next(x),)], loss, optimiser, nb_epochs=1, monitoring=0)


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
    sae, x = DenseTopK(k, D, n_latents), batches()
    optimiser = torch.optim.Adam(sae.parameters(), LEARNING_RATE, fused=True)

    def step() -> None:
        optimiser.zero_grad()
        rows = next(x)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            recons = sae(rows)
        mse_loss(recons.float(), rows).backward()
        optimiser.step()

    return step


def our_run(n_latents: int, k: int, autocast: bool = False, **settings):
    from saehelpers import SAEConfig, SAERun

    config = SAEConfig(D, n_latents, "topk", k, encoder="linear")
    settings = {"epochs": 10**6, "batch_size": BATCH, "learning_rate": LEARNING_RATE} | settings
    return SAERun("ours", "random", config, autocast=autocast, **settings)


def ours(n_latents: int, k: int, autocast: bool = False) -> None:
    """`train_saes` itself, an epoch at a time, with what it measures after each."""
    take_turns_in_training([our_run(n_latents, k, autocast)], activations())


def take_turns_in_training(configs: list, x: Tensor) -> None:
    from saehelpers import train_saes

    turns = Turns(-(-len(x) // configs[0].batch_size))

    def next_turn(*_) -> None:
        turns.end()
        turns.begin()

    turns.begin()
    train_saes(configs, [x[:, None]], progress=False, after_epoch=next_turn)


def floor(part: str, n_latents: int, k: int) -> Callable[[], object]:
    """What no step can do without: the product, top-k, or Adam's pass over the weights."""
    from saehelpers.sparse import fast_products, top_k

    x, weight = activations(BATCH), torch.randn(n_latents, D)
    if part == "Adam":
        parameters = [nn.Parameter(torch.randn(n_latents, D)) for _ in range(2)]
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        return torch.optim.Adam(parameters, LEARNING_RATE, fused=True).step
    found = torch.empty(BATCH // 4, n_latents)

    @fast_products()
    def product() -> None:
        for rows in x.split(len(found)):
            torch.mm(rows, weight.T, out=found)

    product()
    return product if part == "product" else lambda: [top_k(found, k) for _ in range(4)]


# --- Shapes: 128 hidden units, 32 latents, batches of 128 ---


def shapes_loader() -> None:
    """What one writes first: a DataLoader and Adam as they come."""
    sae, x = DenseTopK(8, D, 128, 32), activations(12_800)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), 128, shuffle=True)
    optimiser, turns = torch.optim.Adam(sae.parameters(), LEARNING_RATE), Turns(len(loader))
    while True:
        turns.begin()
        for (rows,) in loader:
            optimiser.zero_grad()
            mse_loss(sae(rows), rows).backward()
            optimiser.step()
        turns.end()


def shapes_ours(n_instances: int) -> None:
    from saehelpers import SAEConfig, SAERun

    config = SAEConfig(D, 32, "topk", 8, encoder_hidden=128)
    configs = [SAERun("ours", "random", config, epochs=10**6, seed=s) for s in range(n_instances)]
    take_turns_in_training(configs, activations(12_800))


# --- turns ---


def contend(name: str, n_latents: int, k: int) -> None:
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    if name.startswith("shapes"):
        shapes_ours(k) if name == "shapes, ours" else shapes_loader()
    elif name.startswith("ours"):
        ours(n_latents, k, "bf16" in name)
    elif name in FLOOR:
        Turns(4).take(floor(name, n_latents, k))
    else:
        makers = {
            "sae-lens": sae_lens,
            "sae-lens, sparse": lambda n, k: sae_lens(n, k, True),
            "dictionary-learning": dictionary_learning,
            "overcomplete": overcomplete,
            "dense, fused Adam": dense,
            "dense, bf16": lambda n, k: dense(n, k, True),
        }
        turns = Turns(4)
        turns.take(makers[name](n_latents, k))


def race(contenders: list[tuple[str, int, int]]) -> list[tuple[float, float]]:
    """(milliseconds a step, MiB above what the process held before) of each, medians."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"}
    processes = [
        subprocess.Popen(
            [python_with(*PEERS[name]) if name in PEERS else sys.executable, __file__, "contend",
             *map(str, (name, *size))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )
        for name, *size in contenders
    ]  # fmt: skip
    found: list[list[tuple[float, ...]]] = [[] for _ in processes]
    for _ in range(TURNS):
        for process, taken in zip(processes, found, strict=True):
            process.stdin.write("go\n")
            process.stdin.flush()
            taken.append(tuple(map(float, process.stdout.readline().split())))
    for process in processes:
        process.stdin.close()
        process.wait()
    return [
        (statistics.median(ms for ms, _ in taken[1:]), max(memory for _, memory in taken))
        for taken in found
    ]


def table() -> None:
    names = (*PEERS, *OTHERS)
    print(f"d = {D}, batches of {BATCH}, {THREADS} threads; medians of {TURNS - 1}\n")
    print("| latents, k | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    floors, ratios, memory = [], [], {}
    for n_latents, k in itertools.product(LATENTS, TOPKS):
        largest = n_latents == max(LATENTS)
        parts = FLOOR if largest else ()
        found = race([(name, n_latents, k) for name in (*names, *parts)])
        ms = {name: time for name, (time, _) in zip((*names, *parts), found, strict=True)}
        print(f"| {n_latents:,}, {k} | " + " | ".join(f"{ms[name]:.1f}" for name in names) + " |")
        ratios.append(
            f"| {n_latents:,}, {k} | "
            + " | ".join(f"{ms[name] / ms['ours']:.1f}" for name in names) + " |"
        )  # fmt: skip
        if largest:
            least = sum(ms[part] for part in FLOOR)
            floors.append(
                f"| {k} | " + " | ".join(f"{ms[part]:.1f}" for part in FLOOR)
                + f" | {least:.1f} | {ms['ours']:.1f} | {ms['ours'] / least:.2f} |"
            )  # fmt: skip
            memory[k] = {name: held for name, (_, held) in zip(names, found, strict=False)}
    print("\nin units of ours\n\n| latents, k | " + " | ".join(names) + " |")
    print("|---|" + "---|" * len(names), *ratios, sep="\n")
    print(f"\nwhat must be done, at {max(LATENTS):,} latents\n")
    print("| k | " + " | ".join(FLOOR) + " | sum | ours | ratio |")
    print("|---|" + "---|" * (len(FLOOR) + 3), *floors, sep="\n")
    print(f"\npeak memory at {max(LATENTS):,} latents, MiB\n\n| k | " + " | ".join(names) + " |")
    print("|---|" + "---|" * len(names))
    for k, held in memory.items():
        print(f"| {k} | " + " | ".join(f"{held[name]:.0f}" for name in names) + " |")


def shapes() -> None:
    contenders = [("shapes, DataLoader", 32, 1), ("shapes, ours", 32, 1), ("shapes, ours", 32, 9)]
    times = [ms for ms, _ in race(contenders)]
    print("Shapes SAEs, batches of 128\n\n| | ms a step | thousand samples a second | ratio |")
    print("|---|---|---|---|")
    rates = [128 * n / ms for (_, _, n), ms in zip(contenders, times, strict=True)]
    for name, ms, rate in zip(
        ("DataLoader, default Adam", "ours", "ours, nine side by side"), times, rates, strict=True
    ):
        print(f"| {name} | {ms:.2f} | {rate:.0f} | {rate / rates[0]:.1f} |")


def loss(n_latents: int = 4096, n_steps: int = 500) -> None:
    """How far from the dense path ours is: the mean loss of 500 steps, the error after them."""
    from saehelpers import train_saes
    from saehelpers.saes import base

    torch.set_num_threads(THREADS)
    sparse_from, found = base.LARGE, {}
    x = activations(n_steps * BATCH)[:, None]
    print("| latents, k | path | mean loss | relative difference | error after | the same |")
    print("|---|---|---|---|---|---|")
    for k, name in itertools.product(TOPKS, ("dense", "ours", "ours, bf16")):
        base.LARGE = float("inf") if name == "dense" else sparse_from
        run = our_run(n_latents, k, "bf16" in name, epochs=1)
        (sae,), (history,) = train_saes([run], [x], progress=False)
        with torch.no_grad():
            error = (x[:8192, 0] - sae(x[:8192, 0])).square().sum(-1).mean().item()
        found[name] = history.loss.iloc[-1], error
        apart = [
            abs(own / dense - 1) for own, dense in zip(found[name], found["dense"], strict=True)
        ]
        print(f"| {n_latents:,}, {k} | {name} | {found[name][0]:.2f} | {apart[0]:.1e} "
              f"| {error:.4f} | {apart[1]:.1e} |")  # fmt: skip


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["contend", name, n_latents, k]:
            contend(name, int(n_latents), int(k))
        case [only]:
            {"table": table, "loss": loss, "shapes": shapes}[only]()
        case _:
            for part in (table, loss, shapes):
                part()
                print()
