"""Block-diagonal SAEs beside dense block matrices and torch.compile; attribution; a dashboard.

    python benchmarks/attention.py

Two threads, on a machine that does nothing else. Steps are timed in turns; memory is the rise of
a fresh process's peak over what it held before.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from peers import peak_rise, reset_peak
from torch import nn

from saehelpers.evaluation import attribution
from saehelpers.figures import attention_dashboard
from saehelpers.networks import make_gpt2
from saehelpers.saes import SAE, BlockDiagonalSAE, SAEConfig, make_sae
from saehelpers.saes.sparse import fast_products
from saehelpers.training import Loss, OrbitBatch, total_loss

HEADS, D_HEAD, LATENTS, BATCH = 12, 64, 2048, 1024  # latents of each head
REPEATS = 9
KINDS = ("head by head", "dense blocks", "head by head, compiled")
THREADS = 2
ACTIVATIONS = {
    "ReLU + L1": {"activation": "relu"},
    "TopK 32 per head": {"activation": "topk", "topk": 32, "topk_per_head": True},
    "TopK 384 over all heads": {"activation": "topk", "topk": 384},
}


class DenseBlocks(SAE):
    """The same parameters, put into dense block-diagonal matrices at every step."""

    is_sparse = False

    def __init__(self, blocks: BlockDiagonalSAE):
        nn.Module.__init__(self)
        self.config, self.blocks = blocks.config, blocks

    def encode(self, x):
        heads = self.blocks.heads
        matrix = torch.block_diag(*heads.encoder_weights[0])
        latents = torch.addmm(heads.encoder_biases[0].flatten(), x, matrix)
        if self.blocks.separable:
            return heads.activation(latents.unflatten(-1, (HEADS, -1))).flatten(-2)
        return self.blocks.activation(latents)

    def decode(self, latents):
        matrix = torch.block_diag(*self.blocks.heads.dictionary)
        return torch.addmm(self.blocks.canonical_bias, latents, matrix)


def training_step(case: str, kind: str):
    config = SAEConfig(
        HEADS * D_HEAD, HEADS * LATENTS, encoder="linear", dictionary="block_diagonal",
        n_heads=HEADS, **ACTIVATIONS[case],
    )  # fmt: skip
    sae = make_sae(config)
    sae.align()
    dense = kind == "dense blocks"
    model = DenseBlocks(sae) if dense else sae
    loss = Loss("reconstruction", sparsity="l1" if "L1" in case else None, lambda_sparsity=1e-3,
                compiled="compiled" in kind)  # fmt: skip
    optimiser = torch.optim.Adam(sae.parameters(), 1e-4, fused=True)
    x = torch.randn(BATCH, HEADS * D_HEAD)
    as_it_is = (torch.zeros(1, x.shape[1]), torch.ones(1, x.shape[1]))
    first = torch.zeros(BATCH, dtype=torch.long)
    batch = OrbitBatch(x, torch.arange(BATCH), first, 1, *as_it_is)

    def step():
        optimiser.zero_grad()
        with nullcontext() if dense else fast_products("cpu"):  # as `train_saes` has it
            total_loss(model, batch, loss)["loss"].backward()
        optimiser.step()

    for parameter in sae.parameters():  # Adam's moments and the gradients are no part of a step
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    return step


def attributing(case: str, kind: str):
    positions, batch, latents = 1024, 4, 64
    patterns = torch.rand(batch, HEADS, positions, positions).tril_()
    values = torch.randn(batch, positions, HEADS, D_HEAD)
    directions = torch.randn(latents, HEADS, D_HEAD)
    return lambda: attribution.attribution_by_source(patterns, values, directions)


def dashboard(case: str, kind: str):
    context, vocabulary = 128, 4096
    model = make_gpt2(vocabulary, context, 128, 2, 4, attention_only=True).eval()
    model.requires_grad_(False).set_attn_implementation("eager")
    tokens = torch.randint(vocabulary, (200_000 // context + 1, context))
    sae = make_sae(
        SAEConfig(128, 512, "topk", 16, encoder="linear", dictionary="block_diagonal", n_heads=4)
    ).requires_grad_(False)
    outputs = attribution.read_attention(model, tokens[:64], 1).outputs.flatten(0, 1)
    sae.set_standardisation(outputs.mean(0), outputs.std().expand(128))
    sae.decode(sae.encode(outputs))
    words = [f" word{i}" for i in range(vocabulary)]
    path = Path(tempfile.mkdtemp()) / "page.html"

    def write():
        attention_dashboard(path, model, 1, sae, range(0, 500, 5), tokens, words)
        print(f"{path.stat().st_size / 1e6:.1f} MB", end=" ")

    return write


def measure(name: str, case: str, kind: str) -> None:
    """Seconds, and MiB above what the process held before."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    run = globals()[name](case, kind)
    before = reset_peak()
    start = time.perf_counter()
    run()
    print(f"{time.perf_counter() - start:.3f} {peak_rise(before):.0f}")


def in_turns(case: str) -> list[float]:
    """Median seconds of a step of every kind, in turns."""
    torch.set_num_threads(THREADS)
    steps = [training_step(case, kind) for kind in KINDS]
    seconds = [[] for _ in steps]
    for _ in range(REPEATS + 1):
        for step, taken in zip(steps, seconds, strict=True):
            start = time.perf_counter()
            step()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken[1:]) for taken in seconds]


def fresh(*arguments: str) -> list[str]:
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def main() -> None:
    print("| training step | head by head, s | dense blocks, s | ratio | MiB | MiB | ratio |"
          " compiled, s |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for case in ACTIVATIONS:
        ours, dense, compiled = in_turns(case)
        memory, dense_memory = (float(fresh("training_step", case, kind)[1]) for kind in KINDS[:2])
        print(f"| {case} | {ours:.2f} | {dense:.2f} | {dense / ours:.1f} | {memory:.0f} |"
              f" {dense_memory:.0f} | {memory / dense_memory:.2f} | {compiled:.2f} |")  # fmt: skip
    seconds, memory = fresh("attributing", "", "")
    print(f"\nattribution of 64 latents over 4 x 1,024 tokens: {seconds} s, {memory} MiB")
    size, unit, *_, seconds, _ = fresh("dashboard", "", "")
    print(f"dashboard of 100 latents over 200,000 tokens: {seconds} s, {size} {unit}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(*sys.argv[1:])
    else:
        main()
