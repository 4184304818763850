"""What a user sees of a bad call: an error that names the argument, what it got and what it wants.

The calls are made by another process, without the types that jaxtyping has checked in tests.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.bad_calls.accepted import ACCEPTED, UNCLEAR, known
from tests.bad_calls.table import CALLS, public_names

pytestmark = pytest.mark.xdist_group("bad calls")  # they are made once


@pytest.fixture(scope="module")
def outcomes() -> list[dict[str, str]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    found = subprocess.run(
        [sys.executable, "-m", "tests.bad_calls"],
        cwd=Path(__file__).parent.parent, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def test_every_public_name_has_a_call():
    assert public_names() <= set(CALLS)


def entries(outcomes, table, *kinds) -> Counter:
    """Of the calls with these outcomes, how many each entry of a table is about."""
    return Counter(
        known(table, row["name"], row["argument"], row["bad"]) or f"not in the table: {row}"
        for row in outcomes
        if row["kind"] in kinds
    )


def listed(table) -> set[str]:
    return {entry for group in table.values() for entry in group}


def test_bad_calls_end_in_a_sentence(outcomes):
    kinds = Counter(row["kind"] for row in outcomes)
    refused = kinds["clear"] + kinds["unnamed"] + kinds["deep"]
    assert refused >= 500
    assert kinds["clear"] >= 0.95 * refused
    assert set(entries(outcomes, UNCLEAR, "unnamed", "deep")) == listed(UNCLEAR)


def test_what_is_accepted_does_no_harm(outcomes):
    assert set(entries(outcomes, ACCEPTED, "accepted", "harmless")) == listed(ACCEPTED)
