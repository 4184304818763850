"""Which head wrote a latent of an attention-output SAE, what it read, and what it does next.

The activations are z (batch, t, heads * d_head), the outputs of a layer's attention heads
before the output projection, z_h[t] = sum over s of A_h[t, s] v_h[s]. Latent i reads them by
its encoder's column w_i, so that w_i . z[t] falls apart into parts by head, by source position
and by what stood in the residual stream there (Kissane et al., arXiv 2406.17759). Every
decomposition here is exact: its parts sum to what was decomposed.

Models are Hugging Face GPT-2s, or have modules of the same names. Used by notebook 10 and the
dashboards of attention heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor, nn

from saehelpers.evaluation.metrics import fvu
from saehelpers.networks.activations import splice
from saehelpers.networks.modules import evaluation_mode
from saehelpers.runs.checking import checked
from saehelpers.runs.precision import full_precision
from saehelpers.runs.wanted import EMPTY, FROM_ZERO, Count, Positive
from saehelpers.saes import SAE, BlockDiagonalSAE

EAGER = 'load it with attn_implementation="eager", or call model.set_attn_implementation("eager")'


@checked
@dataclass(frozen=True)
class Attention:
    """What one attention layer did on some tokens.

    patterns: A, how much position t takes from position s; values: v; outputs: z; residual:
    the residual stream that the layer's norm read.
    """

    patterns: Float[Tensor, "batch heads t s"]
    values: Float[Tensor, "batch s heads d_head"]
    outputs: Float[Tensor, "batch t d"]
    residual: Float[Tensor, "batch s d_model"]

    @property
    def n_heads(self) -> int:
        return self.patterns.shape[1]


@checked
@torch.no_grad()
def read_attention(
    model: nn.Module, tokens: Annotated[Integer[Tensor, "batch t"], FROM_ZERO], layer: Count
) -> Attention:
    """What the attention of one layer does on these tokens, all in one batch.

    Raises:
        ValueError: the model is no GPT-2, or does not return its attention weights.
    """
    block = _block(model, layer)
    name = f"transformer.h.{layer}"
    read: dict[str, Tensor] = {}

    def keep(key: str):
        return lambda x: read.setdefault(key, x)

    def keep_patterns(module, inputs, output):
        read["patterns"] = output[1]

    handle = block.attn.register_forward_hook(keep_patterns)
    edits = {
        f"{name}.ln_1.input": keep("residual"),
        f"{name}.attn.c_attn": keep("qkv"),
        f"{name}.attn.c_proj.input": keep("outputs"),
    }
    try:
        with evaluation_mode(model), splice(model, edits):
            model.transformer(tokens.long().to(next(model.parameters()).device))
    finally:
        handle.remove()
    if read["patterns"] is None:
        raise ValueError(f"the model does not return its attention weights: {EAGER}")
    read = {name: full_precision(x) for name, x in read.items()}
    n_heads = read["patterns"].shape[1]
    values = read["qkv"].chunk(3, dim=-1)[2].unflatten(-1, (n_heads, -1))
    return Attention(read["patterns"], values, read["outputs"], read["residual"])


@checked
@torch.no_grad()
def encoder_directions(
    sae: SAE, latents: Sequence[int], n_heads: Positive
) -> Float[Tensor, "latents heads d_head"]:
    """What latents multiply the outputs of each head with: w, in the activations' own units.

    Raises:
        ValueError: the encoder is not linear; n_heads does not divide the SAE's width or is
            not that of a block-diagonal SAE.
        IndexError: there is no such latent.
    """
    if sae.config.encoder != "linear":
        raise ValueError("what a latent reads is a direction only if the encoder is linear")
    chosen = _checked(sae, latents, n_heads)
    if not isinstance(sae, BlockDiagonalSAE):
        rows = sae.encoder_weights[0][:, chosen].T / sae.scale
        return rows.unflatten(-1, (n_heads, -1))
    per_head = sae.config.n_latents // n_heads
    own = chosen // per_head
    columns = sae.heads.encoder_weights[0][own, :, chosen % per_head]
    rows = torch.zeros(len(chosen), n_heads, columns.shape[-1], device=columns.device)
    rows[torch.arange(len(chosen)), own] = columns / sae.heads.scale[own, None]
    return rows


@checked
@torch.no_grad()
def decoder_directions(
    sae: SAE, latents: Sequence[int], n_heads: Positive
) -> Float[Tensor, "latents heads d_head"]:
    """What one unit of each latent adds to the outputs of each head, in their own units.

    Raises: see `encoder_directions`.
    """
    chosen = _checked(sae, latents, n_heads)
    if isinstance(sae, BlockDiagonalSAE):
        per_head = sae.config.n_latents // n_heads
        own = chosen // per_head
        written = sae.heads.dictionary[own, chosen % per_head]
        rows = torch.zeros(len(chosen), n_heads, written.shape[-1], device=written.device)
        rows[torch.arange(len(chosen)), own] = written * sae.heads.scale[own, None]
        return rows
    return (sae.dictionary[chosen] * sae.scale).unflatten(-1, (n_heads, -1))


@checked
@torch.no_grad()
def head_attribution(sae: SAE, n_heads: Positive) -> Float[Tensor, "n_latents heads"]:
    """||W_dec[i, h]|| / sum over h' ||W_dec[i, h']||: the share of each head in each latent."""
    norms = decoder_directions(sae, range(sae.config.n_latents), n_heads).norm(dim=-1)
    return norms / norms.sum(-1, keepdim=True).clamp(min=1e-12)


@checked
@torch.no_grad()
def attribution_by_source(
    patterns: Float[Tensor, "batch heads t s"],
    values: Float[Tensor, "batch s heads d_head"],
    directions: Float[Tensor, "latents heads d_head"],
) -> Float[Tensor, "batch latents t s"]:
    """Direct feature attribution: sum over h of A_h[t, s] (w[i, h] . v_h[s]).

    Its sum over s is w_i . z[t]. Values are projected before positions meet, so that nothing
    of size batch x t x s x d_model is ever made.
    """
    projected = torch.einsum("bshe, ihe -> bshi", values, directions)
    n_batch, _, n_t, n_s = patterns.shape
    attributed = patterns.new_empty(n_batch, n_s, n_t, len(directions))
    for pattern, reads, out in zip(patterns, projected, attributed, strict=True):
        taken = pattern.permute(2, 1, 0).contiguous()  # of many small strided ones, bmm is slow
        torch.bmm(taken, reads, out=out)  # (s, t, heads) (s, heads, latents)
    return attributed.permute(0, 3, 2, 1)


@checked
@torch.no_grad()
def source_shares(
    attention: Attention,
    directions: Float[Tensor, "latents heads d_head"],
    active: Bool[Tensor, "batch latents chosen"],
    positions: Annotated[Int[Tensor, " chosen"], FROM_ZERO],
    sources: Annotated[Int[Tensor, "kinds chosen"], FROM_ZERO],
) -> Float[Tensor, "latents kinds"]:
    """Share of each latent's positive attribution that comes from sources of each kind.

    Over those of the chosen positions where it is active: sum of the positive attributions of
    the source of that kind, divided by the sum of all. A kind names one source for each
    position. 0 for a latent that is never active.
    """
    shares = []
    for some, where in zip(directions.split(64), active.split(64, dim=1), strict=True):
        parts = attribution_by_source(attention.patterns, attention.values, some)
        parts = parts[:, :, positions].clamp(min=0) * where[..., None]  # (batch, latents, t, s)
        own = torch.arange(len(positions))
        by_kind = parts[:, :, own, sources].sum((0, 3))  # (latents, kinds)
        shares.append(by_kind / parts.sum((0, 2, 3)).clamp(min=1e-12)[:, None])
    return torch.cat(shares)


@checked
@torch.no_grad()
def residual_readers(
    model: nn.Module,
    layer: Count,
    attention: Attention,
    direction: Float[Tensor, "heads d_head"],
    example: Count,
    t: Count,
) -> tuple[Float[Tensor, "s d_model"], Float[Tensor, " s"]]:
    """What a latent at position t of an example reads in the residual stream, source by source.

    With the layer norm's scale and the attention pattern frozen at what they were, w . z[t] is
    linear in the residual stream x:

        w . z[t] = sum over s of readers[s] . x[s] + constants[s]

    `direction`: w (heads, d_head), of `encoder_directions`. Readers of what another layer or
    SAE wrote into the stream are the same: take the product with what it wrote.
    """
    block = _block(model, layer)
    if direction.numel() != block.attn.c_proj.weight.shape[0]:
        raise ValueError(
            f"direction must be of all heads' outputs, {block.attn.c_proj.weight.shape[0]} numbers "
            f"(heads, d_head), got {tuple(direction.shape)}"
        )
    weights = (block.attn.c_attn.weight, block.attn.c_attn.bias, block.ln_1.weight, block.ln_1.bias)
    weight, bias, norm_weight, norm_bias = map(full_precision, weights)
    weight = weight.chunk(3, dim=1)[2].unflatten(1, direction.shape)
    bias = bias.chunk(3)[2].unflatten(0, direction.shape)
    taken = attention.patterns[example, :, t]  # (heads, s)
    read = torch.einsum("hs, mhe, he -> sm", taken, weight, direction)
    constants = read @ norm_bias + torch.einsum("hs, he, he -> s", taken, bias, direction)
    stream = attention.residual[example]
    deviation = (stream.var(-1, correction=0, keepdim=True) + block.ln_1.eps).sqrt()
    read = read * norm_weight
    return (read - read.mean(-1, keepdim=True)) / deviation, constants


@checked
@dataclass(frozen=True)
class UpstreamAttribution:
    """The parts of what was read, which sum to it: see `upstream_attribution`."""

    latents: Float[Tensor, "s n_latents"]
    bias: Float[Tensor, " s"]
    error: Float[Tensor, " s"]

    @property
    def total(self) -> Float[Tensor, " s"]:
        return self.latents.sum(-1) + self.bias + self.error


@checked
@torch.no_grad()
def upstream_attribution(
    readers: Float[Tensor, "s d"], activations: Float[Tensor, "s d"], upstream: SAE
) -> UpstreamAttribution:
    """readers[s] . x[s], by the latents of an SAE of x, its bias, and the error that it leaves.

    For the residual stream: `readers` of `residual_readers`. For what an earlier attention
    layer wrote there, `readers @ output_projection(model, earlier).T` and its outputs z: the
    latents found are then traced further with the same functions, position s in the place of t.
    """
    latents = upstream.encode(activations)
    blocks, biases = upstream.decoder_blocks()
    error = activations - upstream.decode(latents)
    return UpstreamAttribution(
        latents * (readers @ blocks[0].T), readers @ biases[0], (readers * error).sum(-1)
    )


@checked
@torch.no_grad()
def output_projection(model: nn.Module, layer: Count) -> Float[Tensor, "d d_model"]:
    """W_O: what takes the heads' outputs into the residual stream."""
    return full_precision(_block(model, layer).attn.c_proj.weight)


@checked
@torch.no_grad()
def written_directions(
    model: nn.Module, layer: Count, sae: SAE, latents: Sequence[int]
) -> Float[Tensor, "latents d_model"]:
    """What one unit of each latent adds to the residual stream, through W_O."""
    n_heads = _block(model, layer).attn.num_heads
    directions = decoder_directions(sae, latents, n_heads)
    return directions.flatten(1) @ output_projection(model, layer)


@checked
@torch.no_grad()
def logit_effects(
    model: nn.Module, written: Annotated[Float[Tensor, "latents d_model"], EMPTY]
) -> Float[Tensor, "latents vocabulary"]:
    """The direct effect of directions in the residual stream on the logits.

    Through the last layer norm without its scale, so that effects of one latent compare with
    each other; each is relative to the mean over the vocabulary.
    """
    norm, head = (full_precision(m.weight) for m in (model.transformer.ln_f, model.lm_head))
    centred = (written - written.mean(-1, keepdim=True)) * norm
    logits = centred @ head.T
    return logits - logits.mean(-1, keepdim=True)


@checked
@torch.no_grad()
def check_trained_here(sae: SAE, outputs: Float[Tensor, "batch t d"]) -> None:
    """Refuse an SAE that does not explain these activations.

    Raises:
        ValueError: it has another width, or leaves as much variance unexplained as their mean.
    """
    if sae.config.d != outputs.shape[-1]:
        raise ValueError(
            f"the SAE reads activations of width {sae.config.d}, these are "
            f"{tuple(outputs.shape)}: it was trained on those of another model"
        )
    flat = outputs.flatten(0, -2)
    unexplained = fvu(flat, sae(flat))
    if unexplained >= 1:
        raise ValueError(
            f"the SAE leaves {unexplained:.2f} of these activations' variance unexplained, no less "
            "than their mean would: it was trained on those of another layer or model, or hardly"
        )


def _checked(sae: SAE, latents: Sequence[int], n_heads: int) -> Int[Tensor, " latents"]:
    if n_heads < 1 or sae.config.d % n_heads:
        raise ValueError(
            f"{n_heads} heads do not divide the SAE's width {sae.config.d}: n_heads must "
            "be one that does"
        )
    if isinstance(sae, BlockDiagonalSAE) and sae.config.n_heads != n_heads:
        raise ValueError(f"the SAE has {sae.config.n_heads} heads, the model {n_heads}")
    chosen = torch.as_tensor(list(latents), dtype=torch.long)
    outside = chosen[(chosen < 0) | (chosen >= sae.config.n_latents)]
    if len(outside):
        raise IndexError(f"latent {outside[0]} of an SAE with {sae.config.n_latents} latents")
    return chosen


def _block(model: nn.Module, layer: int) -> nn.Module:
    blocks = getattr(getattr(model, "transformer", None), "h", None)
    if blocks is None:
        raise ValueError(
            f"attributions are of GPT-2 models, {type(model).__name__} is none: pass such a model"
        )
    if not 0 <= layer < len(blocks):
        raise ValueError(f"layer must be one of the model's, 0 to {len(blocks) - 1}, got {layer}")
    return blocks[layer]
