"""Facts about the analysis, on a table with known answers."""

import pandas as pd
import pytest

from saehelpers.figures import analysis

BASE = {
    "base_model": "mlp", "group": "C4", "topk": 8, "truncation": 8, "probe": "xgboost",
    "features": "recons", "element": "none", "method": "vanilla", "base_seed": 0, "seed": 0,
    "metric": "f1",
}  # fmt: skip


def rows(*values, **columns):
    """One row a task, with F1 `values` of tasks of type S, but for the last, of type SP."""
    types = ["S"] * (len(values) - 1) + ["SP"]
    return pd.DataFrame(
        [BASE | {"task_type": t, "value": v} | columns for t, v in zip(types, values, strict=True)]
    )


def scores(*tables):
    f1 = analysis.mean_f1(pd.concat(tables, ignore_index=True))
    return pd.concat([f1, analysis.over_task_types(f1)], ignore_index=True)


def test_task_types_count_once_and_missing_values_not():
    f1 = scores(rows(0.2, 0.4, float("nan"), 0.9), rows(0.5, metric="fvu"))
    values = f1.set_index("task_type")["value"]
    assert values.to_dict() == pytest.approx({"S": 0.3, "SP": 0.9, "mean": 0.6})


def test_what_was_tested_on_is_drawn_anew():
    drawn = [
        rows(0.5, metric="f1_resampled").assign(task=f"resample {n}", task_type="S", value=value)
        for n, value in ((1, 0.2), (2, 0.4))
    ]
    other = rows(0.3, 0.3, base_seed=None).assign(task="")  # from before there were several
    found = analysis.resampled_f1(pd.concat([other.assign(task=""), *drawn]))
    found = pd.concat([found, analysis.over_task_types(found)])
    assert set(found["base_seed"]) == {0}
    values = found[found["task_type"] == "S"].set_index("resample")["value"]
    assert values.to_dict() == pytest.approx({0: 0.3, 1: 0.2, 2: 0.4})
    vanilla = analysis.conditions(found, {"vanilla": (["vanilla"], "recons", "none")})
    assert len(vanilla) == len(found)  # resamples are not averaged


def test_base_models_are_averaged_after_their_seeds():
    f1 = scores(rows(0.2, 0.0), rows(0.4, 0.0, seed=1), rows(0.7, 0.0, base_seed=1))
    cells = analysis.beside_published(f1[f1["task_type"] != "mean"], published(vanilla=0.25))
    assert cells["ours"].tolist() == pytest.approx([0.5])
    pairs = analysis.at_every(scores(rows(0.1, 0.1), rows(0.1, 0.1, base_seed=1)), "truncation")
    assert set(pairs["base_seed"]) == {0, 1}


def test_controls_without_truncation_are_kept():
    f1 = scores(rows(0.2, 0.4, truncation=None, topk=None, method="base_model"))
    assert f1["value"].tolist() == pytest.approx([0.2, 0.4, 0.3])


def test_recons_are_those_of_baselines_and_of_one_element():
    f1 = scores(
        rows(0.2, 0.4), rows(0.3, 0.3, method="canonical", element="true"),
        rows(0.4, 0.4, method="canonical", element="inferred"),
        rows(0.5, 0.5, method="canonical", features="latents"), rows(0.6, 0.6, element="one_hot"),
    )  # fmt: skip
    for element, value in (("true", 0.3), ("inferred", 0.4)):
        found = analysis.recons_of(f1, element)
        assert set(found["element"]) == {"none", element} and set(found["features"]) == {"recons"}
        own = found[found["method"] == "canonical"]
        assert own["value"].tolist() == pytest.approx([value] * len(own))
    assert set(analysis.recons_of(f1, "none")["method"]) == {"vanilla"}
    assert set(analysis.recons_of(f1, methods=["canonical"])["element"]) == {"inferred"}


def test_base_models_have_an_order():
    table = pd.DataFrame({"base_model": ["vit", "my network", "cnn", "mlp", "cnn", "a"]})
    assert analysis.base_models_of(table) == ["mlp", "cnn", "vit", "a", "my network"]


def test_what_was_not_measured_is_an_error_that_names_what_was():
    base = rows(0.5, 0.5, truncation=None, topk=None, method="base_model", group="D4")
    latents = rows(0.5, 0.5, truncation=None, features="latents")
    f1 = analysis.mean_f1(pd.concat([rows(0.2, 0.4), rows(0.3, truncation=1), latents, base]))
    f1 = pd.concat([f1, analysis.over_task_types(f1)])  # an index that repeats
    assert set(analysis.at(f1, "C4", 8).truncation.dropna()) == {1, 8}
    assert set(analysis.at(f1, "C4", 8, 1).truncation.dropna()) == {1}
    for setting in (("D4", 8, 8), ("C4", 4), ("C4", 8, 2)):
        with pytest.raises(
            ValueError, match=r"no F1 .*; there is C4 with TopK 8 at truncations \[1, 8\]"
        ):
            analysis.at(f1, *setting)


def test_curves_rest_on_the_same_saes_at_every_point():
    everywhere = [rows(0.2, 0.4, truncation=length) for length in (4, 8)]
    f1 = scores(*everywhere, rows(0.6, 0.8, seed=1), rows(0.6, 0.8, base_model="vit"))
    kept = analysis.at_every(f1, "truncation")
    assert set(kept["truncation"]) == {4, 8}
    assert set(kept["seed"]) == {0} and set(kept["base_model"]) == {"mlp"}


def test_a_condition_of_several_methods_needs_them_all():
    tables = [rows(0.2, 0.4), rows(0.6, 0.8, method="canonical")]
    tables += [rows(0.1, 0.1, seed=1), rows(0.9, 0.9, element="true")]
    both = {"both": (["vanilla", "canonical"], "recons", "none")}
    found = analysis.conditions(scores(*tables), both)
    assert set(found["condition"]) == {"both"} and set(found["seed"]) == {0}
    values = found.set_index("task_type")["value"]
    assert values.to_dict() == pytest.approx({"S": 0.4, "SP": 0.6, "mean": 0.5})


def test_advantage_is_paired_by_seed_and_cell():
    f1 = scores(
        rows(0.2, 0.4), rows(0.3, 0.3, seed=1), rows(0.9, 0.9, truncation=4),
        rows(0.5, 0.5, method="canonical"), rows(0.9, 0.9, method="canonical", seed=2),
    )  # fmt: skip
    vanilla = analysis.conditions(f1, {"vanilla": (["vanilla"], "recons", "none")})
    canonical = analysis.conditions(f1, {"canonical": (["canonical"], "recons", "none")})
    found = analysis.advantage(canonical, vanilla)
    assert set(found["seed"]) == {0}
    values = found.set_index("task_type")["value"]
    assert values.to_dict() == pytest.approx({"S": 0.3, "SP": 0.1, "mean": 0.2})
    with pytest.raises(ValueError, match="several baselines"):
        analysis.advantage(canonical, f1)


def published(**values):
    cells = [{"method": name, "f1_mean": value} for name, value in values.items()]
    return pd.DataFrame(cells).assign(group="C4", topk=8, truncation=8, task_type="S")


def test_cells_beside_published_ones_average_base_models_last():
    f1 = scores(
        rows(0.2, 0.0), rows(0.4, 0.0, seed=1), rows(0.7, 0.0, base_model="cnn"),
        rows(0.6, 0.0, method="canonical", element="true"),
        rows(0.1, 0.0, method="canonical", element="inferred"),
        rows(0.1, 0.0, method="random", topk=None),
    )  # fmt: skip
    paper = published(vanilla=0.25, canonical=0.75, latent_inv=0.5)
    cells = analysis.beside_published(f1[f1["task_type"] != "mean"], paper).set_index("method")
    assert cells["ours"].to_dict() == pytest.approx({"vanilla": 0.5, "canonical": 0.6})
    assert cells["paper"].to_dict() == {"vanilla": 0.25, "canonical": 0.75}
    assert cells.loc["vanilla", ["seeds", "base_models"]].tolist() == [1, 2]


@pytest.mark.parametrize(("output_inv", "holds"), [(0.6, [True]), (0.5, [False])])
def test_ordering_asks_for_all_three(output_inv, holds):
    cells = published(vanilla=0.5, canonical=0.6, latent_inv=0.7, output_inv=output_inv)
    assert analysis.ordering(cells, "f1_mean").tolist() == holds
    assert analysis.ordering(cells[cells["method"] != "latent_inv"], "f1_mean").empty


def test_how_far_each_is_above_the_baseline():
    cells = published(vanilla=0.5, canonical=0.6, latent_inv=0.7, output_inv=0.4)
    found = analysis.above_baseline(cells, "f1_mean").droplevel(list(analysis.CELL))
    assert found.to_dict() == pytest.approx(
        {"canonical": 0.1, "latent_inv": 0.2, "output_inv": -0.1}
    )


def test_rows_of_other_widths_are_left_out():
    wide, other = (rows(0.2, 0.4, method="vanilla_wide", n_latents=n) for n in (128, 64))
    control = rows(0.2, 0.4, method="vanilla_matched", n_latents=77)
    base = rows(0.2, 0.4, method="base_model", n_latents=None)
    table = pd.concat([rows(0.2, 0.4, n_latents=32), wide, other, control, base])
    kept = analysis.of_width(table, 32)
    expected = {("vanilla", 32), ("vanilla_wide", 128), ("vanilla_matched", 77)}
    assert (
        set(kept.dropna()[["method", "n_latents"]].itertuples(index=False, name=None)) == expected
    )
    assert "base_model" in set(kept["method"])


def test_what_is_there_puts_truncation_lengths_of_equally_many_seeds_side_by_side():
    tables = [rows(0.2, 0.4, truncation=length, epochs=40) for length in (1, 8)]
    tables += [rows(0.2, 0.4, seed=1, epochs=40), rows(0.2, 0.4, features="latents", epochs=40)]
    found = analysis.what_is_there(pd.concat(tables)).reset_index()
    assert found[["seeds", "truncations"]].to_numpy().tolist() == [[1, "1"], [2, "8"]]


def test_rank_correlation_of_what_both_probes_were_fitted_to():
    names = ["vanilla", "archetypal", "vanilla_wide", "archetypal_wide"]
    tables = [rows(0.1 * i, method=name) for i, name in enumerate(names)]
    tables += [rows(0.2 * i, method=name, probe="logistic") for i, name in enumerate(names)]
    tables += [rows(0.9, method="canonical", element="inferred")]
    tables += [rows(0.9, seed=1), rows(0.9, seed=1, probe="logistic")]
    f1 = analysis.mean_f1(pd.concat(tables, ignore_index=True))
    assert analysis.rank_correlation(f1).to_dict() == pytest.approx({("mlp", 0, 0): 1.0})
