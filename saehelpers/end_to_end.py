"""SAEs trained by what a language model does with their recons: end to end.

    local           ||x - x_hat||^2 / d
    kl              KL(p || q), p the model's next-token distribution, q with recons spliced in
    downstream      mean over later modules of the MSE of their activations, after and before
    sparsity        ||c||_p / d

Each is a mean over tokens; activations are in their original units. Braun et al.,
arXiv 2405.12241.
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from saehelpers import runs
from saehelpers.activations import (
    at_positions,
    read_activations,
    reading,
    recording_prefix,
    replaying,
    splice,
    standardisation,
)
from saehelpers.fitting import Settings, fit
from saehelpers.language_metrics import (
    apply_sae,
    check_text,
    evaluate_spliced,
    kl_divergence,
    logits_of,
)
from saehelpers.methods import EndToEndRun
from saehelpers.objectives import Terms
from saehelpers.saes import SAE, make_sae
from saehelpers.sparse import Latents, densified

STANDARDISATION_BLOCKS = 64
EVALUATION_BLOCKS = 16


def model_id(name: str, model: nn.Module) -> str:
    """A model's name and a fingerprint of its weights, as they stand in configs."""
    return f"{name}/{runs.fingerprint(model.state_dict())}"


def check_model(config: EndToEndRun, model: nn.Module) -> None:
    """Raise a ValueError if the config is that of an SAE of another model."""
    fingerprint = runs.fingerprint(model.state_dict())
    if config.base_model.rpartition("/")[2] != fingerprint:
        raise ValueError(
            f"{runs.run_id(config)} is an SAE of {config.base_model!r}; the weights of this model "
            f"have the fingerprint {fingerprint!r}"
        )


def activations_of(
    config: EndToEndRun, model: nn.Module, blocks: Int[Tensor, "n context"]
) -> Float[Tensor, "n positions d"]:
    """What the SAE of a config reads, on the CPU."""
    return _chosen(read_activations(model, blocks, config.module, 64), config)


def total_loss(
    model: nn.Module, sae: SAE, tokens: Int[Tensor, "batch context"], config: EndToEndRun
) -> Terms:
    """The weighted sum, under "loss", and its unweighted terms under their own names.

    loss = lambda_local local + lambda_kl kl + lambda_downstream downstream
           + lambda_sparsity sparsity

    Only what its weight asks for is computed. The model runs once without gradient, and once
    more, with it, from the splice onward.
    """
    autocast = torch.autocast(tokens.device.type, torch.bfloat16, enabled=config.autocast)
    watched = [config.module, *config.downstream]
    with (
        autocast,
        torch.no_grad(),
        recording_prefix(model, config.module) as prefix,
        reading(model, watched) as original,
    ):
        logits = logits_of(model, tokens)
    x = _chosen(original[config.module], config)
    latents, recons = apply_sae(sae, x)

    def replace(_: Tensor) -> Tensor:
        return recons

    edit = at_positions(replace, config.positions) if config.positions else replace
    with (
        autocast,
        replaying(model, prefix),
        splice(model, {config.module: edit}),
        reading(model, config.downstream) as changed,
    ):
        changed_logits = logits_of(model, tokens)
    terms = _local_terms(x, latents, recons, config)
    if config.lambda_kl:
        terms["kl"] = kl_divergence(logits, changed_logits)
    if config.downstream:
        errors = [mse_loss(changed[m].float(), original[m].float()) for m in config.downstream]
        terms["downstream"] = torch.stack(errors).mean()
    return _weighted(terms, config)


def local_loss(sae: SAE, x: Float[Tensor, "batch positions d"], config: EndToEndRun) -> Terms:
    """`total_loss` of a config without other terms than these, from activations alone."""
    latents, recons = apply_sae(sae, x)
    return _weighted(_local_terms(x, latents, recons, config), config)


def _local_terms(x: Tensor, latents: Latents, recons: Tensor, config: EndToEndRun) -> Terms:
    terms = {}
    if config.lambda_local:
        terms["local"] = mse_loss(recons.float(), x.float())
    if config.lambda_sparsity:
        norms = torch.linalg.vector_norm(densified(latents), config.p, dim=-1)
        terms["sparsity"] = norms.mean() / x.shape[-1]
    return terms


def _weighted(terms: Terms, config: EndToEndRun) -> Terms:
    loss = sum(getattr(config, f"lambda_{name}") * term for name, term in terms.items())
    return {"loss": loss, **terms}


def _chosen(x: Tensor, config: EndToEndRun) -> Tensor:
    return x[:, list(config.positions)] if config.positions else x


def check_downstream(model: nn.Module, tokens: Tensor, config: EndToEndRun) -> None:
    """Raise a ValueError if a downstream module does not run after the splice."""
    with torch.no_grad(), reading(model, [config.module, *config.downstream]) as found:
        logits_of(model, tokens)
    order = list(found)
    early = order[: order.index(config.module)]
    if early or config.module in config.downstream:
        early = early or [config.module]
        raise ValueError(
            f"the downstream modules {', '.join(early)} do not come after {config.module!r}, "
            "where the SAE is: what it changes does not reach them"
        )


def train_end_to_end(
    config: EndToEndRun,
    model: nn.Module,
    blocks: Int[Tensor, "n context"],
    validation: Int[Tensor, "m context"],
    activations: Float[Tensor, "n positions d"] | None = None,
    start: SAE | None = None,
    checkpoint: Path | None = None,
    progress: bool = True,
    log: Callable[[dict], object] | None = None,
) -> tuple[SAE, pd.DataFrame]:
    """Train an SAE of a language model, which is frozen and put into evaluation mode.

    Args:
        blocks, validation: tokens to train on and held-out ones.
        activations: `activations_of` the blocks, for local training; read from the model if
            they are not given.
        start: the SAE that training goes on from, `config.start`.
        log: called with every row of the history (`wandb.log`, say).

    Returns:
        The SAE and its history: the loss and its terms over an epoch, then, on 16 held-out
        contexts, ce_increase, kl, explained_variance, l0 and alive_latents.

    Raises:
        ValueError: the text, a module, the SAE's width or the config's model do not fit.
    """
    model.eval().requires_grad_(False)
    check_model(config, model)
    check_text(model, blocks)
    check_downstream(model, blocks[:1], config)
    if activations is None:
        n_read = config.epochs * config.blocks_per_epoch if config.local else STANDARDISATION_BLOCKS
        activations = activations_of(config, model, blocks[:n_read])
    if activations.shape[-1] != config.sae.d:
        raise ValueError(
            f"sae.d is {config.sae.d}, the activations of {config.module!r} are "
            f"{activations.shape[-1]} wide"
        )
    sae = start or make_sae(config.sae, config.seed)
    if start is None:
        sae.set_standardisation(*standardisation(activations[:STANDARDISATION_BLOCKS]))
    sae.to(blocks.device).train().requires_grad_(True).align()
    activations = activations.to(blocks.device)
    n_blocks = min(config.blocks_per_epoch, len(blocks))
    first = 0

    def begin_epoch(epoch: int) -> None:
        nonlocal first
        first = epoch * n_blocks

    def step(index: Tensor, uniform: Tensor) -> Terms:
        rows = (first + index[0]) % len(blocks)
        if config.local:
            return local_loss(sae, activations[rows], config)
        return total_loss(model, sae, blocks[rows], config)

    def evaluate(epoch: int) -> dict[str, Tensor]:
        sae.eval()
        held_out = validation[:EVALUATION_BLOCKS]
        table = evaluate_spliced(model, {config.module: sae}, held_out, (), config.positions)
        sae.train()
        values = table.set_index("metric")["value"]
        kept = ["ce_increase", "kl", "explained_variance", "l0", "alive_latents"]
        return {name: torch.tensor(values[name]) for name in kept}

    history = fit(
        sae,
        step,
        n_blocks,
        [config.seed],
        Settings.of(config),
        before_update=sae.project_gradient if config.sae.unit_decoder else None,
        after_update=sae.normalise_dictionary if config.sae.unit_decoder else None,
        begin_epoch=begin_epoch,
        evaluate=evaluate,
        checkpoint=checkpoint,
        description=config.name,
        progress=progress,
        log=log,
    )
    return sae.eval().requires_grad_(False), history.drop(columns="instance")
