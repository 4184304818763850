import matplotlib.pyplot as plt
import pytest
import torch

from saehelpers.figures import board_images, boards_by_view, draw_board, strongest_boards
from saehelpers.networks import GoOpinion


def test_stones_lie_where_they_are_and_the_last_one_is_marked():
    stones = torch.zeros(2, 3, 3, dtype=torch.int8)
    stones[0, 0, 2], stones[0, 2, 0] = 1, -1
    images = board_images(stones, torch.tensor([2, 9]), pixels=90)
    assert images.shape == (2, 3, 90, 90) and images.dtype == torch.uint8
    middle = images[0, :, 15::30, 15::30].float()  # (3, 3, 3): of every point
    assert middle[:, 2, 0].min() > 230
    red, green, _ = middle[:, 0, 2]
    assert red > 150 and green < 100  # the last move
    assert images[0, :, 24, 75].max() < 60  # black below the mark
    plain = images[1].float()
    assert (plain[0] > plain[2] + 30).float().mean() > 0.6  # wood


def test_chances_are_drawn_as_discs_of_their_area():
    fig, ax = plt.subplots()
    chances = torch.zeros(5, 5)
    chances[1, 2], chances[3, 3] = 0.64, 0.001
    draw_board(ax, torch.zeros(5, 5, dtype=torch.int8), last=None, chances=chances)
    (disc,) = ax.patches
    assert disc.center == (2, 1) and abs(disc.radius - 0.46 * 0.8) < 1e-6
    assert ax.get_ylim() == (4.5, -0.5)
    plt.close(fig)


def test_every_view_has_its_chances_of_legal_moves():
    chances = torch.tensor([[0.5, 0.5] + [0.0] * 8, [0.9, 0.0] + [0.0] * 7 + [0.1]])
    views = [
        GoOpinion(row.log()[None], torch.tensor([[win, -50.0, -50.0]]).log_softmax(1),
                  torch.zeros(1), torch.zeros(1, 3, 3))
        for row, win in zip(chances, (0.0, -50.0), strict=True)
    ]  # fmt: skip
    legal = torch.ones(10, dtype=torch.bool)
    legal[1] = False
    fig = boards_by_view(torch.zeros(3, 3, dtype=torch.int8), 9, views, legal)
    titles = [ax.get_title() for ax in fig.axes]
    assert titles == ["view 0: best 1.00, win 1.000", "view 1: best 0.90, win 0.333"]
    discs = [[patch.center for patch in ax.patches] for ax in fig.axes]
    assert discs == [[(0, 0)], [(0, 0)]]
    assert fig.axes[1].patches[0].radius == pytest.approx(0.46 * 0.9**0.5, rel=1e-5)
    plt.close(fig)


def test_boards_stand_in_the_order_of_a_latents_strength():
    stones = torch.zeros(3, 3, 3, dtype=torch.int8)
    for board in range(3):
        stones[board, 2, board] = 1  # tells which board it is
    activations = torch.zeros(3, 3, 3, 2)
    activations[:, 0, 0, 0] = torch.tensor([1.0, 4.0, 2.0])
    activations[:, 0, 0, 1] = torch.tensor([3.0, 0.0, 6.0])
    last = torch.full((3,), -1)
    fig = strongest_boards(stones, last, activations, ["rare", "rarer"], columns=2)
    assert [ax.patches[0].center for ax in fig.axes] == [(1, 2), (2, 2), (2, 2), (0, 2)]
    radii = [ax.patches[1].radius / 0.46 for ax in fig.axes]
    assert radii == pytest.approx([1, 0.5**0.5, 1, 0.5**0.5])
    assert [ax.get_ylabel() for ax in fig.axes] == ["rare", "", "rarer", ""]
    plt.close(fig)
    with pytest.raises(ValueError, match="names must be 2, one for each latent"):
        strongest_boards(stones, last, activations, ["rare"])


def test_a_position_is_shown_once_from_the_side_from_which_a_latent_is_strongest():
    stones = torch.zeros(4, 3, 3, dtype=torch.int8)  # two positions from two sides
    for board, (row, column) in enumerate([(0, 0), (1, 1), (0, 2), (1, 2)]):
        stones[board, row, column] = 1
    activations = torch.zeros(4, 3, 3, 2)
    activations[:, 2, 2, 0] = torch.tensor([1.0, 5.0, 3.0, 4.0])
    activations[:, 2, 2, 1] = torch.tensor([0.0, 1.0, 0.0, 2.0])
    last = torch.full((4,), -1)
    fig = strongest_boards(stones, last, activations, ["a", "b"], views=2)
    shown = [[patch.center for patch in ax.patches[:1]] for ax in fig.axes]
    assert shown == [[(1, 1)], [(2, 0)], [(2, 1)], []]  # the other position is silent for b
    plt.close(fig)
    with pytest.raises(ValueError, match="views must divide the 4 boards, got 3"):
        strongest_boards(stones, last, activations, ["a", "b"], views=3)
