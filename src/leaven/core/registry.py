"""Named functions by kind, filled by a decorator when their module is imported: formats, schedules, benchmarks.

A user's plugin file registers with the same decorators (docs/extend.md). Steps run in other processes than the plan, so
every step that looks a name up has the plugin files among its inputs, as "plugin:FILE", and imports them first.
Not covered: discovery; modules are imported explicitly.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from leaven.errors import StudyError, did_you_mean

F = TypeVar("F", bound=Callable[..., Any])


class Registry(Generic[F]):
    """A mapping from public name to function that refuses duplicates and suggests names on a miss."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, F] = {}

    def __call__(self, name: str) -> Callable[[F], F]:
        """Return a decorator that registers a function under `name`."""

        def register(function: F) -> F:
            known = self._entries.get(name)
            if known is not None and (known.__module__, known.__qualname__) != (
                function.__module__,
                function.__qualname__,
            ):
                raise StudyError(
                    f"two {self.kind}s are called {name!r}: {known.__module__} and {function.__module__}; rename one"
                )
            self._entries[name] = function
            return function

        return register

    def get(self, name: str, where: str = "") -> F:
        """Return the function called `name`; raise StudyError with a suggestion when there is none."""
        if name not in self._entries:
            at = f"{where}: " if where else ""
            raise StudyError(
                f"{at}no {self.kind} is called {name!r}.{did_you_mean(name, self.names())} "
                f"Known: {', '.join(self.names())}"
            )
        return self._entries[name]

    def names(self) -> list[str]:
        """Return the registered names, sorted."""
        return sorted(self._entries)


def load_plugin(path: Path) -> None:
    """Import a user's Python file so that its decorators register; raise StudyError when it is absent or fails."""
    if not path.is_file():
        raise StudyError(f"plugins: expected a Python file at {path}, found none; paths are relative to the study file")
    module_spec = importlib.util.spec_from_file_location(f"leaven_plugin_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise StudyError(f"plugins: expected a Python file (.py), found {path}")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise StudyError(f"plugins: {path} failed to import: {type(error).__name__}: {error}") from error


def load_plugins(inputs: Mapping[str, Path]) -> None:
    """Import every plugin file among a step's inputs (those named "plugin:FILE"); raises as `load_plugin` does."""
    for name, path in inputs.items():
        if name.startswith("plugin:"):
            load_plugin(Path(path))
