from . import (
    checkpoints as checkpoints,
    end_to_end as end_to_end,
    fitting as fitting,
    loss as loss,
    methods as methods,
    objectives as objectives,
    revival as revival,
    side_by_side as side_by_side,
    sizes as sizes,
    sparsity as sparsity,
)
from .end_to_end import (
    Original as Original,
    activations_of as activations_of,
    check_downstream as check_downstream,
    check_model as check_model,
    end_to_end_loss as end_to_end_loss,
    local_loss as local_loss,
    model_id as model_id,
    run_original as run_original,
    train_end_to_end as train_end_to_end,
)
from .fitting import (
    Settings as Settings,
    fit as fit,
)
from .loss import (
    Loss as Loss,
    differentiated as differentiated,
    total_loss as total_loss,
)
from .methods import (
    METHODS as METHODS,
    EndToEndRun as EndToEndRun,
    Method as Method,
    SAERun as SAERun,
    method as method,
    method_run as method_run,
    method_runs as method_runs,
    run_columns as run_columns,
)
from .objectives import (
    OBJECTIVES as OBJECTIVES,
    Objective as Objective,
    OrbitBatch as OrbitBatch,
    canonical as canonical,
    crosscoder as crosscoder,
    gated as gated,
    latent_inv as latent_inv,
    matryoshka as matryoshka,
    objective as objective,
    oriented as oriented,
    output_inv as output_inv,
    reconstruction as reconstruction,
    self_oriented as self_oriented,
    squared_distance as squared_distance,
    squared_error as squared_error,
)
from .revival import (
    Revival as Revival,
)
from .side_by_side import (
    train_sae as train_sae,
    train_saes as train_saes,
)
from .sizes import (
    matched_runs as matched_runs,
    n_parameters as n_parameters,
    runs_at_equal_cost as runs_at_equal_cost,
    with_parameters as with_parameters,
)
from .sparsity import (
    SPARSITY_TERMS as SPARSITY_TERMS,
    SparsityController as SparsityController,
    decoder_l1 as decoder_l1,
    gate_l1 as gate_l1,
    l0 as l0,
    l1 as l1,
    lp as lp,
)
