import dataclasses

import pytest
import torch
from torch.testing import assert_close

from saehelpers.saes import (
    SAE,
    ArchetypalSAE,
    EquivariantSAE,
    GroupCrosscoder,
    SAEConfig,
    make_sae,
    stack,
    unstack,
)
from saehelpers.saes.sparse import BatchTopK, JumpReLU, TopK
from saehelpers.symmetry import LinearAction
from saehelpers.training.methods import SAERun
from saehelpers.training.side_by_side import train_saes

KINDS = [
    {},
    {"activation": "batch_topk"},
    {"activation": "jumprelu"},
    {"activation": "relu", "encoder": "linear", "pre_encoder_bias": True},
    {"dictionary": "archetypal", "n_archetypes": 16},
    {"dictionary": "blocks", "group_order": 4},
    {"dictionary": "frozen"},
    {"dictionary": "soft_frozen"},
    {"dictionary": "frozen_encoder", "encoder": "linear"},
    {"activation": "block_topk", "group_order": 4},
]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def randomised(config: SAEConfig, seed: int = 0) -> SAE:
    """A fresh SAE in which nothing is zero or one by its initialisation."""
    sae, generator = make_sae(config, seed), torch.Generator().manual_seed(seed)
    for tensor in sae.parameters():
        tensor.data += 0.1 * torch.randn(tensor.shape, generator=generator)
    if isinstance(sae, ArchetypalSAE):
        sae.centres.copy_(torch.randn(sae.centres.shape, generator=generator))
    sae.set_standardisation(torch.linspace(-1, 1, config.d), torch.tensor(3.0))
    return sae.eval()


# --- activation functions ---


def test_topk_keeps_the_k_largest_and_rectifies():
    x = torch.tensor([[3.0, -1.0, 2.0, 5.0], [-4.0, -1.0, 0.5, -2.0]])
    assert TopK(2)(x).tolist() == [[3, 0, 0, 5], [0, 0, 0.5, 0]]


def test_topk_agrees_with_sorting():
    x = random(20, 9)
    kept = TopK(3)(x)
    for row, out in zip(x, kept, strict=True):
        largest = row.sort(descending=True).indices[:3]
        expected = torch.zeros(9)
        expected[largest] = row[largest].clamp(min=0)
        assert torch.equal(out, expected)


def test_batch_topk_keeps_k_per_sample_on_average_in_training():
    x = torch.tensor([[5.0, 4.0, 3.0], [0.5, -2.0, 1.0]])
    batch_topk = BatchTopK(2)
    assert batch_topk(x).tolist() == [[5, 4, 3], [0, 0, 1]]
    assert batch_topk.threshold.item() == 1.0


def test_batch_topk_of_a_stack_counts_within_each_instance():
    x = random(3, 10, 6).abs()
    batch_topk = BatchTopK(2)
    batch_topk.threshold = torch.full((3,), -1.0)
    kept = batch_topk(x)
    for instance in range(3):
        flat = x[instance].flatten()
        cut = flat.sort(descending=True).values[19]
        assert torch.equal(kept[instance], torch.where(x[instance] >= cut, x[instance], 0.0))
        assert batch_topk.threshold[instance] == cut


def test_batch_topk_threshold_is_a_running_mean_and_rules_outside_training():
    batch_topk = BatchTopK(1, momentum=0.25)
    batch_topk(torch.tensor([[2.0, 1.0]]))
    batch_topk(torch.tensor([[6.0, 1.0]]))
    assert batch_topk.threshold.item() == 0.75 * 2 + 0.25 * 6
    batch_topk.eval()
    kept = batch_topk(torch.tensor([[3.0, 4.0, 2.9], [9.0, -8.0, 2.0]]))
    assert kept.tolist() == [[3, 4, 0], [9, 0, 0]]
    assert batch_topk.threshold.item() == 3


def test_jumprelu_passes_what_exceeds_its_threshold():
    jump = JumpReLU(3, threshold=0.5)
    x = torch.tensor([[0.4, 0.6, -2.0], [0.501, 7.0, 0.2]])
    expected = torch.tensor([[0.0, 0.6, 0.0], [0.501, 7.0, 0.0]])
    assert torch.equal(jump(x), expected)


def test_jumprelu_gradients_are_the_papers_straight_through_estimates():
    """d/dtheta = -theta / bandwidth where |x - theta| < bandwidth / 2, else 0 (eq. 11)."""
    theta, bandwidth = 0.5, 0.2
    jump = JumpReLU(4, theta, bandwidth)
    x = torch.tensor([[0.45, 0.55, 0.65, 0.3], [0.58, 0.2, 0.41, 3.0]], requires_grad=True)
    upstream = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    (jump(x) * upstream).sum().backward()
    near = torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 0]])
    by_theta = (-theta / bandwidth * near * upstream).sum(0)
    assert_close(jump.log_threshold.grad, by_theta * theta)  # theta = exp(log_threshold)
    assert_close(x.grad, upstream * torch.tensor([[0.0, 1, 1, 0], [1, 0, 0, 1]]))


# --- the equations ---


@pytest.mark.parametrize("encoder", ["linear", "two_layer"])
@pytest.mark.parametrize("pre_encoder_bias", [False, True])
def test_forward_agrees_with_the_equations(encoder, pre_encoder_bias):
    config = SAEConfig(
        d=5,
        n_latents=7,
        topk=2,
        encoder=encoder,
        encoder_hidden=6,
        pre_encoder_bias=pre_encoder_bias,
    )
    sae, x = randomised(config), random(10, 5)
    for i in range(10):
        inner = (x[i] - sae.mean) / sae.scale
        if pre_encoder_bias:
            inner = inner - sae.decoder_bias
        first = inner @ sae.encoder_weights[0] + sae.encoder_biases[0]
        if encoder == "two_layer":
            first = first.relu() @ sae.encoder_weights[1] + sae.encoder_biases[1]
        latents = torch.zeros(7)
        for j in first.sort(descending=True).indices[:2]:
            latents[j] = max(first[j], torch.tensor(0.0))
        recons = sae.scale * (latents @ sae.decoder_weight + sae.decoder_bias) + sae.mean
        assert_close(sae.encode(x)[i], latents)
        assert_close(sae(x)[i], recons)


@pytest.mark.parametrize("name", ["relu", "gelu", "silu"])
def test_activation_between_the_encoders_layers(name):
    config = SAEConfig(d=5, n_latents=7, activation="relu", encoder_activation=name)
    sae, x = make_sae(config), random(4, 5)
    between = {"relu": torch.relu, "gelu": torch.nn.GELU(), "silu": torch.nn.SiLU()}[name]
    hidden = between(x @ sae.encoder_weights[0] + sae.encoder_biases[0])
    expected = (hidden @ sae.encoder_weights[1] + sae.encoder_biases[1]).relu()
    assert_close(sae.encode(x), expected)


def test_a_fresh_sae_has_unit_rows_and_a_tied_linear_encoder():
    sae = make_sae(SAEConfig(d=5, n_latents=7, topk=2, encoder="linear"))
    assert_close(sae.dictionary.norm(dim=-1), torch.ones(7))
    assert torch.equal(sae.encoder_weights[0], sae.dictionary.T)


def test_seeds_decide_the_weights():
    config = SAEConfig(d=5, n_latents=7, topk=2)
    first, again, other = (make_sae(config, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["decoder_weight"], other["decoder_weight"])


@pytest.mark.parametrize("options", KINDS)
def test_stacked_saes_compute_what_each_does_alone(options):
    config = SAEConfig(d=8, n_latents=12, topk=3, encoder_hidden=10, **options)
    saes = [randomised(config, seed) for seed in range(3)]
    for i, sae in enumerate(saes):
        sae.set_standardisation(torch.full((8,), float(i)), torch.tensor(1.0 + i))
    x = random(3, 20, 8)
    together, alone = stack(saes), [sae(batch) for sae, batch in zip(saes, x, strict=True)]
    assert_close(together(x), torch.stack(alone))
    assert not torch.allclose(alone[0], alone[1])


@pytest.mark.parametrize("options", KINDS)
def test_unstack_undoes_stack(options):
    config = SAEConfig(d=8, n_latents=12, topk=3, **options)
    saes = [randomised(config, seed) for seed in range(3)]
    before = [{k: v.clone() for k, v in sae.state_dict().items()} for sae in saes]
    for sae, state in zip(unstack(stack(saes)), before, strict=True):
        assert set(sae.state_dict()) == set(state)
        assert all(torch.equal(sae.state_dict()[name], state[name]) for name in state)


def test_instances_own_their_weights():
    saes = [randomised(SAEConfig(d=8, n_latents=12), seed) for seed in range(2)]
    stacked = stack(saes)
    first, second = unstack(stacked)
    first.decoder_weight.data.zero_()
    assert torch.equal(second.decoder_weight, saes[1].decoder_weight)
    assert torch.equal(stacked.decoder_weight[0], saes[0].decoder_weight)


def test_decoder_blocks_are_the_decoder_in_original_units():
    sae = randomised(SAEConfig(d=8, n_latents=12, topk=3))
    latents = random(5, 12).relu()
    blocks, biases = sae.decoder_blocks()
    assert_close(latents @ blocks[0] + biases[0], sae.decode(latents))


# --- constraints on the dictionary ---


def trained(config: SAEConfig, toy, objective: str = "reconstruction", **settings) -> SAE:
    run = SAERun("test", "toy", config, objective, epochs=3, learning_rate=1e-2, **settings)
    (sae,), _ = train_saes([run], [toy.activations], progress=False)
    return sae


def test_unit_norm_dictionary_is_kept_through_training(small_config, toy):
    sae = trained(dataclasses.replace(small_config, unit_decoder=True), toy)
    assert_close(sae.dictionary.norm(dim=-1), torch.ones(12))
    assert not torch.allclose(sae.dictionary, make_sae(small_config).dictionary, atol=1e-2)
    free = trained(small_config, toy)
    assert (free.dictionary.norm(dim=-1) - 1).abs().max() > 1e-3


def test_projected_gradient_is_orthogonal_to_every_row(small_config):
    sae = make_sae(small_config)
    sae.decoder_weight.data *= torch.arange(1.0, 13.0)[:, None]
    gradient = random(12, 8)
    sae.decoder_weight.grad = gradient.clone()
    sae.project_gradient()
    projected = sae.decoder_weight.grad
    for row, before, after in zip(sae.decoder_weight, gradient, projected, strict=True):
        assert (row @ after).item() == pytest.approx(0, abs=1e-4)
        removed = before - after
        assert_close(removed, (before @ row) / (row @ row) * row, atol=1e-5, rtol=1e-5)


def archetypal_dictionaries(saes, latents, targets, n_steps):
    """By Adam, with `constrain` after each step; of a stack, all instances at once."""
    parameters = [saes.convex_weights, saes.relaxation, saes.log_scale]
    optimiser = torch.optim.Adam(parameters, 0.05)
    for _ in range(n_steps):
        optimiser.zero_grad()
        (latents @ saes.dictionary - targets).square().sum().backward()
        optimiser.step()
        saes.constrain()
    return saes.dictionary.detach()


def plain_archetypal_dictionary(centres, w, latents, targets, n_steps, delta):
    """The same as in the authors' code: W and Lambda are projected in place, row by row."""
    w = w.clone().requires_grad_()
    relaxation = torch.zeros(len(w), centres.shape[1], requires_grad=True)
    mu = torch.zeros((), requires_grad=True)
    optimiser = torch.optim.Adam([w, relaxation, mu], 0.05)
    for step in range(n_steps + 1):
        with torch.no_grad():
            for i in range(len(w)):
                w[i] = torch.relu(w[i]) / (torch.relu(w[i]).sum() + 1e-8)
                length = relaxation[i].norm()
                if length > delta:
                    relaxation[i] *= delta / length
        dictionary = (w @ centres + relaxation) * mu.exp()
        if step < n_steps:
            optimiser.zero_grad()
            (latents @ dictionary - targets).square().sum().backward()
            optimiser.step()
    return dictionary.detach(), w.detach(), relaxation.detach()


def test_archetypal_steps_are_those_of_a_plain_loop_that_projects(small_config):
    config = dataclasses.replace(small_config, dictionary="archetypal", n_archetypes=6, delta=0.3)
    saes = [make_sae(config, seed) for seed in range(2)]
    for i, sae in enumerate(saes):
        sae.centres.copy_(random(6, 8, seed=10 + i))
    assert sorted(saes[0].convex_weights.unique().tolist()) == [0, 1]
    assert (saes[0].convex_weights.sum(-1) == 1).all()
    latents, targets = random(2, 40, 12, seed=1).relu(), random(2, 40, 8, seed=2)
    starts = [sae.convex_weights.detach().clone() for sae in saes]
    stacked = stack(saes)
    together = archetypal_dictionaries(stacked, latents, targets, 15)
    for i, sae in enumerate(saes):
        expected, w, relaxation = plain_archetypal_dictionary(
            sae.centres, starts[i], latents[i], targets[i], 15, 0.3
        )
        assert_close(together[i], expected, atol=1e-5, rtol=1e-4)
        assert_close(stacked.convex_weights[i].detach(), w, atol=1e-5, rtol=1e-4)
        alone = archetypal_dictionaries(sae, latents[i], targets[i], 15)
        assert_close(alone, expected, atol=1e-5, rtol=1e-4)
        assert ((w == 0) & (starts[i] > 0)).any() or ((w > 0) & (starts[i] == 0)).any()
        assert (relaxation.norm(dim=-1) > 0.3 - 1e-4).any()  # the bound was reached


def test_archetypal_weights_of_zero_grow_in_training(small_config, toy):
    config = dataclasses.replace(small_config, dictionary="archetypal", n_archetypes=16)
    before, after = make_sae(config), trained(config, toy)
    assert ((before.convex_weights == 0) & (after.convex_weights > 0)).any()


def test_archetypal_constraints_hold_after_training(small_config, toy):
    config = dataclasses.replace(small_config, dictionary="archetypal", n_archetypes=16, delta=0.05)
    sae = trained(config, toy)
    weights, relaxation = sae.convex_weights, sae.relaxation
    assert (weights >= 0).all()
    assert_close(weights.sum(-1), torch.ones(12))
    norms = relaxation.norm(dim=-1)
    assert (norms <= 0.05 + 1e-6).all()
    assert (norms > 0.05 - 1e-4).any()  # the bound was at work
    assert sae.log_scale.item() != 0
    for i in range(12):
        row = sum(weights[i, j] * sae.centres[j] for j in range(16)) + relaxation[i]
        assert_close(sae.dictionary[i], row * sae.log_scale.exp(), atol=1e-5, rtol=1e-5)


def test_archetypal_centres_are_kmeans_centres_and_rows_start_at_one_each():
    config = SAEConfig(d=3, n_latents=4, topk=1, dictionary="archetypal", n_archetypes=4)
    corners = 10 * torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0]])
    sae = make_sae(config)
    for seed in range(20):  # k-means starts at random points: some seed finds all four
        sae.set_centres(corners.repeat(20, 1) + 0.01 * random(80, 3), seed)
        distances = torch.cdist(corners, sae.centres)
        if distances.amin(1).max() < 0.1:
            break
    assert distances.amin(1).max() < 0.1
    assert sorted(sae.convex_weights.argmax(1).tolist()) == [0, 1, 2, 3]
    assert_close(sae.dictionary, sae.centres[sae.convex_weights.argmax(1)])


def test_more_archetypes_than_samples():
    sae = make_sae(SAEConfig(d=3, n_latents=4, topk=1, dictionary="archetypal", n_archetypes=9))
    with pytest.raises(ValueError, match="n_archetypes = 9 is more than 5 samples"):
        sae.set_centres(random(5, 3), 0)


# --- crosscoders and equivariant SAEs ---


@pytest.fixture
def crosscoder() -> GroupCrosscoder:
    return randomised(SAEConfig(d=8, n_latents=12, topk=3, dictionary="blocks", group_order=4))


def test_crosscoder_decodes_the_orbit_block_by_block(crosscoder):
    latents = random(5, 12).relu()
    orbit, (blocks, biases) = crosscoder.decode_orbit(latents), crosscoder.decoder_blocks()
    assert orbit.shape == (5, 4, 8)
    for g in range(4):
        inner = latents @ crosscoder.decoder_weight[g] + crosscoder.decoder_bias[g]
        assert_close(orbit[:, g], crosscoder.scale * inner + crosscoder.mean)
        assert_close(orbit[:, g], latents @ blocks[g] + biases[g])
    assert_close(orbit[:, 0], crosscoder.decode(latents))


def equivariant_crosscoder(action: LinearAction) -> GroupCrosscoder:
    """Latents are the positive parts of x and -x, blocks are rho(g): every orbit is exact."""
    config = SAEConfig(
        d=8, n_latents=16, activation="relu", encoder="linear", dictionary="blocks", group_order=4
    )
    sae = make_sae(config)
    both = torch.cat([torch.eye(8), -torch.eye(8)])
    sae.encoder_weights[0].data = both.T.contiguous()
    sae.decoder_weight.data = torch.stack([both @ m.T for m in action.matrices])
    return sae.eval().requires_grad_(False)


def test_crosscoder_infers_latents_and_elements(crosscoder, c4_action):
    x, action = random(20, 8), LinearAction(c4_action.group, c4_action.matrices, random(8))
    latents, elements = crosscoder.encode_inferred(x, action)
    blocks, biases = crosscoder.decoder_blocks()
    for i in range(20):
        errors = []
        for g in range(4):
            back = action.act(x[i : i + 1], action.group.inverse(g))
            z = crosscoder.encode(back)[0]
            errors.append((x[i] - z @ blocks[g] - biases[g]).pow(2).sum().item())
        best = errors.index(min(errors))
        assert elements[i] == best
        back = action.act(x[i : i + 1], action.group.inverse(best))
        assert_close(latents[i], crosscoder.encode(back)[0])
    assert len(elements.unique()) > 1


def test_exact_crosscoder_reconstructs_every_orbit(c4_action):
    sae, orbits = equivariant_crosscoder(c4_action), c4_action.orbit(random(6, 8))
    assert_close(sae.decode_orbit(sae.encode(orbits[:, 0])), orbits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("action", ["C4", "D4"], indirect=True)
def test_equivariant_sae_maps_canonical_recons(action):
    action = LinearAction(action.group, action.matrices, torch.linspace(0, 1, 8))
    sae = randomised(SAEConfig(d=8, n_latents=12, topk=3))
    model, x = EquivariantSAE(sae, action), random(16, 8)
    elements = torch.arange(16) % action.group.order
    blocks, biases = model.decoder_blocks()
    latents = model.encode(x)
    inferred = model.infer_element(x)
    for i in range(16):
        decoded = sae.decode(latents[i : i + 1])[0]
        candidates = [action.act(decoded, g) for g in range(action.group.order)]
        g = elements[i].item()
        assert_close(model.mapped(x, elements)[i], candidates[g])
        assert_close(latents[i] @ blocks[g] + biases[g], candidates[g])
        errors = [(x[i] - candidate).pow(2).sum().item() for candidate in candidates]
        assert inferred[i] == errors.index(min(errors))
        assert_close(model(x)[i], candidates[inferred[i]])
    assert_close(model.decode(latents), sae(x))


@pytest.mark.parametrize("action", ["C4", "D4"], indirect=True)
def test_searching_sae_reads_what_each_element_turns_back(action):
    action = LinearAction(action.group, action.matrices, torch.linspace(0, 1, 8))
    sae = randomised(SAEConfig(d=8, n_latents=12, topk=3))
    model, x = EquivariantSAE(sae, action, search=True), random(16, 8)
    given = torch.arange(16) % action.group.order
    latents, inferred = model.encode_inferred(x)
    for i in range(16):
        encoded, recons = [], []
        for g in range(action.group.order):
            matrix, origin = action.matrices[g], action.origin
            back = origin + torch.linalg.solve(matrix, x[i] - origin)
            encoded.append(sae.encode(back[None])[0])
            recons.append(origin + matrix @ (sae.decode(encoded[-1][None])[0] - origin))
        errors = [(x[i] - candidate).pow(2).sum().item() for candidate in recons]
        best = errors.index(min(errors))
        assert inferred[i] == best
        close = {"atol": 1e-4, "rtol": 1e-4}
        assert_close(latents[i], encoded[best], **close)
        assert_close(model(x)[i], recons[best], **close)
        assert_close(model.encode_given(x, given)[i], encoded[given[i]], **close)
        assert_close(model.mapped(x, given)[i], recons[given[i]], **close)
    assert len(inferred.unique()) > 1
    assert torch.equal(model.encode(x), latents)
    assert torch.equal(model.infer_element(x), inferred)
    assert_close(model.encode_given(x, 1), model.encode_given(x, torch.ones(16, dtype=torch.long)))


# --- bad input ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topk": 13}, "topk must be between 1 and n_latents = 12, got 13"),
        ({"topk": 0}, "topk must be 1 or more, got 0"),
        ({"topk": 13, "activation": "batch_topk"}, "between 1 and n_latents = 12, got 13"),
        ({"activation": "softmax"}, "unknown activation 'softmax'; known are topk"),
        ({"encoder": "deep"}, "encoder must be one of 'linear', 'two_layer', got 'deep'"),
        (
            {"encoder_activation": "tanh"},
            "encoder_activation must be one of 'relu', .*, got 'tanh'",
        ),
        ({"dictionary": "big"}, "unknown dictionary 'big'; known are free"),
        ({"dictionary": "archetypal", "unit_decoder": True}, "unit_decoder has no effect"),
    ],
)
def test_bad_configs(options, message):
    with pytest.raises(ValueError, match=message):
        SAEConfig(d=8, n_latents=12, **options)


def test_topk_is_not_checked_where_it_is_not_used():
    assert make_sae(SAEConfig(d=8, n_latents=4, activation="relu", topk=8)).config.topk == 8


def test_activations_of_another_width(small_config):
    with pytest.raises(ValueError, match=r"reads activations of width 8, got .*\[3, 5\]"):
        make_sae(small_config).encode(torch.zeros(3, 5))


# --- what print shows ---


def test_an_sae_and_its_action_are_printed_in_a_few_lines(small_config, c4_action):
    sae = make_sae(small_config)
    shown = "d=8, n_latents=12, activation='topk', topk=3, encoder='two_layer', encoder_hidden=16, "
    assert str(sae) == f"SAE({shown}encoder_activation='relu', dictionary='free')"
    assert str(EquivariantSAE(sae, c4_action, search=True)).splitlines() == [
        "EquivariantSAE(",
        "  search=True",
        f"  (sae): {sae}",
        "  (action): LinearAction(C4, order=4, d=8)",
        ")",
    ]
    blocks = make_sae(dataclasses.replace(small_config, dictionary="blocks", group_order=4))
    assert str(blocks).startswith("GroupCrosscoder(d=8") and "group_order=4" in str(blocks)
