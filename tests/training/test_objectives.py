import pytest
import torch
from torch.testing import assert_close

from saehelpers.saes import SAEConfig, make_sae, stack
from saehelpers.training.loss import Loss, total_loss
from saehelpers.training.methods import SAERun
from saehelpers.training.objectives import OBJECTIVES, OrbitBatch
from saehelpers.training.side_by_side import train_sae
from saehelpers.training.sparsity import SPARSITY_TERMS

N, ORDER, D = 6, 4, 5
# the first needs prefixes, the second gates
OF_ANY_SAE = [name for name in OBJECTIVES if name not in ("matryoshka", "gated")]


AS_IT_IS = (torch.zeros(1, D), torch.ones(1, 1))


def orbit_batch(rows, starts, elements, statistics=AS_IT_IS) -> OrbitBatch:
    return OrbitBatch(rows, starts, elements, ORDER, *statistics)


@pytest.fixture
def orbits() -> torch.Tensor:
    return torch.randn(N, ORDER, D, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def elements() -> torch.Tensor:
    return torch.tensor([3, 0, 1, 2, 1, 3])


@pytest.fixture
def batch(orbits, elements) -> OrbitBatch:
    return orbit_batch(orbits.flatten(0, 1), torch.arange(N) * ORDER, elements)


def make(activation: str = "relu", dictionary: str = "free", seed: int = 0):
    config = SAEConfig(
        d=D,
        n_latents=7,
        activation=activation,
        topk=2,
        encoder_hidden=9,
        dictionary=dictionary,
        group_order=ORDER,
    )
    sae = make_sae(config, seed)
    sae.decoder_bias.data.normal_(generator=torch.Generator().manual_seed(seed))
    return sae


def squared(vector: torch.Tensor) -> float:
    return sum(value.item() ** 2 for value in vector)


def test_orbit_batch_gathers_canonical_transformed_and_orbit(batch, orbits, elements):
    assert torch.equal(batch.canonical, orbits[:, 0])
    assert torch.equal(batch.orbit, orbits)
    for i in range(N):
        assert torch.equal(batch.transformed[i], orbits[i, elements[i]])


def test_orbit_batch_standardises_each_instance_by_its_own_statistics(orbits, elements):
    mean, scale = torch.randn(2, D), torch.tensor([[0.5], [3.0]])
    starts = (torch.arange(N) * ORDER).expand(2, -1)
    batch = orbit_batch(orbits.flatten(0, 1), starts, elements.expand(2, -1), (mean, scale))
    for i in range(2):
        assert_close(batch.canonical[i], (orbits[:, 0] - mean[i]) / scale[i])
        assert_close(batch.orbit[i], (orbits - mean[i]) / scale[i])
    assert torch.equal(batch.rows, orbits.flatten(0, 1))


def test_orbit_batch_gathers_by_instance(orbits):
    starts = torch.tensor([[0, 4, 8], [20, 0, 12]])  # samples 0 1 2, and 5 0 3
    elements = torch.tensor([[1, 2, 3], [0, 3, 2]])
    batch = orbit_batch(orbits.flatten(0, 1), starts, elements)
    assert torch.equal(batch.canonical, orbits[:, 0][torch.tensor([[0, 1, 2], [5, 0, 3]])])
    assert torch.equal(batch.transformed[1], orbits[[5, 0, 3], [0, 3, 2]])
    assert batch.orbit.shape == (2, 3, ORDER, D)


@pytest.mark.parametrize("activation", ["relu", "topk"])
@pytest.mark.parametrize("objective", OF_ANY_SAE)
def test_objectives_agree_with_a_plain_loop(objective, activation, batch, orbits, elements):
    sae = make(activation, "blocks" if objective == "crosscoder" else "free")
    terms, latents = OBJECTIVES[objective](sae, batch)
    reconstruction, symmetry = 0.0, 0.0
    for i in range(N):
        x, gx = orbits[i, 0], orbits[i, elements[i]]
        z, zg = (sae.encode(one[None])[0] for one in (x, gx))
        recons, recons_g = (sae.decode(one[None])[0] for one in (z, zg))
        if objective == "reconstruction":
            reconstruction += squared(gx - recons_g)
        elif objective == "canonical":
            reconstruction += squared(x - recons_g)
        elif objective == "latent_inv":
            reconstruction += squared(x - recons)
            symmetry += squared(z - zg)
        elif objective == "output_inv":
            reconstruction += squared(x - recons)
            symmetry += squared(recons - recons_g)
        elif objective == "oriented":
            reconstruction += squared(x - recons)
        elif objective == "self_oriented":
            errors = [squared(y - sae(y[None])[0]) for y in orbits[i]]
            reconstruction += min(errors)
            x = orbits[i, errors.index(min(errors))]
        else:
            for g in range(ORDER):
                block = z @ sae.decoder_weight[g] + sae.decoder_bias[g]
                reconstruction += squared(orbits[i, g] - block)
        read = gx if objective in ("reconstruction", "canonical") else x
        assert_close(latents[i], sae.encode(read[None])[0])
    assert terms["reconstruction"].item() == pytest.approx(reconstruction / N, rel=1e-5)
    if objective == "self_oriented":
        assert terms["reconstruction"] < OBJECTIVES["oriented"](sae, batch)[0]["reconstruction"]
    if objective in ("latent_inv", "output_inv"):
        assert symmetry > 0
        assert terms["symmetry"].item() == pytest.approx(symmetry / N, rel=1e-5)
    else:
        assert set(terms) == {"reconstruction"}


@pytest.mark.parametrize("objective", ["latent_inv", "output_inv"])
def test_symmetry_terms_vanish_at_the_identity(objective, orbits):
    batch = orbit_batch(
        orbits.flatten(0, 1), torch.arange(N) * ORDER, torch.zeros(N, dtype=torch.long)
    )
    terms, _ = OBJECTIVES[objective](make(), batch)
    assert terms["symmetry"].item() == pytest.approx(0, abs=1e-12)
    assert terms["reconstruction"].item() > 0


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0])
def test_sparsity_terms_agree_with_a_plain_loop(p):
    sae = make()
    sae.decoder_weight.data *= torch.arange(1.0, 8.0)[:, None]  # rows of norm 1, 2, ...
    latents = torch.randn(N, 7, generator=torch.Generator().manual_seed(1)).relu()
    expected = {"l1": 0.0, "lp": 0.0, "decoder_l1": 0.0}
    for row in latents.tolist():
        for i, value in enumerate(row):
            expected["l1"] += abs(value) / N
            expected["lp"] += abs(value) ** p / N
            expected["decoder_l1"] += abs(value) * (i + 1) / N
    for name, value in expected.items():
        assert SPARSITY_TERMS[name](latents, sae, p).item() == pytest.approx(value, rel=1e-5)


def test_gradient_of_lp_is_finite_and_zero_for_inactive_latents():
    latents = torch.tensor([[0.0, 4.0]], requires_grad=True)
    SPARSITY_TERMS["lp"](latents, make(), 0.5).backward()
    assert latents.grad.tolist() == [[0.0, 0.25]]


def test_l0_counts_active_latents_and_moves_their_thresholds_alone(batch):
    sae, bandwidth = make_sae(SAEConfig(D, 7, "jumprelu", encoder_hidden=9)), 0.3
    sae.activation.bandwidth = bandwidth
    sae.activation.log_threshold.data = torch.linspace(-3, 0, 7)
    _, latents = OBJECTIVES["latent_inv"](sae, batch)
    value = SPARSITY_TERMS["l0"](latents, sae, 1.0, batch.canonical)
    assert value.item() == pytest.approx((latents > 0).sum().item() / N)
    value.backward()
    before = sae.pre_activations(batch.canonical)
    for i, theta in enumerate(sae.activation.log_threshold.exp().tolist()):
        near = sum(abs(pre - theta) < bandwidth / 2 for pre in before[:, i].tolist())
        by_theta = -near / bandwidth / N
        found = sae.activation.log_threshold.grad[i].item()
        assert found == pytest.approx(by_theta * theta, abs=1e-6)  # theta = exp(log_threshold)
    others = [p for name, p in sae.named_parameters() if name != "activation.log_threshold"]
    assert sae.activation.log_threshold.grad.any()
    assert all(parameter.grad is None for parameter in others)


@pytest.mark.parametrize("dictionary", ["free", "block_diagonal"])
def test_l0_makes_jumprelu_sparser(toy, dictionary):
    n_heads = 2 if dictionary == "block_diagonal" else 1
    sae = SAEConfig(8, 12, "jumprelu", encoder_hidden=16, dictionary=dictionary, n_heads=n_heads)
    weak, strong = (
        SAERun("jumprelu", "toy", sae, sparsity="l0", lambda_sparsity=weight, epochs=60,
               batch_size=32, learning_rate=2e-2)
        for weight in (1e-3, 1.0)
    )  # fmt: skip
    histories = [train_sae(run, toy.activations, progress=False)[1] for run in (weak, strong)]
    assert histories[1].l0.iloc[-1] < 0.5 * histories[0].l0.iloc[-1]


@pytest.mark.parametrize("objective", ["reconstruction", "canonical", "latent_inv", "output_inv"])
def test_total_loss_weighs_its_terms(objective, batch):
    sae = make()
    terms = total_loss(sae, batch, Loss(objective, 0.7, 0.3, "lp", 0.2, p=0.5))
    raw, latents = OBJECTIVES[objective](sae, batch)
    mse = OBJECTIVES["reconstruction"](sae, batch)[0]["reconstruction"]
    sparsity = SPARSITY_TERMS["lp"](latents, sae, 0.5)
    expected = raw["reconstruction"] + 0.7 * raw.get("symmetry", 0) + 0.3 * mse + 0.2 * sparsity
    assert_close(terms["loss"], expected)
    assert_close(terms["mse"], mse)
    assert_close(terms["sparsity"], sparsity)
    for name, value in raw.items():
        assert_close(terms[name], value)


@pytest.mark.parametrize(("topk", "wider"), [(1, 4), (2, 7)])
@pytest.mark.parametrize("objective", ["reconstruction", "oriented", "output_inv"])
def test_multi_topk_is_the_reconstruction_with_four_times_k_latents(objective, topk, wider, batch):
    """Or with all 7 of them, where that is fewer."""
    sae, other = (
        make_sae(SAEConfig(d=D, n_latents=7, topk=k, encoder_hidden=9)) for k in (topk, wider)
    )
    plain = total_loss(sae, batch, Loss(objective))
    terms = total_loss(sae, batch, Loss(objective, lambda_multi_topk=0.3))
    expected = OBJECTIVES[objective](other, batch)[0]["reconstruction"]
    assert_close(terms["multi_topk"], expected)
    assert_close(terms["loss"], plain["loss"] + 0.3 * expected)
    assert sae.activation.k == topk
    assert expected != plain["reconstruction"]


def test_total_loss_by_default_is_the_reconstruction_plus_the_symmetry_term(batch):
    terms = total_loss(make(), batch, Loss("latent_inv"))
    assert set(terms) == {"loss", "reconstruction", "symmetry"}
    assert_close(terms["loss"], terms["reconstruction"] + terms["symmetry"])
    assert set(total_loss(make(), batch, Loss("canonical"))) == {"loss", "reconstruction"}


@pytest.mark.parametrize("objective", OF_ANY_SAE)
def test_a_stack_of_saes_has_one_loss_each(objective, batch, orbits, elements):
    dictionary = "blocks" if objective == "crosscoder" else "free"
    saes = [make("topk", dictionary, seed) for seed in (0, 1)]
    starts, chosen = batch.starts.expand(2, -1), elements.expand(2, -1)
    both = orbit_batch(batch.rows, starts, chosen)
    losses = total_loss(stack(saes), both, Loss(objective))["loss"]
    alone = [total_loss(sae, batch, Loss(objective))["loss"] for sae in saes]
    assert_close(losses, torch.stack(alone))
    assert losses[0] != losses[1]


# --- Matryoshka ---

PREFIXES = (1, 3, 7)


def make_matryoshka(seed: int = 0, prefixes: tuple[int, ...] = PREFIXES, dictionary: str = "free"):
    """An SAE that reads and returns activations in units of their own."""
    config = SAEConfig(
        d=D,
        n_latents=7,
        activation="relu",
        encoder_hidden=9,
        dictionary=dictionary,
        n_archetypes=4,
        prefixes=prefixes,
    )
    sae = make_sae(config, seed)
    generator = torch.Generator().manual_seed(seed)
    sae.decoder_bias.data.normal_(generator=generator)
    sae.encoder_biases[-1].data.fill_(2.0)  # so that every latent is active somewhere
    if dictionary == "archetypal":
        sae.centres.normal_(generator=generator)
    sae.set_standardisation(torch.randn(D, generator=generator), torch.tensor(2.0 + seed))
    return sae


@pytest.mark.parametrize("dictionary", ["free", "archetypal"])
@pytest.mark.parametrize("prefixes", [(1, 3, 7), (4, 7), (1, 2, 3, 4, 5, 6, 7)])
def test_matryoshka_agrees_with_a_plain_loop(prefixes, dictionary, batch, orbits, elements):
    sae = make_matryoshka(0, prefixes, dictionary)
    terms, latents = OBJECTIVES["matryoshka"](sae, batch)
    errors = dict.fromkeys(prefixes, 0.0)
    for i in range(N):
        gx = orbits[i, elements[i]]
        z = sae.encode(gx[None])[0]
        assert_close(latents[i], z)
        for prefix in prefixes:
            recons = sae.decoder_bias.clone()
            for j in range(prefix):
                recons = recons + z[j] * sae.dictionary[j]
            errors[prefix] += squared(gx - (sae.scale * recons + sae.mean)) / N
    assert len(set(errors.values())) == len(prefixes)
    assert set(terms) == {"reconstruction", "prefixes"}
    assert terms["reconstruction"].item() == pytest.approx(errors.pop(7), rel=1e-5)
    assert terms["prefixes"].item() == pytest.approx(sum(errors.values()), rel=1e-5)


def test_matryoshka_reconstructs_as_a_vanilla_sae_does(batch):
    sae = make_matryoshka()
    terms, _ = OBJECTIVES["matryoshka"](sae, batch)
    assert_close(
        terms["reconstruction"], OBJECTIVES["reconstruction"](sae, batch)[0]["reconstruction"]
    )


def test_a_stack_of_matryoshka_saes_has_the_terms_of_each(batch, elements):
    saes = [make_matryoshka(seed) for seed in (0, 1, 2)]
    starts = torch.stack([batch.starts, batch.starts.flip(0), batch.starts])
    chosen = torch.stack([elements, elements, (elements + 1) % ORDER])
    together = orbit_batch(batch.rows, starts, chosen)
    loss = Loss("matryoshka", sparsity="l1", lambda_sparsity=0.3)
    losses = total_loss(stack(saes), together, loss)
    for i, sae in enumerate(saes):
        own = orbit_batch(batch.rows, starts[i], chosen[i])
        alone = total_loss(sae, own, loss)
        assert losses.keys() == alone.keys()
        for name, value in alone.items():
            assert losses[name].shape == (3,)
            assert_close(losses[name][i], value)
    assert len(set(losses["prefixes"].tolist())) == 3


def test_total_loss_adds_the_prefixes(batch):
    sae = make_matryoshka()
    terms = total_loss(sae, batch, Loss("matryoshka"))
    assert set(terms) == {"loss", "reconstruction", "prefixes"}
    assert_close(terms["loss"], terms["reconstruction"] + terms["prefixes"])
    more = total_loss(sae, batch, Loss("matryoshka", 0.7, 0.3, "l1", 0.2))
    assert_close(
        more["loss"], terms["loss"] + 0.3 * terms["reconstruction"] + 0.2 * more["sparsity"]
    )


def test_latents_after_a_prefix_get_no_gradient_from_it(batch):
    """Those of the last block are moved by the reconstruction alone."""
    gradients = []
    for term in ("prefixes", "reconstruction"):
        sae = make_matryoshka()
        OBJECTIVES["matryoshka"](sae, batch)[0][term].backward()
        gradients.append(sae.decoder_weight.grad)
    assert not gradients[0][3:].any()
    assert gradients[0][:3].any() and gradients[1][3:].any()


@pytest.mark.parametrize("prefixes", [(3, 1, 7), (3, 3, 7), (0, 7), (-1, 7), (1, 3), (1, 8), (8,)])
def test_prefixes_that_do_not_rise_to_the_number_of_latents(prefixes):
    with pytest.raises(
        ValueError,
        match=r"prefixes must rise to n_latents = 7, got \(|prefixes\[0\] must be 1 or more",
    ):
        SAEConfig(d=D, n_latents=7, topk=2, prefixes=prefixes)
