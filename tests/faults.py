"""Faults at every place where a piece of work writes, renames or deletes below a folder.

Each time the work begins in a process of its own, which is forked, and ends at its next such
place: killed, or by an error of a full disk. Or it ends in the midst of a file: no file may have
more than so many bytes.
"""

import errno
import os
import resource
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from tqdm.auto import tqdm

from saehelpers.runs import files

KILLED, FULL = "killed", "No space left on device"
KILLED_WITHIN, FULL_WITHIN = "killed within a file", "File too large"
SIZES = (0, 70, 300, 700, 1100)  # bytes that a file may have
NO_PLACE, BORNE, TOLD, WRONG = 0, 4, 5, 6  # how work ends: BORNE, well in spite of the fault
EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "saved tensors")


def with_fault(work: Callable[[Path], None], folder: Path, number: int, fault: str) -> bool:
    """Do the work with a fault at its place of this number; whether there was such a place.

    Raises:
        AssertionError: the work ended in another way.
    """
    with warnings.catch_warnings(action="ignore"):  # of threads that other tests have begun
        child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        ended = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        faults = {KILLED: -signal.SIGKILL, KILLED_WITHIN: -signal.SIGXFSZ}
        assert ended in (NO_PLACE, BORNE, faults.get(fault, TOLD)), ended
        return ended != NO_PLACE
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        _begin(work, folder, number, fault)
    raise AssertionError("the process has ended")


def _begin(work: Callable[[Path], None], folder: Path, number: int, fault: str) -> None:
    """Do the work in this process, which ends with it."""
    try:
        tqdm.set_lock(threading.RLock())  # one that is not shared: who is killed would keep it
        if fault in (KILLED_WITHIN, FULL_WITHIN):
            there = _limit(number, signal.SIG_DFL if fault == KILLED_WITHIN else signal.SIG_IGN)
        else:
            there = _watch(folder, number, fault)
        work(folder)
        os._exit(BORNE if there() else NO_PLACE)
    except (OSError, RuntimeError) as error:  # of a sweep, which says what its first job said
        named = all(part in str(error) for part in (fault, "Free space", str(folder)))
        if not named:
            traceback.print_exc(file=sys.__stderr__)
        os._exit(TOLD if named else WRONG)
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
        os._exit(WRONG)


def _limit(number: int, handler: signal.Handlers) -> Callable[[], bool]:
    """No file may grow beyond a size; the last of them all do not reach."""
    signal.signal(signal.SIGXFSZ, handler)
    size = SIZES[number] if number < len(SIZES) else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return lambda: number < len(SIZES)


def _watch(folder: Path, number: int, fault: str) -> Callable[[], bool]:
    """Count the places from now on, in this process; tensors are written by what tells nobody."""
    seen = -1

    def look(event: str, arguments: tuple) -> None:
        nonlocal seen
        frees = event in ("os.remove", "os.rmdir")
        if (
            event not in EVENTS
            or not _writes(event, arguments, folder)
            or (fault == FULL and frees)
        ):
            return
        seen += 1
        if seen != number:
            return
        if fault == KILLED:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

    save = files.save_file

    def audited(tensors, path, metadata=None):
        sys.audit("saved tensors", path)
        save(tensors, path, metadata)
        sys.audit("saved tensors", path)

    pytest.MonkeyPatch().setattr(files, "save_file", audited)
    sys.addaudithook(look)
    return lambda: seen >= number


def _writes(event: str, arguments: tuple, folder: Path) -> bool:
    path = arguments[0]
    if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return False
    if isinstance(path, int) or path is None:
        return False
    # what is deleted with a folder is named relative to it
    return not Path(path).is_absolute() or Path(path).is_relative_to(folder)
