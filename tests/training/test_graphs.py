"""Whether a recorded update is what it should be, is found out before it is used."""

import math

import pytest
import torch

from saehelpers.training.graphs import tried


@pytest.mark.parametrize(("replayed", "apart"), [(0.1, 0.0), (0.11, 0.1), (0.0, 1.0)])
def test_a_recorded_update_is_held_against_a_launched_one(replayed, apart):
    weight, steps = torch.ones(2, 3, requires_grad=True), torch.zeros(3)

    def move(by: float) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            weight.add_(by)
        return {"loss": weight.detach().sum()}

    terms, found = tried(lambda: move(0.1), lambda: move(replayed), [weight, steps])
    assert found == pytest.approx(apart, abs=1e-5)
    assert terms["loss"].item() == pytest.approx(6.6)
    torch.testing.assert_close(weight.detach(), torch.full((2, 3), 1.1))  # moved once


def test_an_update_that_moves_nothing_may_do_so_recorded():
    weight = torch.ones(2)
    assert tried(dict, dict, [weight]) == ({}, 0.0)
    assert tried(dict, lambda: weight.add_(1), [weight]) == ({}, math.inf)
