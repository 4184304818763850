"""What is known by name, how users add to it, and how other processes come to know.

Configs hold names: `objective="canonical"`. What a user adds under a name of its own, in a
package, a script or a notebook cell, goes along with the jobs of a sweep.
"""

import contextlib
import dataclasses
import os
import pkgutil
import secrets
from collections.abc import Callable
from typing import Any

from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Config

REGISTRIES: list["Registry"] = []
TOKEN = secrets.token_hex(8)  # of this process, and of those that are forked from it


class Registry(dict):
    """Things of one kind by name: those that are built in, and those that users add.

    Args:
        kind: what such a thing is called.
        home: "module:name" of the registry.
        built_in: what it begins with.
        field: of configs, if there is one, that holds such a name.
        versions: of what is built in, but does something else than in an earlier release; a config
            that names it is another than it was then.
    """

    @checked
    def __init__(
        self,
        kind: str,
        home: str,
        built_in: dict[str, Any],
        field: str | None = None,
        versions: dict[str, str] | None = None,
    ):
        super().__init__(built_in)
        self.kind, self.home, self.field, self.versions = kind, home, field, versions or {}
        self.built_in = frozenset(built_in)
        self.told: dict[str, str] = {}  # identities of what came from another process
        REGISTRIES.append(self)

    def __missing__(self, name: Any) -> None:
        self.check(name)

    def check(self, name: Any) -> None:
        """Raise a ValueError for an unknown name."""
        if name not in self:
            raise ValueError(f"unknown {self.kind} {name!r}; known are {', '.join(self)}")

    def __reduce__(self):  # another process has its own
        return pkgutil.resolve_name, (self.home,)

    def register(self, name: Any, value: Any) -> None:
        """Add a thing under a name.

        A function or class replaces the one of the same module and qualified name: a notebook
        cell that is run again.

        Raises:
            ValueError: another thing has the name, or it is no name.
        """
        if not (isinstance(name, str) and name):
            raise ValueError(f"the {self.kind} needs a name, got {name!r}")
        if name in self.built_in:
            raise ValueError(f"the {self.kind} {name!r} is built in: choose another name")
        if name in self and _origin(self[name]) != _origin(value):
            raise ValueError(
                f"there is another {self.kind} {name!r}, {_origin(self[name])}: choose another "
                f"name than for {_origin(value)}, or delete the first with "
                f"`del {self.home.partition(':')[2]}[{name!r}]`"
            )
        self[name] = value
        self.told.pop(name, None)

    def identity(self, name: str) -> str:
        """That of what is known by this name: `saehelpers.runs.identity`, of code by its source.

        Raises:
            TypeError: its source cannot be read; says what to do.
        """
        from saehelpers.runs.identities import identity  # which tells configs apart, too

        return self.told.get(name) or identity(self[name])

    def adding(self, name: Any, value_of: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """A decorator that adds `value_of` what it stands above, and leaves that as it is."""
        if not isinstance(name, str):  # @objective for @objective("mine")
            raise ValueError(f'give the {self.kind} a name: @{self.kind}("mine")')

        def decorate(thing: Any) -> Any:
            self.register(name, value_of(thing))
            return thing

        return decorate

    @property
    def added(self) -> dict[str, Any]:
        """What users have added."""
        return {name: value for name, value in self.items() if name not in self.built_in}


def _origin(value: Any) -> str:
    """Where a function or class comes from; anything else is what it is."""
    code = value if hasattr(value, "__qualname__") else getattr(value, "function", None)
    return str(value) if code is None else f"{code.__module__}.{code.__qualname__}"


@checked
def extensions(config: Config) -> dict[str, str]:
    """Identities of what a config names that users have added, by the fields that name it.

    And versions of what is built in, where it has one.
    """
    found = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found |= extensions(value)
        for registry in REGISTRIES:
            if field.name != registry.field:
                continue
            if value in registry.added:
                found[field.name] = registry.identity(value)
            elif value in registry.versions:
                found[field.name] = registry.versions[value]
    return found


@checked
def carrying(function: Callable) -> Callable:
    """The function, to be called in a process that does not know what users have added here."""
    added = []
    for registry in REGISTRIES:
        for name, value in registry.added.items():
            told = None
            with contextlib.suppress(TypeError):  # which concerns those who use it
                told = registry.identity(name)  # there, the source of a notebook is not to be read
            added.append((registry, name, value, told))
    return _Carrying(function, added, _process()) if added else function


class _Carrying:
    def __init__(self, function: Callable, added: list[tuple], process: tuple[str, int]):
        self.function, self.added, self.process = function, added, process

    def __call__(self, *arguments: Any) -> Any:
        if self.process != _process():
            for registry, name, value, told in self.added:
                registry[name] = value
                registry.told[name] = told or ""
        return self.function(*arguments)

    def __reduce__(self):  # by value what is defined in a notebook, whatever the executor does
        import cloudpickle

        parts = self.function, self.added, self.process
        return _carried, (cloudpickle.dumps(parts),)


def _carried(pickled: bytes) -> _Carrying:
    import cloudpickle

    return _Carrying(*cloudpickle.loads(pickled))


def _process() -> tuple[str, int]:
    """What tells this process from others, on other machines, too."""
    return TOKEN, os.getpid()
