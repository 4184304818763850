"""What several notebooks do alike: base models, actions and SAEs, trained once, then loaded."""

from saehelpers.experiments.base_models import (
    BaseModelRun,
    LanguageModelRun,
    load_or_train_base_model,
    load_or_train_language_model,
)
from saehelpers.experiments.controls import explain_as, other_group, run_as, samples_as
from saehelpers.experiments.encoders import EncoderRun, explain_pixels, load_or_train_encoder
from saehelpers.experiments.end_to_end import load_onto, load_or_train_end_to_end
from saehelpers.experiments.explained import ActionRun, Explained, explain, load_or_fit_action
from saehelpers.experiments.saes import (
    drop_stale_rows,
    load_or_train_saes,
    load_sae,
    measure_runs,
)

__all__ = [
    "ActionRun",
    "BaseModelRun",
    "EncoderRun",
    "Explained",
    "LanguageModelRun",
    "drop_stale_rows",
    "explain",
    "explain_as",
    "explain_pixels",
    "load_onto",
    "load_or_fit_action",
    "load_or_train_base_model",
    "load_or_train_encoder",
    "load_or_train_end_to_end",
    "load_or_train_language_model",
    "load_or_train_saes",
    "load_sae",
    "measure_runs",
    "other_group",
    "run_as",
    "samples_as",
]
