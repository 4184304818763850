"""The device to train on."""

import warnings

import torch


def default_device() -> str:
    """The device to train on: "cuda" or "mps" where there is one, else "cpu".

    An Apple GPU ("mps") that computes wrongly, as some did under older versions of torch, in
    silence, is not taken, with a warning.
    """
    if torch.cuda.is_available():
        return "cuda"
    if not torch.mps.is_available():
        return "cpu"
    if computes_rightly("mps"):
        return "mps"
    warnings.warn(
        f"torch {torch.__version__} computes wrongly on this Apple GPU: the CPU is used. A newer "
        "torch may do better.",
        stacklevel=2,
    )
    return "cpu"


@torch.no_grad()
def computes_rightly(device: str) -> bool:
    """Whether what SAEs are trained by comes out right on a device, of small operands.

    Products, also batched, of matrices that are transposed or parts of others, and the updates
    in place of such matrices, as an optimiser makes them: encoder weights are laid out so.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(3, 7, 6, generator=generator, dtype=torch.double) for _ in range(2))
    product = (a[:, :, None] * b[:, None]).sum(-1)  # (3, 7, 7), without a product of matrices
    here, there = (x.float().to(device) for x in (a, b))
    transposed = there.mT.contiguous()  # (3, 6, 7)
    wide = torch.cat([there, there], dim=2)
    updated = torch.zeros(6, 7, device=device).mT  # (7, 6), laid out by columns
    updated.addcmul_(here[0], there[0]).addcdiv_(here[1], there[0].square() + 1).lerp_(here[2], 0.5)
    pairs = [
        (here @ there.mT, product),
        (here @ transposed, product),
        (here @ wide[:, :, 6:].mT, product),
        (torch.baddbmm(here[:, :, :1], here, transposed), product + a[:, :, :1]),
        (torch.nn.functional.linear(here[0], there[0], here[0, :, 0]), product[0] + a[0, :, 0]),
        (updated, (a[0] * b[0] + a[1] / (b[0].square() + 1) + a[2]) / 2),
        (here.topk(3).values, a.topk(3).values),
    ]
    return all(torch.allclose(x.double().cpu(), y, atol=1e-4) for x, y in pairs)
