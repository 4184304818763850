"""What an end-to-end step costs beyond the model itself, and a local one from cached activations.

    python benchmarks/end_to_end.py

Two GPT-2s with random weights: the size of notebook 09, and GPT-2 small. Steps are measured in
turns, so that what else the machine does falls on all alike; a ratio is one of medians.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from saehelpers.evaluation import kl_divergence
from saehelpers.networks import make_gpt2, read_activations, reading, standardisation
from saehelpers.saes import SAEConfig, make_sae
from saehelpers.training import EndToEndRun, end_to_end_loss, local_loss, run_original

ROUNDS = 15
# name, (vocabulary, context, width, layers, heads), contexts a step, latents
SIZES = [
    ("notebook 09", (4096, 128, 128, 4, 4), 4, 1024),
    ("GPT-2 small", (50257, 128, 768, 12, 12), 1, 3072),
]


def layers_that_must_run(model: nn.Module, tokens: Tensor, layer: int, autocast: bool) -> None:
    """All layers once without gradient, those after `layer` forward and backward, written out."""
    body = model.transformer
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=autocast):
        with torch.no_grad():
            x = body.wte(tokens) + body.wpe(torch.arange(tokens.shape[1]))
            for block in body.h[: layer + 1]:
                x = block(x)
            original = model.lm_head(body.ln_f(_through(body.h[layer + 1 :], x)))
        leaf = x.clone().requires_grad_()
        logits = model.lm_head(body.ln_f(_through(body.h[layer + 1 :], leaf)))
    kl_divergence(original, logits).backward()


def _through(blocks, x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
    return x


def step_of(sae: nn.Module, loss: Callable[[], dict]) -> Callable[[], None]:
    optimiser = torch.optim.Adam(sae.parameters(), 1e-3, fused=True)

    def step() -> None:
        optimiser.zero_grad()
        loss()["loss"].backward()
        sae.project_gradient()
        optimiser.step()
        sae.normalise_dictionary()

    return step


def medians(steps: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Milliseconds of each step, measured in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(taken[1:]) for name, taken in seconds.items()}


def measure(shape: tuple, n_contexts: int, n_latents: int, autocast: bool) -> dict[str, float]:
    model = make_gpt2(*shape).eval().requires_grad_(False)
    layer = shape[3] // 2 - 1
    module = f"transformer.h.{layer}"
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(shape[0], (n_contexts, shape[1]), generator=generator)
    config = SAEConfig(shape[2], n_latents, "topk", 16, encoder="linear", pre_encoder_bias=True)
    config = EndToEndRun("e2e", "", "", module, config, autocast=autocast)
    local = dataclasses.replace(config, lambda_local=1.0, lambda_kl=0.0)
    x = read_activations(model, tokens, module)
    sae = make_sae(config.sae).train()
    sae.set_standardisation(*standardisation(x))

    def whole() -> dict:
        with (
            torch.autocast(tokens.device.type, torch.bfloat16, enabled=autocast),
            torch.no_grad(),
            reading(model, [module]) as found,
        ):
            model(tokens)
        return local_loss(sae, found[module], local)

    return medians(
        {
            "model": lambda: layers_that_must_run(model, tokens, layer, autocast),
            "e2e": step_of(
                sae,
                lambda: end_to_end_loss(model, sae, run_original(model, tokens, [config]), config),
            ),
            "local": step_of(sae, lambda: local_loss(sae, x, local)),
            "whole": step_of(sae, whole),
        }
    )


def main() -> None:
    torch.set_num_threads(1)
    print("| model | precision | layers that must run, ms | e2e step, ms | ratio "
          "| local, cached, ms | local, whole model, ms | ratio |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for name, shape, n_contexts, n_latents in SIZES:
        for autocast in (False, True):
            ms = measure(shape, n_contexts, n_latents, autocast)
            precision = "bfloat16" if autocast else "float32"
            print(
                f"| {name} | {precision} | {ms['model']:.0f} | {ms['e2e']:.0f} "
                f"| {ms['e2e'] / ms['model']:.2f} | {ms['local']:.1f} | {ms['whole']:.1f} "
                f"| {ms['whole'] / ms['local']:.1f} |"
            )


if __name__ == "__main__":
    main()
