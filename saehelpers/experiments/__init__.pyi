from . import (
    base_models as base_models,
    calibration as calibration,
    controls as controls,
    encoders as encoders,
    end_to_end as end_to_end,
    go_points as go_points,
    known_tasks as known_tasks,
    known_worlds as known_worlds,
    loading as loading,
    measuring as measuring,
    once as once,
    own_networks as own_networks,
    pairs as pairs,
    saes as saes,
    sharing as sharing,
    subjects as subjects,
)
from .base_models import (
    BaseModelRun as BaseModelRun,
    LanguageModelRun as LanguageModelRun,
    acted_on as acted_on,
    load_or_train_base_model as load_or_train_base_model,
    load_or_train_language_model as load_or_train_language_model,
    make_language_model as make_language_model,
    read_tokeniser as read_tokeniser,
    shapes_base_run as shapes_base_run,
)
from .calibration import (
    calibration_rows as calibration_rows,
    write_trust as write_trust,
)
from .controls import (
    matched_inputs as matched_inputs,
    other_group as other_group,
    other_group_inputs as other_group_inputs,
    run_under as run_under,
    samples_under as samples_under,
    shuffled_action as shuffled_action,
    subject_under as subject_under,
    untrained_inputs as untrained_inputs,
)
from .encoders import (
    EncoderRun as EncoderRun,
    PixelsRun as PixelsRun,
    galaxy_encoder as galaxy_encoder,
    load_or_train_encoder as load_or_train_encoder,
    prepare_pixel_subject as prepare_pixel_subject,
)
from .end_to_end import (
    load_onto as load_onto,
    load_or_train_end_to_end as load_or_train_end_to_end,
    load_start as load_start,
)
from .go_points import (
    GoPoints as GoPoints,
    turned_boards as turned_boards,
    turned_samples as turned_samples,
)
from .known_tasks import (
    go_trust_rows as go_trust_rows,
    shapes_trust_rows as shapes_trust_rows,
)
from .known_worlds import (
    KINDS as KINDS,
    KnownWorld as KnownWorld,
    known_world as known_world,
)
from .loading import (
    ActionConfig as ActionConfig,
    EquivariantConfig as EquivariantConfig,
    load as load,
    load_folder as load_folder,
)
from .measuring import (
    measure_probes as measure_probes,
    measure_runs as measure_runs,
)
from .once import (
    checkpoint_path as checkpoint_path,
    fill as fill,
    fit_run as fit_run,
    load_existing as load_existing,
    load_or_train as load_or_train,
    load_weights as load_weights,
)
from .own_networks import (
    Given as Given,
    load_given as load_given,
    prepare_given as prepare_given,
    sequence_action as sequence_action,
)
from .pairs import (
    measure_pairs as measure_pairs,
)
from .saes import (
    as_read as as_read,
    load_or_train_methods as load_or_train_methods,
    load_or_train_saes as load_or_train_saes,
    load_sae as load_sae,
)
from .sharing import (
    push_to_hub as push_to_hub,
    save_equivariant as save_equivariant,
)
from .subjects import (
    ActionRun as ActionRun,
    Subject as Subject,
    load_or_fit_action as load_or_fit_action,
    other_fits as other_fits,
    prepare_subjects as prepare_subjects,
)
