"""SAEs in the folder format of SAELens: do both compute the same of the same folder?

    python benchmarks/interchange.py

Two releases of sae-lens, in environments of their own, read folders that ours wrote, and ours
reads folders that they wrote. Differences of latents and recons are the largest, relative to
the largest value.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

PEERS = {"sae-lens==6.28.1": ("pyarrow<20",), "sae-lens==6.54.12": ()}
D, N_LATENTS, TOPK, N_SAMPLES = 64, 512, 16, 2000


def activations() -> torch.Tensor:
    """Far from zero, and of another scale in each dimension."""
    x = torch.randn(N_SAMPLES, D, generator=torch.Generator().manual_seed(0))
    return x * torch.linspace(1, 4, D) + torch.linspace(-20, 20, D)


def keep(folder: Path, latents: torch.Tensor, recons: torch.Tensor) -> None:
    tensors = {"latents": latents, "recons": recons}
    save_file({k: v.detach().contiguous() for k, v in tensors.items()}, folder / "computed")


def write_ours(folder: Path) -> None:
    """SAEs trained for a moment, in their format, and what ours compute."""
    from saehelpers import SAEConfig, SAERun, train_saes
    from saehelpers.saes import save_sae_lens

    x = activations()
    for name, sae in {
        "standard": SAEConfig(D, N_LATENTS, "relu", encoder="linear"),
        "topk": SAEConfig(D, N_LATENTS, "topk", TOPK, "linear", unit_decoder=True),
        "topk, pre-encoder bias": SAEConfig(
            D, N_LATENTS, "topk", TOPK, "linear", pre_encoder_bias=True
        ),
        "jumprelu": SAEConfig(D, N_LATENTS, "jumprelu", encoder="linear"),
        "batch_topk as jumprelu": SAEConfig(D, N_LATENTS, "batch_topk", TOPK, "linear"),
        "archetypal topk": SAEConfig(
            D, N_LATENTS, "topk", TOPK, "linear", dictionary="archetypal", n_archetypes=128
        ),
    }.items():
        sparsity = {} if "topk" in sae.activation else {"sparsity": "l1", "lambda_sparsity": 1e-6}
        run = SAERun(name, "x", sae, epochs=3, **sparsity)
        (trained,), _ = train_saes([run], [x[:, None]], progress=False)
        written = save_sae_lens(trained, folder / name, {"hook_name": "blocks.0.hook_resid_post"})
        keep(written, trained.encode(x), trained(x))


def write_theirs(folder: Path) -> None:
    """SAEs of every architecture with weights far from zero, saved by sae-lens."""
    import sae_lens

    torch.manual_seed(1)
    x = activations()
    shared = {"d_in": D, "d_sae": N_LATENTS}
    topk, rescaled = {"k": TOPK}, {"k": TOPK, "rescale_acts_by_decoder_norm": True}
    for name, kind, further in (
        ("standard", "Standard", {}),
        ("standard, b_dec not applied", "Standard", {"apply_b_dec_to_input": False}),
        ("topk", "TopK", topk),
        ("topk, rescaled by norms", "TopK", rescaled),
        ("jumprelu", "JumpReLU", {}),
        ("batch_topk, saved for inference", "BatchTopKTraining", rescaled),
    ):
        config = getattr(sae_lens, f"{kind}SAEConfig")(**shared, **further)
        sae = getattr(sae_lens, f"{kind}SAE")(config)
        with torch.no_grad():
            for parameter in sae.parameters():
                parameter += 0.2 * torch.randn_like(parameter)
            sae.b_dec += x.mean(0) / 2
            if "BatchTopK" in kind:
                sae.topk_threshold.fill_(15.0)
        save = sae.save_inference_model if "Training" in kind else sae.save_model
        save(folder / name)
        read = sae_lens.SAE.load_from_disk(folder / name)
        with torch.no_grad():
            keep(folder / name, read.encode(x), read(x))


def compare(folder: Path, load) -> dict[str, list[float]]:
    """Largest relative differences of (latents, recons), and the latents active per sample."""
    x, found = activations(), {}
    for path in sorted(folder.iterdir()):
        sae, expected = load(path), load_file(path / "computed")
        with torch.no_grad():
            computed = {"latents": sae.encode(x), "recons": sae(x)}
        found[path.name] = [
            float((computed[k] - expected[k]).abs().max() / expected[k].abs().max())
            for k in ("latents", "recons")
        ] + [float((expected["latents"] > 0).sum(1).float().mean())]
    return found


def read_ours(folder: Path) -> None:
    from sae_lens import SAE

    print(json.dumps(compare(folder, SAE.load_from_disk)))


def read_theirs(folder: Path) -> None:
    from saehelpers.saes import load_sae_lens

    print(json.dumps(compare(folder, lambda path: load_sae_lens(path)[0])))


def run(python: Path | str, job: str, folder: Path) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [python, __file__, job, folder], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"{job} failed:\n{done.stderr[-3000:]}")
    return done.stdout.splitlines()[-1] if done.stdout else ""


def main() -> None:
    from peers import python_with

    print("| written by | read by | SAE | latents differ by | recons by | active latents |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as root:
        ours = Path(root) / "ours"
        run(sys.executable, "write-ours", ours)
        for peer, further in PEERS.items():
            python, theirs = python_with(peer, *further), Path(root) / peer
            run(python, "write-theirs", theirs)
            for writer, reader, found in (
                ("ours", peer, run(python, "read-ours", ours)),
                (peer, "ours", run(sys.executable, "read-theirs", theirs)),
            ):
                for name, (latents, recons, active) in json.loads(found).items():
                    print(
                        f"| {writer} | {reader} | {name} | {latents:.0e} | {recons:.0e} | "
                        f"{active:.1f} |"
                    )


JOBS = {
    "write-ours": write_ours,
    "write-theirs": write_theirs,
    "read-ours": read_ours,
    "read-theirs": read_theirs,
}

if __name__ == "__main__":
    if sys.argv[1:]:
        JOBS[sys.argv[1]](Path(sys.argv[2]))
    else:
        main()
