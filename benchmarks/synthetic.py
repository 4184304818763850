"""Drawing synthetic features, in microseconds a sample, beside sae-lens.

    python benchmarks/synthetic.py

Two releases of sae-lens run in environments of their own, in the same run as ours, each in a
fresh process. Also compares what both compute of the same SAE on the same samples.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

PEERS = {  # and what else their environments need
    "sae-lens==6.28.1": ("pyarrow<20",),  # it asks for numpy 1, newer ones for numpy 2
    "sae-lens==6.54.12": (),
}
BATCHES = (1024, 4096, 16_384)
REPEATS, BUDGET = 5, 1.5  # medians of 5; a batch size is left out where one draw takes longer
N_PARENTS, N_CHILDREN = 16, 4
THREADS = 2


def correlation_matrix(n: int) -> torch.Tensor:
    """Correlations 0.3 within pairs of neighbours."""
    matrix = torch.eye(n)
    pairs = torch.arange(0, n, 2)
    matrix[pairs, pairs + 1] = matrix[pairs + 1, pairs] = 0.3
    return matrix


def low_rank(n: int, rank: int = 32) -> torch.Tensor:
    return 0.1 * torch.randn(n, rank, generator=torch.Generator().manual_seed(0))


def families() -> list[tuple[int, list[int]]]:
    return [
        (parent, [N_PARENTS + N_CHILDREN * parent + j for j in range(N_CHILDREN)])
        for parent in range(N_PARENTS)
    ]


def our_cases(n: int) -> dict:
    from saehelpers.datasets.synthetic import Correlation, Hierarchy, Node, SyntheticFeatures

    rows = torch.eye(n)
    trees = [Node(p, [Node(c) for c in children], exclusive=True) for p, children in families()]
    top = [Node(None, trees, exclusive=True)]
    cases = {
        "plain": SyntheticFeatures(rows, 0.05, 1.0, 0.1),
        "dense correlation": SyntheticFeatures(
            rows, 0.05, 1.0, 0.1, correlation=Correlation.dense(correlation_matrix(n))
        ),
        "low rank 32": SyntheticFeatures(
            rows, 0.05, 1.0, 0.1, correlation=Correlation(low_rank(n))
        ),
        "16 parents x 4 exclusive": SyntheticFeatures(
            rows, 0.3, 1.0, 0.1, hierarchy=Hierarchy(trees, n)
        ),
        "exclusive at the root": SyntheticFeatures(
            rows, 0.3, 1.0, 0.1, hierarchy=Hierarchy(top, n)
        ),
    }
    generator = torch.Generator().manual_seed(0)
    return {
        name: (lambda batch, case=case: case.coefficients(batch, generator))
        for name, case in cases.items()
    }


def peer_cases(n: int) -> dict:
    from sae_lens import synthetic

    def generator(p, modifier=None, correlation=None):
        return synthetic.ActivationGenerator(
            n, p, 0.1, modify_activations=modifier, correlation_matrix=correlation
        ).sample

    def nodes():
        return [
            synthetic.HierarchyNode(
                p, [synthetic.HierarchyNode(c) for c in children], mutually_exclusive_children=True
            )
            for p, children in families()
        ]

    top = synthetic.HierarchyNode(None, nodes(), mutually_exclusive_children=True)
    cases = {
        "plain": generator(0.05),
        "dense correlation": generator(0.05, correlation=correlation_matrix(n)),
        "16 parents x 4 exclusive": generator(0.3, synthetic.hierarchy_modifier(nodes())),
        "exclusive at the root": generator(0.3, synthetic.hierarchy_modifier([top])),
    }
    if hasattr(synthetic, "LowRankCorrelationMatrix"):
        factor = low_rank(n)
        given = synthetic.LowRankCorrelationMatrix(factor, 1 - factor.pow(2).sum(1))
        cases["low rank 32"] = generator(0.05, correlation=given)
    return cases


def microseconds(sample, batch: int) -> float | None:
    start = time.perf_counter()
    sample(batch)
    if time.perf_counter() - start > 10 * BUDGET:
        return None
    times = []
    for _ in range(REPEATS):
        start, draws = time.perf_counter(), 0
        while time.perf_counter() - start < BUDGET / REPEATS:
            sample(batch)
            draws += 1
        times.append((time.perf_counter() - start) / draws / batch * 1e6)
    return statistics.median(times)


def measure(cases) -> None:
    """Print, as JSON, the time of every case, size and batch."""
    torch.set_num_threads(THREADS)
    found = {}
    for n in (128, 1024):
        for name, sample in cases(n).items():
            found[f"{name}, {n}"] = [microseconds(sample, batch) for batch in BATCHES]
    print(json.dumps(found))


def peer_evaluation(folder: Path) -> None:
    """Train an SAE of the peer for a moment, evaluate it there, and keep what ours needs."""
    from sae_lens import synthetic
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    torch.manual_seed(0)
    features = synthetic.FeatureDictionary(64, 48)
    generator = synthetic.ActivationGenerator(64, 0.3, 0.1)
    coefficients = generator.sample(20_000)
    config = TopKTrainingSAEConfig(d_in=48, d_sae=64, k=8, rescale_acts_by_decoder_norm=False)
    sae = TopKTrainingSAE(config)
    synthetic.train_toy_sae(sae, features, generator, training_samples=200_000)

    class Fixed:
        def sample(self, n):
            return coefficients

    result = synthetic.eval_sae_on_synthetic_data(sae, features, Fixed(), len(coefficients))
    kept = {
        "features": features.feature_vectors, "coefficients": coefficients, "W_enc": sae.W_enc,
        "b_enc": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec,
        "bias": features.bias if features.bias is not None else torch.zeros(48),
    }  # fmt: skip
    from safetensors.torch import save_file

    save_file({k: v.detach().contiguous().clone() for k, v in kept.items()}, folder / "peer")
    print(json.dumps({name: getattr(result, name) for name in ("mcc", "sae_l0", "shrinkage")}))


def our_evaluation(folder: Path) -> None:
    from safetensors.torch import load_file

    from saehelpers import SAE, SAEConfig
    from saehelpers.datasets.synthetic import SyntheticFeatures
    from saehelpers.evaluation import evaluate

    kept = load_file(folder / "peer")
    config = SAEConfig(48, 64, "topk", 8, encoder="linear", pre_encoder_bias=True)
    sae = SAE(config)
    with torch.no_grad():
        sae.encoder_weights[0].copy_(kept["W_enc"])
        sae.encoder_biases[0].copy_(kept["b_enc"])
        sae.decoder_weight.copy_(kept["W_dec"])
        sae.decoder_bias.copy_(kept["b_dec"])
    coefficients = kept["coefficients"]
    data = SyntheticFeatures(
        kept["features"], 0.3, bias=kept["bias"], modifiers=(lambda drawn: coefficients,)
    )
    n = len(coefficients)
    summary = evaluate(sae, data, torch.Generator().manual_seed(0), n, batch_size=n).summary
    print(json.dumps({name: summary[key] for name, key in
                      (("mcc", "mcc"), ("sae_l0", "l0"), ("shrinkage", "shrinkage"))}))  # fmt: skip


def evaluation_memory(n_latents: int = 4096, d: int = 512, n_samples: int = 100_000) -> None:
    """Evaluate an untrained SAE; seconds, and GiB beyond the interpreter, torch and the SAE."""
    from saehelpers import SAE, SAEConfig
    from saehelpers.datasets.synthetic import SyntheticFeatures
    from saehelpers.evaluation import evaluate

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(n_latents, d, generator=generator), dim=1)
    sae = SAE(SAEConfig(d, n_latents, topk=20, encoder="linear"), generator)
    before, start = peak(), time.perf_counter()
    evaluate(sae, SyntheticFeatures(rows, 20 / n_latents, 1.0, 0.1), generator, n_samples)
    found = {"seconds": time.perf_counter() - start, "GiB": peak() - before}
    print(json.dumps({name: round(value, 2) for name, value in found.items()}))


def run(python: Path | str, *arguments: str) -> dict:
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [python, __file__, *arguments], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"{python} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    from peers import python_with

    pythons = {peer: python_with(peer, *further) for peer, further in PEERS.items()}
    found = {"ours": run(sys.executable, "ours")}
    found |= {peer: run(python, "peer") for peer, python in pythons.items()}
    print(f"microseconds a sample, batches of {', '.join(map(str, BATCHES))}; {THREADS} threads\n")
    print("| case | " + " | ".join(found) + " | least ratio to each peer |")
    print("|---|" + "---|" * (len(found) + 1))
    for case, ours in found["ours"].items():
        cells, ratios = [], []
        for name in found:
            times = found[name].get(case)
            cells.append("-" if times is None else
                         " / ".join("-" if t is None else f"{t:.2f}" for t in times))  # fmt: skip
            if name != "ours" and times is not None:
                shared = [t / o for t, o in zip(times, ours, strict=True) if t is not None]
                ratios.append(f"{min(shared):.1f}" if shared else "-")
        print(f"| {case} | " + " | ".join(cells) + f" | {', '.join(ratios)} |")
    print()
    for peer, python in pythons.items():
        print(agreement(peer, python))
    print(f"evaluation of 4,096 latents, 100,000 samples: {run(sys.executable, 'memory')}")


def agreement(peer: str, python: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = run(python, "peer-sae", folder), run(sys.executable, "our-sae", folder)
    differences = {name: f"{abs(theirs[name] - ours[name]):.0e}" for name in theirs}
    return f"same SAE, same samples, {peer}: {theirs}; absolute differences {differences}"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["ours"]:
            measure(our_cases)
        case ["peer"]:
            measure(peer_cases)
        case ["peer-sae", folder]:
            peer_evaluation(Path(folder))
        case ["our-sae", folder]:
            our_evaluation(Path(folder))
        case ["memory"]:
            evaluation_memory()
        case _:
            main()
