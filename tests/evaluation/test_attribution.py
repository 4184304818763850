"""Attributions sum to what they take apart, and find what a hand-built layer was built to do."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from saehelpers.evaluation import attribution
from saehelpers.networks import make_gpt2
from saehelpers.saes import SAE, SAEConfig, make_sae

HEADS, WIDTH, VOCABULARY, CONTEXT = 2, 8, 20, 12
SAES = {
    "dense": SAEConfig(WIDTH, 12, "relu", encoder="linear"),
    "pre_encoder_bias": SAEConfig(WIDTH, 12, "topk", 3, encoder="linear", pre_encoder_bias=True),
    "block-diagonal": SAEConfig(
        WIDTH, 12, "relu", encoder="linear", dictionary="block_diagonal", n_heads=HEADS
    ),
}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """Two layers, nothing at its initial value."""
    model = make_gpt2(VOCABULARY, CONTEXT, WIDTH, 2, HEADS).eval().requires_grad_(False)
    for i, parameter in enumerate(model.parameters()):
        generator = torch.Generator().manual_seed(i)
        parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    model.set_attn_implementation("eager")
    return model


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(VOCABULARY, (3, CONTEXT), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def attention(model, tokens) -> attribution.Attention:
    return attribution.read_attention(model, tokens, 1)


def made(config: SAEConfig, seed: int = 0) -> SAE:
    sae = make_sae(config, seed).eval().requires_grad_(False)
    for i, parameter in enumerate(sae.parameters()):
        parameter += 0.1 * torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(i + seed)
        )
    scale = torch.tensor([0.5, 2.0]).repeat_interleave(WIDTH // HEADS)
    blocks = config.dictionary == "block_diagonal"
    mean = torch.linspace(-1, 1, config.d)
    sae.set_standardisation(mean, scale if blocks else torch.tensor(0.7))
    return sae


@pytest.fixture(scope="module", params=SAES)
def sae(request) -> SAE:
    return made(SAES[request.param])


def linear_part(sae: SAE, z: torch.Tensor) -> torch.Tensor:
    """Pre-activations minus what they are at z = 0, without a look at the encoder's weights."""
    config = dataclasses.replace(sae.config, activation="relu")
    same = make_sae(config)
    same.load_state_dict(sae.state_dict())
    (same.heads if config.dictionary == "block_diagonal" else same).activation = nn.Identity()
    return same.encode(z) - same.encode(torch.zeros_like(z))


def test_outputs_are_patterns_times_values(attention):
    z = torch.einsum("bhts, bshe -> bthe", attention.patterns, attention.values)
    assert_close(z.flatten(-2), attention.outputs)
    assert attention.n_heads == HEADS


def test_parts_by_source_sum_to_the_pre_activation(sae, attention):
    latents = [0, 5, 11, 5]
    w = attribution.encoder_directions(sae, latents, HEADS)
    expected = linear_part(sae, attention.outputs.flatten(0, 1))[:, latents]
    expected = expected.unflatten(0, attention.outputs.shape[:2]).transpose(1, 2)  # (b, i, t)
    by_source = attribution.attribution_by_source(attention.patterns, attention.values, w)
    assert_close(by_source.sum(-1), expected, atol=1e-4, rtol=1e-4)
    assert by_source.triu(1).abs().max() == 0  # nothing comes from later positions


def test_attribution_by_source_agrees_with_its_definition(attention):
    w = torch.randn(5, HEADS, WIDTH // HEADS, generator=torch.Generator().manual_seed(1))
    moved = torch.einsum("bhts, bshe -> btshe", attention.patterns, attention.values)
    expected = torch.einsum("btshe, ihe -> bits", moved, w)
    found = attribution.attribution_by_source(attention.patterns, attention.values, w)
    assert_close(found, expected)


def test_head_attribution_sums_to_one_and_is_one_hot_for_blocks(sae):
    shares = attribution.head_attribution(sae, HEADS)
    assert_close(shares.sum(-1), torch.ones(12))
    norms = sae.decoder_blocks()[0][0].unflatten(-1, (HEADS, -1)).norm(dim=-1)
    assert_close(shares, norms / norms.sum(-1, keepdim=True))
    if sae.config.dictionary == "block_diagonal":
        assert_close(shares, torch.eye(HEADS).repeat_interleave(6, 0))


def test_residual_stream_and_upstream_latents_sum_to_the_attribution(sae, model, attention):
    w = attribution.encoder_directions(sae, [4], HEADS)[0]
    by_source = attribution.attribution_by_source(attention.patterns, attention.values, w[None])
    example, t = 2, 9
    readers, constants = attribution.residual_readers(model, 1, attention, w, example, t)
    stream = attention.residual[example]
    assert_close((readers * stream).sum(-1) + constants, by_source[example, 0, t])
    upstream = made(SAES["dense"], seed=3)
    parts = attribution.upstream_attribution(readers, stream, upstream)
    assert_close(parts.total + constants, by_source[example, 0, t], atol=1e-5, rtol=1e-5)
    assert parts.latents.shape == (CONTEXT, 12)
    error = stream - upstream(stream)
    assert_close(parts.error, (readers * error).sum(-1))


def test_a_model_in_half_precision_is_taken_apart_in_full(sae, model, tokens):
    """Its weights and activations are rounded; sums of what is read from them are not."""
    half = copy.deepcopy(model).bfloat16()
    attention = attribution.read_attention(half, tokens, 1)
    assert {getattr(attention, field.name).dtype for field in dataclasses.fields(attention)} == {
        torch.float32
    }
    w = attribution.encoder_directions(sae, [4], HEADS)[0]
    by_source = attribution.attribution_by_source(attention.patterns, attention.values, w[None])
    readers, constants = attribution.residual_readers(half, 1, attention, w, 2, 9)
    parts = (readers * attention.residual[2]).sum(-1) + constants
    assert_close(parts, by_source[2, 0, 9], atol=0.05, rtol=0.05)
    found = attribution.written_directions(half, 1, sae, [4])
    assert_close(found, attribution.written_directions(half.float(), 1, sae, [4]))
    effects = attribution.logit_effects(half.bfloat16(), found)
    assert_close(effects, attribution.logit_effects(half.float(), found))


def test_recursion_into_an_earlier_layers_heads(model, tokens, attention):
    """What layer 1 reads of layer 0 is what its latents, bias and error wrote; and on."""
    first, last = attribution.read_attention(model, tokens, 0), attention
    sae = made(SAES["block-diagonal"])
    w = attribution.encoder_directions(sae, [7], HEADS)[0]
    readers, _ = attribution.residual_readers(model, 1, last, w, 0, 8)
    into_heads = readers @ attribution.output_projection(model, 0).T
    parts = attribution.upstream_attribution(into_heads, first.outputs[0], sae)
    bias = model.transformer.h[0].attn.c_proj.bias
    written = first.outputs[0] @ attribution.output_projection(model, 0)
    assert_close(parts.total, (readers * written).sum(-1), atol=1e-5, rtol=1e-5)
    # the stream between: the embeddings, attention and the MLP of layer 0
    middle = first.residual[0] + written + bias
    mlp = model.transformer.h[0].mlp(model.transformer.h[0].ln_2(middle))
    assert_close(middle + mlp, last.residual[0], atol=1e-5, rtol=1e-5)
    source, latent = divmod(int(parts.latents.abs().argmax()), 12)
    deeper = attribution.encoder_directions(sae, [latent], HEADS)
    further = attribution.attribution_by_source(first.patterns, first.values, deeper)
    expected = linear_part(sae, first.outputs[0])[source, latent]
    assert_close(further[0, 0, source].sum(), expected, atol=1e-4, rtol=1e-4)


def test_a_latent_moves_the_logits_as_predicted(sae, model, attention):
    """To first order, along the last norm's scale: by the change of the model's own logits."""
    written = attribution.written_directions(model, 1, sae, [2])
    stream = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.double)
    norm, head = nn.LayerNorm(WIDTH).double(), model.lm_head.weight.double()
    norm.weight.data, norm.bias.data = (
        parameter.double()
        for parameter in (model.transformer.ln_f.weight, model.transformer.ln_f.bias)
    )
    step = written.double() - (written.double() @ stream.T) * stream / stream.square().sum()
    step = step - step.mean()
    step = (
        step
        - (step @ (stream - stream.mean()).T)
        * (stream - stream.mean())
        / (stream - stream.mean()).square().sum()
    )  # leaves mean and variance alone: the scale is frozen indeed
    change = (norm(stream + 1e-6 * step) - norm(stream)) @ head.T / 1e-6 * stream.std(correction=0)
    expected = change - change.mean()
    found = attribution.logit_effects(model, step.float())
    assert_close(found.double(), expected, atol=1e-3, rtol=1e-3)


def test_written_directions_are_what_a_latent_adds_to_the_layers_output(sae, model):
    projection = model.transformer.h[1].attn.c_proj
    latents = torch.zeros(2, 12)
    latents[1, 3] = 1
    off, on = projection(sae.decode(latents))
    written = attribution.written_directions(model, 1, sae, [3])
    assert_close(written[0], on - off, atol=1e-5, rtol=1e-5)


def test_a_layer_built_by_hand_attributes_to_the_intended_source():
    """Head 1 looks three positions back and copies one coordinate; head 0 looks at itself."""
    t, back = torch.arange(CONTEXT), 3
    patterns = torch.zeros(1, HEADS, CONTEXT, CONTEXT)
    patterns[0, 0, t, t] = 1
    patterns[0, 1, t, (t - back).clamp(min=0)] = 1
    marked = 5
    values = torch.zeros(1, CONTEXT, HEADS, WIDTH // HEADS)
    values[0, marked, 1, 2] = 4.0  # what head 1 is to fetch
    values[0, :, 0, 1] = 1.0  # what the latent does not read
    sae = make_sae(SAEConfig(WIDTH, 1, "relu", encoder="linear"))
    sae.encoder_weights[0].data = nn.functional.one_hot(torch.tensor([6]), WIDTH).T.float()
    w = attribution.encoder_directions(sae, [0], HEADS)
    found = attribution.attribution_by_source(patterns, values, w)[0, 0]
    expected = torch.zeros(CONTEXT, CONTEXT)
    expected[marked + back, marked] = 4.0
    assert torch.equal(found, expected)


def test_shares_of_sources_agree_with_a_loop(attention):
    w = torch.randn(70, HEADS, WIDTH // HEADS, generator=torch.Generator().manual_seed(1))
    t = torch.arange(3, CONTEXT)
    active = torch.rand(3, 70, len(t), generator=torch.Generator().manual_seed(2)) < 0.3
    active[:, 4] = False
    sources = torch.stack([t, t - 2])
    found = attribution.source_shares(attention, w, active, t, sources)
    by_source = attribution.attribution_by_source(attention.patterns, attention.values, w)
    for latent in (0, 4, 69):
        kinds, total = [0.0, 0.0], 0.0
        for example, position in active[:, latent].nonzero().tolist():
            row = by_source[example, latent, t[position]].clamp(min=0)
            total += row.sum().item()
            for kind in (0, 1):
                kinds[kind] += row[sources[kind, position]].item()
        expected = [value / total if total else 0.0 for value in kinds]
        assert found[latent].tolist() == pytest.approx(expected, rel=1e-4)


def test_a_model_that_hides_its_attention_weights(tokens):
    model = make_gpt2(VOCABULARY, CONTEXT, WIDTH, 2, HEADS).eval()
    with pytest.raises(ValueError, match='attention weights: load it with attn_implementation="e'):
        attribution.read_attention(model, tokens, 0)
    assert not model.transformer.h[0].attn._forward_hooks
    model.set_attn_implementation("eager")
    assert attribution.read_attention(model, tokens, 0).patterns.shape[1] == HEADS


def test_an_sae_trained_elsewhere(attention, model, tokens):
    z = attention.outputs
    sae = made(SAES["dense"])
    with pytest.raises(ValueError, match="no less than their mean would: it was trained on"):
        attribution.check_trained_here(sae, z)
    exact = make_sae(SAEConfig(WIDTH, 2 * WIDTH, "relu", encoder="linear"))
    exact.decoder_weight.data = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)])
    exact.encoder_weights[0].data = exact.decoder_weight.data.T
    attribution.check_trained_here(exact, z)
    with pytest.raises(ValueError, match="reads activations of width 8, these are"):
        attribution.check_trained_here(sae, z[..., :6])


BAD = {
    "heads that do not divide": (SAES["dense"], [0], 3, ValueError, "3 heads do not divide"),
    "other heads": (SAES["block-diagonal"], [0], 4, ValueError, "SAE has 2 heads, the model 4"),
    "latent": (SAES["dense"], [0, 12], 2, IndexError, "latent 12 of an SAE with 12 latents"),
    "negative latent": (SAES["block-diagonal"], [-1], 2, IndexError, "latent -1"),
    "encoder": (SAEConfig(8, 12, encoder_hidden=4), [0], 2, ValueError, "encoder is linear"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_what_cannot_be_attributed(case):
    config, latents, heads, error, message = case
    with pytest.raises(error, match=message):
        attribution.encoder_directions(make_sae(config), latents, heads)


def test_models_and_layers_that_are_not_there(model):
    with pytest.raises(ValueError, match="of GPT-2 models, Linear is none"):
        attribution.output_projection(nn.Linear(2, 2), 0)
    with pytest.raises(ValueError, match="0 to 1, got 2"):
        attribution.output_projection(model, 2)
