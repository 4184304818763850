"""Calls that work of figures; None where there is nothing to call with."""

import matplotlib.pyplot as plt
import pandas as pd

from saehelpers import figures
from saehelpers.evaluation.statements import Estimate
from saehelpers.saes import SAEConfig

from . import things as t


def _of_go() -> pd.DataFrame:
    columns = ["method", "split", "seed", "task", "task_type", "value", "features", "element"]
    row = ["vanilla", "test 0", 0, "a", "b", 0.5, "recons", "none"]
    return pd.DataFrame([row], columns=columns)


def _axes():
    plt.close("all")
    return plt.subplots()[1]


def _f1() -> pd.DataFrame:
    return figures.mean_f1(t.score_table())


def _cells() -> pd.DataFrame:
    rows = _f1().query("probe == 'xgboost'")
    return rows.groupby([*figures.CELL, "method"])["value"].mean().rename("ours").reset_index()


def _published() -> pd.DataFrame:
    return _cells().rename(columns={"ours": "f1_mean"})


def _condition(method: str) -> pd.DataFrame:
    element = "none" if method == "vanilla" else "true"
    return figures.conditions(_f1(), {method: ([method], "recons", element)})


def _conditions() -> pd.DataFrame:
    return pd.concat([_condition("vanilla"), _condition("canonical")])


def _correlations() -> pd.Series:
    names = ["base_model", "base_seed", "seed"]
    return pd.Series([0.5], index=pd.MultiIndex.from_tuples([("mlp", 0, 0)], names=names))


def _beside_published() -> pd.DataFrame:
    return figures.beside_published(_f1().query("probe == 'xgboost'"), _published())


def _cards() -> pd.DataFrame:
    return pd.DataFrame({"latent": [0, 3], "verdict": "trust", "probability": 0.9})


def _predicted() -> pd.DataFrame:
    rows = range(20)
    return pd.DataFrame({"kind": "toy", "true": [i % 2 == 0 for i in rows],
                         "probability": [i / 20 for i in rows], "verdict": "trust"})  # fmt: skip


def _r2_rows() -> pd.DataFrame:
    metrics = ["r2", "r2_low", "r2_high", "r2_identity"]
    return pd.DataFrame(
        [(layer, "C2", metric, 0.5) for layer in "ab" for metric in metrics],
        columns=["features", "task", "metric", "value"],
    )


def _text() -> dict:
    return {"path": t.fresh("page").with_suffix(".html"), "tokens": t.tokens(),
            "vocabulary": [f"w{i}" for i in range(32)], "latents": [0, 3],
            "activations": t.random(6, 8, 2).relu(), "title": "Latents",
            "effects": t.random(2, 32), "heads": t.random(2, 2).abs(),
            "dictionary": t.random(t.N_LATENTS, t.D), "cards": _cards()}  # fmt: skip


def _page():
    return figures.text_dashboard(**_text())


def _estimates(**columns) -> pd.DataFrame:
    return pd.DataFrame({"mean": [0.5], "low": [0.4], "high": [0.6]} | columns)


def _by_sparsity(metric: str, **columns) -> pd.DataFrame:
    row = {"metric": [metric], "method": ["e2e"], "topk": 4, "seed": 0, "value": 0.5}
    return pd.DataFrame(row | columns)


def _measured(**columns) -> pd.DataFrame:
    row = {"method": ["vanilla"], "metric": "recovery", "seed": 0, "value": 0.5}
    return pd.DataFrame(row | columns)


def _scores() -> pd.DataFrame:
    """Of synthetic worlds: the three scores of a method, in a world."""
    row = {"data_source": "nested", "method": "topk", "topk": 4, "seed": 0, "value": 0.5}
    return pd.DataFrame([row | {"metric": metric} for metric in ("mcc", "f1", "hedging")])


def _class_scores() -> pd.DataFrame:
    row = {"method": ["vanilla"], "seed": 0, "value": 0.5, "metric": "macro_f1"}
    return pd.DataFrame(row | {"probe": "logistic", "truncation": 4})


def _galaxies_measured() -> pd.DataFrame:
    return pd.DataFrame({"ellipticity": [0.1, 0.2], "semimajor": 0.1, "concentration": 3.0})


ORDER = {"order": ["4"], "names": ["vanilla", "canonical"]}
CALLS = {
    "figures.CELL": None,
    "figures.EQUIVARIANT": None,
    "figures.GIVEN": None,
    "figures.above_baseline": lambda: {"cells": _cells(), "column": "ours", "baseline": "vanilla"},
    "figures.advantage": lambda: {"rows": _condition("canonical"),
                                  "baseline": _condition("vanilla")},
    "figures.at": lambda: {"f1": _f1(), "group": "C4", "topk": 4, "truncation": 8},
    "figures.at_every": lambda: {"f1": _f1(), "column": "topk"},
    "figures.base_models_of": lambda: {"table": t.score_table()},
    "figures.beside_published": lambda: {"f1": _f1().query("probe == 'xgboost'"),
                                         "published": _published()},
    "figures.conditions": lambda: {"f1": _f1(),
                                   "named": {"vanilla": (["vanilla"], "recons", "none")}},
    "figures.mean_f1": lambda: {"table": t.score_table()},
    "figures.resampled_f1": lambda: {"table": t.score_table()},
    "figures.of_width": lambda: {"table": t.score_table(), "n_latents": 12},
    "figures.ordering": lambda: {"cells": _cells(), "column": "ours"},
    "figures.over_task_types": lambda: {"f1": _f1()},
    "figures.rank_correlation": lambda: {"f1": _f1(), "element": "true"},
    "figures.recons_of": lambda: {"rows": t.score_table(), "element": "true"},
    "figures.what_is_there": lambda: {"probes": t.score_table()},
    "figures.claims_of": lambda: {"text": "F1 above {}", "values": _f1(),
                                  "methods": ["canonical"], "baseline": "vanilla"},
    "figures.differences_between": lambda: {
        "values": _conditions().query("task_type == 'S'"),
        "pairs": {"gained": ("canonical", "vanilla")}},
    "figures.advantage_bars": lambda: {
        "differences": figures.advantage(_condition("canonical"), _condition("vanilla")),
        "conditions": ["canonical"]},
    "figures.class_f1_by_truncation": lambda: {"table": t.score_table(), "methods": ["vanilla"]},
    "figures.control_dots": lambda: {"f1": _conditions(), "conditions": ["vanilla", "canonical"]},
    "figures.error_by_frame": lambda: {
        "tables": {"mlp": t.score_table().assign(metric="fvu_raw")}, "methods": ["vanilla"]},
    "figures.f1_by_size": lambda: {"f1": _f1(), "sizes": {"vanilla": 1000}},
    "figures.f1_by_task_type": lambda: {"f1": _f1(), "methods": ["vanilla", "canonical"]},
    "figures.f1_by_truncation": lambda: {"f1": _f1(), "methods": ["vanilla"]},
    "figures.f1_of_two_probes": lambda: {"f1": _f1().query("task_type == 'S'"),
                                         "methods": ["vanilla"], "correlations": _correlations()},
    "figures.gains_beside_published": lambda: {"cells": _beside_published()},
    "figures.attention_by_source": lambda: {"losses": t.random(5).abs(),
                                            "attended": pd.DataFrame({"0.0": {"here": 0.5}})},
    "figures.induction_shares": lambda: {
        "attributed": t.random(3, 5), "methods": ["dense"],
        "found": pd.DataFrame({"method": ["dense"], "induction_share": 0.9,
                               "induction_share_by_chance": 0.4,
                               "best_share_by_chance": 0.6})},
    "figures.likeness_of_heads": lambda: {
        "shared": pd.DataFrame({"task": ["heads 0, 1"], "metric": "written", "mean": 0.5,
                                "se": 0.1}),
        "spread": {"seed 0": 1 + t.random(4).abs()}, "n_heads": 2},
    "figures.read_by_head": lambda: {"shares": pd.DataFrame({"here": {"0.0": 1.0}})},
    "figures.answers_by_sparsity": lambda: {"table": _by_sparsity("accuracy", element="")},
    "figures.coloured_tokens": lambda: {"words": ["a", "<b>"], "strengths": t.random(2).sigmoid()},
    "figures.cost_by_sparsity": lambda: {"table": pd.concat(
        [_by_sparsity("ce_increase", task="1"), _by_sparsity("alive_latents", task="1")])},
    "figures.dictionary_map": lambda: {"places": pd.DataFrame({"method": ["e2e"], "x": 0, "y": 1}),
                                       "nearest": _by_sparsity("nearest_cosine")},
    "figures.learning_curves": lambda: {"histories": pd.DataFrame(
        {"layer": [1], "method": "e2e", "topk": 4, "tokens": 10.0, "kl": 0.2})},
    "figures.unexplained_by_layer": lambda: {
        "later": _by_sparsity("fvu", task="1", place=1), "norms": _by_sparsity("norm_ratio")},
    "figures.bars_in_panels": lambda: {
        "tables": {"a": _class_scores()}, "x": "metric", "labels": {"macro_f1": "macro F1"},
        "methods": ["vanilla"]},
    "figures.channel_under_group": lambda: {
        "images": t.pictures(4), "maps": t.random(4, 2, 3, 3), "turned_back": t.random(4, 2, 3, 3),
        "channel": 1},
    "figures.examples_of_classes": lambda: {"images": t.image_set(), "n": 2},
    "figures.images_beside": lambda: {"sources": {"a": [t.pictures(2)], "b": [t.pictures(1)]},
                                      "row_titles": ["c"]},
    "figures.latents_by_angle": lambda: {"latents": {"vanilla": t.random(6, 4)},
                                         "angles": t.random(6)},
    "figures.latents_on_images": lambda: {
        "images": t.pictures(), "maps": t.random(6, 2, 4, 4).abs(), "row_titles": ["image"]},
    "figures.property_histograms": lambda: {
        "classes": {"a": _galaxies_measured()}, "others": _galaxies_measured(), "name": "Hubble"},
    "figures.attention_dashboard": lambda: {
        "path": t.fresh("page").with_suffix(".html"), "model": t.gpt2(), "layer": 0,
        "sae": t.attention_sae(), "latents": [0, 1], "tokens": t.tokens(),
        "vocabulary": [f"w{i}" for i in range(32)]},
    "figures.image_dashboard": lambda: {
        "path": t.fresh("page").with_suffix(".html"), "images": t.pictures(), "latents": [0, 3],
        "activations": t.random(6, 2, 4, 4).relu(), "dictionary": t.random(t.N_LATENTS, t.D),
        "cards": _cards()},
    "figures.card_points": lambda: {
        "ax": _axes(), "cards": _cards().assign(sharpness=0.1, effect=0.2), "x": "sharpness",
        "y": "effect"},
    "figures.true_by_verdict": lambda: {
        "ax": _axes(), "judged": _predicted().rename(columns={"kind": "method"})},
    "figures.kept_promises": lambda: {"ax": _axes(), "predicted": _predicted()},
    "figures.reliability": lambda: {"ax": _axes(), "predicted": _predicted()},
    "figures.subgroup_curves": lambda: {"ax": _axes(), "rows": _r2_rows(), "layers": ["a", "b"],
                                        "least": 0.8},
    "figures.show": lambda: {"page": _page(), "height": 100},
    "figures.text_dashboard": _text,
    "figures.go_difference": lambda: {"values": _of_go(), "first": "vanilla", "second": "vanilla",
                                      "lower_is_better": False},
    "figures.go_values": lambda: {"f1": _of_go(), "fvu": _of_go()},
    "figures.go_verdict": lambda: {"f1": _of_go(), "fvu": _of_go()},
    "figures.in_words": lambda: {"difference": Estimate(0.2, 0.1, 0.3, 2, 2)},
    "figures.of_go_size": lambda: {"rows": t.score_table(), "sae": SAEConfig(8, 12, topk=4),
                                   "group": t.C4},
    "figures.on_tasks_that_count": lambda: {"values": _of_go(), "probes": _of_go(),
                                            "margin": 0.05},
    "figures.over_blocks": lambda: {"values": _of_go()},
    "figures.explained_by_block": lambda: {
        "rows": pd.DataFrame({"base_model": ["tiny, block 0"], "method": "refined", "metric": "r2",
                              "value": 0.5}),
        "networks": ["tiny"], "layers": [0]},
    "figures.own_frame_fvu": lambda: {"table": t.score_table()},
    "figures.points_with_intervals": lambda: {"ax": _axes(), "values": _of_go(),
                                              "methods": ["vanilla"]},
    "figures.tasks_that_count": lambda: {"probes": _of_go(), "margin": 0.05},
    "figures.untold_recons": lambda: {"probes": _of_go()},
    "figures.colour": lambda: {"name": "vanilla"},
    "figures.board_images": lambda: {"stones": t.go_games().stones, "last": t.whole(9, 2),
                                     "pixels": 20},
    "figures.boards_by_view": lambda: {
        "stones": t.go_games().stones[0], "last": 3, "views": [t.go_network()(t.go_planes())],
        "legal": t.whole(9, 10) >= 0},
    "figures.strongest_boards": lambda: {
        "stones": t.go_games().stones, "last": t.whole(9, 2), "activations": t.random(2, 3, 3, 1),
        "names": ["latent 0"], "columns": 2, "views": 2},
    "figures.draw_board": lambda: {"ax": _axes(), "stones": t.go_games().stones[0], "last": 3,
                                   "chances": t.random(3, 3).sigmoid()},
    "figures.curves": lambda: {"ax": _axes(), "table": t.summary(), "x": "topk",
                               "methods": ["vanilla"]},
    "figures.dots": lambda: {"ax": _axes(), "table": t.summary(), "y": "method",
                             "order": ["vanilla", "canonical"]},
    "figures.grouped_bars": lambda: {"ax": _axes(), "table": t.summary(), "x": "topk", **ORDER},
    "figures.grouped_points": lambda: {"ax": _axes(), "table": t.summary(), "x": "topk", **ORDER},
    "figures.image_grid": lambda: {"images": t.random(2, 2, 4, 4).abs(), "column_titles": ["a"],
                                   "row_titles": ["b"]},
    "figures.label": lambda: {"name": "vanilla"},
    "figures.legend_below": lambda: {"fig": plt.figure(), "ax": _axes()},
    "figures.log_ticks": lambda: {"ax": _axes(), "values": [1, 2, 4]},
    "figures.overlay": lambda: {"images": t.pictures(), "maps": t.random(6, 4, 4).abs()},
    "figures.points_by_try": lambda: {
        "ax": _axes(), "dots": t.summary().set_index("method"),
        "squares": t.summary().set_index("method"), "methods": {"vanilla": "vanilla"}},
    "figures.panels": lambda: {"number": 2, "size": (3.0, 2.0)},
    "figures.seeds_note": lambda: {"table": t.summary()},
    "figures.similarities": lambda: {"ax": _axes(), "cosines": t.random(3, 4).clamp(-1, 1)},
    "figures.explained_by_directions": lambda: {"ax": _axes(), "activations": t.random(6, 4),
                                                "name": "text"},
    "figures.means_and_intervals": lambda: {"ax": _axes(), "places": [0], "table": _estimates()},
    "figures.agreement_and_nulls": lambda: {"table": _estimates(
        frame="plain", method="vanilla", **{"random directions": 0.1, "random activations": 0.2})},
    "figures.agreement_by_activation": lambda: {
        "counted": _estimates(kind="topk", counted="all"),
        "latents": pd.DataFrame({"kind": ["topk"], "frequency": 0.5, "cosine": 0.5,
                                 "strength": 0.5})},
    "figures.agreement_by_width": lambda: {"widths": _estimates(
        width=8, null=0.1, **{"in widest": 0.5, "of widest": 0.5})},
    "figures.bars_by_metric": lambda: {
        "table": _measured(task="8"), "titles": {"recovery": "recovered"}, "x": "task",
        "order": ["8"], "methods": ["vanilla"]},
    "figures.by_orbit_size": lambda: {"table": _measured(group="C4"),
                                      "titles": {"recovery": "recovered"}, "methods": ["vanilla"]},
    "figures.decoded_changes": lambda: {"decoder": t.autoencoder().decoder, "mean": t.random(t.D),
                                        "directions": t.random(3, t.D)},
    "figures.dictionary_in_orbits": lambda: {"ax": _axes(), "dictionary": t.random(3, t.D),
                                             "orbits": t.orbits(), "title": "vanilla"},
    "figures.eigenvalues": lambda: {"ax": _axes(), "matrix": t.random(t.D, t.D), "title": "M"},
    "figures.over_orbit": lambda: {"ax": _axes(), "values": t.random(4, t.D), "title": "vanilla"},
    "figures.pw_mcc_image": lambda: {"ax": _axes(), "configs": [t.run()],
                                     "cosines": t.random(1, 1).clamp(0, 1), "title": "Shapes"},
    "figures.recovery_by_consistency": lambda: {
        "dictionaries": _estimates(kind="topk", width=8, recovery=0.5, **{"above null": 0.2}),
        "latents": pd.DataFrame({"of": ["wide"], "consistency": 0.5, "cosine": 0.5})},
    "figures.similarity_bars": lambda: {"table": pd.DataFrame(
        {"cka": [0.9], "correlation": 0.5, "svcca": 0.5, "rsa": 0.1}, index=["mlp"])},
    "figures.bars_by_case": lambda: {
        "summary": t.summary().assign(metric="fvu", n_latents=8), "cases": {"a": ("vanilla", 8)},
        "titles": {"fvu": "FVU"}},
    "figures.benchmark_scores": lambda: {"scores": pd.DataFrame(
        {"method": ["topk"], "n_train": 100, "l0": 4.0, "absorption": 0.1, "mcc": 0.5,
         "explained_variance": 0.7, "recall_by_latent": 0.4, "precision_by_latent": 0.3})},
    "figures.cosine_panels": lambda: {"cosines": {"a": t.random(3, 4).clamp(-1, 1)}},
    "figures.firing_by_world": lambda: {
        "asked": {"a": t.random(3).sigmoid()},
        "counted": {"a": (t.random(3).sigmoid(), t.random(3, 3).clamp(-1, 1))}},
    "figures.scores_by_topk": lambda: {"table": _scores(), "worlds": ["nested"], "true_l0": 3.8},
    "figures.scores_by_world": lambda: {"table": _scores(), "worlds": ["nested"],
                                        "methods": ["topk"], "null": 0.3},
    "figures.summarise": lambda: {"table": t.score_table(), "by": ["method"]},
}  # fmt: skip
