import dataclasses

import pytest
import torch
from torch.testing import assert_close

from saehelpers.datasets import go
from saehelpers.evaluation import opinion_changes, view_disagreement
from saehelpers.networks import (
    make_go_network,
    read_activations,
    read_opinions,
    reconstructing,
    spliced_policy,
    viewed_opinions,
    with_random_weights,
)
from saehelpers.runs import identity
from saehelpers.saes import SAEConfig, make_sae
from saehelpers.symmetry import Group, image_action

D4 = Group.named("D4")


@pytest.fixture(scope="module")
def network():
    return make_go_network()


@pytest.fixture(scope="module")
def positions(network):
    return go.draw_positions(go.play_games(network.policy, 2, size=4), 12)


@pytest.fixture(scope="module")
def planes(positions):
    return go.input_planes(positions)


def test_what_changes_is_that_of_a_plain_computation(network, positions, planes):
    before, after = network(planes), make_go_network(seed=1)(planes)
    legal = go.legal_moves(positions.boards)
    changes = opinion_changes(before, after, legal)
    for i in range(len(planes)):
        p, q = (opinion.policy[i][legal[i]].double().softmax(0) for opinion in (before, after))
        assert_close(changes["policy_kl"][i].double(), (p * (p / q).log()).sum(), atol=1e-5, rtol=0)
        assert bool(changes["same_move"][i]) == (p.argmax() == q.argmax())
        win = [opinion.value[i].softmax(0)[0] for opinion in (before, after)]
        assert_close(changes["value_change"][i], abs(win[0] - win[1]))
        assert_close(changes["score_change"][i], abs(before.score[i] - after.score[i]))
    same = opinion_changes(before, before, legal)
    assert same["policy_kl"].abs().max() < 1e-6 and same["same_move"].all()
    assert same["ownership_change"].max() == 0


def test_views_of_a_network_that_reads_upright_boards_alone_disagree(network, positions, planes):
    legal, act, points = go.legal_moves(positions.boards), image_action(D4), go.turned_points(D4, 4)
    views = viewed_opinions(network, planes, D4)
    assert_close(views[0].policy, read_opinions(network, planes, 5).policy)
    for g in range(8):
        turned = network(act(planes, g))
        assert_close(views[g].policy, turned.policy[:, points[g]])
        assert_close(act(views[g].ownership, g), turned.ownership)
    found = view_disagreement(views, legal)
    assert found["policy_kl"].mean() > 0 and found["value_spread"].min() > 0
    p = torch.stack([v.policy[0][legal[0]].softmax(0) for v in views])
    assert_close(found["policy_kl"][0], (p * (p / p.mean(0)).log()).sum(1).mean())
    same = view_disagreement([views[0]] * 8, legal)
    assert same["policy_kl"].abs().max() < 1e-6 and same["same_move"].all()


def test_recons_stand_in_for_maps_of_points(network, planes):
    seen = []
    with reconstructing(network, "blocks.2.input", lambda x: seen.append(x) or x):
        assert torch.equal(read_opinions(network, planes).policy, network.policy(planes))
    assert_close(seen[0], read_activations(network, planes, "blocks.2.input").flatten(0, 2))
    one, other = (make_sae(SAEConfig(16, 24, topk=2), seed) for seed in (0, 1))
    policies = [spliced_policy(network, "blocks.2.input", sae) for sae in (one, other)]
    assert not torch.allclose(policies[0](planes), network.policy(planes))
    with reconstructing(network, "blocks.2.input", one):
        inside = network.policy(planes)
    assert torch.equal(policies[0](planes), inside)
    assert len({identity(policy) for policy in (*policies, network.policy)}) == 3


def test_random_weights_are_the_same_numbers_at_other_places(network, planes):
    shuffled = with_random_weights(network)
    for name, tensor in network.state_dict().items():
        other = shuffled.state_dict()[name]
        assert torch.equal(other.flatten().sort().values, tensor.flatten().sort().values)
    assert not torch.allclose(shuffled.policy(planes), network.policy(planes))
    assert torch.equal(with_random_weights(network).policy(planes), shuffled.policy(planes))
    told = [identity(n) for n in (network, shuffled, with_random_weights(network, 1))]
    assert len(set(told)) == 3


def test_simple_players_take_what_they_can_and_are_told_apart_from_winners():
    # black in the corner, white beside it: white takes it from below
    assert go.capture_first(_planes_after([0, 1, 8], 3)).argmax().item() == 3
    games = go.play_games(go.capture_first, 6, size=5, opponent=go.random_player, seed=1)
    ahead = go.area_scores(go.final_boards(games).stones, 7.0)
    for i, won in enumerate(go.policy_wins(games).tolist()):
        assert won == (ahead[i] > 0 if i % 2 == 0 else ahead[i] < 0)
    drawn = dataclasses.replace(games, komi=go.area_scores(go.final_boards(games).stones).float())
    assert go.policy_wins(drawn).tolist() == [0.5] * len(games)  # a draw is half a win


def _planes_after(moves, size):
    boards = go.empty_boards(1, size)
    games = go.Games(
        boards.stones, boards.to_move, torch.tensor([[*moves, size**2]]), torch.zeros(1)
    )
    return go.input_planes(go.replay(games))[-1:]
