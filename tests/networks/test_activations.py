import importlib.metadata

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from saehelpers.networks import make_gpt2
from saehelpers.networks.activations import (
    at_positions,
    orbit_activations,
    read_activations,
    reading,
    recording_prefix,
    replaying,
    splice,
)
from saehelpers.networks.scaling import standardisation
from saehelpers.symmetry import Group, image_action


class Pair(nn.Module):
    """Returns a tuple, as attention layers do."""

    def forward(self, x):
        return x + 1, "weights"


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
        self.pair = Pair()

    def forward(self, x):
        return self.pair(self.encoder(x))


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model().requires_grad_(False)


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(7, 4, 4, generator=torch.Generator().manual_seed(0))


def test_spliced_output_goes_on_through_the_model(model, inputs):
    before = model(inputs)[0]
    with splice(model, {"encoder": lambda x: 2 * x}):
        assert_close(model(inputs)[0], 2 * (before - 1) + 1)
    assert torch.equal(model(inputs)[0], before)


def test_the_first_item_of_a_tuple_is_replaced(model, inputs):
    before = model(inputs)[0]
    with splice(model, {"pair": torch.zeros_like}):
        output = model(inputs)
        assert output[0].abs().max() == 0 and output[1] == "weights"
    assert torch.equal(model(inputs)[0], before)


def test_several_modules_at_once(model, inputs):
    seen = []
    with splice(model, {"encoder.1": torch.zeros_like, "pair": lambda x: (seen.append(x), x)[1]}):
        model(inputs)
    assert torch.equal(seen[0], torch.ones(7, 5))


def test_inputs_are_replaced_and_read(model, inputs):
    before, doubled = model(inputs)[0], model(2 * inputs)[0]
    with splice(model, {"encoder.1.input": lambda x: 2 * x}):
        assert_close(model(inputs)[0], doubled)
    assert torch.equal(model(inputs)[0], before)
    assert torch.equal(read_activations(model, inputs, "encoder.1.input"), inputs.flatten(1))
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("where", ["edit", "body"])
def test_the_model_is_restored_after_an_error(where, model, inputs):
    before = model(inputs)[0]

    def edit(x):
        if where == "edit":
            raise ArithmeticError
        return 2 * x

    with pytest.raises(ArithmeticError), splice(model, {"encoder": edit, "pair": edit}):
        model(inputs)
        raise ArithmeticError
    assert torch.equal(model(inputs)[0], before)
    assert not any(module._forward_hooks for module in model.modules())


def test_unknown_module_leaves_the_model_alone(model):
    names = r"no module 'decoder'; nearest are encoder, encoder\.1, encoder\.0, pair"
    with pytest.raises(ValueError, match=names), splice(model, {"encoder": abs, "decoder": abs}):
        pass
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("batch_size", [3, 1024])
def test_activations_are_read_in_order(batch_size, model, inputs):
    assert_close(read_activations(model, inputs, "encoder", batch_size), model.encoder(inputs))
    assert_close(read_activations(model, inputs, "pair", batch_size), model.encoder(inputs) + 1)


def test_reading_needs_no_gradient(model, inputs):
    model.requires_grad_(True)
    assert not read_activations(model, inputs, "encoder").requires_grad


@pytest.mark.parametrize("name", ["C4", "D4"])
def test_orbit_activations_are_those_of_each_transformed_image(name, model, inputs):
    group = Group.named(name)
    orbits = orbit_activations(model, inputs, group)
    assert orbits.shape == (7, group.order, 5)
    for i in range(7):
        for g in range(group.order):
            expected = model.encoder(image_action(group)(inputs[i : i + 1], g))[0]
            assert_close(orbits[i, g], expected)
    plus_one = orbit_activations(model, inputs, group, "pair")
    assert_close(plus_one, orbits + 1)


def test_orbits_of_any_group_by_a_function(model, inputs):
    """C2 x C2 rolls rows, columns, or both, halfway round."""
    group = Group.product(Group.named("C2"), Group.named("C2"))

    def roll(x, element):
        return x.roll((2 * (element % 2), 2 * (element // 2)), (-1, -2))

    orbits = orbit_activations(model, inputs, group, act=roll)
    for g, shifts in enumerate([(0, 0), (2, 0), (0, 2), (2, 2)]):
        assert_close(orbits[:, g], model.encoder(inputs.roll(shifts, (-1, -2))))
    with pytest.raises(ValueError, match=r"how C2xC2 acts on inputs must be given, as a function"):
        orbit_activations(model, inputs, group)
    with pytest.raises(ValueError, match="no action of C2xC2: to act by 1 and then by 1 must be"):
        orbit_activations(model, inputs, group, act=lambda x, g: x.roll(g, -1))


def test_standardised_activations_have_mean_zero_and_mean_squared_norm_d():
    x = 3 * torch.randn(50, 4, 6, generator=torch.Generator().manual_seed(0)) + torch.arange(6.0)
    mean, scale = standardisation(x)
    made = (x - mean) / scale
    assert_close(made.flatten(0, 1).mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    assert made.pow(2).sum(-1).mean().item() == pytest.approx(6, rel=1e-5)
    assert scale.shape == ()  # one factor for all: directions keep their angles


def test_constant_activations():
    with pytest.raises(ValueError, match=r"activations of shape \(5, 4, 3\) .*are all the same"):
        standardisation(torch.ones(5, 4, 3))


def test_reading_runs_the_model_no_further_than_needed():
    ran = []
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2))
    model[2].register_forward_hook(lambda module, *_: ran.append(module))
    x = torch.randn(7, 3)
    found = read_activations(model, x, "1", batch_size=4)
    assert_close(found, model[1](model[0](x)).detach())
    assert not ran
    assert model(x).shape == (7, 2)
    assert ran


# --- parts of a transformer ---

V, CONTEXT, D = 40, 8, 16
LAYER = "transformer.h.0"
MODULES = [
    LAYER, "transformer.h.1.mlp", "transformer.h.1.attn", "transformer.h.1.attn.c_proj.input"
]  # fmt: skip


@pytest.fixture(scope="module")
def gpt2() -> nn.Module:
    return make_gpt2(V, CONTEXT, D, n_layers=3, n_heads=2).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def blocks() -> torch.Tensor:
    return torch.randint(V, (12, CONTEXT), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("module", MODULES)
def test_from_the_splice_onward_the_model_does_what_it_did(module, gpt2, blocks):
    with recording_prefix(gpt2, [module]) as prefix:
        before = gpt2(blocks).logits
    ran = []
    handles = [gpt2.transformer.wte.register_forward_hook(lambda *_: ran.append("wte"))]
    with replaying(gpt2, prefix):
        assert torch.equal(gpt2(blocks).logits, before)
        with pytest.raises(StopIteration):  # one output for each call
            gpt2(blocks)
    assert ran == ["wte"]  # hooks run, what they hang on does not: the prefix is what it says
    assert "lm_head" not in prefix and not any(
        name.startswith("transformer.h.0.") for name in prefix
    )
    handles[0].remove()
    with replaying(gpt2, prefix), splice(gpt2, {module: lambda x: x + 1.0}):
        replayed = gpt2(blocks).logits
    with splice(gpt2, {module: lambda x: x + 1.0}):
        assert torch.equal(gpt2(blocks).logits, replayed)
    assert not torch.equal(before, replayed)


def test_the_prefix_ends_at_the_first_of_several_modules(gpt2, blocks):
    kept = []
    for modules in (["transformer.h.2", LAYER], [LAYER]):
        with recording_prefix(gpt2, modules) as prefix:
            gpt2(blocks)
        kept.append(list(prefix))
    assert kept[0] == kept[1]


@pytest.mark.parametrize("where", ["recording", "replaying"])
def test_the_model_is_whole_again_after_an_error(where, gpt2, blocks):
    before = gpt2(blocks).logits
    with pytest.raises(ArithmeticError), recording_prefix(gpt2, [LAYER]) as prefix:
        gpt2(blocks)
        if where == "recording":
            raise ArithmeticError
        with replaying(gpt2, prefix):
            raise ArithmeticError
    assert torch.equal(gpt2(blocks).logits, before)
    assert not any(module._forward_hooks for module in gpt2.modules())
    assert not any("forward" in vars(module) for module in gpt2.modules())


def test_only_some_positions_are_replaced(gpt2, blocks):
    x = read_activations(gpt2, blocks, LAYER)
    with (
        splice(gpt2, {LAYER: at_positions(torch.zeros_like, [2, 5])}),
        reading(gpt2, [LAYER]) as f,
    ):
        logits = gpt2(blocks).logits
    assert f[LAYER][:, [2, 5]].abs().max() == 0
    rest = [0, 1, 3, 4, 6, 7]
    assert torch.equal(f[LAYER][:, rest], x[:, rest])
    assert torch.equal(logits[:, :2], gpt2(blocks).logits[:, :2])  # what comes before sees nothing


def test_head_outputs_are_what_the_projection_reads(gpt2, blocks):
    attention = gpt2.transformer.h[1].attn
    heads = read_activations(gpt2, blocks, "transformer.h.1.attn.c_proj.input")
    assert_close(attention.c_proj(heads), read_activations(gpt2, blocks, "transformer.h.1.attn"))


@pytest.fixture
def lens_model(tmp_path) -> tuple[nn.Module, dict[str, str]]:
    """A TransformerLens model, and hook points by the modules whose outputs they see."""
    lens = pytest.importorskip("transformer_lens")
    if int(importlib.metadata.version("transformer_lens").split(".")[0]) < 4:
        config = lens.HookedTransformerConfig(
            n_layers=2, d_model=D, n_ctx=CONTEXT, d_head=8, n_heads=2, d_vocab=V, act_fn="gelu",
            seed=0, initializer_range=0.02,
        )  # fmt: skip
        return lens.HookedTransformer(config), {"blocks.0": "blocks.1.hook_resid_pre"}
    from transformer_lens.model_bridge import TransformerBridge

    gpt2 = make_gpt2(V, CONTEXT, D, 2, 2)
    gpt2.config.architectures = ["GPT2LMHeadModel"]
    gpt2.save_pretrained(tmp_path)
    model = TransformerBridge.boot_transformers(str(tmp_path), hf_model=gpt2)
    aliases = {"blocks.1": "blocks.1.hook_resid_post", "blocks.1.mlp": "blocks.1.hook_mlp_out"}
    return model, {"blocks.0": "blocks.0.hook_out"} | aliases


@pytest.mark.filterwarnings("ignore")  # what the library itself warns of
def test_transformer_lens_hook_points(lens_model, blocks):
    model, hooks = lens_model
    for module, hook in hooks.items():
        x = read_activations(model, blocks, module)
        assert torch.equal(read_activations(model, blocks, hook), x)
        with recording_prefix(model, [hook]) as prefix:
            before = model(blocks)
        with replaying(model, prefix), splice(model, {hook: lambda x: x + 1.0}):
            replayed = model(blocks)
        with splice(model, {hook: lambda x: x + 1.0}):
            assert torch.equal(model(blocks), replayed)
        assert not torch.equal(before, replayed)
