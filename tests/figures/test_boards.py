import matplotlib.pyplot as plt
import torch

from saehelpers.figures import board_images, draw_board


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
