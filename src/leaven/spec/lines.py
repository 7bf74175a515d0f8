"""Dotted paths of a study file -> `file:line path` in messages, and the list that collects every mistake of a study.

A path without a line of its own stands where its closest parent stands. Values of --set have
no line and are named as such.
Not covered: reading YAML (load.py records the lines).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from leaven.errors import did_you_mean

SET, CREATED = 0, -1
"""In place of a line: written by --set, or a parent that a --set below it brought into being."""


def where(path: Path, lines: Mapping[str, int], dotted: str) -> str:
    """Return where a dotted path stands: its own line or that of its closest parent, or the --set that wrote it."""
    probe = dotted
    while probe and probe not in lines:
        probe = probe.rpartition(".")[0]
    if lines.get(probe) == CREATED:
        return f"--set {next(k for k, line in lines.items() if line == SET and k.startswith(f'{probe}.'))}"
    if lines.get(probe) == SET:
        return f"--set {dotted}"
    return f"{path}:{lines.get(probe, 1)} {dotted}"


class Problems:
    """Messages about one study file, in the order found, each once."""

    def __init__(self, path: Path, lines: Mapping[str, int]) -> None:
        self.path, self.lines = path, lines
        self._found: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._found)

    def text(self) -> str:
        """Return all messages, one per line."""
        return "\n".join(self._found)

    def at(self, dotted: str, message: str, prefixes: tuple[str, ...] = ("",)) -> None:
        """Add a message about `dotted` under the prefix that knows most of it: a patch before its section."""
        self._found[f"{where(self.path, self.lines, self.closest(dotted, prefixes))}: {message}"] = None

    def must(
        self, dotted: str, value: str | None, known: Iterable[str], kind: str, prefixes: tuple[str, ...] = ("",)
    ) -> None:
        """Add a message unless `value` is one of the known names of a kind of thing."""
        names = list(known)
        if value not in names:
            self.at(
                dotted,
                f"expected the name of {kind}, found {value!r}.{did_you_mean(str(value), names)} "
                f"Known: {', '.join(names)}",
                prefixes,
            )

    def closest(self, dotted: str, prefixes: tuple[str, ...]) -> str:
        """Return `prefix + dotted` for the first prefix that has its line, else the one with most parents known."""
        for prefix in prefixes:
            if prefix + dotted in self.lines:
                return prefix + dotted
        return max(reversed(prefixes), key=lambda prefix: self._depth(prefix, dotted)) + dotted

    def _depth(self, prefix: str, dotted: str) -> int:
        """Return how many leading parts of `dotted` have a line below `prefix`."""
        parts = dotted.split(".")
        return max((n for n in range(1, len(parts) + 1) if prefix + ".".join(parts[:n]) in self.lines), default=0)
