"""What is frozen stays as it is, what is bounded within its bound, and PCA is that of sklearn."""

import dataclasses

import pytest
import torch
from sklearn.decomposition import PCA
from torch.testing import assert_close

from saehelpers.evaluation import metrics, probe_inputs
from saehelpers.experiments import load_or_train_saes, load_sae
from saehelpers.runs import identity
from saehelpers.saes import (
    PrincipalComponents,
    SAEConfig,
    SoftFrozenDecoderSAE,
    make_sae,
    stack,
    unstack,
)
from saehelpers.saes.sparse import BlockTopK
from saehelpers.symmetry import Group
from saehelpers.training import SAERun, method_run, n_parameters, train_sae, train_saes

SAE = SAEConfig(8, 12, topk=3, encoder_hidden=16)
C4 = Group.named("C4")
BASELINES = ["frozen_decoder", "soft_frozen_decoder", "frozen_encoder", "block_topk", "pca"]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run_of(method: str, sae: SAEConfig = SAE, **settings) -> SAERun:
    settings = {"epochs": 4, "batch_size": 32, "learning_rate": 2e-2, **settings}
    return method_run(method, "toy", sae, C4, **settings)


def changed(run: SAERun, activations: torch.Tensor) -> set[str]:
    """What training changes, beside mean and scale."""
    sae, _ = train_sae(run, activations, progress=False)
    before, after = make_sae(run.sae, run.seed).state_dict(), sae.state_dict()
    assert before.keys() == after.keys()
    return {k for k in before if not torch.equal(before[k], after[k])} - {"mean", "scale"}


ENCODER = {f"encoder_{part}.{layer}" for part in ("weights", "biases") for layer in (0, 1)}


@pytest.mark.parametrize(
    ("method", "learnt"),
    [
        ("vanilla", {"decoder_weight", "decoder_bias", *ENCODER}),
        ("frozen_decoder", {"decoder_bias", *ENCODER}),
        ("soft_frozen_decoder", {"decoder_weight", "decoder_bias", *ENCODER}),
        ("frozen_encoder", {"decoder_weight", "decoder_bias"}),
    ],
)
def test_all_that_is_not_frozen_is_learnt(toy, method, learnt):
    run = run_of(method)
    assert changed(run, toy.activations) == learnt
    trained = {name for name, _ in make_sae(run.sae).named_parameters()}
    assert trained == learnt
    sizes = {name: tensor.numel() for name, tensor in make_sae(run.sae).state_dict().items()}
    assert n_parameters(run.sae) == sum(sizes[name] for name in learnt)


@pytest.mark.parametrize("encoder", ["linear", "two_layer"])
def test_all_start_from_the_same_random_sae(encoder):
    sae = dataclasses.replace(SAE, encoder=encoder)
    expected = make_sae(sae, 3).state_dict()
    assert_close(expected["decoder_weight"].norm(dim=1), torch.ones(12))
    for method in ("frozen_decoder", "soft_frozen_decoder", "frozen_encoder"):
        state = make_sae(run_of(method, sae).sae, 3).state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("method", BASELINES)
def test_side_by_side_as_alone(toy, method):
    runs = [run_of(method, seed=seed) for seed in (0, 1)]
    together, histories = train_saes(runs, [toy.activations], progress=False)
    for run, sae, history in zip(runs, together, histories, strict=True):
        alone, rows = train_sae(run, toy.activations, progress=False)
        x = toy.activations[:, 1]
        assert_close(sae(x), alone(x), atol=1e-4, rtol=1e-3)
        assert history.fvu.iloc[-1] == pytest.approx(rows.fvu.iloc[-1], rel=1e-3)
        found = metrics.fvu(toy.activations, sae(toy.activations.flatten(0, 1)).view(256, 4, 8))
        assert 0 < found < 1


@pytest.mark.parametrize("method", BASELINES)
def test_baselines_are_kept_loaded_and_probed(toy, method, tmp_path):
    run = method_run(method, identity(toy.activations), SAE, C4, epochs=1)
    (sae,) = load_or_train_saes([run], toy.activations, tmp_path)
    loaded, x = load_sae(run, tmp_path), toy.activations[:50]
    assert torch.equal(loaded(x[:, 1]), sae(x[:, 1]))
    elements = torch.arange(50) % 4
    given = probe_inputs(loaded, x, elements)
    seen = x[torch.arange(50), elements]
    assert set(given) == {"latents", "none"}
    assert torch.equal(given["latents"].latents, loaded.encode(seen))
    everything = given["none"].matrix(torch.arange(loaded.config.n_latents))
    assert_close(torch.from_numpy(everything), loaded(seen), atol=1e-4, rtol=1e-4)


# --- a dictionary that may move a little ---


def test_soft_frozen_rows_stay_within_their_bound_and_reach_it(toy):
    sae, _ = train_sae(run_of("soft_frozen_decoder", epochs=30), toy.activations, progress=False)
    cosines = (sae.dictionary * sae.start).sum(-1)
    assert_close(sae.dictionary.norm(dim=-1), torch.ones(12))
    assert (cosines >= 0.8 - 1e-6).all()
    assert (cosines < 0.8 + 1e-5).any() and (cosines < 1).all()


def test_rows_that_left_are_turned_back_to_the_nearest_that_is_allowed():
    sae = make_sae(dataclasses.replace(SAE, dictionary="soft_frozen"))
    assert isinstance(sae, SoftFrozenDecoderSAE)
    left = 3 * random(12, 8, seed=1)
    left[0] = 2 * sae.start[0] + 0.1 * left[0]  # still within
    left[1] = -sae.start[1]  # in no plane of its own: any will do
    sae.decoder_weight.data.copy_(left)
    sae.constrain()
    rows = sae.dictionary.detach()
    assert_close(rows[0], left[0] / left[0].norm())
    assert_close(rows.norm(dim=1), torch.ones(12))
    assert rows[1] @ sae.start[1] > 0.8 - 1e-5
    candidates = random(20_000, 8, seed=2)
    for row, before, start in zip(rows[2:], left[2:], sae.start[2:], strict=True):
        if before @ start / before.norm() >= 0.8:
            continue
        assert (row @ start).item() == pytest.approx(0.8, abs=1e-5)
        near = start + candidates / 4
        near = near / near.norm(dim=1, keepdim=True)
        allowed = near[near @ start >= 0.8]
        assert (row @ before).item() >= (allowed @ before).max().item() - 1e-4


# --- blocks ---


def test_block_topk_keeps_the_blocks_of_the_largest_norms_with_their_signs():
    x = torch.tensor([[3.0, -4.0, 0.0, 6.0, 1.0, 1.0], [-1.0, 0.0, 0.5, 0.0, -2.0, 0.1]])
    assert BlockTopK(1, 2)(x).tolist() == [[0, 0, 0, 6, 0, 0], [0, 0, 0, 0, -2.0, x[1, 5].item()]]
    assert torch.equal(BlockTopK(2, 3)(x), x)
    assert BlockTopK(2, 2)(x[0]).tolist() == [3, -4, 0, 6, 0, 0]


@pytest.mark.parametrize(("n", "k", "size"), [(64, 4, 4), (24, 1, 8), (640, 3, 2)])
def test_block_topk_agrees_with_a_loop(n, k, size):
    x = random(2, 10, n).requires_grad_()
    upstream = random(2, 10, n, seed=1)
    kept = BlockTopK(k, size)(x)
    (kept * upstream).sum().backward()
    for row, out, up, slope in zip(*(part.flatten(0, 1) for part in (x, kept, upstream, x.grad)),
                                   strict=True):  # fmt: skip
        norms = [row[i : i + size].norm().item() for i in range(0, n, size)]
        largest = sorted(range(len(norms)), key=norms.__getitem__)[-k:]
        mask = torch.tensor([float(i // size in largest) for i in range(n)])
        assert torch.equal(out, row * mask) and torch.equal(slope, up * mask)


def test_a_run_of_blocks_has_a_block_for_each_latent(toy):
    run = run_of("block_topk")
    assert (run.sae.n_latents, run.sae.group_order, run.sae.topk) == (48, 4, 3)
    sae, history = train_sae(run, toy.activations, progress=False)
    latents = sae.encode(toy.activations[:, 2])
    assert ((latents.unflatten(-1, (12, 4)) != 0).any(-1).sum(-1) == 3).all()
    assert (latents < 0).any()
    assert history.l0.iloc[-1] == metrics.l0(latents) == 12


# --- PCA ---


@pytest.mark.parametrize("n_latents", [5, 8, 12])
def test_pca_is_that_of_sklearn(toy, n_latents):
    x = toy.activations + torch.linspace(-1, 1, 8)
    x = x * torch.linspace(1, 2, 8)  # a spread of its own for every component
    run = run_of("pca", dataclasses.replace(SAE, n_latents=n_latents, topk=2))
    sae, history = train_sae(run, x, progress=False)
    assert isinstance(sae, PrincipalComponents) and n_parameters(run.sae) == 0
    flat = x.flatten(0, 1)
    theirs = PCA(min(n_latents, 8)).fit(flat.double().numpy())
    components = torch.from_numpy(theirs.components_).float()
    n = len(components)
    cosines = (sae.dictionary[:n] * components).sum(1)
    assert_close(cosines.abs(), torch.ones(n), atol=1e-4, rtol=0)
    assert (sae.dictionary[:n].gather(1, sae.dictionary[:n].abs().argmax(1)[:, None]) > 0).all()
    assert not sae.dictionary[n:].any() and not sae.encode(flat)[:, n:].any()
    expected = torch.from_numpy(theirs.inverse_transform(theirs.transform(flat.double().numpy())))
    assert_close(sae(flat), expected.float(), atol=1e-4, rtol=1e-4)
    latents = torch.from_numpy(theirs.transform(flat.double().numpy())).float()
    assert_close(
        sae.scale * sae.encode(flat)[:, :n], latents * cosines.sign(), atol=1e-3, rtol=1e-3
    )
    assert len(history) == 1
    explained = theirs.explained_variance_ratio_.sum()
    assert history.explained_variance.iloc[0] == pytest.approx(explained, abs=0.01)  # of some
    assert metrics.explained_variance(flat, sae(flat)) == pytest.approx(explained, abs=1e-4)


def test_pca_of_many_rows_is_computed_in_parts(toy, monkeypatch):
    whole, _ = train_sae(run_of("pca"), toy.activations, progress=False)
    monkeypatch.setattr("saehelpers.training.side_by_side.COVARIANCE_ROWS", 100)
    parts, _ = train_sae(run_of("pca"), lambda epoch: toy.activations, progress=False)
    assert_close(parts.dictionary, whole.dictionary, atol=1e-5, rtol=1e-4)


def test_pca_can_be_stacked(toy):
    saes = [train_sae(run_of("pca"), toy.activations[i::2], progress=False)[0] for i in (0, 1)]
    x = random(2, 30, 8)
    together = stack(saes)(x)
    assert_close(together, torch.stack([sae(part) for sae, part in zip(saes, x, strict=True)]))
    for before, after in zip(saes, unstack(stack(saes)), strict=True):
        assert torch.equal(before.dictionary, after.dictionary)


# --- bad input ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"activation": "block_topk", "group_order": 5},
            "group_order = 5, .* divide n_latents",
        ),
        ({"activation": "block_topk", "group_order": 6}, "number of blocks = 2, got 3"),
        (
            {"dictionary": "frozen", "unit_decoder": True},
            "no effect on a 'frozen'",
        ),
        ({"dictionary": "soft_frozen", "initial_norm": 2.0}, "initial_norm is of rows"),
        ({"dictionary": "pca", "n_heads": 2}, "a dictionary of kind 'pca' has no n_heads"),
    ],
)
def test_configs_that_cannot_work(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SAE, **changes)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("block_topk", {"sparsity": "l1", "lambda_sparsity": 1.0}, "'l1' is of latents without"),
        ("pca", {"auxk": 2}, "auxk revives latents of a free dictionary"),
    ],
)
def test_runs_that_cannot_work(method, settings, message):
    with pytest.raises(ValueError, match=message):
        run_of(method, **settings)


def test_pca_with_another_objective():
    with pytest.raises(ValueError, match="PCA has the objective 'reconstruction', got 'canonical'"):
        dataclasses.replace(run_of("pca"), objective="canonical")
