"""Packages that not every part of this one needs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import one_of

EXTRAS = ("probes", "galaxies", "text", "go", "notebooks")


@checked
@contextmanager
def extra(name: Annotated[str, one_of(EXTRAS)]) -> Iterator[None]:
    """Within the context, optional packages are imported; `name` is the extra that brings them.

    Raises:
        ModuleNotFoundError: one of them is not installed; names the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = error.name.partition(".")[0]
        raise ModuleNotFoundError(
            f"this needs {package}: pip install 'saehelpers[{name}]'", name=package
        ) from error
