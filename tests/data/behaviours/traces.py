"""The labelled traces beside this file, read; how well pieces found agree with them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from leaven.data.behaviours import EXPLORATORY, Passes, Piece, pieces_of

HERE = Path(__file__).parent
_PIECE = re.compile(r"@([+-]?)(\w+)(!?)")


@dataclass
class Trace:
    """A thought, its gold (an answer, or asserts joined by &&), and hand-made spans (first, past the last, label, reaches the answer)."""

    name: str
    domain: str
    gold: str
    thought: str = ""
    spans: list[tuple[int, int, str, bool]] = field(default_factory=list)

    def pieces(self) -> list[Piece]:
        """Return what the detector finds."""
        return pieces_of(self.thought, "", self._passes()) if self.domain == "code" else pieces_of(self.thought, self.gold)

    def _passes(self) -> Passes:
        def passes(code: str) -> bool:
            space: dict[str, object] = {}
            try:
                exec(code + "\n" + "\n".join(a.strip() for a in self.gold.split("&&")), space)
            except Exception:
                return False
            return True

        return passes


def read(name: str) -> list[Trace]:
    """Return the traces of a file."""
    traces: list[Trace] = []
    labels: list[tuple[str, str, bool, list[str]]] = []

    def close() -> None:
        for separator, label, correct, lines in labels:
            body = "\n".join(lines).strip("\n")
            trace = traces[-1]
            trace.thought += {"": "\n\n", "-": "\n", "+": " "}[separator] if trace.thought else ""
            trace.spans.append((len(trace.thought), len(trace.thought) + len(body), label, correct))
            trace.thought += body
        labels.clear()

    for line in (HERE / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("=== "):
            close()
            traces.append(Trace(*(part.strip() for part in line[4:].split("|", 2))))
        elif found := _PIECE.fullmatch(line):
            labels.append((found[1], found[2], bool(found[3]), []))
        elif labels:
            labels[-1][3].append(line)
    close()
    return traces


def agreement(traces: Iterable[Trace]) -> tuple[float, float, int]:
    """Return precision and recall of exploration over hand-made spans (by most of their characters), and how many explore."""
    hits = found = wanted = 0
    for trace in traces:
        pieces = trace.pieces()
        for first, last, label, _ in trace.spans:
            inside = [(max(0, min(last, p.last) - max(first, p.first)), p.exploratory) for p in pieces]
            guess = 2 * sum(n for n, explores in inside if explores) > sum(n for n, _ in inside)
            hits += guess and label in EXPLORATORY
            found += guess
            wanted += label in EXPLORATORY
    return hits / found, hits / wanted, wanted
