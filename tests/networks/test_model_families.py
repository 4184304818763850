"""Models of many families, each made tiny from its own config, in full and in half precision.

They are read, spliced and measured; causal ones train an SAE end to end, and vision models go
through what notebooks 03 and 05 do. Nothing is downloaded.
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
import transformers as hf
from torch import nn
from torch.testing import assert_close

from saehelpers.evaluation import evaluate_spliced, fit_class_probe, logits_of, metrics, spliced
from saehelpers.experiments import load_or_train_saes, prepare_pixel_subject
from saehelpers.networks import (
    latent_maps,
    mean_latents,
    orbit_pixels,
    read_activations,
    reading,
    recording_prefix,
    replaying,
    splice,
    to_feature_maps,
)
from saehelpers.runs.identities import identity
from saehelpers.saes import SAEConfig
from saehelpers.symmetry import Group
from saehelpers.training import EndToEndRun, SAERun, model_id, train_end_to_end

WIDTH, VOCABULARY, CONTEXT, SIDE = 16, 40, 8, 16
SIZES = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
BLOCK = SIZES | {"intermediate_size": 32}
SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
TEXT = {"vocab_size": VOCABULARY, "max_position_embeddings": 16} | SPECIAL
GROUPED = {"num_key_value_heads": 1, "head_dim": 8}
IMAGES = {"image_size": SIDE, "patch_size": 4}

TOKENS = torch.randint(VOCABULARY, (24, CONTEXT), generator=torch.Generator().manual_seed(0))
PICTURES = torch.rand(6, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Family:
    """A tiny model, a layer of it, and modules in its second block, which come later."""

    make: Callable[[], nn.Module]
    layer: str
    later: tuple[str, ...]


def like_llama(name: str, **settings) -> Family:
    config = getattr(hf, f"{name}TextConfig" if name == "Gemma3" else f"{name}Config")
    model = getattr(hf, f"{name}ForCausalLM")
    block = "model.layers.1"
    return Family(
        lambda: model(config(**BLOCK, **TEXT, **settings)),
        "model.layers.0",
        (block, f"{block}.self_attn", f"{block}.mlp", f"{block}.input_layernorm"),
    )


CAUSAL = {
    "GPT-2": Family(
        lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(
                vocab_size=VOCABULARY, n_positions=16, n_embd=WIDTH, n_layer=2, n_head=2, **SPECIAL
            )
        ),
        "transformer.h.0",
        ("transformer.h.1", "transformer.h.1.attn", "transformer.h.1.mlp"),
    ),
    "GPT-NeoX": Family(
        lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**BLOCK, **TEXT)),
        "gpt_neox.layers.0",
        ("gpt_neox.layers.1", "gpt_neox.layers.1.attention", "gpt_neox.layers.1.mlp"),
    ),
    "Llama": like_llama("Llama", **GROUPED),
    "Mistral": like_llama("Mistral", **GROUPED),
    "Gemma 2": like_llama("Gemma2", **GROUPED),
    "Gemma 3": like_llama("Gemma3", **GROUPED),
    "Qwen 2": like_llama("Qwen2", num_key_value_heads=1),
    "Qwen 3": like_llama("Qwen3", **GROUPED),
    "OPT": Family(
        lambda: hf.OPTForCausalLM(
            hf.OPTConfig(**SIZES, **TEXT, ffn_dim=32, word_embed_proj_dim=WIDTH)
        ),
        "model.decoder.layers.0",
        (
            "model.decoder.layers.1",
            "model.decoder.layers.1.self_attn",
            "model.decoder.layers.1.fc2",
            "model.decoder.layers.0.fc2",
        ),
    ),
    "Mixtral": like_llama("Mixtral", **GROUPED, num_local_experts=2),
    "Mamba": Family(
        lambda: hf.MambaForCausalLM(
            hf.MambaConfig(
                vocab_size=VOCABULARY,
                hidden_size=WIDTH,
                num_hidden_layers=2,
                state_size=4,
                **SPECIAL,
            )
        ),
        "backbone.layers.0",
        ("backbone.layers.1", "backbone.layers.1.mixer", "backbone.layers.1.norm"),
    ),
}
ENCODERS = {
    "BERT": Family(
        lambda: hf.BertModel(hf.BertConfig(**BLOCK, **TEXT)),
        "encoder.layer.0",
        ("encoder.layer.1", "encoder.layer.1.attention", "encoder.layer.1.output"),
    ),
    "T5": Family(
        lambda: hf.T5EncoderModel(
            hf.T5Config(
                vocab_size=VOCABULARY, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2
            )
        ),
        "encoder.block.0",
        ("encoder.block.1", "encoder.block.1.layer.0", "encoder.final_layer_norm"),
    ),
}
VISION = {
    "ViT": Family(
        lambda: hf.ViTModel(hf.ViTConfig(**BLOCK, **IMAGES)),
        "layers.0",
        ("layers.1", "layers.1.attention", "layers.1.mlp"),
    ),
    "DINOv2": Family(
        lambda: hf.Dinov2WithRegistersModel(
            hf.Dinov2WithRegistersConfig(**SIZES, **IMAGES, mlp_ratio=2, num_register_tokens=4)
        ),
        "encoder.layer.0",
        ("encoder.layer.1", "encoder.layer.1.attention", "encoder.layer.1.mlp"),
    ),
    "DINOv3": Family(
        lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**BLOCK, **IMAGES, num_register_tokens=4)),
        "model.layer.0",
        ("model.layer.1", "model.layer.1.attention", "model.layer.1.mlp"),
    ),
    "ConvNeXt": Family(
        lambda: hf.ConvNextModel(
            hf.ConvNextConfig(
                num_stages=2,
                hidden_sizes=[WIDTH, 32],
                depths=[1, 1],
                patch_size=4,
                layer_scale_init_value=1.0,
            )
        ),
        "encoder.stages.0",
        ("encoder.stages.1", "encoder.stages.1.layers.0.pwconv2"),
    ),
    "CLIP": Family(
        lambda: (
            hf.CLIPModel(
                hf.CLIPConfig(vision_config=BLOCK | IMAGES, text_config=BLOCK | TEXT)
            ).vision_model
        ),
        "encoder.layers.0",
        ("encoder.layers.1", "encoder.layers.1.self_attn", "encoder.layers.1.mlp"),
    ),
    "SigLIP": Family(
        lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**BLOCK, **IMAGES)),
        "encoder.layers.0",
        ("encoder.layers.1", "encoder.layers.1.self_attn", "encoder.layers.1.mlp"),
    ),
    "Swin": Family(
        lambda: hf.SwinModel(
            hf.SwinConfig(
                image_size=SIDE,
                patch_size=2,
                embed_dim=WIDTH,
                depths=[1, 1],
                num_heads=[2, 2],
                window_size=2,
            )
        ),
        "encoder.layers.0.blocks.0",
        ("encoder.layers.0", "encoder.layers.1.blocks.0.attention", "encoder.layers.1"),
    ),
    "ResNet": Family(
        lambda: hf.ResNetModel(
            hf.ResNetConfig(embedding_size=WIDTH, hidden_sizes=[WIDTH, 32], depths=[1, 1])
        ),
        "encoder.stages.0",
        ("encoder.stages.1",),
    ),
}
FAMILIES = CAUSAL | ENCODERS | VISION


@functools.cache
def made(name: str, dtype: torch.dtype) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FAMILIES[name].make().to(dtype).eval().requires_grad_(False)


def everything_returned(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    if inputs.is_floating_point():
        inputs = inputs.to(model.dtype)
    output = model(inputs)
    return output.logits if "logits" in output else output.last_hidden_state


class Identity(nn.Module):
    """An SAE that changes nothing, of whatever width."""

    dictionary = torch.eye(WIDTH)

    def encode(self, x):
        return torch.cat([x.relu(), (-x).relu()], -1)

    def decode(self, latents):
        positive, negative = latents.chunk(2, -1)
        return positive - negative


both_precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


@both_precisions
@pytest.mark.parametrize("name", FAMILIES)
def test_any_module_is_read_and_spliced(name, dtype):
    """What goes into modules and what comes out of them, replaced by itself, changes nothing."""
    family, model = FAMILIES[name], made(name, dtype)
    inputs = PICTURES if name in VISION else TOKENS[:6]
    before = everything_returned(model, inputs)
    places = [
        f"{module}{end}" for module in (family.layer, *family.later) for end in ("", ".input")
    ]
    seen = {}
    for place in places:
        found = read_activations(model, inputs, place, batch_size=4)
        assert (len(found), found.dtype) == (len(inputs), torch.float32)
        assert found.isfinite().all() and found.std() > 0
        seen[place] = found
        with splice(model, {place: lambda x: x.clone()}), reading(model, [place]) as kept:
            assert torch.equal(everything_returned(model, inputs), before)
        tolerance = 1e-5 if dtype == torch.float32 else 0.05  # of batches of other sizes
        expected = kept[place].float().view(found.shape)
        assert_close(found, expected, atol=tolerance, rtol=tolerance)
        with splice(model, {place: torch.zeros_like}):
            assert not torch.equal(everything_returned(model, inputs), before)
    if name not in VISION:
        assert seen[family.layer].shape == (6, CONTEXT, WIDTH)
        assert torch.equal(seen[family.layer], seen[f"{family.later[0]}.input"])


@both_precisions
@pytest.mark.parametrize("name", CAUSAL)
def test_language_models_are_measured(name, dtype):
    """Identities at several places at once lose nothing, to the bit."""
    family, model = FAMILIES[name], made(name, dtype)
    modules = [family.layer, f"{family.later[1]}.input", *family.later[1:]]
    before = logits_of(model, TOKENS)
    for module in modules:
        with recording_prefix(model, [module]) as prefix:
            assert torch.equal(logits_of(model, TOKENS), before)
        with replaying(model, prefix), spliced(model, {module: Identity()}):
            assert torch.equal(logits_of(model, TOKENS), before)
    saes = {module: Identity() for module in modules}
    table = evaluate_spliced(model, saes, TOKENS, family.later[:1], batch_size=16)
    values = table.set_index(["module", "metric"]).value
    assert values["", "ce_increase"] == 0
    assert values["", "top1_agreement"] == 1
    assert values["", "kl"] == pytest.approx(0, abs=1e-6)
    assert values.xs("explained_variance", level="metric").tolist() == [1] * (len(modules) + 1)
    assert values["", "ce_original"] == pytest.approx(
        metrics.next_token_loss(before, TOKENS).item(), rel=1e-5
    )


@both_precisions
@pytest.mark.parametrize("name", CAUSAL)
def test_language_models_train_an_sae_end_to_end(name, dtype):
    family, model = FAMILIES[name], made(name, dtype)
    sae = SAEConfig(WIDTH, 24, "topk", 4, encoder="linear", unit_decoder=True)
    config = EndToEndRun(
        "e2e", model_id("tiny", model), "random", family.layer, sae, lambda_downstream=1.0,
        downstream=family.later[:1], epochs=2, blocks_per_epoch=24, batch_size=8,
        learning_rate=1e-2, warmup_steps=1, autocast=False,
    )  # fmt: skip
    (trained,), (history,) = train_end_to_end([config], model, TOKENS, TOKENS[:8], progress=False)
    assert not history.isna().any(axis=None)
    assert history["downstream"].iloc[-1] < history["downstream"].iloc[0]
    assert {parameter.dtype for parameter in trained.parameters()} == {torch.float32}
    table = evaluate_spliced(model, {family.layer: trained}, TOKENS[:8])
    values = table.set_index(["module", "metric"]).value
    assert values["", "ce_increase"] == pytest.approx(history["ce_increase"].iloc[-1], abs=1e-5)
    assert values[family.layer, "l0"] == 4


@both_precisions
@pytest.mark.parametrize("name", VISION)
def test_vision_models_are_explained(name, dtype, tmp_path):
    """As notebooks 03 and 05 do it: pixels over the orbit, an action, an SAE, a probe."""
    family, model, group = FAMILIES[name], made(name, dtype), Group.named("C4")
    maps = to_feature_maps(read_activations(model, PICTURES, family.layer), model)
    assert maps.shape[1] == WIDTH and maps.shape[2] == maps.shape[3] > 1
    pixels = orbit_pixels(model, PICTURES, group, family.layer, tmp_path / "pixels.npy")
    assert pixels.shape == (len(PICTURES) * maps[0, 0].numel(), 4, WIDTH)
    assert_close(pixels[:, 0], maps.flatten(2).mT.flatten(0, 1))

    subject = prepare_pixel_subject(
        model, family.layer, group, PICTURES[:4], PICTURES[4:], tmp_path / "models", tmp_path, 4,
        method="refined", epochs=1,
    )  # fmt: skip
    assert subject.train.shape == (16, 4, WIDTH) and subject.test.shape == (8, 4, WIDTH)
    sae = SAEConfig(WIDTH, 24, topk=4, encoder_hidden=16)
    config = SAERun("canonical", identity(subject.train), sae, "canonical", epochs=2, batch_size=8)
    with ThreadPoolExecutor(1) as executor:
        (trained,) = load_or_train_saes(
            [config], subject.train, tmp_path / "models", executor=executor
        )
    report = metrics.symmetry_report(trained, subject.action, subject.test)
    assert all(torch.tensor(list(report.values())).isfinite())
    assert latent_maps(trained, maps).shape == (6, 24, *maps.shape[2:])
    latents = mean_latents(trained, maps)
    predict = fit_class_probe(latents, torch.arange(6) % 2, "logistic", 2)
    assert set(predict(latents)) <= {0, 1}
