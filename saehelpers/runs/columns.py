"""The columns of the results tables."""

from typing import Annotated

import pandas as pd

from saehelpers.runs.wanted import with_columns

CAUSES = ("weights", "action", "data", "measure")
SAMPLES = ("n_train", "n_test")
DESCRIPTION = (
    "run_id", "experiment", "dataset", "data_source", "base_model", "group", "method",
    "n_latents", "topk", "objective", "epochs", "base_seed", "seed", "task_type", "task", "probe",
    "features", "truncation", "element", "split", "metric",
)  # fmt: skip
KEY = (*DESCRIPTION, *SAMPLES, *CAUSES)
COLUMNS = (*KEY, "value", "git_commit", "created_utc")
Rows = Annotated[pd.DataFrame, with_columns(*DESCRIPTION)]
NUMERIC = ("n_latents", "topk", "epochs", "base_seed", "seed", "truncation", "value", *SAMPLES)
