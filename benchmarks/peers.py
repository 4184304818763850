"""Python environments of the peers, made when they are first asked for."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / ".peers"


def python_with(*requirements: str) -> Path:
    """The interpreter of an environment that has these requirements, and this torch."""
    import torch

    name = "-".join(requirement.replace("==", "-") for requirement in requirements)
    python = FOLDER / name / "bin" / "python"
    if not python.exists():
        print(f"setting up {python.parent.parent} (once; a few minutes)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", FOLDER / name], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        pinned = f"torch=={torch.__version__.split('+')[0]}"
        try:
            subprocess.run([*install, pinned], check=True)
            subprocess.run([*install, pinned, *requirements], check=True)
        except subprocess.CalledProcessError:
            python.unlink()
            raise
    return python
