"""SynthSAEBench-16k: sampled, trained on and judged, beside sae-lens.

    python benchmarks/worlds.py [interchange] [scores] [sampling] [training] [evaluation]

The world is made here, saved in sae-lens's format and loaded by both, each in processes of its own
that take turns. Seconds are of the clock and, in brackets, of the processor: other users' load
moves the first. Memory is the peak above what the process held before.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from peers import peak_rise, python_with, reset_peak
from safetensors.torch import load_file, save_file

PEER = "sae-lens==6.54.12"
THREADS, ROUNDS = 2, 3
N_LATENTS, TOPK, BATCH = 4096, 25, 1024
N_RATES = 40_000  # samples that rates and correlations are counted in
EVALUATED = int(os.environ.get("EVALUATED", 500_000))
STEPS = 12
JOBS = ("interchange", "scores", "sampling", "training", "evaluation")


# --- ours ---


def write_worlds(folder: Path) -> None:
    """The benchmark's world, with a random dictionary, and a small one with all of its parts."""
    from saehelpers.datasets.synthetic import SYNTH_SAE_BENCH, save_world

    large = dataclasses.replace(SYNTH_SAE_BENCH, orthogonalisation_steps=0)
    small = dataclasses.replace(
        large, n_features=200, d=48, smallest_probability=0.02, correlation_rank=5,
        hierarchy=dataclasses.replace(large.hierarchy, n_roots=8, branching=(2, 4), depth=2),
    )  # fmt: skip
    save_world(large, folder / "large")
    save_world(small, folder / "small")


def our_world(folder: Path):
    from saehelpers.datasets.synthetic import load_world

    return load_world(folder)[1]


def our_coefficients(folder: Path) -> torch.Tensor:
    return our_world(folder).coefficients(N_RATES, torch.Generator().manual_seed(0))


def our_sampling(folder: Path, batch: int):
    world, generator = our_world(folder), torch.Generator().manual_seed(0)
    return lambda: world.sample_sparse(batch, generator)


def our_training(folder: Path):
    from saehelpers import SAEConfig, SAERun, train_sae
    from saehelpers.datasets.synthetic import Stream

    sae = SAEConfig(768, N_LATENTS, "batch_topk", TOPK, "linear", pre_encoder_bias=True,
                    unit_decoder=True)  # fmt: skip
    stream = Stream(our_world(folder), STEPS * BATCH, 0)
    first = stream(0)
    run = SAERun("bench", "world", sae, epochs=1, batch_size=BATCH, learning_rate=3e-4)
    # the first epoch is drawn once for the mean and the scale, and once to be trained on
    drawn = [first]

    def step():
        train_sae(run, lambda epoch: drawn.pop() if drawn else stream(epoch), progress=False)
        drawn.append(first)

    return step


def our_sae(weights: dict[str, torch.Tensor]):
    from saehelpers.saes import SAE, SAEConfig

    n_latents, d = weights["W_dec"].shape
    sae = SAE(SAEConfig(d, n_latents, "topk", TOPK, "linear", pre_encoder_bias=True))
    with torch.no_grad():
        sae.encoder_weights[0].copy_(weights["W_enc"])
        sae.decoder_weight.copy_(weights["W_dec"])
    return sae.requires_grad_(False)


def our_evaluation(folder: Path, weights: dict[str, torch.Tensor]):
    from saehelpers.evaluation import evaluate

    world, generator = our_world(folder), torch.Generator().manual_seed(0)
    return lambda: evaluate(our_sae(weights), world, generator, EVALUATED).summary


def our_scores(folder: Path, given: dict[str, torch.Tensor]) -> dict[str, float]:
    from saehelpers.evaluation import evaluate

    fixed = given["coefficients"]
    world = dataclasses.replace(our_world(folder), modifiers=(lambda drawn: fixed,))
    found = evaluate(our_sae(given), world, torch.Generator(), len(fixed), len(fixed)).summary
    names = {"mcc": "mcc", "uniqueness": "uniqueness_by_latent", "sae_l0": "l0",
             "true_l0": "l0_true", "dead_latents": "dead_latents", "shrinkage": "shrinkage",
             "explained_variance": "explained_variance", "f1_score": "f1_by_latent",
             "precision": "precision_by_latent", "recall": "recall_by_latent",
             "accuracy": "accuracy_by_latent"}  # fmt: skip
    return {theirs: float(found[ours]) for theirs, ours in names.items()}


# --- theirs ---


def their_world(folder: Path):
    from sae_lens.synthetic import SyntheticModel

    return SyntheticModel.load_from_disk(folder)


def write_their_world(folder: Path) -> None:
    """A world of the small one's config, with draws of sae-lens's own."""
    from sae_lens.synthetic import SyntheticModel

    SyntheticModel(their_world(folder / "small").cfg).save(folder / "theirs")


def their_coefficients(folder: Path) -> torch.Tensor:
    torch.manual_seed(0)
    return their_world(folder).activation_generator.sample(N_RATES)


def their_sampling(folder: Path, batch: int, sparse: bool):
    world = their_world(folder)
    world.use_sparse_tensors = sparse
    return lambda: world.sample(batch)


def their_training(folder: Path):
    from sae_lens.saes import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.synthetic import train_toy_sae

    world = their_world(folder)
    world.use_sparse_tensors = False  # several times as fast here
    sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=768, d_sae=N_LATENTS, k=TOPK))
    return lambda: train_toy_sae(
        sae, world.feature_dict, world.activation_generator, STEPS * BATCH, BATCH
    )


def their_sae(weights: dict[str, torch.Tensor]):
    from sae_lens import TopKSAE, TopKSAEConfig

    n_latents, d = weights["W_dec"].shape
    sae = TopKSAE(TopKSAEConfig(d_in=d, d_sae=n_latents, k=TOPK))
    with torch.no_grad():
        sae.W_enc.copy_(weights["W_enc"])
        sae.W_dec.copy_(weights["W_dec"])
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    return sae


def their_evaluation(folder: Path, weights: dict[str, torch.Tensor]):
    from sae_lens.synthetic import eval_sae_on_synthetic_data

    world = their_world(folder)
    return lambda: eval_sae_on_synthetic_data(
        their_sae(weights), world.feature_dict, world.activation_generator, EVALUATED, 4096
    )


def their_scores(folder: Path, given: dict[str, torch.Tensor]) -> dict[str, float]:
    from sae_lens.synthetic import eval_sae_on_synthetic_data

    class Fixed:
        def sample(self, n):
            return given["coefficients"]

    world, n = their_world(folder), len(given["coefficients"])
    found = eval_sae_on_synthetic_data(their_sae(given), world.feature_dict, Fixed(), n).to_dict()
    return {k: float(v) for k, v in (found | found.pop("classification")).items()}


# --- both ---


def timed(action) -> dict[str, float]:
    action()
    before = reset_peak()
    clock, processor = time.perf_counter(), time.process_time()
    action()
    return {
        "seconds": time.perf_counter() - clock,
        "processor": time.process_time() - processor,
        "MiB": peak_rise(before),
    }


def once(action) -> dict[str, float]:
    """As `timed`, of what takes so long that its beginning does not matter."""
    before = reset_peak()
    clock, processor = time.perf_counter(), time.process_time()
    action()
    seconds = time.perf_counter() - clock
    return {"seconds": seconds, "processor": time.process_time() - processor,
            "MiB": peak_rise(before)}  # fmt: skip


def work(side: str, job: str, folder: Path) -> None:
    """What a process of one side does; prints its result as JSON."""
    torch.set_num_threads(THREADS)
    ours, name, *options = side == "ours", *job.split(":")
    large = folder / "large"
    if name == "write":
        found = (write_worlds if ours else write_their_world)(folder)
    elif name == "coefficients":
        drawn = (our_coefficients if ours else their_coefficients)(folder / options[0])
        save_file({"coefficients": drawn.contiguous()}, folder / f"{side}-{options[0]}")
        found = None
    elif name == "sampling":
        batch = int(options[0])
        draw = our_sampling(large, batch) if ours else their_sampling(
            large, batch, options[1] == "sparse"
        )  # fmt: skip
        found = timed(draw)
    elif name == "training":
        found = timed((our_training if ours else their_training)(large))
    elif name == "evaluation":
        given = load_file(folder / "sae")
        found = once((our_evaluation if ours else their_evaluation)(large, given))
    else:
        found = (our_scores if ours else their_scores)(large, load_file(folder / "sae"))
    print(json.dumps(found))


def run(side: str, job: str, folder: Path):
    python = sys.executable if side == "ours" else python_with(PEER)
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [python, __file__, side, job, folder], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"{side} {job} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def statistics_of(path: Path) -> dict[str, torch.Tensor]:
    """Of coefficients: rates, mean magnitudes and firings' correlations of features."""
    drawn = load_file(path)["coefficients"]
    fires = (drawn > 0).double()
    rates = fires.mean(0)
    spread = (rates * (1 - rates)).sqrt().clamp(min=1e-12)
    together = fires.T @ fires / len(drawn) - rates[:, None] * rates
    magnitudes = drawn.double().sum(0) / fires.sum(0).clamp(min=1)
    variance = drawn.double().square().sum(0) / fires.sum(0).clamp(min=1) - magnitudes.square()
    return {"rates": rates, "magnitudes": magnitudes, "counts": fires.sum(0),
            "deviation": variance.clamp(min=0).sqrt(),
            "correlations": together / spread[:, None] / spread}  # fmt: skip


def interchange(folder: Path) -> None:
    """The small world, written by either and sampled by both, in standard deviations of counts."""
    run("peer", "write", folder)
    for world in ("small", "theirs"):
        for side in ("ours", "peer"):
            run(side, f"coefficients:{world}", folder)
        ours, theirs = (statistics_of(folder / f"{side}-{world}") for side in ("ours", "peer"))
        p = (ours["rates"] + theirs["rates"]) / 2
        rates = (ours["rates"] - theirs["rates"]) / (2 * p * (1 - p) / N_RATES).sqrt()
        often = (ours["counts"] > 100) & (theirs["counts"] > 100)
        spread = (ours["deviation"].square() / ours["counts"]
                  + theirs["deviation"].square() / theirs["counts"]).sqrt()  # fmt: skip
        magnitudes = ((ours["magnitudes"] - theirs["magnitudes"]) / spread)[often]
        pairs = torch.ones_like(ours["correlations"]).triu(1).bool() & often & often[:, None]
        difference = (ours["correlations"] - theirs["correlations"])[pairs] * (N_RATES / 2) ** 0.5
        print(f"| {'ours' if world == 'small' else 'sae-lens'} | {rates.std():.2f} "
              f"({rates.abs().max():.1f}) | {magnitudes.std():.2f} ({magnitudes.abs().max():.1f}) "
              f"| {difference.std():.2f} ({difference.abs().max():.1f}) "
              f"| {ours['rates'].sum():.3f}, {theirs['rates'].sum():.3f} |")  # fmt: skip


def scores(folder: Path) -> None:
    ours, theirs = run("ours", "scores", folder), run("peer", "scores", folder)
    for name, value in ours.items():
        print(f"{name}: ours {value:.6f}, sae-lens {theirs[name]:.6f}, "
              f"difference {abs(value - theirs[name]):.0e}")  # fmt: skip


def compare(folder: Path, what: str, job: str, others: dict[str, str], rounds: int) -> None:
    """Medians over turns, and their ratios to ours."""
    jobs = {"ours": ("ours", job)} | {name: ("peer", other) for name, other in others.items()}
    turns = [{name: run(*which, folder) for name, which in jobs.items()} for _ in range(rounds)]
    middle = {
        name: {k: statistics.median(turn[name][k] for turn in turns) for k in turns[0]["ours"]}
        for name in jobs
    }
    cells = [f"{m['seconds']:.3f} ({m['processor']:.3f}), {m['MiB']:.0f}" for m in middle.values()]
    ratios = [
        f"{m['seconds'] / middle['ours']['seconds']:.1f} "
        f"({m['processor'] / middle['ours']['processor']:.1f}), "
        f"{middle['ours']['MiB'] / max(m['MiB'], 1e-9):.2f}"
        for name, m in middle.items() if name != "ours"
    ]  # fmt: skip
    print(f"| {what} | " + " | ".join([*cells, *ratios]) + " |", flush=True)


def write_sae(folder: Path) -> None:
    """Its latents point at half of the most frequent features, with noise, and elsewhere."""
    world, generator = our_world(folder / "large"), torch.Generator().manual_seed(1)
    rows = torch.randn(N_LATENTS, 768, generator=generator) / 768**0.5
    half = N_LATENTS // 2
    rows[:half] = 0.5 * rows[:half] + world.dictionary[:N_LATENTS:2]
    rows = torch.nn.functional.normalize(rows, dim=1)
    drawn = world.coefficients(4096, generator)
    save_file({"W_dec": rows, "W_enc": rows.T.contiguous(), "coefficients": drawn}, folder / "sae")


def main(jobs: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run("ours", "write", folder)
        write_sae(folder)
        if "interchange" in jobs:
            interchange(folder)
        if "scores" in jobs:
            scores(folder)
        if "sampling" in jobs:
            for batch in (1024, 4096):
                ours, theirs = f"sampling:{batch}", f"sampling:{batch}:dense"
                compare(folder, f"sampling {batch}", ours, {"dense": theirs}, ROUNDS)
            # their sparse tensors take so long that they are timed once
            compare(folder, "sampling 1024", "sampling:1024", {"sparse": "sampling:1024:sparse"}, 1)
        if "training" in jobs:
            compare(folder, f"{STEPS} steps of training", "training", {"peer": "training"}, ROUNDS)
        if "evaluation" in jobs:
            what = f"evaluation of {EVALUATED} samples"
            compare(folder, what, "evaluation", {"peer": "evaluation"}, 1)


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["peer"]):
        work(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    else:
        main(sys.argv[1:] or list(JOBS))
