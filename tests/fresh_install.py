"""`pip install .` into an empty environment. `make test` runs this; plain pytest does not."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("fresh install")  # one environment for all

ROOT = Path(__file__).parent.parent
SUPPLIED = """
from collections import OrderedDict
import torch

torch.manual_seed(0)
images = torch.rand(64, 1, 16, 16)
encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 8), torch.nn.ReLU())
model = torch.nn.Sequential(OrderedDict(encoder=encoder))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs code where nothing but the package and what it asks for is installed."""
    folder = tmp_path_factory.mktemp("fresh")
    source = folder / "source"  # a build leaves files beside what it builds
    shutil.copytree(ROOT / "saehelpers", source / "saehelpers")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pin = re.search(r"^torch==.*", (ROOT / "requirements.txt").read_text(), re.MULTILINE)[0]
    unset = {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE"}  # modules are compiled once, when imported
    environment = {name: value for name, value in os.environ.items() if name not in unset}

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "venv", "environment")
    python = str(folder / "environment" / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    run(*pip, pin)
    run(*pip, str(source), "-c", str(ROOT / "constraints.txt"))
    yield lambda code: run(python, "-c", code)
    shutil.rmtree(folder)


def test_first_example_of_the_readme(run):
    section = (ROOT / "README.md").read_text().split("## With your own activations")[1]
    example = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    fvu = float(run(SUPPLIED + example).split()[-1])
    assert 0 < fvu < 1


def test_all_files_are_there(run):
    sources = ROOT / "saehelpers"
    expected = {
        str(path.relative_to(sources))
        for path in sources.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {"py.typed", "__init__.pyi", "figures/dashboard.html"} < expected
    files = "import saehelpers, pathlib; root = pathlib.Path(saehelpers.__path__[0])"
    found = run(f"{files}; print(*(path.relative_to(root) for path in root.rglob('*.*')))").split()
    assert {name for name in found if not name.endswith(".pyc")} == expected


@pytest.mark.parametrize(
    ("extra", "package", "statement"),
    [
        ("galaxies", "h5py", "from saehelpers.datasets import galaxies; galaxies.CLASSES"),
        ("notebooks", "matplotlib", "from saehelpers.figures import curves"),
        (
            "probes",
            "scipy",
            "import torch; from saehelpers.evaluation import rsa; rsa(*torch.rand(2, 3, 4))",
        ),
        ("text", "transformers", "from saehelpers.networks import make_gpt2; make_gpt2(9, 9)"),
    ],
)
def test_what_is_not_installed_is_asked_for(run, extra, package, statement):
    code = f"try:\n  {statement}\nexcept ModuleNotFoundError as error:\n  print(error)"
    text = f"this needs {package}: pip install 'saehelpers[{extra}]'\n"
    assert run(code).endswith(text)
