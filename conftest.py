"""How `pytest --nbmake notebooks` executes notebooks: in their order, and read afterwards."""

import pytest
from nbmake import pytest_items
from nbmake.nb_result import NotebookError, NotebookResult
from nbmake.nb_run import NotebookRun

from tests.reading import faults
from tests.walking import family_of, made_small, own_cores


class ReadRun(NotebookRun):
    """A run that fails, too, where a reader would mind what the notebook shows."""

    def execute(self) -> NotebookResult:
        result = super().execute()
        if result.error is None and (found := faults(result.nb)):
            result.error = NotebookError(found[0], "\n".join(found), failing_cell_index=-1)
        return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Bars are the lines of text that `make run` writes. What a notebook makes is what its
    parameters are walked from."""
    if item.path.suffix != ".ipynb":
        return (yield)
    with pytest.MonkeyPatch.context() as patch, made_small(item.name[:2]), own_cores():
        patch.setattr(pytest_items, "NotebookRun", ReadRun)
        patch.setenv("PLAIN_PROGRESS", "1")
        return (yield)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    """Of several processes, one runs the notebooks that read what others made, in their order."""
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.xdist_group(family_of(item.name[:2])))
