"""SAEs of attention heads beside the dense SAE with the same block matrices."""

import dataclasses
import shutil
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from saehelpers.evaluation.metrics import fvu
from saehelpers.networks.scaling import standardisation
from saehelpers.saes import SAE, BlockDiagonalSAE, SAEConfig, make_sae, stack, unstack
from saehelpers.saes.sparse import SparseLatents, choice, densified
from saehelpers.training import loss as loss_module
from saehelpers.training.loss import Loss, total_loss
from saehelpers.training.methods import SAERun
from saehelpers.training.objectives import OrbitBatch
from saehelpers.training.side_by_side import train_saes
from saehelpers.training.sparsity import decoder_l1

HEADS, WIDTH, LATENTS = 3, 4, 8  # of each head the latter two
CONFIG = SAEConfig(
    HEADS * WIDTH, HEADS * LATENTS, "relu", encoder="linear", dictionary="block_diagonal",
    n_heads=HEADS,
)  # fmt: skip
KINDS = {
    "relu": {},
    "jumprelu": {"activation": "jumprelu"},
    "topk over all heads": {"activation": "topk", "topk": 5},
    "topk per head": {"activation": "topk", "topk": 2, "topk_per_head": True},
    "batch_topk over all heads": {"activation": "batch_topk", "topk": 5},
    "two_layer": {"encoder": "two_layer", "encoder_hidden": 6},
    "pre_encoder_bias": {"pre_encoder_bias": True},
    "initial_norm": {"initial_norm": 0.1},
}


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(seed=0, **options) -> BlockDiagonalSAE:
    """An SAE in which no bias is zero and every head has another mean and scale."""
    sae = make_sae(dataclasses.replace(CONFIG, **options), seed).train()
    for i, tensor in enumerate(sae.parameters()):
        tensor.data += 0.1 * random(*tensor.shape, seed=i)
    scale = torch.tensor([0.5, 1.0, 2.0]).repeat_interleave(WIDTH)
    sae.set_standardisation(random(HEADS * WIDTH, seed=9), scale)
    return sae


class DenseBlocks(SAE):
    """The same computation with dense matrices that are zero but for the heads' blocks."""

    is_sparse = False

    def __init__(self, sae: BlockDiagonalSAE):
        torch.nn.Module.__init__(self)
        self.config, self.blocks = sae.config, sae

    def encode(self, x):
        sae = self.blocks
        x = (x - sae.mean) / sae.scale
        x = x - sae.canonical_bias if self.config.pre_encoder_bias else x
        heads = sae.heads
        layers = list(zip(heads.encoder_weights, heads.encoder_biases, strict=True))
        for depth, (weight, bias) in enumerate(layers):
            x = (x.relu() if depth else x) @ torch.block_diag(*weight) + bias.flatten()
        if self.config.topk_per_head:
            return heads.activation(x.unflatten(-1, (HEADS, -1))).flatten(-2)
        if self.config.activation == "jumprelu":
            return (
                heads.activation(x.unflatten(-1, (HEADS, -1)).transpose(0, 1))
                .transpose(0, 1)
                .flatten(-2)
            )
        return x.relu() if self.config.activation == "relu" else sae.activation(x)

    def decode(self, latents):
        sae = self.blocks
        recons = latents @ torch.block_diag(*sae.heads.dictionary) + sae.canonical_bias
        return recons * sae.scale + sae.mean


def loss_and_gradients(sae, x, sparsity="l1", compiled=False, lambda_sparsity=0.1):
    as_it_is = (torch.zeros(1, x.shape[1]), torch.ones(1, x.shape[1]))
    first = torch.zeros(len(x), dtype=torch.long)
    batch = OrbitBatch(x, torch.arange(len(x)), first, 1, *as_it_is)
    weights = {"sparsity": sparsity, "lambda_sparsity": lambda_sparsity}
    loss = Loss("reconstruction", **weights, compiled=compiled)
    terms = total_loss(sae, batch, loss)
    parameters = list(sae.parameters())
    return terms, torch.autograd.grad(terms["loss"], parameters)


@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a C++ compiler")
def test_compiled_losses_are_the_same():
    # in a process of its own: the compiler cannot read what checks shapes in tests
    command = [sys.executable, __file__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("sparse", [False, True])
def test_agrees_with_dense_block_matrices(name, sparse, monkeypatch):
    options = KINDS[name]
    monkeypatch.setattr(loss_module, "CACHED_LATENTS", 20 * LATENTS)  # parts of 20 samples
    if sparse:
        monkeypatch.setitem(choice.FASTER_FROM, "cpu", choice.Bounds(0, 1, 1))
    sae, x = made(**options), random(50, HEADS * WIDTH, seed=7)
    dense = DenseBlocks(made(**options))
    assert_close(sae.encode(x), dense.encode(x), atol=1e-5, rtol=1e-5)
    assert_close(sae(x), dense(x), atol=1e-5, rtol=1e-5)
    assert_close(densified(sae.latents(x)), dense.encode(x), atol=1e-5, rtol=1e-5)
    assert isinstance(sae.latents(x), SparseLatents) == (sparse and "all heads" in name)
    (terms, gradients), (dense_terms, dense_gradients) = (
        loss_and_gradients(model, x) for model in (sae, dense)
    )
    assert set(terms) == {"loss", "reconstruction", "sparsity"}
    for term, value in terms.items():
        assert_close(value, dense_terms[term], atol=1e-5, rtol=1e-5)
    for gradient, expected in zip(gradients, dense_gradients, strict=True):
        assert_close(gradient, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_stacked_and_unstacked(options):
    saes = [made(seed, **options).eval() for seed in (0, 1)]
    x = random(2, 50, HEADS * WIDTH, seed=7)
    stacked = stack(saes)
    assert_close(stacked(x), torch.stack([sae(part) for sae, part in zip(saes, x, strict=True)]))
    for sae, again in zip(saes, unstack(stacked), strict=True):
        assert torch.equal(sae(x[0]), again(x[0]))


def test_parameters_of_the_published_sizes():
    def count(config):
        with torch.device("meta"):
            return sum(p.numel() for p in make_sae(config).parameters())

    dense = SAEConfig(768, 24_576, "relu", encoder="linear")
    assert count(dense) == 37_774_080
    heads = dataclasses.replace(dense, dictionary="block_diagonal", n_heads=12)
    assert count(heads) == 3_171_072


def test_rows_stay_within_their_head():
    sae = made()
    blocks = sae.dictionary.unflatten(0, (HEADS, -1)).unflatten(-1, (HEADS, -1))
    for h in range(HEADS):
        assert torch.equal(blocks[h, :, h], sae.heads.dictionary[h])
        assert blocks[h, :, torch.arange(HEADS) != h].abs().max() == 0
    assert_close(sae.dictionary_norms, sae.dictionary.norm(dim=-1))
    latents = random(5, HEADS * LATENTS).relu()
    rows, bias = sae.decoder_blocks()
    assert_close(latents @ rows[0] + bias[0], sae.decode(latents))
    expected = (latents * sae.dictionary.norm(dim=-1)).sum(-1).mean()
    assert_close(decoder_l1(latents, sae, 1.0), expected)


@pytest.mark.parametrize("norm", [1.0, 0.1])
def test_every_head_starts_with_rows_of_one_norm_and_a_tied_encoder(norm):
    heads = make_sae(dataclasses.replace(CONFIG, initial_norm=norm)).heads
    assert_close(heads.dictionary.norm(dim=-1), torch.full((HEADS, LATENTS), norm))
    assert torch.equal(heads.encoder_weights[0], heads.dictionary.mT)
    assert not torch.equal(heads.dictionary[0], heads.dictionary[1])


def head_activations(n=400):
    """Outputs of heads that differ in scale by a hundred."""
    return random(n, 1, HEADS * WIDTH) * torch.tensor([0.1, 1.0, 10.0]).repeat_interleave(WIDTH)


def test_every_head_has_a_scale_of_its_own():
    z = head_activations()[:, 0]
    mean, scale = standardisation(z, HEADS)
    made = ((z - mean) / scale).unflatten(-1, (HEADS, -1))
    assert_close(made.square().sum(-1).mean(0), torch.full((HEADS,), float(WIDTH)))
    assert all(len(part.unique()) == 1 for part in scale.split(WIDTH))
    z[:, :WIDTH] = 1
    with pytest.raises(ValueError, match=r"are all the same in heads \[0\]"):
        standardisation(z, HEADS)


@pytest.mark.parametrize("unit_decoder", [True, False])
def test_training_reconstructs_every_head(unit_decoder):
    """At several instances at once; the smallest head as well as the largest."""
    sae = dataclasses.replace(
        CONFIG, activation="topk", topk=WIDTH, topk_per_head=True, unit_decoder=unit_decoder
    )
    settings = {"epochs": 40, "batch_size": 64, "learning_rate": 2e-2, "schedule": "linear"}
    configs = [SAERun("heads", "random", sae, seed=seed, **settings) for seed in (0, 1)]
    activations = head_activations()
    trained, histories = train_saes(configs, [activations], progress=False)
    for sae, history in zip(trained, histories, strict=True):
        recons = sae(activations[:, 0])
        for h in range(HEADS):
            columns = slice(h * WIDTH, (h + 1) * WIDTH)
            assert fvu(activations[:, 0, columns], recons[:, columns]) < 0.1
        assert history.fvu.iloc[-1] < 0.1
        if unit_decoder:
            assert_close(sae.dictionary_norms, torch.ones(HEADS * LATENTS))


def test_an_instance_trains_as_it_would_alone():
    sae = dataclasses.replace(CONFIG, topk_per_head=True, activation="topk", topk=2)
    configs = [SAERun("heads", "random", sae, seed=s, epochs=2, batch_size=64) for s in (0, 1)]
    together, _ = train_saes(configs, [head_activations()], progress=False)
    (alone,), _ = train_saes(configs[1:], [head_activations()], progress=False)
    for a, b in zip(together[1].parameters(), alone.parameters(), strict=True):
        assert_close(a, b)


def test_lower_precision_under_autocast():
    sae, x = made(), random(50, HEADS * WIDTH, seed=7)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(sae(x).float(), sae(x), atol=0.1, rtol=0.1)
        terms, gradients = loss_and_gradients(sae, x)
    expected, exact = loss_and_gradients(sae, x)
    assert_close(terms["loss"], expected["loss"], rtol=0.05, atol=0)
    for gradient, reference in zip(gradients, exact, strict=True):
        assert_close(gradient, reference, atol=0.1, rtol=0.1)


def test_sparsity_warms_up():
    """Within the warm-up the penalty of step s weighs (s + 1) / steps of what it will."""
    sae = dataclasses.replace(CONFIG, n_latents=12)
    run = SAERun("heads", "random", sae, sparsity="l1", lambda_sparsity=2.0, epochs=4,
                 batch_size=100)  # fmt: skip
    run = dataclasses.replace(run, sparsity_warmup_steps=8)
    _, (history,) = train_saes([run], [head_activations()], progress=False)
    weights = (history.loss - history.reconstruction) / history.sparsity
    steps = torch.arange(4.0)[:, None] * 4 + torch.arange(1, 5)
    expected = (2.0 * (steps / 8).clamp(max=1)).mean(1)
    assert_close(torch.tensor(weights.values).float(), expected, rtol=0.02, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_heads": 5}, r"n_heads = 5 must divide the width d = 12 and n_latents = 24"),
        ({"d": 13}, r"must divide the width d = 13"),
        ({"n_heads": 0}, r"n_heads must be 1 or more, got 0"),
        ({"dictionary": "free"}, r"kind 'free' has no n_heads"),
        ({"activation": "topk", "topk": 9, "topk_per_head": True}, r"n_latents = 8, got 9"),
        ({"initial_norm": 0.1, "unit_decoder": True}, r"initial_norm is of rows that are free"),
        ({"prefixes": (4, 24)}, r"has no prefixes"),
    ],
)
def test_bad_configs(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **options)


def test_activations_of_another_width():
    with pytest.raises(ValueError, match="reads activations of width 12"):
        made().encode(random(5, 13))


if __name__ == "__main__":
    for sae in (made(), make_sae(SAEConfig(HEADS * WIDTH, 24, topk=3))):
        x = random(50, HEADS * WIDTH, seed=7)
        (terms, gradients), (compiled_terms, compiled_gradients) = (
            loss_and_gradients(sae, x, compiled=compiled) for compiled in (False, True)
        )
        assert_close(compiled_terms, terms, atol=1e-5, rtol=1e-5)
        assert_close(compiled_gradients, gradients, atol=1e-5, rtol=1e-5)
        counters = torch._dynamo.utils.counters["stats"]
        compiled_before = counters["unique_graphs"]
        loss_and_gradients(sae, x, compiled=True, lambda_sparsity=0.2)  # as in a warm-up
        assert counters["unique_graphs"] == compiled_before > 0
