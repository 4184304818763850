"""What a language model does with SAEs spliced in, on text that they were not trained on."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import pandas as pd
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from saehelpers.evaluation import metrics
from saehelpers.evaluation.matching import cosine_matrix
from saehelpers.networks.activations import (
    at_positions,
    chosen_positions,
    reading,
    recording_prefix,
    replaying,
    splice,
)
from saehelpers.networks.modules import check_ran, in_evaluation_mode
from saehelpers.runs.checking import checked
from saehelpers.runs.precision import full_precision
from saehelpers.runs.wanted import FROM_ZERO, Positive
from saehelpers.saes import SAE
from saehelpers.saes.sparse import Latents


@checked
def logits_of(
    model: nn.Module, tokens: Annotated[Integer[Tensor, "n context"], FROM_ZERO]
) -> Float[Tensor, "n context v"]:
    """The logits of a Hugging Face model, or of one that returns nothing else.

    Tokens may be kept in any type of whole numbers, here and wherever they are taken.

    Raises:
        ValueError: it returns none: it is a language model without its head.
    """
    return output_tensor(model, model(tokens.long()))


def output_tensor(model: nn.Module, output: Any) -> Tensor:
    """The logits in what a network returns; the tensor, where that is all.

    Raises:
        ValueError: there are none.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple):  # of a model with return_dict=False
        return output[0]
    if "logits" not in output:
        raise ValueError(
            f"{type(model).__name__} returns {', '.join(output)}, no logits: load it with its head "
            "(AutoModelForCausalLM)"
        )
    return output["logits"]


@checked
def apply_sae(
    sae: nn.Module, x: Float[Tensor, "n *more d"]
) -> tuple[Latents, Float[Tensor, "n *more d"]]:
    """Latents (tokens, n_latents) and recons of activations, in full precision also in autocast.

    The recons have the activations' type, in which the model goes on.
    """
    with torch.autocast(x.device.type, enabled=False):
        encode = sae.latents if isinstance(sae, SAE) else sae.encode
        latents = encode(x.flatten(0, -2).float())
        return latents, sae.decode(latents).view_as(x).to(x.dtype)


@checked
def spliced(
    model: nn.Module, saes: Mapping[str, nn.Module], positions: Iterable[int] = ()
) -> AbstractContextManager[None]:
    """Within the context, each named module's output is replaced by its SAE's recons of it.

    Everywhere, or at the given positions of the context alone.
    """

    def edit_of(sae: nn.Module) -> Callable[[Tensor], Tensor]:
        def edit(x: Tensor) -> Tensor:
            return apply_sae(sae, x)[1]

        return at_positions(edit, positions) if positions else edit

    return splice(model, {module: edit_of(sae) for module, sae in saes.items()})


@checked
@dataclass(frozen=True)
class Predictions:
    """Next-token distributions p, and their entropy in nats, mean over tokens."""

    p: Float[Tensor, "n v"]
    entropy: Float[Tensor, ""]

    @classmethod
    @checked
    def of(cls, logits: Float[Tensor, "n *more v"]) -> "Predictions":
        p = logits.flatten(0, -2).float().softmax(-1)
        return cls(p, torch.special.entr(p).sum(-1).mean())

    @checked
    def loss(
        self, tokens: Annotated[Integer[Tensor, "n_contexts context"], FROM_ZERO]
    ) -> Float[Tensor, ""]:
        """Their mean cross-entropy in nats with the next tokens; the first is given."""
        p = self.p.view(*tokens.shape, -1)[:, :-1]
        return -p.gather(-1, tokens[:, 1:, None].long()).log().mean()

    @checked
    def kl_to(self, logits: Float[Tensor, "n *more v"]) -> Float[Tensor, ""]:
        """KL(p || q), q the distributions of these logits."""
        return _CrossEntropy.apply(logits.flatten(0, -2), self.p) - self.entropy


class _CrossEntropy(torch.autograd.Function):
    """-sum of p log q, mean over tokens, of logits z: mean of logsumexp(z) - p . z.

    The gradient (q - p) / n is at hand as soon as q is: half the time of the library's.
    """

    @staticmethod
    def forward(ctx, logits: Float[Tensor, "n v"], p: Float[Tensor, "n v"]) -> Float[Tensor, ""]:
        logits = logits.float()
        q = logits.softmax(-1)
        largest, index = logits.max(-1)
        normaliser = largest - q.gather(1, index[:, None])[:, 0].log()  # logsumexp
        expected = torch.dot(p.flatten(), logits.flatten()) / len(p)
        ctx.gradient = q.sub_(p).div_(len(p))
        return normaliser.mean() - expected

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, None]:
        return ctx.gradient * upstream, None


@checked
def kl_divergence(
    original: Float[Tensor, "n *more v"], changed: Float[Tensor, "..."]
) -> Float[Tensor, ""]:
    """KL(p || q) of the next-token distributions, p the original one: nats, mean over tokens.

    Raises:
        ValueError: the logits differ in shape.
    """
    if original.shape != changed.shape:
        raise ValueError(
            "original and changed logits must have one shape, they are "
            f"{tuple(original.shape)} and {tuple(changed.shape)}"
        )
    return Predictions.of(original).kl_to(changed)


@checked
def next_token_accuracy(
    logits: Float[Tensor, "n context v"], tokens: Annotated[Integer[Tensor, "..."], FROM_ZERO]
) -> Float[Tensor, ""]:
    """Share of the tokens that are the most probable ones given those before; not the first.

    Raises:
        ValueError: tokens of another shape than the logits' (n, context).
    """
    metrics.check_tokens(logits, tokens)
    return (logits[:, :-1].argmax(-1) == tokens[:, 1:].long()).float().mean()


@checked
@torch.no_grad()
@in_evaluation_mode
def check_text(
    model: nn.Module, blocks: Annotated[Integer[Tensor, "n context"], FROM_ZERO]
) -> None:
    """Raise a ValueError if these tokens are not the model's.

    Some are beyond its vocabulary, or it predicts them worse than the uniform distribution
    would, by a tenth: then the tokeniser is another.
    """
    sample = blocks[:8]
    n_tokens = logits_of(model, torch.zeros_like(sample[:1, :1])).shape[-1]
    advice = "the tokeniser does not match the model"
    largest = int(blocks.long().max())
    if largest >= n_tokens:
        raise ValueError(
            f"blocks has token {largest}, but the model knows {n_tokens} tokens: {advice}"
        )
    loss = metrics.next_token_loss(logits_of(model, sample), sample).item()
    uniform = torch.tensor(n_tokens).log().item()
    if loss > 1.1 * uniform:
        raise ValueError(
            f"the model's loss on this text is {loss:.1f} nats a token, and {uniform:.1f} for "
            f"guessing: {advice}"
        )


@checked
@torch.no_grad()
@in_evaluation_mode
def evaluate_spliced(
    model: nn.Module,
    saes: Mapping[str, nn.Module],
    blocks: Annotated[Integer[Tensor, "n context"], FROM_ZERO],
    later: Iterable[str] = (),
    positions: tuple[int, ...] = (),
    batch_size: Positive = 16,
) -> pd.DataFrame:
    """Everything that is measured of SAEs spliced into a language model, all at once.

    Columns metric, module and value. Of the model (module ""), per token in nats: ce_original,
    ce_spliced, ce_zero (activations replaced by zeros), ce_increase, ce_recovered
    = (ce_zero - ce_spliced) / (ce_zero - ce_original) (NaN where zeros cost nothing, or less),
    kl = KL(original || spliced), accuracy_original and accuracy_spliced of the next token,
    top1_agreement of the two. Of each SAE: l0, alive_latents, norm_ratio and cosine of recons
    and activations, and nearest_cosine in its dictionary. Of each SAE and each module of
    `later`: explained_variance of the original activations by those with the SAEs in place.

    The model and the SAEs are measured in evaluation mode, and left as they were.

    Args:
        blocks: tokens that no SAE was trained on.
        positions: where SAEs are spliced in, and what their own metrics are measured at.
    """
    modules = [*saes, *later]
    sums: dict[str, float] = defaultdict(float)
    before: dict[str, list[Tensor]] = defaultdict(list)
    after: dict[str, list[Tensor]] = defaultdict(list)
    zeros = at_positions(torch.zeros_like, positions) if positions else torch.zeros_like

    def rows(x: Tensor) -> Float[Tensor, "tokens d"]:
        return chosen_positions(x, positions).flatten(0, -2).float()

    for tokens in blocks.split(batch_size):
        with recording_prefix(model, saes) as prefix, reading(model, modules) as activations:
            original = logits_of(model, tokens)
        check_ran(model, modules, activations, partial(logits_of, model, tokens))
        for name in modules:
            before[name].append(rows(activations[name]))
        with (
            replaying(model, prefix),
            spliced(model, saes, positions),
            reading(model, modules) as activations,
        ):
            changed = logits_of(model, tokens)
        for name in modules:
            after[name].append(rows(activations[name]))
        with replaying(model, prefix), splice(model, dict.fromkeys(saes, zeros)):
            ablated = logits_of(model, tokens)
        agreement = original[:, :-1].argmax(-1) == changed[:, :-1].argmax(-1)
        values = {
            "ce_original": metrics.next_token_loss(original, tokens),
            "ce_spliced": metrics.next_token_loss(changed, tokens),
            "ce_zero": metrics.next_token_loss(ablated, tokens),
            "kl": kl_divergence(original, changed),
            "accuracy_original": next_token_accuracy(original, tokens),
            "accuracy_spliced": next_token_accuracy(changed, tokens),
            "top1_agreement": agreement.float().mean(),
        }
        for name, value in values.items():
            sums[name] += value.item() * len(tokens) / len(blocks)
    sums["ce_increase"] = sums["ce_spliced"] - sums["ce_original"]
    lost = sums["ce_zero"] - sums["ce_original"]
    recovered = (sums["ce_zero"] - sums["ce_spliced"]) / lost if lost > 0 else float("nan")
    sums["ce_recovered"] = recovered
    found = [(metric, "", value) for metric, value in sums.items()]
    for name in modules:
        x, recons = torch.cat(before[name]), torch.cat(after[name])
        found.append(("explained_variance", name, metrics.explained_variance(x, recons)))
        if name in saes:
            own = _sae_metrics(saes[name], x, recons)
            found += [(metric, name, value) for metric, value in own.items()]
    return pd.DataFrame(found, columns=["metric", "module", "value"])


def _sae_metrics(sae: nn.Module, x: Tensor, recons: Tensor) -> dict[str, float]:
    latents = sae.encode(x)
    return {
        "l0": metrics.l0(latents),
        "alive_latents": latents.shape[-1] - metrics.dead_latents(latents),
        "norm_ratio": (recons.norm(dim=-1) / x.norm(dim=-1)).mean().item(),
        "cosine": nn.functional.cosine_similarity(recons, x, dim=-1).mean().item(),
        "nearest_cosine": nearest_cosine(sae.dictionary),
    }


@checked
def nearest_cosine(dictionary: Float[Tensor, "n d"]) -> float:
    """Mean over the rows of the largest cosine with another row: similarity within."""
    cosines = cosine_matrix(dictionary, dictionary).fill_diagonal_(-1)
    return cosines.amax(1).mean().item()


@checked
@torch.no_grad()
@in_evaluation_mode
def generate(
    model: nn.Module,
    tokens: Annotated[Integer[Tensor, "n start"], FROM_ZERO],
    n_new: Positive,
    context: Positive,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "n length"]:
    """Tokens, and `n_new` that the model appends: the most probable, or drawn if a generator.

    Within `spliced(model, saes)`, those of the model with SAEs. It sees the last `context`. Used by
    notebook 09.
    """
    tokens = tokens.long()
    for _ in range(n_new):
        logits = logits_of(model, tokens[:, -context:])[:, -1]
        probabilities = full_precision(logits).softmax(-1)
        if generator is None:
            new = probabilities.argmax(-1, keepdim=True)
        else:
            new = torch.multinomial(probabilities, 1, generator=generator)
        tokens = torch.cat([tokens, new], dim=1)
    return tokens
