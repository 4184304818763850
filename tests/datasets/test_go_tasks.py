"""Questions about points: as a slow player answers them, and turned as the board is turned."""

import dataclasses

import pytest
import torch

from saehelpers.datasets import go
from saehelpers.symmetry import Group, image_action

from .slow_go_tasks import answers
from .test_go import random_moves

D4 = Group.named("D4")


@pytest.fixture(scope="module")
def games() -> go.Games:
    return random_moves(6, 5, 60, seed=3)


@pytest.mark.parametrize("size, plies, seed", [(5, 60, 3), (4, 30, 0)])
def test_answers_are_those_of_a_slow_player(size, plies, seed):
    games = random_moves(6, size, plies, seed)
    positions, names = go.replay(games), go.list_point_tasks()["task"].tolist()
    chosen = torch.arange(0, len(positions), 7)
    found = go.point_tasks(games, positions[chosen])
    assert found.shape == (len(chosen), len(names), size, size)
    seen = set()
    for i, row in enumerate(chosen.tolist()):
        game, ply = int(positions.game[row]), int(positions.ply[row])
        moves = [divmod(m, size) if m < size**2 else None for m in games.moves[game].tolist()]
        slow = answers(moves, ply, size)
        assert slow.keys() <= set(names)
        for number, name in enumerate(names):
            own = {tuple(point) for point in found[i, number].nonzero().tolist()}
            assert own == slow.get(name, set()), (name, game, ply)
        seen |= slow.keys()
    assert size < 5 or seen == set(names)  # every question is answered by yes somewhere


def test_there_are_twenty_questions_of_each_kind_at_least():
    tasks = go.list_point_tasks()
    assert tasks["task"].is_unique
    assert tasks.groupby("task_type").size().min() >= 20


def test_a_turned_game_has_turned_answers(games):
    act, positions = image_action(D4), go.replay(games)
    found = go.point_tasks(games, positions)
    without = torch.tensor([t == "without direction" for t in go.list_point_tasks()["task_type"]])
    permuted = go.turned_tasks(D4)
    same = torch.arange(len(without))
    for element, points in enumerate(go.turned_points(D4, 5)):
        moves = torch.where(games.moves < 0, games.moves, points[games.moves])
        turned = dataclasses.replace(games, moves=moves)
        answered = go.point_tasks(turned, go.replay(turned))
        assert torch.equal(answered[:, permuted[element]], act(found, element))
        assert torch.equal(permuted[element][without], same[without])
        assert permuted[element].sort().values.equal(same)
    up = go.list_point_tasks()["task"].tolist().index("opposed up")
    assert len({int(turn[up]) for turn in permuted}) == 4


def test_labels_of_samples_are_those_of_the_turned_boards(games):
    act, positions = image_action(D4), go.replay(games)[:20]
    found, generator = go.point_tasks(games, positions), torch.Generator().manual_seed(0)
    points = torch.randint(25, (20, 3), generator=generator)
    elements = torch.randint(8, (20, 3), generator=generator)
    labels = go.turned_labels(found, points, elements, D4)
    places, permuted = go.turned_points(D4, 5), go.turned_tasks(D4)
    for i in range(20):
        for j in range(3):
            g = int(elements[i, j])
            turned = torch.empty_like(found[i])
            turned[permuted[g]] = act(found[i], g)
            there = turned.flatten(1)[:, places[g, points[i, j]]]
            assert torch.equal(labels[3 * i + j], there)


def test_positions_of_other_games_are_refused(games):
    positions = go.replay(games)
    moved = dataclasses.replace(positions, game=positions.game + 1)
    with pytest.raises(ValueError, match="positions must be of these games"):
        go.point_tasks(games, moved)
