from . import (
    datasets as datasets,
    evaluation as evaluation,
    experiments as experiments,
    figures as figures,
    networks as networks,
    runs as runs,
    saes as saes,
    symmetry as symmetry,
    training as training,
)
from .evaluation import (
    cards as cards,
)
from .experiments import (
    load as load,
    push_to_hub as push_to_hub,
    save_equivariant as save_equivariant,
)
from .saes import (
    SAE as SAE,
    ArchetypalSAE as ArchetypalSAE,
    BlockDiagonalSAE as BlockDiagonalSAE,
    EquivariantSAE as EquivariantSAE,
    GroupCrosscoder as GroupCrosscoder,
    SAEConfig as SAEConfig,
)
from .symmetry import (
    Group as Group,
    LinearAction as LinearAction,
    fit_action as fit_action,
    infer_element as infer_element,
    report_action as report_action,
)
from .training import (
    OBJECTIVES as OBJECTIVES,
    SAERun as SAERun,
    train_sae as train_sae,
    train_saes as train_saes,
)

__version__: str
