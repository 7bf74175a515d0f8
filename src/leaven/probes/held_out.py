"""Held-out examples + format + model -> tokens with the part each belongs to; and what a probe saw -> its files.

A part is what a token is for: `thought`, `code`, `answer`, `text` (learned content), `prompt` (content the model only reads, shots
included) and `template` (markers, role and end tokens). With `markers: include` what opens and closes a part counts as that
part; with `by: part` a part is named down to what formats distinguish (thought.step, code.signature, code.comment,
code.body). Examples longer than the model's context, or that lack a field the format needs, are left out and counted: a
cut example has no second part to compare with.
Not covered: what is computed of them (one file per probe).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np

from leaven.core.registry import load_plugins
from leaven.core.step import StepContext
from leaven.core.tables import PROBE_VALUES, TIMINGS, read_held_out, write_table
from leaven.core.types import Example, Kind, Segment
from leaven.data.formats import FORMATS
from leaven.data.tokenizer import Tokenizer
from leaven.errors import DataError, StudyError
from leaven.lm.backend import Backend, open_backend
from leaven.probes.kinds import check_options

RESPONSE = "response"
"""Everything learned of an example: content, markers and end token."""
CONTENT = ("prompt", "thought", "code", "answer", "text")
_BLOCK = 32


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """One example as a model sees it: ids int64[N], learn float32[N] (0 for the first token), label int64[N] into `parts`."""

    example: str
    ids: np.ndarray
    learn: np.ndarray
    label: np.ndarray
    parts: tuple[str, ...]

    def tokens(self, part: str) -> np.ndarray:
        """Return bool[N]: the tokens of a part; of RESPONSE those with a loss weight."""
        if part == RESPONSE:
            return self.learn > 0
        return self.label == self.parts.index(part) if part in self.parts else np.zeros(len(self.ids), bool)

    def learned(self, part: str) -> np.ndarray:
        """Return bool[N]: the tokens of a part that carry loss."""
        return self.tokens(part) & (self.learn > 0)

    def learned_parts(self) -> tuple[str, ...]:
        """Return the parts of the response in the order in which they begin, `template` left out."""
        found = dict.fromkeys(self.label[self.learn > 0].tolist())
        return tuple(self.parts[i] for i in found if self.parts[i] != "template")


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What a probe starts from: the opened model, its options, the examples shown, and how many were left out why."""

    backend: Any
    options: Mapping[str, Any]
    shown: tuple[Shown, ...]
    counts: dict[str, int]
    began: tuple[float, float]

    def blocks(self, ctx: StepContext, note: str) -> Iterator[tuple[Shown, ...]]:
        """Yield the examples in blocks, reporting progress and stopping when asked to."""
        for at in range(0, len(self.shown), _BLOCK):
            ctx.check_stop()
            ctx.progress(at, len(self.shown), note)
            yield self.shown[at : at + _BLOCK]


def open_held_out(kind: str, spec: Mapping[str, Any], inputs: Mapping[str, Path], ctx: StepContext) -> HeldOut:
    """Open the model (`base` with the option weights: base) and show it the examples.

    Raises:
        StudyError: an unknown option or format, or the input `base` is needed and absent.
        DataError: no example is left.
        BackendError: the model cannot be opened.
    """
    began = (time.time(), time.process_time())
    load_plugins(inputs)
    options = check_options(kind, spec.get("options") or {}, f"probe {kind}")
    backend = open_backend(model_folder(kind, inputs, options.get("weights", "model")), ctx.runtime)
    examples = read_limited(spec, inputs)
    shown, counts = show(
        examples,
        str(spec["format"]),
        backend.tokenizer,
        backend.max_tokens,
        by=options.get("by", "kind"),
        markers=options.get("markers", "exclude"),
    )
    if not shown:
        raise DataError(
            f"probe {kind}: expected examples that fit format {spec['format']!r} and {backend.max_tokens} tokens, found "
            f"none among {len(examples)} ({counts}); choose another format or shorter examples"
        )
    return HeldOut(backend, options, tuple(shown), counts, began)


def model_folder(kind: str, inputs: Mapping[str, Path], which: str) -> Path:
    """Return the folder of `model` or `base`; raise StudyError when the model training started from is absent."""
    if which not in inputs:
        raise StudyError(
            f"probe {kind}: expected the input {which!r}, the model that training started from, found none: a model trained "
            "from scratch has no base. Give the model section a `path`, or a second stage, or leave this probe out"
        )
    return Path(inputs[which])


def read_limited(spec: Mapping[str, Any], inputs: Mapping[str, Path]) -> list[Example]:
    """Return the first `limit` examples (all for null)."""
    return list(islice(read_held_out(Path(inputs["examples"])), spec.get("limit")))


def show(
    examples: Iterable[Example],
    format_name: str,
    tokenizer: Tokenizer,
    max_tokens: int,
    *,
    by: str = "kind",
    markers: str = "exclude",
) -> tuple[list[Shown], dict[str, int]]:
    """Return the examples as tokens with parts, and counts: n_examples, n_shown, n_too_long, n_without_field,
    n_without_response.

    Raises:
        StudyError: no format has that name.
        DataError: two examples have the same id.
    """
    form = FORMATS.get(format_name, "format")
    counts = {"n_examples": 0, "n_shown": 0, "n_too_long": 0, "n_without_field": 0, "n_without_response": 0}
    shown: list[Shown] = []
    seen: set[str] = set()
    for example in examples:
        counts["n_examples"] += 1
        if example.id in seen:
            raise DataError(f"probe: expected different example ids, found {example.id!r} twice; give every row its own")
        seen.add(example.id)
        try:
            segments = form(example)
        except DataError:
            counts["n_without_field"] += 1
            continue
        encoded = tokenizer.encode_segments(segments)
        if len(encoded.ids) > max_tokens:
            counts["n_too_long"] += 1
            continue
        names = [part_of(s, by, markers) for s in segments]
        parts = tuple(dict.fromkeys(names))
        learn = encoded.learn.astype(np.float32, copy=True)
        learn[:1] = 0.0  # nothing stands before the first token
        if not (learn > 0).any():
            counts["n_without_response"] += 1
            continue
        label = np.array([parts.index(n) for n in names], np.int64)[encoded.segment]
        shown.append(Shown(example.id, encoded.ids.astype(np.int64), learn, label, parts))
    counts["n_shown"] = len(shown)
    return shown, counts


def part_of(segment: Segment, by: str = "kind", markers: str = "exclude") -> str:
    """Return the part a segment's tokens belong to."""
    if segment.kind == "template":
        named = segment.part if segment.part in get_args(Kind) else ""
        return named if named and segment.learn > 0 and markers == "include" else "template"
    if segment.learn <= 0:
        return "prompt"
    return f"{segment.kind}.{segment.part}" if by == "part" and segment.part else segment.kind


def texts_of(example: Example, format_name: str) -> dict[str, str]:
    """Return the text of each content part that a format shows of an example, without markers."""
    found: dict[str, list[str]] = {}
    for segment in FORMATS.get(format_name, "format")(example):
        part = part_of(segment)
        if part in CONTENT:
            found.setdefault(part, []).append(segment.text)
    return {part: "".join(pieces) for part, pieces in found.items() if "".join(pieces).strip()}


def given_before(shown: Shown, part: str) -> str:
    """Return what a part was conditioned on: the content parts that begin before its first learned token, joined by +."""
    first = int(np.argmax(shown.learned(part)))
    before = dict.fromkeys(shown.label[:first].tolist())
    return "+".join(shown.parts[i] for i in before if shown.parts[i] not in ("template", part))


def token_losses(backend: Backend, shown: Sequence[Shown]) -> list[np.ndarray]:
    """Return for each example float64[N] nats of its tokens given those before; 0 for the first."""
    rows = backend.token_logprobs([s.ids for s in shown])
    return [np.concatenate([[0.0], -row.astype(np.float64)]) for row in rows]


def value_row(
    example: str,
    part: str,
    name: str,
    value: float,
    n_tokens: int,
    *,
    other: str = "",
    layer: int = -1,
) -> dict[str, Any]:
    """Return one row of PROBE_VALUES."""
    return {
        "example": example,
        "part": part,
        "other": other,
        "layer": layer,
        "name": name,
        "value": float(value),
        "n_tokens": int(n_tokens),
    }


def write_values(
    out: Path, kind: str, rows: Sequence[Mapping[str, Any]], report: Mapping[str, Any], began: tuple[float, float]
) -> None:
    """Write values.parquet, report.json and timings.parquet."""
    if not rows:
        raise DataError(f"probe {kind}: expected at least one value, found none ({dict(report)}); choose another format")
    write_table(out / "values.parquet", rows, PROBE_VALUES)
    (out / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    timing = {"name": f"probe {kind}", "wall_s": time.time() - began[0], "cpu_s": time.process_time() - began[1], "detail": ""}
    write_table(out / "timings.parquet", [timing], TIMINGS)
