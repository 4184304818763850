"""What benchmarks share: environments of the peers, made when first asked for; memory."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / ".peers"


def python_with(peer: str, *further: str) -> Path:
    """The interpreter of an environment with a peer, what else it needs, and this torch."""
    import torch

    name = peer.replace("==", "-")
    python = FOLDER / name / "bin" / "python"
    if not python.exists():
        print(f"setting up {python.parent.parent} (once; a few minutes)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", FOLDER / name], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        pinned = f"torch=={torch.__version__.split('+')[0]}"
        try:
            subprocess.run([*install, pinned], check=True)
            subprocess.run([*install, pinned, peer, *further], check=True)
        except subprocess.CalledProcessError:
            python.unlink()
            raise
    return python


def resident(field: str) -> float:
    """MiB that the process holds ("VmRSS") or has held ("VmHWM"), from /proc."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def reset_peak(device: str = "cpu") -> float:
    """Let the peak start from here; returns what is held now, in MiB, of a GPU's memory there."""
    if device != "cpu":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def peak_rise(before: float, device: str = "cpu") -> float:
    """MiB of the peak above `before`."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20 - before
    return resident("VmHWM") - before
