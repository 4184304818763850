"""Tables of differences say what rows with known answers say."""

import pandas as pd
import pytest

from saehelpers import figures

BASE_MODELS, SEEDS = range(3), range(2)


def scores(value, **columns) -> pd.DataFrame:
    """A row for each base model and seed."""
    told = {"base_model": "mlp", "probe": "xgboost", "value": value} | columns
    return pd.DataFrame([
        {"base_seed": base, "seed": seed} | told for base in BASE_MODELS for seed in SEEDS
    ])  # fmt: skip


def test_a_claim_is_judged_for_each_base_model():
    values = pd.concat([
        scores(0.5, method="vanilla"), scores(0.7, method="canonical"),
        scores(0.6, method="latent_inv"), scores(0.5, method="vanilla", base_model="cnn"),
        scores(0.4, method="canonical", base_model="cnn"),
    ])  # fmt: skip
    text = "F1 above {}"
    found = figures.claims_of(text, values, ["canonical", "latent_inv"], "vanilla")
    assert found["claim"].tolist() == ["cnn: F1 above vanilla", "mlp: F1 above vanilla"]
    assert found["verdict"].tolist() == ["does not hold", "holds"]
    assert found["canonical"].tolist() == ["-0.100 (-0.100 to -0.100)", "0.200 (0.200 to 0.200)"]
    assert found["latent_inv"].tolist() == ["not measured", "0.100 (0.100 to 0.100)"]
    assert (
        figures.claims_of(text, values, ["canonical"], "pca")["canonical"].tolist()
        == ["not measured"] * 2
    )
    assert figures.claims_of(text, values[:0], ["canonical"], "vanilla").empty


def test_tasks_are_averaged_and_one_base_model_decides_nothing():
    tasks = [scores(value, method="canonical") for value in (0.6, 0.8)]
    values = pd.concat([*tasks, scores(0.5, method="vanilla")])
    of_first = values[values["base_seed"] == 0]
    (row,) = figures.claims_of("{}", of_first, ["canonical"], "vanilla").to_dict("records")
    assert row["canonical"] == "0.200"
    assert (row["verdict"], row["no interval, because of"]) == ("not decided", "one base model")


def test_differences_of_pairs_by_base_model_and_probe():
    values = pd.concat([
        scores(0.5, condition="inferred"), scores(0.5, condition="true"),
        scores(0.2, condition="vanilla"), scores(0.1, condition="vanilla", probe="logistic"),
    ])  # fmt: skip
    pairs = {"told": ("true", "inferred"), "ahead": ("inferred", "vanilla")}
    found = figures.differences_between(values, pairs)
    assert found["mlp", "XGBoost"].to_dict() == {
        "told": "0.000 (0.000 to 0.000)", "ahead": "0.300 (0.300 to 0.300)"
    }  # fmt: skip
    assert set(found["mlp", "logistic"]) == {"not measured"}
    first = figures.differences_between(values[values["base_seed"] == 0], pairs)
    assert first["mlp", "XGBoost"].to_dict() == {"told": "0.000", "ahead": "0.300"}
    with pytest.raises(ValueError, match="column must be of columns of values"):
        figures.differences_between(values, pairs, "method")


def test_a_pair_without_a_seed_in_common_was_not_measured():
    values = pd.concat([scores(0.5, method="a"), scores(0.2, method="b").assign(seed=7)])
    found = figures.differences_between(values, {"a above b": ("a", "b")}, "method")
    assert found["mlp", "XGBoost"].tolist() == ["not measured"]
