"""Python cells of the README and of docs/ run, and run again, with small things in the place of the
user's."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from saehelpers.datasets import train_tokeniser, write_shards
from saehelpers.networks import make_gpt2
from saehelpers.saes import SAEConfig, make_sae, save_sae_lens

ROOT = Path(__file__).parent.parent
OWN_TEST = ("docs/extending.md",)
CELLS = {
    name: re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    if (name := path.relative_to(ROOT).as_posix()) not in OWN_TEST
}
ELSEWHERE = ("tcp://scheduler",)  # what only runs where somebody has a cluster
SMALLER = {  # sizes of GPT-2 and of SAEs
    "context=512": "context=16",
    "SAEConfig(768, 8192, topk=32": "SAEConfig(16, 32, topk=4",
    "SAEConfig(768, 32_768, topk=32": "SAEConfig(256, 512, topk=32",
}


class User(nn.Module):
    """A network whose encoder is 256 wide, of images (n, 1, 8, 8)."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU())

    def forward(self, images):
        return self.encoder(images)


@pytest.fixture
def user(tmp_path, monkeypatch):
    """What the cells take as given: names, files, and what they download."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    text = " ".join(f"the {i % 7} cats sat on {i % 11} mats" for i in range(400))
    Path("my_text.txt").write_text(text)
    tokeniser = train_tokeniser([text], 300)
    language_model = make_gpt2(300, 16, 16, n_layers=12, n_heads=2).eval().requires_grad_(False)
    monkeypatch.setattr(
        "saehelpers.networks.load_pretrained_language_model",
        lambda source: (language_model, tokeniser),
        raising=False,
    )
    sae = make_sae(SAEConfig(8, 12, topk=3, encoder="linear"))
    save_sae_lens(sae, tmp_path / "hub" / "blocks.8.hook_resid_pre")
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, allow_patterns: str(tmp_path / "hub")
    )
    with ThreadPoolExecutor(1) as executor:
        monkeypatch.setattr("saehelpers.runs.sweeps._processes", lambda n: executor)
        write_shards("data/activations/mine", [torch.rand(24, 1, 256)])
        yield {"model": User(), "images": torch.rand(400, 1, 8, 8)}


@pytest.mark.parametrize("page", [name for name, cells in CELLS.items() if cells])
def test_python_cells_run_and_run_again(page, user):
    for number, cell in enumerate(CELLS[page], 1):
        if any(there in cell for there in ELSEWHERE):
            continue
        for large, small in SMALLER.items():
            cell = cell.replace(large, small)
        for _ in range(2):
            exec(compile(cell, f"<python cell {number} of {page}>", "exec"), user)


def test_sizes_that_are_made_smaller_stand_on_a_page():
    code = "".join(cell for cells in CELLS.values() for cell in cells)
    assert all(code.count(text) == 1 for text in (*SMALLER, *ELSEWHERE))
