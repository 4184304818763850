"""A training step of TopK SAEs: beside other libraries, plain PyTorch, and what must be done.

    python benchmarks/training.py [table | paths | loss | shapes | rate]

The peers run in environments of their own; those that cannot be set up are left out. Every
contender has a process (`contenders.py`); they take turns of a few steps each, so that what else
the machine does falls on all alike. A step includes Adam's. All of it is on the GPU where there
is one, and larger there; what is no peer's runs in this process there, one after another, as
starting another takes longer than measuring does.
"""

import itertools
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from contenders import (
    BATCH,
    DEVICE,
    FLOOR,
    LATENTS,
    THREADS,
    TURNS_ALONE,
    D,
    activations,
    alone,
    our_run,
    wait,
)
from peers import python_with

CONTENDERS = Path(__file__).with_name("contenders.py")
TOPKS = (8, 32)
TURNS = 6  # the first of which is not counted
PEERS = {
    "sae-lens": ("sae-lens==6.28.1", "pyarrow<20"),  # it asks for numpy 1, pyarrow for numpy 2
    "sae-lens, sparse": ("sae-lens==6.28.1", "pyarrow<20"),
    "dictionary-learning": ("dictionary-learning==0.1.0",),
    "overcomplete": ("overcomplete==0.3.0",),
    "sparsify": ("eai-sparsify==1.3.3",),
}
OTHERS = ("dense, fused Adam", "dense, bf16", "ours", "ours, bf16")


def race(contenders: list[tuple[str, int, int]]) -> list[tuple[float, float]]:
    """(milliseconds a step, MiB above what the process held before) of each, medians."""
    if DEVICE == "cpu":
        return take_turns(contenders)
    peers = [contender for contender in contenders if contender[0] in PEERS]
    found = dict(zip(peers, take_turns(peers), strict=True))
    return [found.get(each) or median_of(alone(*each)) for each in contenders]


def median_of(turns: list[tuple[float, float]]) -> tuple[float, float]:
    """Of all turns but the first; and the most memory."""
    return statistics.median(ms for ms, _ in turns[1:]), max(memory for _, memory in turns)


def take_turns(contenders: list[tuple[str, int, int]]) -> list[tuple[float, float]]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"}
    processes = [
        subprocess.Popen(
            [python_with(*PEERS[name]) if name in PEERS else sys.executable, CONTENDERS,
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
            answer = process.stdout.readline().split()
            if not answer:
                raise RuntimeError(f"{process.args} ended; see above")
            taken.append(tuple(map(float, answer)))
    for process in processes:
        process.stdin.close()
        process.wait()
    return [median_of(taken) for taken in found]


def peers() -> list[str]:
    """Those that can be set up: a machine may have no network."""
    found = []
    for name, packages in PEERS.items():
        try:
            python_with(*packages)
        except subprocess.CalledProcessError:
            print(f"without {name}: {packages[0]} cannot be installed here", file=sys.stderr)
        else:
            found.append(name)
    return found


def table() -> None:
    names = (*peers(), *OTHERS)
    counted = (TURNS if DEVICE == "cpu" else TURNS_ALONE) - 1
    print(f"{DEVICE}: d = {D}, batches of {BATCH}; medians of {counted}\n")
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


def paths() -> None:
    """From which size on the sparse path is the faster one: see `saes.sparse.choice`."""
    print("| latents, k | dense, ms | sparse, ms | ratio | bf16: dense | sparse | ratio |")
    print("|---|---|---|---|---|---|---|")
    for n_latents, k in itertools.product(LATENTS, (8, 32, 128)):
        names = [f"ours, {path}{kind}" for kind in ("", ", bf16") for path in ("dense", "sparse")]
        ms = [time for time, _ in race([(name, n_latents, k) for name in names])]
        print(
            f"| {n_latents:,}, {k} | {ms[0]:.2f} | {ms[1]:.2f} | {ms[0] / ms[1]:.2f} "
            f"| {ms[2]:.2f} | {ms[3]:.2f} | {ms[2] / ms[3]:.2f} |", flush=True,
        )  # fmt: skip


def shapes() -> None:
    if DEVICE == "cuda":
        launched, graph = race([(f"shapes, {kind}", 32, 1) for kind in ("launched", "graph")])
        print(f"a step in plain PyTorch {launched[0]:.3f} ms, as a CUDA graph {graph[0]:.3f} ms: "
              f"{launched[0] / graph[0]:.1f} times as fast\n")  # fmt: skip
    contenders = [("shapes, DataLoader", 32, 1), *(("shapes, ours", 32, n) for n in (1, 3, 9))]
    names = ["DataLoader, default Adam", "ours, one", "three side by side", "nine side by side"]
    if DEVICE == "cuda":
        contenders += [("shapes, ours launched", 32, n) for n in (1, 9)]
        names += ["ours, one, launched kernel by kernel", "nine, likewise"]
    times = [ms for ms, _ in race(contenders)]
    print("Shapes SAEs, batches of 128\n\n| | ms a step | thousand samples a second | ratio |")
    print("|---|---|---|---|")
    rates = [128 * n / ms for (_, _, n), ms in zip(contenders, times, strict=True)]
    for name, ms, rate in zip(names, times, rates, strict=True):
        print(f"| {name} | {ms:.2f} | {rate:.0f} | {rate / rates[0]:.1f} |")


def loss(n_latents: int = max(LATENTS[1:-1]), n_steps: int = 500) -> None:
    """How far from the dense path ours is: the mean loss of 500 steps, the error after them.

    Recall: of the latents that float32 chooses after training, how many the path's precision does.
    """
    from saehelpers import train_saes
    from saehelpers.runs import several_threads
    from saehelpers.saes.sparse import choice, densified

    torch.set_num_threads(THREADS)
    bounds, found = choice.FASTER_FROM[DEVICE], {}
    x = activations(n_steps * BATCH)[:, None]
    print(
        "| latents, k | path | mean loss | relative difference | error after | the same | recall |"
    )
    print("|---|---|---|---|---|---|---|")
    for k, name in itertools.product(TOPKS, ("dense", "ours", "ours, bf16")):
        dense = bounds._replace(entries=float("inf"))
        choice.FASTER_FROM[DEVICE] = dense if name == "dense" else bounds
        run = our_run(n_latents, k, "bf16" in name, epochs=1)
        with several_threads(THREADS):
            (sae,), (history,) = train_saes([run], [x], progress=False)
        held = x[:8192, 0]
        with torch.no_grad():
            error = (held - sae(held)).square().sum(-1).mean().item()
            exact = densified(sae.latents(held)) > 0
            with torch.autocast(DEVICE, torch.bfloat16, enabled=run.autocast):
                chosen = densified(sae.latents(held)) > 0
        recall = ((exact & chosen).sum() / exact.sum()).item()
        found[name] = history.loss.iloc[-1], error
        apart = [
            abs(own / other - 1) for own, other in zip(found[name], found["dense"], strict=True)
        ]
        print(f"| {n_latents:,}, {k} | {name} | {found[name][0]:.2f} | {apart[0]:.1e} "
              f"| {error:.4f} | {apart[1]:.1e} | {recall:.4f} |")  # fmt: skip


def rate() -> None:
    """Operations a second of the product for the pre-activations, beside a large square one."""
    from saehelpers.saes.sparse import fast_products
    from saehelpers.saes.sparse.selection import pre_activations

    torch.set_num_threads(THREADS)
    side, n_latents = {"cpu": 2048, "cuda": 8192}[DEVICE], max(LATENTS)
    left, right = torch.randn(2, side, side, device=DEVICE)
    x, weight = activations(BATCH), torch.randn(n_latents, D, device=DEVICE)
    bias = torch.zeros(n_latents, device=DEVICE)

    def operations_a_second(count: float, product) -> float:
        times = []
        for _ in range(TURNS):
            wait()
            start = time.perf_counter()
            product()
            wait()
            times.append(time.perf_counter() - start)
        return count / statistics.median(times[1:])

    print("| precision | square product, TFLOP/s | pre-activations | share |\n|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        parts = [part.to(dtype) for part in (left, right)]
        with fast_products(DEVICE):
            square = operations_a_second(2 * side**3, lambda parts=parts: parts[0] @ parts[1])
            lower = torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32)
            with torch.no_grad(), lower:
                own = operations_a_second(
                    2 * BATCH * D * n_latents,
                    lambda: list(pre_activations(x[None], weight[None], bias[None])),
                )
        print(f"| {dtype} | {square / 1e12:.2f} | {own / 1e12:.2f} | {own / square:.2f} |")


if __name__ == "__main__":
    match sys.argv[1:]:
        case [only]:
            parts = {"table": table, "paths": paths, "loss": loss, "shapes": shapes, "rate": rate}
            parts[only]()
        case _:
            for part in (table, paths, loss, shapes, rate):
                part()
                print()
