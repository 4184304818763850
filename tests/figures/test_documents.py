"""Numbers of README and findings come from the shipped rows, and from nowhere else."""

import re
import shutil
from math import nan
from pathlib import Path

import pandas as pd
import pytest

from saehelpers.datasets.shapes import SPLITS
from saehelpers.evaluation import Estimate
from saehelpers.figures.documents import (
    documents,
    fill,
    of_this_machine,
    order,
    shipped_rows,
    span,
)
from saehelpers.figures.measured import Measured, promise
from saehelpers.runs import results

pytestmark = pytest.mark.xdist_group("documents")  # which are filled once for all

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "data" / "reference"
ROWS = pd.DataFrame({
    "method": ["a", "a", "a", "a", "b", "b", "b", "b"],
    "base_seed": [0, 0, 1, 1] * 2, "seed": [0, 1] * 4, "note": ["", None] * 4,
    "value": [0.1, 0.3, 0.4, 0.8, 0.2, 0.2, 0.2, 0.2],
})  # fmt: skip


@pytest.fixture(scope="session")
def shipped():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHIP_RESULTS", "1")
        return shipped_rows(ROOT)


def test_no_two_shipped_rows_are_taken_for_one():
    """What tells runs apart beside their name is in a row; of ReLU SAEs the L1 weight is not."""
    rows = results.read(results.tables(ROOT / "probe_results"))
    described = [name for name in results.DESCRIPTION if name != "run_id"]
    alike = rows[rows.duplicated(described, keep=False)]
    assert set(zip(alike["experiment"], alike["method"], strict=True)) <= {("universality", "relu")}


@pytest.fixture(scope="session")
def filled(shipped):
    return documents(ROOT, shipped)


def test_documents_are_what_the_shipped_rows_make_of_them(filled):
    for path, text in filled.items():
        assert path.read_text(encoding="utf-8") == text, "python -m saehelpers.figures.documents ."


def test_a_row_that_changes_changes_its_sentence(shipped, filled):
    chosen = (shipped.metric == "induction_share") & (shipped.method == "block_diagonal")
    changed = documents(ROOT, shipped.assign(value=shipped.value.mask(chosen, 0.12)))
    for path in (ROOT / "README.md", ROOT / "docs" / "findings.md"):
        lines = zip(filled[path].splitlines(), changed[path].splitlines(), strict=True)
        differing = [line for other, line in lines if line != other]
        assert len(differing) == 1 and "0.12" in differing[0], path


def test_rows_say_which_kinds_of_worlds_keep_a_promise_and_what_tasks_make_of_it(shipped, filled):
    of_world = (shipped.experiment == "trust") & (shipped.data_source == "independent")
    of_tasks = (shipped.experiment == "trust_tasks") & (shipped.metric == "f1")
    changed = shipped.value.mask(of_world & (shipped.metric == "true"), 0.0).mask(of_tasks, 1.0)
    template = (ROOT / "docs" / "templates" / "trust.md").read_text(encoding="utf-8")
    text = fill(template, Measured(shipped.assign(value=changed), REFERENCE))
    kept = r"^\| broken \|[^|]*independent \(0.00 of \d+\)"
    answered = r"of those refused (\d+) of \1\. .* that of \*do not\* broken"
    for sentence in (kept, answered):
        assert re.search(sentence, text, re.MULTILINE)
        assert not re.search(sentence, filled[ROOT / "docs" / "trust.md"], re.MULTILINE)


def test_no_more_is_said_of_a_promise_than_its_interval_says():
    assert [promise(*ends) for ends in ((0.95, 1.0), (0.9, 0.96), (0.9, 0.94), (nan, nan))] == [
        "kept", "not decided", "broken", "not made"
    ]  # fmt: skip
    aucs = [Estimate(0.5, low, high, 1, 1) for low, high in ((0.6, 0.7), (0.4, 0.6), (0.3, 0.4))]
    assert [order(auc) for auc in aucs] == [
        "better than chance", "no better than chance can tell", "worse than chance"
    ]  # fmt: skip


def test_what_templates_may_ask():
    def filled(text):
        return fill(text, Measured(ROWS, REFERENCE)).rstrip("\n")

    assert filled('{{ mean(method="a") | two }}') == "0.40"  # of base models: 0.2 and 0.6
    assert filled('{{ mean(method="a", base_seed=[1], seed=1) | one }}') == "0.8"
    assert filled('{{ each("method") | span }}') == "0.20 to 0.40"
    assert filled("{{ rows(note=None) | length }}") == "8"
    assert filled('{{ has(method="a") }}, {{ has(method="c") }}') == "True, False"
    assert filled('{{ ratio("seed", {"method": "a"}, {"method": "b"})[1] | two }}') == "2.75"
    assert filled('{{ estimate(method="b") }}') == "0.200 (0.200 to 0.200)"
    assert filled('{{ above(["a"], "b").verdict }}') == "not decided"
    assert filled('{{ above(["a"], "b").a | verdict }}') == "not decided"
    published = 'published("e2e_gpt2_small", layer=2, sae_type="e2e").l0.min()'
    assert filled(f"{{{{ {published} | percent }}}}") == "1860 %"
    of_each = '{{ by_seed({"method": "a"}, {"method": "b"}, base_seed=0) }}'
    assert filled(of_each) == "0.000 (-1.271 to 1.271)"
    assert filled("{{ wilson(0.5, 10) | span }}") == "0.24 to 0.76"
    assert filled("a  \nb") == "a\nb"
    for question in ('mean(method="c")', 'published("e2e_gpt2_small", layer=77)'):
        with pytest.raises(ValueError, match=r"there are no rows of \{"):
            filled(f"{{{{ {question} }}}}")


def test_saes_of_a_world_by_kind_and_in_the_order_of_their_l0():
    """One record for each, the mean of its seeds; rows of other worlds are not among them."""
    saes = {
        ("topk", 25, 0): (0.4, 25), ("topk", 25, 1): (0.6, 25), ("topk", 15, 0): (0.3, 15),
        ("relu", 25, 0): (0.2, 26), ("relu", nan, 0): (0.1, 300),
    }  # fmt: skip
    table = pd.DataFrame([
        {"experiment": "world", "data_source": source, "dataset": dataset, "method": method,
         "topk": topk, "seed": seed, "metric": metric, "value": value}
        for (method, topk, seed), values in saes.items()
        for metric, value in zip(("mcc", "l0"), values, strict=True)
        for source, dataset in (("world", "large"), ("world", "small"), ("world_orbits", "large"))
    ]).assign(base_seed=0)  # fmt: skip
    found = Measured(table, REFERENCE).of_world(dataset="large")
    told = [(sae["method"], sae["topk"], sae["l0"], sae["mcc"], sae["seeds"]) for sae in found]
    assert told == [("relu", 25, 26, 0.2, 1), ("topk", 15, 15, 0.3, 1), ("topk", 25, 25, 0.5, 2)]


def test_what_a_run_says_last(tmp_path, shipped):
    """From own rows; and a sentence where these are of something else."""
    for name in ("docs/templates", "data/reference"):
        shutil.copytree(ROOT / name, tmp_path / name)
    own = tmp_path / "probe_results" / "own"
    own.mkdir(parents=True)
    said = of_this_machine(tmp_path)
    assert said.startswith("What was measured here is not what can be summed up: there are no rows")
    asked = shipped.experiment.isin(["toy", "shapes_action", "shapes_reconstruction"])
    probed = (shipped.experiment == "shapes_probes") & (shipped.truncation == 8)
    probed &= (shipped.topk == 8) & (shipped.group == "C4") & (shipped.seed == 0)
    probed &= shipped.base_model.isin(["mlp", "cnn"]) & (shipped.base_seed == 0)
    probed &= shipped.data_source == SPLITS["compositions"]
    methods = ["action", "adam", "vanilla", "canonical", "latent_inv", "output_inv"]
    table = shipped[(asked | probed) & shipped.method.isin(methods)][list(results.COLUMNS)]
    results.append(tmp_path / "probe_results" / "all.csv", [
        row | {"measure": "a"} for row in table.to_dict("records")
    ])  # fmt: skip
    lines = of_this_machine(tmp_path).splitlines()
    assert len(lines) == 7 and lines[0] == "Found on this machine:"
    assert lines[2].count("(vanilla 0.") == 2


def test_spans():
    assert span([0.123, 0.456]) == "0.12 to 0.46"
    assert span(pd.Series([0.121, 0.123])) == "0.12"
    assert span([1.0, 2.0], 0) == "1 to 2"
