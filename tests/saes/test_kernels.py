"""Kernels for GPUs: run on the one here or by Triton's interpreter, and compiled for several."""

import os
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from saehelpers.saes import SAEConfig
from saehelpers.saes.sparse import choice, rows
from saehelpers.saes.sparse.selection import BUFFER
from saehelpers.training.methods import SAERun
from saehelpers.training.side_by_side import train_saes

pytest.importorskip("triton", reason="Triton is for Linux")
from saehelpers.saes.sparse import kernels

GPUS = [("cuda", 80, 32), ("cuda", 90, 32), ("hip", "gfx942", 64)]  # A100, H100 and H200, MI300
D, N_LATENTS = 6, 16
HERE = "cuda" if torch.cuda.is_available() else "cpu"


def random(*shape: int, seed: int = 0, **options) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **options)


def run(kernel, *arguments: torch.Tensor) -> torch.Tensor:
    return kernel(*(argument.to(HERE) for argument in arguments)).cpu()


def some_of(n: int, pairs: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(n, (pairs,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 16, 300])  # in one part, and in two of which one is not full
def test_sums_are_torchs(d, dtype):
    counts = torch.tensor([0, 3, 17, 0, 70, 1, 0])  # none, a few, and more than at a time
    starts, pairs = counts.cumsum(0) - counts, int(counts.sum())
    table, index = random(40, d, dtype=dtype), some_of(40, pairs)
    weights = random(pairs, seed=1, dtype=dtype)
    expected = rows.sum_rows(table, index, starts, weights)
    assert_close(run(kernels.sum_rows, table, index, starts, weights), expected)
    transposed = table.T.contiguous().T  # not laid out row by row
    assert_close(run(kernels.sum_rows, transposed, index, starts, weights), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 16, 300])
@pytest.mark.parametrize("pairs", [0, 1, 16, 50])
def test_products_are_torchs(d, pairs, dtype):
    left_rows, right_rows = random(20, d, dtype=dtype), random(40, d, seed=1, dtype=dtype)
    left, right = some_of(20, pairs), some_of(40, pairs, seed=1)
    expected = (left_rows[left] * right_rows[right]).sum(1)
    assert_close(run(kernels.multiply_rows, left_rows, right_rows, left, right), expected)
    assert_close(rows.multiply_rows(left_rows, right_rows, left, right), expected)


@pytest.mark.parametrize("activation", ["topk", "batch_topk"])
@pytest.mark.parametrize("options", [{"auxk": 4, "dead_after": 10}, {"autocast": True}])
def test_training_gives_the_same_curve_and_weights(activation, options, monkeypatch):
    sae = SAEConfig(D, N_LATENTS, activation, 3, "linear", unit_decoder=True)
    runs = [SAERun("any", "any", sae, seed=s, epochs=2, batch_size=8, **options) for s in (0, 1)]
    activations = [random(16, 1, D)]
    monkeypatch.setitem(choice.FASTER_FROM, "cpu", choice.Bounds(0, 1, 1))
    expected, expected_histories = train_saes(runs, activations, progress=False)
    monkeypatch.setitem(choice.FASTER_FROM, "cuda", choice.Bounds(0, 1, 1))
    monkeypatch.setattr(rows, "gpu_kernels", lambda device: kernels)
    found, histories = train_saes(runs, [x.to(HERE) for x in activations], progress=False)
    for history, reference in zip(histories, expected_histories, strict=True):
        found_values, values = torch.tensor(history.values), torch.tensor(reference.values)
        assert_close(found_values, values, rtol=1e-4, atol=0)  # 1e-7 more in a latent: 5e-6 here
    for ours, reference in zip(found, expected, strict=True):
        assert_close(ours.cpu().state_dict(), reference.state_dict(), atol=1e-4, rtol=1e-4)


def test_a_gpu_takes_the_sparse_path_where_it_was_measured_to_be_faster(monkeypatch):
    monkeypatch.setattr(rows, "gpu_kernels", lambda device: kernels)
    assert choice.is_faster("cuda", 2**20, 2**11, 16)
    assert not choice.is_faster("cuda", 2**19, 2**11, 16)  # launching is all that takes time
    assert not choice.is_faster("cuda", 2**20, 2**11, 2**8)
    assert choice.is_faster("cuda", 2**23, 2**14, 32, of_batches=True)
    assert not choice.is_faster("cuda", 2**22, 2**14, 32, of_batches=True)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "is_autocast_enabled", lambda device: True)
        assert choice.is_faster("cuda", 2**20, 2**11, 16)
        assert not choice.is_faster("cuda", 2**20, 2**11, 32)
    assert not choice.is_faster("mps", 2**23, 2**14, 32)
    monkeypatch.setattr(rows, "gpu_kernels", lambda device: None)
    assert not choice.is_faster("cuda", 2**23, 2**14, 32)
    assert set(BUFFER) == set(choice.FASTER_FROM)


def test_kernels_are_tried_before_they_are_used(monkeypatch):
    rows._try(kernels, HERE)
    right = kernels.sum_rows
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "sum_rows", lambda *arguments: 1.001 * right(*arguments))
        with pytest.raises(ArithmeticError, match="sum_rows is wrong by"):
            rows._try(kernels, HERE)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_without_working_kernels_the_dense_path_is_left_and_said_to_be(monkeypatch):
    monkeypatch.setattr(rows, "gpu_kernels", rows.gpu_kernels.__wrapped__)
    with pytest.warns(UserWarning, match="trained without them"):
        assert not choice.is_faster("cuda", 2**23, 2**14, 32)


def without_the_interpreter(*command: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, *command]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_kernels_compile_for_several_gpus():
    assert without_the_interpreter(__file__).split() == [
        "cubin",
        "cubin",
        "cubin",
        "cubin",
        "hsaco",
        "hsaco",
    ]


def compile_for(gpu: tuple, kernel, types: str) -> str:
    """Compile for a GPU that need not be there; what the result is called."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    sizes = {"PAIRS": kernels.PAIRS, "COLUMNS": kernels.COLUMNS, "WIDE": triton.language.float32}
    names = kernel.arg_names
    signature = dict(zip(names, types.split(), strict=False)) | dict.fromkeys(sizes, "constexpr")
    constants = {(names.index(name),): value for name, value in sizes.items()}
    source = ASTSource(kernel, signature, constants)
    built = triton.compile(source, GPUTarget(*gpu), {"enable_fp_fusion": True})
    return next(name for name in ("cubin", "hsaco") if built.asm.get(name))


if __name__ == "__main__":
    for gpu in GPUS:
        print(compile_for(gpu, kernels._sum_rows, "*fp32 *i64 *i64 *fp32 *fp32 i32 i32"))
        print(compile_for(gpu, kernels._multiply_rows, "*fp32 *fp32 *i64 *i64 *fp32 i32 i32"))
