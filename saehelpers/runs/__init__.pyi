from . import (
    checking as checking,
    columns as columns,
    devices as devices,
    distributed as distributed,
    extras as extras,
    files as files,
    fingerprints as fingerprints,
    folders as folders,
    identities as identities,
    precision as precision,
    progress as progress,
    reading as reading,
    registry as registry,
    results as results,
    saving as saving,
    sweeps as sweeps,
    threads as threads,
    wanted as wanted,
)
from .checking import (
    checked as checked,
    checked_config as checked_config,
)
from .columns import (
    COLUMNS as COLUMNS,
    KEY as KEY,
    SAMPLES as SAMPLES,
)
from .devices import (
    default_device as default_device,
)
from .distributed import (
    average as average,
    check_same as check_same,
    data_parallel as data_parallel,
    is_active as is_active,
    is_first as is_first,
    not_yet as not_yet,
    own_part as own_part,
    process_group as process_group,
    share_buffers as share_buffers,
    wait_for_all as wait_for_all,
)
from .extras import (
    extra as extra,
)
from .files import (
    check_free as check_free,
    temporary_folder as temporary_folder,
    temporary_path as temporary_path,
    write_atomically as write_atomically,
)
from .fingerprints import (
    file_fingerprint as file_fingerprint,
)
from .folders import (
    added_later as added_later,
    config_hash as config_hash,
    described as described,
    fingerprint as fingerprint,
    listed as listed,
    run_id as run_id,
    settings as settings,
)
from .identities import (
    derived as derived,
    identified as identified,
    identity as identity,
    joined as joined,
    part as part,
)
from .notebooks import (
    check_parameters as check_parameters,
    enter_notebooks as enter_notebooks,
)
from .precision import (
    full_precision as full_precision,
)
from .progress import (
    progress_line as progress_line,
    seconds_each as seconds_each,
)
from .reading import (
    load_run as load_run,
    local_folder as local_folder,
    read_config as read_config,
    read_record as read_record,
    read_tensors as read_tensors,
    unreadable as unreadable,
)
from .registry import (
    REGISTRIES as REGISTRIES,
    Registry as Registry,
    carrying as carrying,
    extensions as extensions,
)
from .results import (
    agree as agree,
    append as append,
    causes as causes,
    convert as convert,
    keys as keys,
    latest as latest,
    missing as missing,
    own_path as own_path,
    read as read,
    tables as tables,
    take as take,
    trained_for as trained_for,
)
from .saving import (
    damaged as damaged,
    git_state as git_state,
    now_utc as now_utc,
    provenance as provenance,
    save_run as save_run,
    write_folder as write_folder,
)
from .sweeps import (
    n_cores as n_cores,
    sweep as sweep,
)
from .threads import (
    several_threads as several_threads,
)
