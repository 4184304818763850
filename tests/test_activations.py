import pytest
import torch
from torch import nn
from torch.testing import assert_close

from saehelpers.activations import orbit_activations, read_activations, splice, standardisation
from saehelpers.symmetry import Group


class Pair(nn.Module):
    """Returns a tuple, as attention layers do."""

    def forward(self, x):
        return x + 1, "weights"


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
        self.pair = Pair()

    def forward(self, x):
        return self.pair(self.encoder(x))


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model().requires_grad_(False)


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(7, 4, 4, generator=torch.Generator().manual_seed(0))


def test_spliced_output_goes_on_through_the_model(model, inputs):
    before = model(inputs)[0]
    with splice(model, {"encoder": lambda x: 2 * x}):
        assert_close(model(inputs)[0], 2 * (before - 1) + 1)
    assert torch.equal(model(inputs)[0], before)


def test_the_first_item_of_a_tuple_is_replaced(model, inputs):
    before = model(inputs)[0]
    with splice(model, {"pair": torch.zeros_like}):
        output = model(inputs)
        assert output[0].abs().max() == 0 and output[1] == "weights"
    assert torch.equal(model(inputs)[0], before)


def test_several_modules_at_once(model, inputs):
    seen = []
    with splice(model, {"encoder.1": torch.zeros_like, "pair": lambda x: (seen.append(x), x)[1]}):
        model(inputs)
    assert torch.equal(seen[0], torch.ones(7, 5))


def test_inputs_are_replaced_and_read(model, inputs):
    before, doubled = model(inputs)[0], model(2 * inputs)[0]
    with splice(model, {"encoder.1.input": lambda x: 2 * x}):
        assert_close(model(inputs)[0], doubled)
    assert torch.equal(model(inputs)[0], before)
    assert torch.equal(read_activations(model, inputs, "encoder.1.input"), inputs.flatten(1))
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("where", ["edit", "body"])
def test_the_model_is_restored_after_an_error(where, model, inputs):
    before = model(inputs)[0]

    def edit(x):
        if where == "edit":
            raise ArithmeticError
        return 2 * x

    with pytest.raises(ArithmeticError), splice(model, {"encoder": edit, "pair": edit}):
        model(inputs)
        raise ArithmeticError
    assert torch.equal(model(inputs)[0], before)
    assert not any(module._forward_hooks for module in model.modules())


def test_unknown_module_leaves_the_model_alone(model):
    names = r"no module 'decoder'; nearest are encoder, encoder\.1, encoder\.0, pair"
    with pytest.raises(ValueError, match=names), splice(model, {"encoder": abs, "decoder": abs}):
        pass
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("batch_size", [3, 1024])
def test_activations_are_read_in_order(batch_size, model, inputs):
    assert_close(read_activations(model, inputs, "encoder", batch_size), model.encoder(inputs))
    assert_close(read_activations(model, inputs, "pair", batch_size), model.encoder(inputs) + 1)


def test_reading_needs_no_gradient(model, inputs):
    model.requires_grad_(True)
    assert not read_activations(model, inputs, "encoder").requires_grad


@pytest.mark.parametrize("name", ["C4", "D4"])
def test_orbit_activations_are_those_of_each_transformed_image(name, model, inputs):
    group = Group.named(name)
    orbits = orbit_activations(model, inputs, group)
    assert orbits.shape == (7, group.order, 5)
    for i in range(7):
        for g in range(group.order):
            expected = model.encoder(group.act(inputs[i : i + 1], g))[0]
            assert_close(orbits[i, g], expected)
    plus_one = orbit_activations(model, inputs, group, "pair")
    assert_close(plus_one, orbits + 1)


def test_standardised_activations_have_mean_zero_and_mean_squared_norm_d():
    x = 3 * torch.randn(50, 4, 6, generator=torch.Generator().manual_seed(0)) + torch.arange(6.0)
    mean, scale = standardisation(x)
    made = (x - mean) / scale
    assert_close(made.flatten(0, 1).mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    assert made.pow(2).sum(-1).mean().item() == pytest.approx(6, rel=1e-5)
    assert scale.shape == ()  # one factor for all: directions keep their angles


def test_constant_activations():
    with pytest.raises(ValueError, match=r"activations of shape \(5, 4, 3\) are all the same"):
        standardisation(torch.ones(5, 4, 3))


def test_reading_runs_the_model_no_further_than_needed():
    ran = []
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2))
    model[2].register_forward_hook(lambda module, *_: ran.append(module))
    x = torch.randn(7, 3)
    found = read_activations(model, x, "1", batch_size=4)
    assert_close(found, model[1](model[0](x)).detach())
    assert not ran
    assert model(x).shape == (7, 2)
    assert ran
