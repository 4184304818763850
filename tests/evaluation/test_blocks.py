import numpy as np
import pandas as pd
import pytest
import torch

from saehelpers.evaluation import fit_predict, metrics, probe_by_block, report_by_block
from saehelpers.runs import identity
from saehelpers.saes import SAEConfig, make_sae

TASKS = pd.DataFrame({"task_type": ["a", "a", "b"], "task": ["sum", "rare", "never"]})


@pytest.fixture
def samples():
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    rare = torch.zeros(300, dtype=torch.bool)
    rare[[3, 5, 7, 210]] = True
    labels = torch.stack([x.sum(1) > 0, rare, torch.zeros(300, dtype=torch.bool)], dim=1)
    return x, labels, torch.arange(100) // 40  # blocks of 40, 40 and 20


def test_scores_of_blocks_are_those_of_one_probe(samples):
    x, labels, blocks = samples
    rows = pd.DataFrame(probe_by_block(x, labels, TASKS, blocks))
    assert len(rows) == 9 and rows["split"].unique().tolist() == ["test 0", "test 1", "test 2"]
    predicted = fit_predict("xgboost", x[:200].numpy(), labels[:200, 0].numpy(), x[200:].numpy())
    for block, value in enumerate(rows[rows["task"] == "sum"]["value"]):
        own = (blocks == block).numpy()
        truth = labels[200:, 0].numpy()[own]
        assert value == pytest.approx(metrics.f1(truth, predicted[own]))
        assert value > 0.7
    rare = rows[rows["task"] == "rare"]["value"].tolist()
    assert not np.isnan(rare[0]) and np.isnan(rare[1:]).all()
    assert rows[rows["task"] == "never"]["value"].isna().all()


def test_labels_of_other_samples_or_tasks_are_refused(samples):
    x, labels, blocks = samples
    with pytest.raises(ValueError, match="must be of more samples"):
        probe_by_block(x[200:], labels[200:], TASKS, blocks)
    with pytest.raises(ValueError, match="and of the 2 tasks"):
        probe_by_block(x, labels, TASKS[:2], blocks)


def test_what_is_measured_of_an_sae_is_measured_of_each_block(toy, c4_action):
    sae = make_sae(SAEConfig(8, 12, topk=3))
    orbits, blocks = toy.activations[:60], torch.arange(60) % 2
    rows = pd.DataFrame(report_by_block(sae, c4_action, orbits, blocks, search=True))
    whole = metrics.symmetry_report(sae, c4_action, orbits[blocks == 1], search=True)
    found = rows[rows["split"] == "test 1"].set_index("metric")["value"]
    assert found.to_dict() == pytest.approx(whole)
    with pytest.raises(ValueError, match="blocks are of 59 samples"):
        report_by_block(sae, c4_action, orbits, blocks[1:])


def test_rows_say_which_settings_their_probes_had(monkeypatch):
    before = identity(probe_by_block)
    monkeypatch.setattr(probe_by_block, "version", "2")
    assert identity(probe_by_block) != before
