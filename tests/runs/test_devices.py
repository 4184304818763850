"""The device to train on: a GPU where there is one that computes rightly."""

import pytest

from saehelpers.runs import devices


@pytest.mark.parametrize(
    "there, device",
    [({"cuda", "mps"}, "cuda"), ({"cuda"}, "cuda"), ({"mps"}, "mps"), (set(), "cpu")],
)
def test_the_default_device_is_a_gpu_where_there_is_one(monkeypatch, there, device):
    for name in ("cuda", "mps"):
        monkeypatch.setattr(f"torch.{name}.is_available", lambda name=name: name in there)
    monkeypatch.setattr(devices, "computes_rightly", lambda device: True)
    assert devices.default_device() == device


def test_an_apple_gpu_that_computes_wrongly_is_not_taken(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.mps.is_available", lambda: True)
    monkeypatch.setattr(devices, "computes_rightly", lambda device: device != "mps")
    with pytest.warns(UserWarning, match=r"torch .* wrongly on this Apple GPU: the CPU is used"):
        assert devices.default_device() == "cpu"


def test_a_cpu_computes_rightly():
    assert devices.computes_rightly("cpu")


def not_of_columns(self, *_, **__):
    """As older torch did it on Apple GPUs: what is not contiguous stays as it is."""
    return self


def of_another_layout(x, a, b):
    return x + a.reshape(3, 7, 6) @ b.reshape(3, 6, 7).flip(-1)


@pytest.mark.parametrize(
    "name, wrong",
    [
        ("Tensor.addcmul_", not_of_columns),
        ("Tensor.addcdiv_", not_of_columns),
        ("Tensor.lerp_", not_of_columns),
        ("baddbmm", of_another_layout),
    ],
)
def test_what_comes_out_wrong_is_noticed(name, wrong, monkeypatch):
    monkeypatch.setattr(f"torch.{name}", wrong)
    assert not devices.computes_rightly("cpu")
