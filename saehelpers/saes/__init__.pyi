from . import (
    activations as activations,
    archetypal as archetypal,
    base as base,
    baselines as baselines,
    block_diagonal as block_diagonal,
    instances as instances,
    interchange as interchange,
    making as making,
    matrices as matrices,
    pursuit as pursuit,
    sparse as sparse,
    symmetric as symmetric,
)
from .activations import (
    ACTIVATIONS as ACTIVATIONS,
    activation as activation,
    make_activation as make_activation,
)
from .archetypal import (
    ArchetypalSAE as ArchetypalSAE,
)
from .base import (
    SAE as SAE,
    WITHOUT_GROUP as WITHOUT_GROUP,
    SAEConfig as SAEConfig,
)
from .baselines import (
    FrozenDecoderSAE as FrozenDecoderSAE,
    FrozenEncoderSAE as FrozenEncoderSAE,
    PrincipalComponents as PrincipalComponents,
    SoftFrozenDecoderSAE as SoftFrozenDecoderSAE,
)
from .block_diagonal import (
    BlockDiagonalSAE as BlockDiagonalSAE,
)
from .instances import (
    stack as stack,
    unstack as unstack,
)
from .interchange import (
    load_sae_lens as load_sae_lens,
    save_sae_lens as save_sae_lens,
)
from .making import (
    DICTIONARIES as DICTIONARIES,
    dictionary as dictionary,
    make_sae as make_sae,
)
from .matrices import (
    align_rows as align_rows,
)
from .pursuit import (
    MatchingPursuitSAE as MatchingPursuitSAE,
)
from .symmetric import (
    EquivariantSAE as EquivariantSAE,
    GroupCrosscoder as GroupCrosscoder,
)
