"""A network whose representation is known: a group convolution permutes its channels."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from saehelpers.networks import orbit_activations, orbit_pixels
from saehelpers.symmetry import Group, fit_action, image_action, infer_element, report_action

N_KERNELS = 3


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class GroupConvolution(nn.Module):
    """Every kernel turned by every element: channel |G| k + h is that of kernel k under h.

    An image under g has at g u what the image has at u, with channel h in the place of g h.
    """

    def __init__(self, group: Group):
        super().__init__()
        kernels = random(N_KERNELS, 3, 3, seed=1)
        turned = [image_action(group)(kernels, h) for h in range(group.order)]
        self.kernels = nn.Parameter(torch.stack(turned, dim=1).reshape(-1, 1, 3, 3))
        self.maps, self.means = nn.ReLU(), nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        maps = self.maps(nn.functional.conv2d(images, self.kernels))
        return self.means(maps.mean((-2, -1)))


def channel_permutations(group: Group) -> Tensor:
    """(|G|, channels, channels): under g, channel h of every kernel goes to g h."""
    matrices = torch.zeros(group.order, group.order, group.order)
    for g in range(group.order):
        for h in range(group.order):
            matrices[g, group.compose(g, h), h] = 1
    return torch.stack([torch.block_diag(*[matrix] * N_KERNELS) for matrix in matrices])


@pytest.mark.parametrize("name", ["C4", "D4"])
@pytest.mark.parametrize("what", ["means of maps", "pixels"])
def test_the_fitted_action_permutes_the_channels(name, what, tmp_path):
    group = Group.named(name)
    model, images = GroupConvolution(group), random(600, 1, 8, 8)
    if what == "pixels":
        orbits = orbit_pixels(model, images, group, "maps", tmp_path / "pixels.npy", 2)
    else:
        orbits = orbit_activations(model, images, group, "means")
    train, test = orbits[: len(orbits) // 2], orbits[len(orbits) // 2 :]
    expected = channel_permutations(group)
    for method, settings in (
        ("least_squares", {}),
        ("per_element", {}),
        ("refined", {"epochs": 1, "learning_rate": 1e-6}),
        ("orthogonal", {"epochs": 1, "learning_rate": 1e-6}),
    ):
        action = fit_action(train, group, method, progress=False, **settings)
        assert_close(action.matrices, expected, atol=1e-4, rtol=0)
        report = report_action(action, test).set_index(["metric", "element"])["value"]
        assert report["r2", "all"] == pytest.approx(1, abs=1e-6)
        assert report["r2_identity", "all"] < 0.9
        assert report["homomorphism_error", "all"] == pytest.approx(0, abs=1e-4)
    elements = torch.arange(len(test)) % group.order
    seen = test[torch.arange(len(test)), elements]
    inferred = infer_element(action, seen, test[:, 0])
    told = test[:, 0].norm(dim=1) > 0  # no pixel at which every channel is silent
    assert torch.equal(inferred[told], elements[told])
