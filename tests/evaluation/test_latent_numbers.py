"""Numbers of latents whose answers are known: dictionaries and firings made by hand."""

import pandas as pd
import pytest
import torch

from saehelpers.evaluation import card_numbers, f1
from saehelpers.saes import EquivariantSAE, GroupCrosscoder, SAEConfig, make_sae
from saehelpers.symmetry import Group, LinearAction

D, N = 6, 400
C4 = Group.named("C4")


def reading(rows: torch.Tensor, thresholds: torch.Tensor | float = 0.5):
    """A ReLU SAE whose latents are projections on its rows, above thresholds."""
    sae = make_sae(SAEConfig(rows.shape[1], len(rows), "relu", encoder="linear"))
    sae.decoder_weight.data.copy_(rows)
    sae.encoder_weights[0].data.copy_(rows.T)
    sae.encoder_biases[0].data.fill_(0).sub_(thresholds)
    return sae.eval().requires_grad_(False)


def spikes(seed: int = 0) -> torch.Tensor:
    """Independent 0 or 1 along the axes."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(N, D, generator=generator) < 0.2).float()


def turns() -> LinearAction:
    """C4 moves four axes on, in a cycle, and leaves two as they are."""
    cycle = torch.eye(4).roll(1, 0)
    return LinearAction.from_generators(C4, [torch.block_diag(cycle, torch.eye(2))])


def test_rates_and_weak_firings():
    x = spikes()
    x[:10, 0] = 1.0
    x[:3, 0] = 0.6  # of which the latent is 0.1, below half of 0.5
    table = card_numbers(reading(torch.eye(D)), x)
    fires = x[:, 0] > 0
    assert table.firings[0] == fires.sum()
    assert table.firing_rate[0] == pytest.approx(float(fires.float().mean()))
    assert table.weak_share[0] == pytest.approx(3 / float(fires.sum()))
    assert (table.symmetry == "invariant").all() and (table.copies == 0).all()


def test_a_latent_that_another_silences_is_silent_where_the_activation_points_to_it():
    x = spikes()
    sae = reading(torch.eye(D))
    sae.encoder_weights[0].data[1, 0] = -2  # the first is silent where the second fires
    table = card_numbers(sae, x)
    present, silenced = x[:, 0] > 0, (x[:, 0] > 0) & (x[:, 1] > 0)
    assert table.silent_share[0] == pytest.approx(float(silenced.sum() / present.sum()))
    assert table.silent_share[2] == 0


def test_a_child_is_nested_in_its_parent_and_halves_of_a_feature_are_split():
    x = spikes()
    x[:, 1] *= x[:, 0]
    halves = torch.eye(D)
    halves[3] = torch.tensor([0, 0, 0.8, 0.6, 0, 0])  # like the third, and fires elsewhere
    x[:, 3], x[:, 2] = x[:, 3] * (1 - x[:, 2]), x[:, 2]
    sae = reading(halves)
    sae.encoder_weights[0].data.copy_(torch.eye(D))
    table = card_numbers(sae, x)
    parent_rate = float((x[:, 0] > 0).float().mean())
    assert (table.nested_in[1], table.nested[1]) == (0, pytest.approx(1 - parent_rate))
    assert table.split_cosine[[2, 3]].tolist() == pytest.approx([0.8, 0.8])
    assert (table.neighbour[2], table.neighbour_cosine[2]) == (3, pytest.approx(0.8))
    assert table.split_cosine[5] == 0


def test_one_orientation_turning_and_invariant_latents():
    action, x = turns(), spikes()
    x[:, 1:4] = 0
    orbits = action.orbit(x)
    rows = torch.zeros(4, D)
    rows[0, 0] = rows[1, 1] = rows[2, 4] = 1.0  # two copies of one, and an invariant one
    rows[3, :4] = 0.5
    sae = reading(rows, torch.tensor([0.5, 0.5, 0.5, 0.2]))
    sae.decoder_weight.data[3] = torch.tensor([0, 0, 1.0, 0, 0, 0])  # reads all, writes one
    table = card_numbers(sae, orbits, action)
    kinds = ["one orientation", "one orientation", "invariant", "turning"]
    assert table.symmetry.tolist() == kinds
    assert table.sharpness.tolist() == pytest.approx([1, 1, 0, 0], abs=1e-6)
    assert table.copies.tolist() == [2, 2, 0, 2]
    assert table.fixed_direction.tolist() == pytest.approx([0, 0, 1, 0], abs=1e-6)


def test_a_permuted_turned_sae_is_the_same_modulo_the_group():
    action, orbits = turns(), turns().orbit(spikes())
    rows = torch.eye(D)
    order, turned = torch.tensor([3, 0, 5, 1, 2, 4]), action.orbit_of_directions(rows)[:, 1]
    table = card_numbers(reading(rows), orbits, action, [reading(turned[order])])
    assert table.consistency.tolist() == pytest.approx([1] * D)
    assert table.agreement.tolist() == pytest.approx([1] * D)
    without = card_numbers(reading(rows), spikes(), None, [reading(rows[:3])])
    assert without.consistency.tolist() == pytest.approx([1, 1, 1, 0, 0, 0])
    assert 0 < without.consistency_null[0] < 0.9


def test_labels_that_firings_follow():
    x = spikes()
    labels = pd.DataFrame({"first": (x[:, 0] > 0).numpy(), "other": (x[:, 1] > 0).numpy()})
    labels.loc[:20, "other"] = False
    table = card_numbers(reading(torch.eye(D)), x, labels=labels)
    assert table.label[:2].tolist() == ["first", "other"]
    expected = f1(labels["other"].to_numpy(), (x[:, 1] > 0).numpy())
    assert table.label_f1[:2].tolist() == pytest.approx([1, expected])


def test_an_equivariant_sae_is_read_in_the_frame_that_it_infers(toy):
    generator = torch.Generator().manual_seed(0)
    sae = EquivariantSAE(reading(toy.features + 0.01 * torch.randn(4, 8, generator=generator)),
                         toy.action, search=True)  # fmt: skip
    table = card_numbers(sae, toy.activations, toy.action)
    assert (table.sharpness < 0.2).all()
    assert (table.silent_share < 0.2).all()


def test_bad_input_is_named():
    sae, action = reading(torch.eye(D)), turns()
    with pytest.raises(ValueError, match=r"activations must be \(n, 4, d\), orbits of C4"):
        card_numbers(sae, spikes(), action)
    with pytest.raises(ValueError, match="others reads activations of width 3"):
        card_numbers(sae, spikes(), None, [reading(torch.eye(3))])
    with pytest.raises(ValueError, match="labels must be of the 400 inputs"):
        card_numbers(sae, spikes(), labels=pd.DataFrame({"a": [True]}))
    crosscoder = GroupCrosscoder(SAEConfig(D, 4, topk=2, dictionary="blocks", group_order=4))
    with pytest.raises(ValueError, match="one decoder"):
        card_numbers(crosscoder, spikes())
