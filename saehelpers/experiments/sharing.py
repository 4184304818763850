"""Saving SAEs and actions in one folder, and putting folders on the Hugging Face hub."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from saehelpers import runs
from saehelpers.experiments.loading import FILES, ActionConfig, EquivariantConfig, load
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.wanted import Metadata, Name
from saehelpers.saes import SAE, EquivariantSAE
from saehelpers.symmetry import LinearAction


@checked
def save_equivariant(
    folder: Path | str,
    sae: EquivariantSAE,
    metadata: Metadata = MappingProxyType({}),
    overwrite: bool = False,
) -> Path:
    """Write an SAE, its action and its `search` for `load` to read, and return the folder.

    Args:
        metadata: what else config.json is to say, as JSON has it: the model that the
            activations are of, the module, ...
        overwrite: replace one that is there already.

    Raises:
        FileExistsError: the folder is there already, or holds other files than such an SAE's.
    """
    folder = Path(folder)
    runs.check_free(folder, overwrite, (".json", ".safetensors"))
    _write(folder, sae, metadata, overwrite)
    return folder


def _write(folder: Path, thing: Any, metadata: Mapping[str, Any], overwrite: bool) -> None:
    sae = getattr(thing, "sae", thing)
    if isinstance(sae, SAE) and sae.mean.ndim > 1:
        raise ValueError(f"{len(sae.mean)} SAEs side by side cannot be saved as one: unstack them")
    if isinstance(thing, EquivariantSAE):
        config = EquivariantConfig(thing.sae.config, thing.action.group.identifier, thing.search)
    elif isinstance(thing, LinearAction):
        config = ActionConfig(thing.group.identifier)
    elif isinstance(thing, SAE):
        config = thing.config
    else:
        raise ValueError(
            "what can be saved is an SAE, an EquivariantSAE, a LinearAction or the folder of a "
            f"run, got {type(thing).__name__}"
        )
    runs.write_folder(folder, config, thing.state_dict(), overwrite=overwrite, metadata=metadata)


@checked
def push_to_hub(
    thing: SAE | EquivariantSAE | LinearAction | Path | str,
    repo_id: Name,
    subfolder: str = "",
    private: bool = False,
) -> str:
    """Put a run's folder, an SAE or an action on the Hugging Face hub, and return its address.

    `load(repo_id, subfolder)` brings it back, anywhere. The repository is made if it is not
    there. You must be logged in (`hf auth login`).

    Args:
        thing: a folder that `load` reads, an SAE, an EquivariantSAE or a LinearAction.
        repo_id: owner/name.
        private: a repository that is made now can be seen by its owner alone.

    Raises:
        FileNotFoundError, ValueError: `load` would not read the folder.
        ConnectionError: the hub cannot be reached, or does not let you write there.
    """
    with extra("text"):
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HFValidationError

    with tempfile.TemporaryDirectory() as temporary:
        if isinstance(thing, Path | str):
            folder = Path(thing)
            load(folder)  # says what is wrong with it, before anybody else sees it
        else:
            folder = Path(temporary) / "saved"
            _write(folder, thing, {}, overwrite=False)
        try:
            api = HfApi()
            address = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                path_in_repo=subfolder or None,
                allow_patterns=[*FILES, "history.csv"],
            )
        except HFValidationError as error:
            raise ValueError(f"repo_id must be owner/name, got {repo_id!r}: {error}") from error
        except Exception as error:  # those of the HTTP library as well, which releases change
            raise ConnectionError(
                f"{repo_id!r} cannot be written on the Hugging Face hub: {error}. Log in by "
                "`hf auth login` as somebody who may"
            ) from error
    return str(address)
