"""The sparse path: the dense one's results and gradients, from active latents alone."""

import copy
import dataclasses

import pytest
import torch
from torch.testing import assert_close

from saehelpers.saes import SAEConfig, make_sae, stack
from saehelpers.saes.sparse import (
    AbsTopK,
    BatchTopK,
    SparseLatents,
    TopK,
    choice,
    fast_products,
    firing_counts,
    products,
    selection,
    sparse_encode,
    top_k,
)
from saehelpers.saes.sparse.selection import largest_positive
from saehelpers.training import fitting
from saehelpers.training.loss import Loss, total_loss
from saehelpers.training.methods import SAERun
from saehelpers.training.objectives import OrbitBatch, squared_error
from saehelpers.training.side_by_side import train_saes

ACTIVATIONS = {"topk": TopK, "batch_topk": BatchTopK, "abs_topk": AbsTopK}
D, N_LATENTS, BATCH = 16, 64, 20
ALWAYS, NEVER = choice.Bounds(0, 1, 1), choice.Bounds(2**62, 1, 1)


def random(*shape: int, seed: int = 0, **options) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, **options)


@pytest.fixture(params=["topk", "batch_topk", "abs_topk"])
def kind(request) -> str:
    return request.param


@pytest.fixture
def sparse_from_the_start(monkeypatch):
    """SAEs of every size take the sparse path."""
    monkeypatch.setitem(choice.FASTER_FROM, "cpu", ALWAYS)


# --- which latents are kept ---


@pytest.mark.parametrize("n", [8, 100, 520, 4096])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_top_k_is_torchs(n, k):
    for x in (random(7, n), random(7, n) - 2, random(7, n).double(), random(7, n).bfloat16()):
        values, indices = top_k(x, k)
        assert torch.equal(x.gather(1, indices), values)
        # which of the others are taken is left open
        assert torch.equal(values.sort(descending=True).values.relu(), x.topk(k).values.relu())
        assert all(len(row.unique()) == k for row in indices)


@pytest.mark.parametrize("shape", [(2, 3, 40), (1500, 64), (3, 8)])
def test_top_k_keeps_the_same_with_several_threads_and_in_transforms(shape):
    x, threads = torch.randn(shape, generator=torch.Generator().manual_seed(0)), []
    expected = x.topk(4).values.relu()
    for count in (1, 3):
        threads.append(torch.get_num_threads())
        torch.set_num_threads(count)
        values, indices = top_k(x, 4)
        torch.set_num_threads(threads[-1])
        assert torch.equal(values.sort(descending=True).values.relu(), expected)
        assert indices.untyped_storage().nbytes() == 8 * indices.numel()  # of the k alone
    mapped = torch.func.vmap(lambda row: top_k(row, 4)[0])(x)
    assert torch.equal(mapped.sort(descending=True).values.relu(), expected)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_top_k_of_nothing_but_nan_is_nan(sign):
    values, _ = top_k(torch.tensor(torch.nan).copysign(torch.tensor(sign)).expand(3, 520), 4)
    assert values.isnan().all()


@pytest.mark.parametrize("n", [50, 64])  # groups of one and of eight
@pytest.mark.parametrize("kept", [1, 60, 200])
def test_largest_of_all_blocks_together(n, kept):
    x = random(30, n)
    found = largest_positive(iter(x.split(7)), kept)
    expected = x.flatten().topk(kept)
    order = found.values.sort(descending=True).indices
    assert torch.equal(found.values[order], expected.values)
    assert torch.equal((found.samples * n + found.latents)[order], expected.indices)
    assert torch.equal(found.samples, found.samples.sort().values)


def test_values_that_are_not_positive_are_never_kept():
    x = torch.tensor([[-1.0, 2.0], [0.0, -3.0]])
    found = largest_positive(iter([x]), 3)
    assert found.values.tolist() == [2.0]
    assert (found.samples.tolist(), found.latents.tolist()) == ([0], [1])


# --- results and gradients ---


def encode_and_decode(x, weight, bias, dictionary, activation):
    latents = sparse_encode(x, weight, bias, activation)
    return latents.dense(), latents.decode(dictionary)


@pytest.mark.parametrize("instances", [(), (2,)])
def test_gradients_are_right_in_double_precision(kind, instances):
    shapes = [(5, 6), (6, 12), (12,), (12, 6)]
    inputs = [random(*instances, *shape, seed=i, dtype=torch.float64).requires_grad_()
              for i, shape in enumerate(shapes)]  # fmt: skip

    def function(*tensors):
        activation = ACTIVATIONS[kind](2)
        activation.threshold = torch.full(instances, -1.0)
        return encode_and_decode(*tensors, activation)

    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("instances", [(), (3,)])
@pytest.mark.parametrize("training", [True, False])
def test_latents_are_the_dense_ones(kind, instances, training, monkeypatch):
    monkeypatch.setitem(selection.BUFFER, "cpu", 6 * N_LATENTS)  # blocks of six samples
    x, weight = random(*instances, BATCH, D), random(*instances, D, N_LATENTS, seed=1)
    bias = random(*instances, N_LATENTS, seed=2)
    activation = ACTIVATIONS[kind](4).train(training)
    activation.threshold = torch.full(instances, 1.5)
    reference = copy.deepcopy(activation)
    latents = sparse_encode(x, weight, bias, activation)
    expected = reference(x @ weight + bias.unsqueeze(-2))
    assert_close(latents.dense(), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(firing_counts(latents), firing_counts(expected))
    assert_close(activation.threshold, reference.threshold)


def test_one_latent_of_one_sample():
    """w = 2 and 3, b = 0 and -1: of x = 1 the latents are 2 and 2, of x = 2 they are 4 and 5."""
    x, weight = torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0, 3.0]])
    latents = sparse_encode(x, weight, torch.tensor([0.5, -1.0]), TopK(1))
    assert latents.dense().tolist() == [[2.5, 0], [0, 5]]
    assert latents.decode(torch.tensor([[1.0], [10.0]])).tolist() == [[2.5], [50]]


def test_only_allowed_latents_are_chosen():
    x, weight, bias = (
        random(2, BATCH, D),
        random(2, D, N_LATENTS, seed=1),
        torch.zeros(2, N_LATENTS),
    )
    allowed = torch.zeros(2, N_LATENTS, dtype=torch.bool)
    allowed[0, [1, 5, 40]] = True  # the second instance has none
    found = sparse_encode(x, weight, bias, TopK(2), allowed).dense()
    masked = (x @ weight).masked_fill(~allowed.unsqueeze(-2), -torch.inf)
    assert_close(found, TopK(2)(masked))


@pytest.mark.parametrize("instances", [(), (2,)])
def test_distance_and_halves(kind, instances):
    activation = ACTIVATIONS[kind](5)
    activation.threshold = torch.full(instances, -1.0)
    x = random(*instances, 2 * BATCH, D)
    weight, bias = random(*instances, D, N_LATENTS, seed=1), random(*instances, N_LATENTS, seed=2)
    latents = sparse_encode(x, weight, bias, activation)
    halves, expected = latents.halves(), latents.dense().chunk(2, dim=-2)
    for half, reference in zip(halves, expected, strict=True):
        assert torch.equal(half.dense(), reference)
    assert_close(halves[0].squared_distance(halves[1]), squared_error(*expected))


# --- SAEs ---


def batch_of(instances: int, seed: int = 5) -> OrbitBatch:
    rows = random(2 * BATCH, D, seed=seed)
    starts = 2 * torch.arange(BATCH).expand(instances, -1)
    elements = torch.ones(instances, BATCH, dtype=torch.long)
    return OrbitBatch(rows, starts, elements, 2, torch.zeros(1, D), torch.ones(1, 1))


def assert_learns_alike(sparse, dense, loss, expected):
    """A sparse SAE of the weights of a dense one has the same loss and gradients."""
    sparse.load_state_dict(dense.state_dict())
    found = total_loss(sparse, batch_of(2), loss)
    found["loss"].sum().backward()
    assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for ours, reference in zip(sparse.parameters(), dense.parameters(), strict=True):
        assert_close(ours.grad, reference.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("objective", ["reconstruction", "canonical", "latent_inv", "output_inv"])
@pytest.mark.parametrize("encoder", ["linear", "two_layer"])
@pytest.mark.parametrize("pre_encoder_bias", [False, True])
def test_losses_and_gradients_are_the_dense_ones(
    kind, objective, encoder, pre_encoder_bias, monkeypatch
):
    config = SAEConfig(D, N_LATENTS, kind, 4, encoder, 24, pre_encoder_bias=pre_encoder_bias)
    dense = stack([make_sae(config, seed) for seed in (0, 1)]).train()
    with torch.no_grad():
        for i, parameter in enumerate(dense.parameters()):
            parameter.add_(random(*parameter.shape, seed=i), alpha=0.1)
    sparse = copy.deepcopy(dense)
    loss = Loss(objective, 1.0, 0.3, "lp", 0.1, p=0.5)
    expected = total_loss(dense, batch_of(2), loss)
    expected["loss"].sum().backward()
    monkeypatch.setitem(choice.FASTER_FROM, "cpu", ALWAYS)
    sparse.align()
    assert isinstance(sparse.latents(batch_of(2).canonical), SparseLatents)
    assert_learns_alike(sparse, dense, loss, expected)


def test_prefixes_of_sparse_latents_are_the_dense_ones(kind, monkeypatch):
    config = SAEConfig(D, N_LATENTS, kind, 4, "linear", prefixes=(8, 20, N_LATENTS))
    dense = stack([make_sae(config, seed) for seed in (0, 1)]).train()
    sparse, loss = copy.deepcopy(dense), Loss("matryoshka")
    expected = total_loss(dense, batch_of(2), loss)
    expected["loss"].sum().backward()
    monkeypatch.setitem(choice.FASTER_FROM, "cpu", ALWAYS)
    sparse.align()
    latents = sparse.latents(batch_of(2).transformed)
    some = latents.between(8, 20)
    assert torch.equal(some.dense()[..., 8:20], latents.dense()[..., 8:20])
    assert not some.dense()[..., :8].any() and not some.dense()[..., 20:].any()
    assert_learns_alike(sparse, dense, loss, expected)


def test_no_tensor_of_all_latents_is_made(sparse_from_the_start):
    sae = make_sae(SAEConfig(D, 512, "topk", 4, "linear")).train()
    sae.align()
    sizes = set()

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            result = function(*arguments, **(options or {}))
            tensors = result if isinstance(result, tuple | list) else [result]
            sizes.update(t.numel() for t in tensors if isinstance(t, torch.Tensor))
            return result

    x = random(4096, D)
    with pytest.MonkeyPatch.context() as patch, Sizes():
        patch.setitem(selection.BUFFER, "cpu", 64 * 512)
        squared_error(x, sae.decode(sae.latents(x))).backward()
    assert max(sizes) <= 4096 * D < 4096 * 4 * D


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"unit_decoder": True},
        {"encoder": "two_layer"},
        {"dictionary": "block_diagonal", "n_heads": 2, "unit_decoder": True},
        {"dictionary": "block_diagonal", "n_heads": 2, "topk_per_head": True},
    ],
)
def test_training_gives_the_same_curve_and_weights(kind, options, monkeypatch):
    config = SAEConfig(D, N_LATENTS, kind, 4, encoder="linear", encoder_hidden=24)
    config = dataclasses.replace(config, **options)
    runs = [SAERun("any", "random", config, seed=s, epochs=5, batch_size=50) for s in (0, 1)]
    activations = random(300, 1, D)
    dense, dense_histories = train_saes(runs, [activations], progress=False)
    monkeypatch.setitem(choice.FASTER_FROM, "cpu", ALWAYS)
    sparse, histories = train_saes(runs, [activations], progress=False)
    for history, reference in zip(histories, dense_histories, strict=True):
        assert_close(
            torch.tensor(history.values), torch.tensor(reference.values), rtol=1e-4, atol=1e-5
        )
    for ours, reference in zip(sparse, dense, strict=True):
        assert_close(ours.state_dict(), reference.state_dict(), rtol=1e-4, atol=1e-4)


def test_an_interrupt_changes_nothing(sparse_from_the_start, train_interrupted):
    run = SAERun("any", "random", SAEConfig(D, N_LATENTS, encoder="linear"), epochs=4)
    activations = [random(300, 1, D)]
    (whole,), _ = train_saes([run], activations, progress=False)
    (resumed,) = train_interrupted([run], activations)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


@pytest.mark.parametrize("paths", [(ALWAYS, NEVER), (NEVER, ALWAYS)])
def test_a_checkpoint_of_one_path_is_resumed_on_the_other(paths, tmp_path, monkeypatch):
    """Another machine may choose another path; Adam's moments lie otherwise there."""
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)
    config = SAEConfig(D, D, topk=4, encoder="linear")  # a shape that hides a wrong orientation
    run, activations = SAERun("any", "random", config, epochs=4), [random(300, 1, D)]
    settings = {"checkpoint": tmp_path / "checkpoint", "progress": False}
    (whole,), _ = train_saes([run], activations, progress=False)

    def stop(epoch, sae):
        if epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setitem(choice.FASTER_FROM, "cpu", paths[0])
    with pytest.raises(KeyboardInterrupt):
        train_saes([run], activations, after_epoch=stop, **settings)
    monkeypatch.setitem(choice.FASTER_FROM, "cpu", paths[1])
    (resumed,), _ = train_saes([run], activations, **settings)
    assert_close(resumed.state_dict(), whole.state_dict(), rtol=1e-4, atol=1e-5)


def test_small_and_other_saes_stay_dense():
    assert make_sae(SAEConfig(256, 512, "topk", 32)).is_sparse
    others = [
        {"n_latents": 256}, {"topk": 65}, {"activation": "relu"}, {"activation": "jumprelu"},
        {"dictionary": "archetypal"}, {"dictionary": "blocks"},
        {"dictionary": "block_diagonal", "n_heads": 2},
    ]  # fmt: skip
    for options in others:
        sae = make_sae(dataclasses.replace(SAEConfig(256, 512, "topk", 32), **options))
        assert not sae.is_sparse, options


def test_autocast_favours_the_dense_path():
    wide, narrow = (make_sae(SAEConfig(256, n, "topk", 32)) for n in (1024, 512))
    with torch.autocast("cpu", torch.bfloat16):
        assert wide.is_sparse and not narrow.is_sparse


def test_projection_in_parts_is_the_projection():
    sae = make_sae(SAEConfig(3, 2500, unit_decoder=True))
    gradient = random(2500, 3)
    sae.decoder_weight.grad = gradient.clone()
    sae.project_gradient()
    unit = sae.dictionary.detach() / sae.dictionary_norms.detach()[:, None]
    assert_close(sae.decoder_weight.grad, gradient - (gradient * unit).sum(1, True) * unit)


# --- precision ---


def test_whether_medium_is_float32_is_found_out_without_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        inside = products._medium_is_float32.__wrapped__()
    assert inside == products._medium_is_float32.__wrapped__()


def test_activations_in_lower_precision_give_values_in_float32(kind):
    x, weight, bias = random(BATCH, D), random(D, N_LATENTS, seed=1), random(N_LATENTS, seed=2)
    with torch.autocast("cpu", torch.bfloat16):
        latents = sparse_encode(x.bfloat16(), weight, bias, ACTIVATIONS[kind](4))
    assert latents.values.dtype == torch.float32


@pytest.mark.parametrize("amd", [True, False])
def test_fast_products_are_float32_and_leave_the_setting_as_it_was(amd, monkeypatch):
    monkeypatch.setattr(products, "_is_amd", lambda: amd)
    before = torch.get_float32_matmul_precision()
    left, right = random(64, 256), random(256, 512, seed=1)
    with fast_products("cpu"):
        found = left @ right
    assert torch.get_float32_matmul_precision() == before
    with fast_products("cuda"):
        assert torch.get_float32_matmul_precision() == before
    exact = left.double() @ right.double()
    assert (found - exact).abs().max() < 1e-5 * exact.abs().max()


def test_under_autocast_values_stay_in_float32(kind):
    """Which latents are kept may differ where two are close; how much of each does not."""
    x, weight = random(BATCH, D), random(D, N_LATENTS, seed=1)
    activation, bias = ACTIVATIONS[kind](4), random(N_LATENTS, seed=2)
    with torch.autocast("cpu", torch.bfloat16):
        latents = sparse_encode(x, weight, bias, activation)
    found, exact = latents.dense(), x @ weight + bias
    assert latents.values.dtype == torch.float32
    assert_close(found[found > 0], exact[found > 0])
    dense = ACTIVATIONS[kind](4)(exact)
    assert ((found > 0) == (dense > 0)).float().mean() > 0.99


@pytest.mark.parametrize("options", [{}, {"dictionary": "block_diagonal", "n_heads": 2}])
@pytest.mark.parametrize("sparse", [False, True])
def test_training_under_autocast_is_near_full_precision(kind, options, sparse, monkeypatch):
    monkeypatch.setitem(choice.FASTER_FROM, "cpu", ALWAYS if sparse else NEVER)
    sae = SAEConfig(D, N_LATENTS, kind, 4, "linear", topk_per_head=bool(options), **options)
    run = SAERun("any", "random", sae, epochs=5, batch_size=50, learning_rate=3e-3)
    losses = []
    for config in (run, dataclasses.replace(run, autocast=True)):
        (trained,), (history,) = train_saes([config], [random(300, 1, D)], progress=False)
        assert all(parameter.dtype == torch.float32 for parameter in trained.parameters())
        losses.append(torch.tensor(history.loss.values))
    # a signed latent that is chosen otherwise changes the loss by more
    assert_close(losses[1], losses[0], rtol=0.02 if kind == "abs_topk" else 0.01, atol=0)
    assert not torch.equal(losses[0], losses[1])
