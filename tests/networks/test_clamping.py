import pytest
import torch
from torch import nn

from saehelpers.networks import clamped, make_go_network
from saehelpers.saes import EquivariantSAE, GroupCrosscoder, SAEConfig, make_sae

D, N_LATENTS = 8, 12


@pytest.fixture
def sae():
    sae = make_sae(SAEConfig(D, N_LATENTS, topk=3, encoder="linear"))
    sae.set_standardisation(torch.full((D,), 0.3), torch.tensor(2.0))
    return sae.eval().requires_grad_(False)


@pytest.fixture
def model():
    """What goes in comes out."""
    return nn.Sequential(nn.Identity())


def vectors(n: int = 20) -> torch.Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(0))


def run(model, sae, values, x):
    with clamped(model, "0", sae, values):
        return model(x)


def test_a_latent_at_a_value_moves_activations_along_its_row(model, sae):
    x = vectors()
    latents = sae.encode(x)
    latent = int(latents.sum(0).argmax())
    changed = latents.clone()
    changed[:, latent] = 5.0
    moved = sae.decode(changed) - sae.decode(latents)
    torch.testing.assert_close(run(model, sae, {latent: 5.0}, x), x + moved)
    assert torch.equal(model(x), x)  # restored


def test_latents_at_what_they_are_change_nothing_and_at_0_are_taken_out(model, sae):
    x = vectors(1)
    latents = sae.encode(x)[0]
    kept = {i: float(latents[i]) for i in range(N_LATENTS)}
    torch.testing.assert_close(run(model, sae, kept, x), x)
    without = x - sae.contribution(latents[None])
    torch.testing.assert_close(run(model, sae, dict.fromkeys(range(N_LATENTS), 0.0), x), without)


def test_maps_of_convolutions_and_tokens_are_changed_place_by_place(model, sae):
    x = vectors(24)
    changed = run(model, sae, {3: 1.0}, x)
    tokens = run(model, sae, {3: 1.0}, x.view(4, 6, D))
    maps = run(model, sae, {3: 1.0}, x.view(4, 2, 3, D).permute(0, 3, 1, 2))
    torch.testing.assert_close(tokens, changed.view(4, 6, D))
    torch.testing.assert_close(maps, changed.view(4, 2, 3, D).permute(0, 3, 1, 2))


def test_an_equivariant_sae_moves_activations_in_their_own_frame(model, sae, c4_action):
    equivariant = EquivariantSAE(sae, c4_action)
    x = c4_action.orbit(vectors()).flatten(0, 1)
    latents, elements = equivariant.encode_inferred(x)
    more = latents.clone()
    more[:, 2] += 1.0
    moved = torch.stack(
        [
            c4_action.act(sae.decode(one[None]), int(g))[0]
            - c4_action.act(sae.decode(z[None]), int(g))[0]
            for one, z, g in zip(more, latents, elements, strict=True)
        ]
    )
    found = torch.stack(
        [
            run(model, equivariant, {2: float(z[2]) + 1.0}, row[None])[0]
            for z, row in zip(latents, x, strict=True)
        ]
    )
    torch.testing.assert_close(found, x + moved, atol=1e-4, rtol=1e-4)


def test_a_network_of_boards_plays_other_moves(sae):
    network = make_go_network(n_blocks=2, channels=D)
    planes = torch.rand(2, 41, 3, 3, generator=torch.Generator().manual_seed(0))
    before = network.policy(planes)
    with clamped(network, "blocks.1.input", sae, {0: 50.0}):
        assert not torch.allclose(network.policy(planes), before)
    assert torch.equal(network.policy(planes), before)


def test_what_cannot_be_clamped_is_said(model, sae):
    with pytest.raises(ValueError, match="latents 0 to 11, got 12"):
        clamped(model, "0", sae, {12: 1.0})
    with pytest.raises(ValueError, match="no module 'one'"), clamped(model, "one", sae, {0: 1.0}):
        pass
    with pytest.raises(ValueError, match=r"width 8, the module returns \(3, 5\)"):
        run(model, sae, {0: 1.0}, torch.rand(3, 5))
    config = SAEConfig(D, 4, topk=2, dictionary="blocks", group_order=4)
    with pytest.raises(ValueError, match="one decoder"):
        clamped(model, "0", GroupCrosscoder(config), {0: 1.0})
