"""Links in what is read first lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "page", ["README.md", "docs/findings.md", "benchmarks/README.md", "data/reference/README.md"]
)
def test_links_lead_to_files(page):
    path = ROOT / page
    links = re.findall(r"\]\(([^)#]+)", path.read_text())
    files = [link for link in links if not link.startswith("http")]
    assert not [link for link in files if not (path.parent / link).exists()]
