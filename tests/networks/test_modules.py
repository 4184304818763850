"""Modules as people call them: by keyword, by alias, with dicts and tuples of what they return."""

import collections
import dataclasses
import types

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import CLIPConfig, CLIPModel, OPTConfig, OPTForCausalLM, ViTMAEConfig, ViTMAEModel
from transformers.modeling_outputs import BaseModelOutput

from saehelpers.evaluation import evaluate_spliced, language_metrics as lm
from saehelpers.evaluation.metrics import spliced_loss, symmetry_report
from saehelpers.networks import make_gpt2
from saehelpers.networks.activations import (
    at_positions,
    read_activations,
    reading,
    recording_prefix,
    replaying,
    splice,
)
from saehelpers.networks.modules import evaluation_mode
from saehelpers.saes import SAEConfig, make_sae
from saehelpers.training import EndToEndRun
from saehelpers.training.end_to_end import check_downstream

X = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(40, (6, 8), generator=torch.Generator().manual_seed(0))
Pair = collections.namedtuple("Pair", "none hidden")


class Wrapped(nn.Module):
    """A model around one module, which is called, and whose output is read, as the case says."""

    def __init__(self, inner, call=None, use=None):
        super().__init__()
        self.inner, self.last = inner, nn.Identity()
        self.call = call or (lambda inner, x: inner(x))
        self.use = use or (lambda output: output)

    def forward(self, x):
        return self.last(self.use(self.call(self.inner, x)))


class Masked(nn.Module):
    def forward(self, hidden_states, attention_mask=None, scale=1.0):
        return scale * hidden_states * attention_mask


def by_keyword(inner, x):
    return inner(scale=3.0, attention_mask=torch.tensor([1.0, 0, 1, 1]), hidden_states=x)


def test_inputs_by_keyword_are_read_and_replaced_in_the_order_of_forward():
    model = Wrapped(Masked(), by_keyword)
    assert torch.equal(read_activations(model, X, "inner.input"), X)
    with splice(model, {"inner.input": lambda x: x + 1}):
        assert torch.equal(model(X), by_keyword(Masked(), X + 1))
    assert torch.equal(model(X), by_keyword(Masked(), X))
    mixed = Wrapped(Masked(), lambda inner, x: inner(None, attention_mask=x))
    assert torch.equal(read_activations(mixed, X, "inner.input"), X)  # the first that is a tensor


def test_a_prefix_ends_at_an_input_by_keyword():
    model = Wrapped(nn.Sequential(nn.Linear(4, 4), Masked()), lambda inner, x: inner[0](x))
    model.call = lambda inner, x: inner[1](hidden_states=inner[0](x), attention_mask=torch.ones(4))
    with recording_prefix(model, ["inner.1.input"]) as prefix:
        before = model(X)
    assert list(prefix) == ["inner.0"]
    with replaying(model, prefix), splice(model, {"inner.1.input": torch.zeros_like}):
        assert not model(X).any() and before.any()


class Returns(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        return {
            "tuple": (x, "weights"),
            "tuple without a first": (None, x),
            "nested tuple": ((None, (x, 2 * x)), "cache"),
            "list": [x, 0],
            "dict": {"attention": None, "hidden": x},
            "dict of tuples": {"a": (), "b": (x,)},
            "named tuple": Pair(None, x),
            "ModelOutput": BaseModelOutput(last_hidden_state=x),
            "ModelOutput of tuples": BaseModelOutput(hidden_states=(x, 2 * x)),
        }[self.kind]


USES = {
    "tuple": lambda out: out[0],
    "tuple without a first": lambda out: out[1],
    "nested tuple": lambda out: out[0][1][0],
    "list": lambda out: out[0],
    "dict": lambda out: out["hidden"],
    "dict of tuples": lambda out: out["b"][0],
    "named tuple": lambda out: out.hidden,
    "ModelOutput": lambda out: out.last_hidden_state,
    "ModelOutput of tuples": lambda out: out.hidden_states[0],
}


@pytest.mark.parametrize("kind", USES)
def test_the_first_tensor_is_read_and_replaced_whatever_it_is_in(kind):
    model = Wrapped(Returns(kind), use=USES[kind])
    assert torch.equal(read_activations(model, X, "inner"), X)
    outputs = []
    model.inner.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with splice(model, {"inner": lambda x: x + 1}), reading(model, ["inner"]) as found:
        assert torch.equal(model(X), X + 1)
    assert torch.equal(found["inner"], X + 1)
    assert torch.equal(model(X), X)
    assert type(outputs[0]) is type(outputs[1])


def test_a_module_without_a_tensor():
    model = Wrapped(Returns("tuple"), use=lambda out: X)
    model.inner.forward = lambda x: (None, ["a"])
    with pytest.raises(ValueError, match=r"'inner' returns \(NoneType, \(str\)\): there is no t"):
        read_activations(model, X, "inner")
    model = Wrapped(Returns("tuple"), lambda inner, x: inner(x=None), lambda out: X)
    with pytest.raises(ValueError, match=r"'inner' is given \(NoneType\): there is no tensor"):
        read_activations(model, X, "inner.input")


# --- modules that do not run ---


def test_a_module_that_never_runs_is_named_with_those_that_do():
    model = nn.Sequential(nn.ModuleDict({"a": nn.Linear(4, 4)}), nn.Identity())
    model.forward = lambda x: model[1](model[0]["a"](x))
    with pytest.raises(ValueError, match=r"'0' does not run when Sequential .* do are (0\.a|1)"):
        read_activations(model, X, "0")
    with pytest.raises(ValueError, match=r"'0\.input' does not run"):
        read_activations(model, X, "0.input")


@pytest.fixture
def gpt2() -> nn.Module:
    return make_gpt2(40, 8, 16, n_layers=2, n_heads=2).eval().requires_grad_(False)


def test_saes_at_modules_that_never_run(gpt2):
    sae = make_sae(SAEConfig(16, 24, topk=4))
    error = r"'transformer\.h' does not run when GPT2LMHeadModel .* are .*transformer\.h\.\d"
    with pytest.raises(ValueError, match=error):
        evaluate_spliced(gpt2, {"transformer.h": sae}, TOKENS)
    with pytest.raises(ValueError, match=error):
        evaluate_spliced(gpt2, {"transformer.h.0": sae}, TOKENS, ["transformer.h"])
    config = EndToEndRun("e2e", "tiny/0", "text", "transformer.h", sae.config)
    with pytest.raises(ValueError, match=error):
        check_downstream(gpt2, TOKENS, config)
    later = dataclasses.replace(
        config, module="transformer.h.0", downstream=("transformer.h",), lambda_downstream=1.0
    )
    with pytest.raises(ValueError, match=error):
        check_downstream(gpt2, TOKENS, later)


def test_models_of_two_inputs_name_the_part_to_read():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16}
    config = CLIPConfig(
        vision_config=sizes | {"image_size": 8, "patch_size": 4},
        text_config=sizes | {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 1},
    )
    model, images = CLIPModel(config).eval(), torch.rand(2, 3, 8, 8)
    error = r"CLIPModel reads images and .* `vision_model` .* such as 'encoder\.layers\.0'"
    with pytest.raises(ValueError, match=error):
        read_activations(model, images, "vision_model.encoder.layers.0")
    found = read_activations(model.vision_model, images, "encoder.layers.0")
    assert found.shape == (2, 5, 16)
    assert read_activations(model.text_model, TOKENS, "encoder.layers.0").shape == (6, 8, 16)


# --- rows by input ---


def test_rows_of_all_contexts_one_after_another_are_taken_apart():
    """OPT's fc1 and fc2 return (n * context, d)."""
    config = OPTConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=24,
        word_embed_proj_dim=16, max_position_embeddings=16,
    )  # fmt: skip
    model, layer = OPTForCausalLM(config).eval(), "model.decoder.layers.0"
    inputs = read_activations(model, TOKENS, f"{layer}.fc1.input", batch_size=4)
    hidden = read_activations(model, TOKENS, f"{layer}.fc1", batch_size=4)
    assert inputs.shape == (6, 8, 16) and hidden.shape == (6, 8, 24)
    assert_close(hidden, model.model.decoder.layers[0].fc1(inputs).detach())
    sae = make_sae(SAEConfig(16, 32, topk=4)).eval()
    with reading(model, [f"{layer}.fc2"]) as found:
        model(TOKENS)
    flat = found[f"{layer}.fc2"].detach()
    with lm.spliced(model, {f"{layer}.fc2": sae}), reading(model, [f"{layer}.fc2"]) as after:
        model(TOKENS)
    assert_close(after[f"{layer}.fc2"], sae(flat))
    table = evaluate_spliced(model, {f"{layer}.fc2": sae}, TOKENS).set_index("metric").value
    assert table["cosine"] == pytest.approx(
        nn.functional.cosine_similarity(sae(flat), flat).mean().item(), rel=1e-4
    )
    with pytest.raises(ValueError, match=r"positions are .* \(48, 16\): choose a module"):
        evaluate_spliced(model, {f"{layer}.fc2": sae}, TOKENS, positions=(2,))


def test_positions_need_an_axis():
    with pytest.raises(ValueError, match=r"positions are those of .* these are \(6, 4\)"):
        at_positions(torch.zeros_like, [1])(X[:, 0])


def test_what_is_the_same_for_every_input_has_a_row_for_each(gpt2):
    found = read_activations(gpt2, TOKENS, "transformer.wpe", batch_size=4)
    assert torch.equal(found, gpt2.transformer.wpe.weight.expand(6, 8, 16))


def test_rows_that_belong_to_no_input():
    model = Wrapped(nn.Identity(), use=lambda out: out.flatten(0, 1)[:7])
    with pytest.raises(ValueError, match=r"'last' returns \(7, 4\) for 6 inputs: which rows are"):
        read_activations(model, X, "last")
    with pytest.raises(ValueError, match=r"'last' returns \(\) for 6 inputs"):
        read_activations(Wrapped(nn.Identity(), use=torch.sum), X, "last")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_reads_numbers_in_its_own_precision_and_gives_full_precision(dtype):
    model = nn.Linear(4, 5).to(dtype)
    found = read_activations(model, X, "")
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(found, model(X.to(dtype)).detach().to(found.dtype))


def test_a_model_without_parameters():
    assert torch.equal(read_activations(nn.Flatten(), X, ""), X.flatten(1))


# --- names ---


class Bridge(nn.Module):
    """As TransformerLens has it: modules within wrappers, and shorter names for them."""

    hook_aliases: types.MappingProxyType = types.MappingProxyType({"hook_resid_post": "hook_out"})

    def __init__(self):
        super().__init__()
        self.add_module("_original_component", nn.ModuleDict({"mlp": nn.Linear(4, 4)}))
        self.hook_out = nn.Identity()

    def __getattr__(self, name):
        if name in type(self).hook_aliases:
            return getattr(self, type(self).hook_aliases[name])
        if name == "mlp":
            return self._original_component["mlp"]
        return super().__getattr__(name)

    def forward(self, x):
        return self.hook_out(x + self.mlp(x))


def test_aliases_are_names():
    model = nn.Sequential(Bridge(), Bridge())
    found = read_activations(model, X, "1.hook_resid_post")
    assert torch.equal(found, read_activations(model, X, "1.hook_out"))
    original = "1._original_component.mlp"
    assert torch.equal(read_activations(model, X, "1.mlp"), read_activations(model, X, original))
    assert torch.equal(read_activations(model, X, "1.mlp.input"), model[0](X).detach())
    with splice(model, {"1.hook_resid_post": torch.zeros_like}):
        assert not model(X).any()
    prefixes = []
    for name in ("0.hook_resid_post", "0.hook_out"):
        with recording_prefix(model, [name]) as prefix:
            model(X)
        prefixes.append(list(prefix))
    assert prefixes[0] == prefixes[1] == ["0._original_component.mlp", "0.hook_out"]
    with pytest.raises(ValueError, match=r"no module '1\.hook_mid'; nearest are 1\.hook_out"):
        read_activations(model, X, "1.hook_mid")


def test_a_shared_module_has_both_its_names():
    model = nn.ModuleDict({"a": nn.Linear(4, 4)})
    model["b"] = model["a"]
    model.forward = lambda x: model["b"](x)
    assert torch.equal(read_activations(model, X, "b"), read_activations(model, X, "a"))


# --- chance, and the mode that a model is in ---


def test_a_model_that_draws_at_random_is_refused():
    config = ViTMAEConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=16, patch_size=4,
    )  # fmt: skip
    model, images = ViTMAEModel(config).eval(), torch.rand(2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"two reads of 'layernorm' .* ViTMAEModel draws at rando"):
        read_activations(model, images, "layernorm")
    patches = read_activations(model, images, "embeddings.patch_embeddings")  # before it draws
    assert patches.shape == (2, 16, 16)


def test_draws_that_change_nothing_do_no_harm():
    model = Wrapped(nn.Identity(), use=lambda out: (torch.rand(1), out)[1])
    assert torch.equal(read_activations(model, X, "last"), X)


@pytest.fixture
def trained() -> nn.Module:
    """In training mode, but for one module."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5)))
    model[2].eval()
    return model


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_in_training_is_read_in_evaluation_mode_and_left_as_it_was(fails, trained):
    state = {name: value.clone() for name, value in trained.state_dict().items()}
    modes = [module.training for module in trained.modules()]
    assert len(set(modes)) == 2
    if fails:
        with pytest.raises(ValueError, match="there is no tensor"), evaluation_mode(trained):
            raise ValueError("there is no tensor")
    else:
        found = read_activations(trained, X, "2", batch_size=2)
        loss = spliced_loss(trained, X, "1", lambda x: x, nn.functional.mse_loss)
        assert loss == pytest.approx((found - X).square().mean().item(), abs=1e-12)
        with evaluation_mode(trained):
            assert_close(found, trained(X))
    assert [module.training for module in trained.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in trained.state_dict().items())


def test_saes_in_training_are_measured_in_evaluation_mode(gpt2):
    """A threshold of BatchTopK would move, as dropout would change logits."""
    sae = make_sae(SAEConfig(16, 24, "batch_topk", 4)).train()
    gpt2.transformer.drop.p = 0.5
    gpt2.eval()
    sae.eval()
    expected = evaluate_spliced(gpt2, {"transformer.h.0": sae}, TOKENS)
    text = lm.generate(gpt2, TOKENS[:, :3], 4, 8)
    state = {name: value.clone() for name, value in sae.state_dict().items()}
    gpt2.train(), sae.train()
    found = evaluate_spliced(gpt2, {"transformer.h.0": sae}, TOKENS)
    assert found.equals(expected)
    assert torch.equal(lm.generate(gpt2, TOKENS[:, :3], 4, 8), text)
    lm.check_text(gpt2, TOKENS)
    assert sae.training and gpt2.training
    assert all(torch.equal(value, state[name]) for name, value in sae.state_dict().items())


def test_symmetry_is_measured_in_evaluation_mode(toy, c4_action):
    sae = make_sae(SAEConfig(8, 12, "batch_topk", 3)).train()
    sae.encode(toy.activations.flatten(0, 1))  # learns the threshold
    expected = symmetry_report(sae.eval(), c4_action, toy.activations)
    threshold = sae.train().activation.threshold.clone()
    assert symmetry_report(sae, c4_action, toy.activations) == expected
    assert sae.training and torch.equal(sae.activation.threshold, threshold)


# --- logits ---


def test_logits_of_whatever_a_language_model_returns(gpt2):
    logits = gpt2(TOKENS).logits
    for kind in (dict, lambda output: output.to_tuple(), lambda output: output.logits):
        assert torch.equal(lm.logits_of(Wrapped(gpt2, use=kind), TOKENS), logits)
    error = r"GPT2Model returns last_hidden_state.*, no logits: load it with its head"
    with pytest.raises(ValueError, match=error):
        lm.logits_of(gpt2.transformer, TOKENS)


def test_zeros_that_cost_less_than_the_original_recover_nothing():
    """A model that is better without its only module: the share would have no meaning."""

    class Worse(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Embedding(4, 4)
            self.inner.weight.data = 5 * torch.eye(4)  # predicts that a token stays

        def forward(self, tokens):
            return self.inner(tokens)

    tokens = torch.tensor([[0, 1, 2, 3, 0, 1]])
    sae = make_sae(SAEConfig(4, 4, topk=1))
    table = evaluate_spliced(Worse(), {"inner": sae}, tokens).set_index("metric").value
    assert table["ce_zero"] < table["ce_original"]
    assert table.isna().to_dict() == {name: name == "ce_recovered" for name in table.index}
