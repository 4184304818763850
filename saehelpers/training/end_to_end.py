"""SAEs trained by what a language model does with their recons: end to end.

    local           ||x - x_hat||^2 / d
    kl              KL(p || q), p the model's next-token distribution, q with recons spliced in
    downstream      mean over later modules of the MSE of their activations, after and before
    sparsity        ||c||_p / d

Each is a mean over tokens; activations are in their original units. Braun et al.,
arXiv 2405.12241.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from saehelpers import runs
from saehelpers.evaluation.language_metrics import (
    Predictions,
    apply_sae,
    check_text,
    logits_of,
)
from saehelpers.evaluation.metrics import explained_variance, next_token_loss
from saehelpers.networks.activations import (
    at_positions,
    chosen_positions,
    read_activations,
    reading,
    recording_prefix,
    replaying,
    splice,
)
from saehelpers.networks.modules import check_ran
from saehelpers.networks.scaling import standardisation
from saehelpers.runs.checking import checked
from saehelpers.runs.identities import identity
from saehelpers.runs.threads import one_thread
from saehelpers.runs.wanted import FROM_ZERO, NOT_EMPTY, Name
from saehelpers.saes import SAE, make_sae
from saehelpers.saes.sparse import Latents, densified, firing_counts
from saehelpers.training.fitting import Settings, fit
from saehelpers.training.loss import differentiated
from saehelpers.training.methods import EndToEndRun
from saehelpers.training.objectives import Terms

STANDARDISATION_BLOCKS = 64
EVALUATION_BLOCKS = 8


@checked
def model_id(name: Name, model: nn.Module) -> str:
    """A model's name and its identity, as they stand in configs."""
    return f"{name}/{identity(model)}"


@checked
def check_model(config: EndToEndRun, model: nn.Module) -> None:
    """Raise a ValueError if the config is that of an SAE of another model."""
    told = config.base_model.rpartition("/")[2]
    if told not in (identity(model), runs.fingerprint(model.state_dict())):  # and of older runs
        raise ValueError(
            f"{runs.run_id(config)} is an SAE of {config.base_model!r}; the weights of this model "
            f"have the identity {identity(model)!r}"
        )


@checked
def activations_of(
    config: EndToEndRun,
    model: nn.Module,
    blocks: Annotated[Integer[Tensor, "n context"], FROM_ZERO],
) -> Float[Tensor, "n *positions d"]:
    """What the SAE of a config reads, on the CPU."""
    return chosen_positions(read_activations(model, blocks, config.module, 64), config.positions)


@checked
@dataclass(frozen=True)
class Original:
    """What a model does with tokens by itself: what every SAE at a module is held against.

    prefix: what came out of the modules before the splice, see `activations.recording_prefix`;
    activations: by module, of the spliced one and of downstream ones.
    """

    tokens: Annotated[Integer[Tensor, "batch context"], FROM_ZERO]
    prefix: dict[str, list[Any]]
    activations: dict[str, Tensor]
    predictions: Predictions


@checked
@torch.no_grad()
def run_original(
    model: nn.Module,
    tokens: Annotated[Integer[Tensor, "batch context"], FROM_ZERO],
    configs: Annotated[Sequence[EndToEndRun], NOT_EMPTY],
) -> Original:
    """The model's own run over tokens, once for all SAEs of these configs, at one module."""
    module = configs[0].module
    watched = {module: None} | dict.fromkeys(name for run in configs for name in run.downstream)
    with (
        _autocast(tokens, configs[0]),
        recording_prefix(model, [module]) as prefix,
        reading(model, watched) as activations,
    ):
        logits = logits_of(model, tokens)
    return Original(tokens, prefix, activations, Predictions.of(logits))


@checked
def end_to_end_loss(model: nn.Module, sae: SAE, original: Original, config: EndToEndRun) -> Terms:
    """The weighted sum, under "loss", and its unweighted terms under their own names.

        loss = lambda_local local + lambda_kl kl + lambda_downstream downstream
               + lambda_sparsity sparsity

    Only what its weight asks for is computed. The model runs with gradient, from the splice
    onward.
    """
    x, latents, recons, changed_logits, changed = _run_spliced(model, sae, original, config)
    terms = _local_terms(x, latents, recons, config)
    if config.lambda_kl:
        terms["kl"] = original.predictions.kl_to(changed_logits)
    if config.downstream:
        errors = [
            mse_loss(changed[m].float(), original.activations[m].float()) for m in config.downstream
        ]
        terms["downstream"] = torch.stack(errors).mean()
    return _weighted(terms, config)


def _run_spliced(
    model: nn.Module, sae: SAE, original: Original, config: EndToEndRun
) -> tuple[Tensor, Latents, Tensor, Tensor, dict[str, Tensor]]:
    """x, latents, recons, and the logits and downstream activations that recons lead to."""
    x = chosen_positions(original.activations[config.module], config.positions)
    latents, recons = apply_sae(sae, x)

    def replace(_: Tensor) -> Tensor:
        return recons

    edit = at_positions(replace, config.positions) if config.positions else replace
    with (
        _autocast(original.tokens, config),
        replaying(model, original.prefix),
        splice(model, {config.module: edit}),
        reading(model, config.downstream) as changed,
    ):
        logits = logits_of(model, original.tokens)
    return x, latents, recons, logits, changed


def _autocast(tokens: Tensor, config: EndToEndRun) -> torch.autocast:
    return torch.autocast(tokens.device.type, torch.bfloat16, enabled=config.autocast)


@checked
def local_loss(sae: SAE, x: Float[Tensor, "batch *positions d"], config: EndToEndRun) -> Terms:
    """`end_to_end_loss` of a config without other terms than these, from activations alone."""
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


@checked
def check_downstream(
    model: nn.Module,
    tokens: Annotated[Integer[Tensor, "n context"], FROM_ZERO],
    config: EndToEndRun,
) -> None:
    """Raise a ValueError if a module does not run, or a downstream one not after the splice."""
    with torch.no_grad(), reading(model, [config.module, *config.downstream]) as found:
        logits_of(model, tokens)
    order = list(found)
    check_ran(model, [config.module, *config.downstream], order, partial(logits_of, model, tokens))
    early = order[: order.index(config.module)]
    if early or config.module in config.downstream:
        early = early or [config.module]
        raise ValueError(
            f"the downstream modules {', '.join(early)} do not come after {config.module!r}, "
            "where the SAE is: what it changes does not reach them"
        )


@checked
@one_thread()
def train_end_to_end(
    configs: Annotated[Sequence[EndToEndRun], NOT_EMPTY],
    model: nn.Module,
    blocks: Annotated[Integer[Tensor, "n context"], FROM_ZERO],
    validation: Annotated[Integer[Tensor, "m context"], FROM_ZERO],
    activations: Float[Tensor, "n *positions d"] | None = None,
    starts: Sequence[SAE | None] = (),
    checkpoint: Path | str | None = None,
    progress: bool = True,
    log: Callable[[dict], object] | None = None,
) -> tuple[list[SAE], list[pd.DataFrame]]:
    """Train SAEs of a language model, which is frozen and put into evaluation mode.

    They are trained side by side, on the same batches, so that the model's own run serves all;
    one SAE's gradient is computed at a time, so that memory is that of one.

    Args:
        configs: one for each SAE, of one module. They may differ in the SAE and in its loss,
            but local training, which never runs the model, goes with local training alone.
        blocks, validation: tokens to train on and held-out ones.
        activations: `activations_of` the blocks, for local training; read from the model if
            they are not given.
        starts: the SAEs that training goes on from, `config.start`, or None; for each config.
        log: called with every row of the history (`wandb.log`, say).

    Returns:
        The SAEs and their histories: the loss and its terms over an epoch, then, on 8 held-out
        contexts, ce_increase, kl, explained_variance, l0 and alive_latents.

    Raises:
        ValueError: the text, a module, an SAE's width or the configs' model do not fit.
    """
    first = configs[0]
    if len({config.shared_settings for config in configs}) > 1:
        raise ValueError("SAEs trained side by side may differ in the SAE and its loss only")
    model.eval().requires_grad_(False)
    check_model(first, model)
    check_text(model, blocks)
    for config in configs:
        check_downstream(model, blocks[:1], config)
    if activations is None:
        n_read = first.epochs * first.blocks_per_epoch if first.local else STANDARDISATION_BLOCKS
        activations = activations_of(first, model, blocks[:n_read])
    saes = _begin(configs, starts or [None] * len(configs), activations).to(blocks.device)
    activations = activations.to(blocks.device)
    n_blocks = min(first.blocks_per_epoch, len(blocks))
    offset = 0

    def begin_epoch(epoch: int) -> None:
        nonlocal offset
        offset = epoch * n_blocks

    def step(index: Tensor, uniform: Tensor) -> Terms:
        rows = (offset + index[0]) % len(blocks)
        original = None if first.local else run_original(model, blocks[rows], configs)
        found = []
        for sae, config in zip(saes, configs, strict=True):
            if original is None:
                terms = local_loss(sae, activations[rows], config)
            else:
                terms = end_to_end_loss(model, sae, original, config)
            found.append(terms | {"loss": differentiated(terms["loss"], sae)})
        return _stacked(found)

    def evaluate(epoch: int) -> Terms:
        original = run_original(model, validation[:EVALUATION_BLOCKS], configs)
        pairs = zip(saes, configs, strict=True)
        return _stacked([_evaluation(model, sae, original, config) for sae, config in pairs])

    unit = [sae for sae in saes if sae.config.unit_decoder]
    history = fit(
        saes,
        step,
        n_blocks,
        [first.seed],
        Settings.of(first),
        before_update=lambda: [sae.project_gradient() for sae in unit],
        after_update=lambda: [sae.constrain() for sae in saes],
        begin_epoch=begin_epoch,
        evaluate=evaluate,
        checkpoint=checkpoint,
        of=" ".join(map(runs.config_hash, configs)) if checkpoint is not None else "",
        description=", ".join(dict.fromkeys(config.name for config in configs)),
        progress=progress,
        log=log,
    )
    histories = [
        rows.drop(columns="instance").dropna(axis=1, how="all").reset_index(drop=True)
        for _, rows in history.groupby("instance")
    ]
    return [sae.eval().requires_grad_(False) for sae in saes], histories


def _begin(
    configs: Annotated[Sequence[EndToEndRun], NOT_EMPTY],
    starts: Sequence[SAE | None],
    activations: Tensor,
) -> nn.ModuleList:
    """The SAEs as they are before training."""
    width = activations.shape[-1]
    saes = nn.ModuleList()
    for config, start in zip(configs, starts, strict=True):
        if config.sae.d != width:
            raise ValueError(
                f"sae.d is {config.sae.d}, the activations of {config.module!r} are {width} wide"
            )
        sae = start or make_sae(config.sae, config.seed)
        if start is None:
            sae.set_standardisation(*standardisation(activations[:STANDARDISATION_BLOCKS]))
        sae.align()
        saes.append(sae)
    return saes.train().requires_grad_(True)


@torch.no_grad()
def _evaluation(model: nn.Module, sae: SAE, original: Original, config: EndToEndRun) -> Terms:
    sae.eval()
    x, latents, recons, logits, _ = _run_spliced(model, sae, original, config)
    sae.train()
    counts = firing_counts(latents)
    x, recons = x.flatten(0, -2).float(), recons.flatten(0, -2).float()
    loss = next_token_loss(logits, original.tokens)
    return {
        "ce_increase": loss - original.predictions.loss(original.tokens),
        "kl": original.predictions.kl_to(logits),
        "explained_variance": torch.tensor(explained_variance(x, recons)),
        "l0": counts.sum() / len(x),
        "alive_latents": (counts > 0).sum(),
    }


def _stacked(found: list[Terms]) -> Terms:
    """Terms of every SAE, (inst) each; NaN where an SAE has no such term."""
    names = dict.fromkeys(name for terms in found for name in terms)
    nothing = next(iter(found[0].values())).new_tensor(torch.nan)
    return {name: torch.stack([terms.get(name, nothing) for terms in found]) for name in names}
