"""Calls that work of figures; None where there is nothing to call with."""

import matplotlib.pyplot as plt
import pandas as pd

from saehelpers import figures

from . import things as t


def _of_go() -> pd.DataFrame:
    columns = ["method", "split", "seed", "task", "task_type", "value"]
    return pd.DataFrame([["vanilla", "test 0", 0, "a", "b", 0.5]], columns=columns)


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
    "figures.what_is_there": lambda: {"probes": t.score_table()},
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
    "figures.kept_promises": lambda: {"ax": _axes(), "predicted": _predicted()},
    "figures.reliability": lambda: {"ax": _axes(), "predicted": _predicted()},
    "figures.subgroup_curves": lambda: {"ax": _axes(), "rows": _r2_rows(), "layers": ["a", "b"],
                                        "least": 0.8},
    "figures.show": lambda: {"page": _page(), "height": 100},
    "figures.text_dashboard": _text,
    "figures.go_verdict": lambda: {"f1": _of_go(), "fvu": _of_go()},
    "figures.over_blocks": lambda: {"values": _of_go()},
    "figures.own_frame_fvu": lambda: {"table": t.score_table()},
    "figures.points_with_intervals": lambda: {"ax": _axes(), "values": _of_go(),
                                              "methods": ["vanilla"]},
    "figures.tasks_that_count": lambda: {"probes": _of_go(), "margin": 0.05},
    "figures.colour": lambda: {"name": "vanilla"},
    "figures.board_images": lambda: {"stones": t.go_games().stones, "last": t.whole(9, 2),
                                     "pixels": 20},
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
    "figures.panels": lambda: {"number": 2, "size": (3.0, 2.0)},
    "figures.seeds_note": lambda: {"table": t.summary()},
    "figures.similarities": lambda: {"ax": _axes(), "cosines": t.random(3, 4).clamp(-1, 1)},
    "figures.summarise": lambda: {"table": t.score_table(), "by": ["method"]},
}  # fmt: skip
