"""A source's examples + its `label` section -> the same examples with domain, language, difficulty and behaviours filled in.

Difficulty comes from a column of the file the source was read from, from a teacher's grades, from a model's verdicts,
or from the structure of procedural problems; rows are found again by number, so that reading a file needs to know
nothing of labels. Every example without a difficulty is counted with the reason. labels.parquet has one row per
example, which roll-ups of influence join.
Not covered: what the values mean (scales.py), asking a teacher (grading.py), finding behaviours (data/behaviours.py).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leaven.core.step import StepContext, step
from leaven.core.tables import LABELS, read_examples, write_examples, write_table
from leaven.core.types import Example
from leaven.data.behaviours import blocks_of, with_behaviours
from leaven.data.labels.domain import label_of
from leaven.data.labels.grading import graded
from leaven.data.labels.mathtype import symbolic_share
from leaven.data.labels.passrate import class_of, pass_rates
from leaven.data.labels.scales import SCALES, Scale, rounded
from leaven.data.perturb.proof import Lab
from leaven.data.sources.rows import read_rows
from leaven.data.sources.shapes import walk
from leaven.errors import DataError, did_you_mean

RELATIVE = "relative_difficulty"
"""Key of `meta` with the difficulty from 0 (easiest) to 1 (hardest)."""


@dataclass(frozen=True, slots=True)
class Difficulty:
    """The difficulty of one example: its whole number, 0..1, the unit; or the reason why it has none."""

    number: int | None = None
    relative: float | None = None
    unit: str = ""
    reason: str = ""


@step(version=1)
def attach(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Label the examples of a source; write examples.parquet, labels.parquet (LABELS) and report.json.

    Args:
        spec: source (name), limit (rows read), and the fields of spec.data.Label.
        inputs: `examples`, a folder with examples.parquet; `file`, the file they were read from (difficulty from a
            column); `grades` (a file of replies, or the folder of the step that asked for them); `verdicts`.
        out: Receives the three files.
        ctx: Progress and the stop flag.

    Raises:
        DataError: the column is not there, or not one example gets a difficulty; the message names what was found.
        Interrupted: stopped while code blocks of thoughts ran; verdicts so far are used again.
    """
    examples = list(read_examples(Path(inputs["examples"]) / "examples.parquet"))
    where = f"source {spec['source']!r}: label"
    ctx.progress(0, len(examples), f"labelling {spec['source']}")
    found = _difficulties(spec, inputs, examples, where)
    passing = _passing_blocks(examples, out, ctx) if spec.get("behaviours") == "lexicon" else {}
    labelled = []
    for place, (example, difficulty) in enumerate(zip(examples, found, strict=True)):
        if place % 500 == 0:
            ctx.check_stop()
            ctx.progress(place, len(examples), f"labelling {spec['source']}")
        labelled.append(_labelled(example, difficulty, spec, passing))
    write_examples(out / "examples.parquet", labelled)
    rows = [_row(spec["source"], e, d) for e, d in zip(labelled, found, strict=True)]
    write_table(out / "labels.parquet", rows, LABELS)
    (out / "report.json").write_text(json.dumps(_report(spec, rows), indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _labelled(example: Example, difficulty: Difficulty, spec: Mapping[str, Any], passing: Mapping[str, frozenset[str]]) -> Example:
    """Return one example with its labels."""
    meta = dict(example.meta)
    if difficulty.number is not None:
        meta[RELATIVE] = difficulty.relative
        example = replace(example, difficulty=difficulty.number, difficulty_unit=difficulty.unit)
    elif spec.get("difficulty"):
        example = replace(example, difficulty=None, difficulty_unit=difficulty.unit)
    if spec.get("domain") == "rules":
        label = label_of(example)
        example = replace(example, domain=label.domain)
        if label.language:
            meta.setdefault("language", label.language)
    example = replace(example, meta=meta)
    if spec.get("behaviours") != "lexicon":
        return example
    known = passing.get(example.id)
    return with_behaviours(example, None if known is None else known.__contains__)


def _passing_blocks(examples: Sequence[Example], out: Path, ctx: StepContext) -> dict[str, frozenset[str]]:
    """Return example id -> the code blocks in its thought that pass its tests, for examples that have both."""
    pairs = [(e, block) for e in examples if e.tests and e.thought for block in dict.fromkeys(blocks_of(e.thought))]
    if not pairs:
        return {}
    lab = Lab(tier=ctx.runtime.sandbox_tier, workers=ctx.runtime.threads, stop=ctx.stop, log=out / "_resume" / "verdicts.jsonl")
    seen = lab.run([replace(e, code=block) for e, block in pairs])
    found: dict[str, set[str]] = {e.id: set() for e, _ in pairs}
    for (example, block), verdict in zip(pairs, seen, strict=True):
        if verdict.status == "pass":
            found[example.id].add(block)
    return {name: frozenset(blocks) for name, blocks in found.items()}


def _row(source: str, example: Example, difficulty: Difficulty) -> dict[str, Any]:
    """Return one row of LABELS."""
    text = example.question or example.text or "\n".join(t.content for t in example.turns if t.role == "user")
    return {
        "source": source,
        "example": example.id,
        "domain": example.domain,
        "language": str(example.meta.get("language") or ""),
        "family": example.family,
        "difficulty": example.difficulty,
        "difficulty_unit": example.difficulty_unit,
        "relative_difficulty": difficulty.relative,
        "symbolic": symbolic_share(text),
        "reason": difficulty.reason,
    }


def _report(spec: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return counts by difficulty, domain and reason."""

    def counts(column: str) -> dict[str, int]:
        return {str(k): n for k, n in sorted(Counter(r[column] for r in rows if r[column] not in (None, "")).items())}

    return {"source": spec["source"], "examples": len(rows), "scale": spec.get("difficulty") or "",
            **{c: counts(c) for c in ("difficulty", "domain", "language")}, "without_difficulty": counts("reason")}  # fmt: skip


# ---- where difficulty comes from ---------------------------------------------------------------------------------


def _difficulties(
    spec: Mapping[str, Any], inputs: Mapping[str, Path], examples: Sequence[Example], where: str
) -> list[Difficulty]:
    """Return one difficulty per example.

    Raises:
        DataError: not one example gets one.
    """
    name = spec.get("difficulty") or ""
    if not name:
        return [Difficulty(e.difficulty, e.meta.get(RELATIVE), e.difficulty_unit) for e in examples]
    if name == "structural":
        found = _structural(examples)
    elif name == "pass_rate":
        found = _solved(Path(inputs["verdicts"]), examples, int(spec["classes"]), spec.get("metric") or "")
    elif "grades" in inputs:
        grades = graded(Path(inputs["grades"]), examples)
        found = [_on(SCALES[name], *grades.get(e.id, (None, "no reply of the teacher"))) for e in examples]
    else:
        found = list(_from_column(SCALES[name], Path(inputs["file"]), spec, examples, where))
    if not any(d.number is not None for d in found):
        reasons = "; ".join(f"{r} ({n})" for r, n in Counter(d.reason for d in found).most_common(3))
        told = f" The scale goes from {SCALES[name].described()}" if name in SCALES else ""
        raise DataError(
            f"{where}.difficulty: expected a difficulty on the scale {name!r} for some of the {len(found)} examples, found none: "
            f"{reasons}.{told}"
        )
    return found


def _on(scale: Scale, number: float | None, reason: str) -> Difficulty:
    """Return a difficulty on a scale, or the reason for none."""
    if number is not None:
        number, reason = scale.check(number)
    if number is None:
        return Difficulty(unit=scale.name, reason=reason)
    return Difficulty(rounded(number), scale.relative(number), scale.name)


def _from_column(
    scale: Scale, file: Path, spec: Mapping[str, Any], examples: Sequence[Example], where: str
) -> Iterator[Difficulty]:
    """Yield the difficulty of every example from its row of the file."""
    rows = {r.number: r.value for r in read_rows(file, spec.get("limit")) if isinstance(r.value, Mapping)}
    column = spec.get("column") or next((c for c in scale.columns if any(walk(r, c)[0] for r in rows.values())), "")
    if not column or not any(walk(r, column)[0] for r in rows.values()):
        wanted = repr(column) if column else f"one of {', '.join(scale.columns)}"
        known = sorted({k for r in rows.values() for k in r})
        raise DataError(
            f"{where}.column: expected the column {wanted} in {file.name}, found {', '.join(known)}."
            f"{did_you_mean(column, known) if column else ''} Name the one that holds the difficulty with `column:`"
        )
    for example in examples:
        number, reason = scale.read(walk(rows.get(int(example.id), {}), column)[1])
        yield _on(scale, number, reason)


def _structural(examples: Sequence[Example]) -> list[Difficulty]:
    """Return the difficulties that examples have by construction, relative within their family."""
    numbers: dict[str, list[int]] = {}
    for example in examples:
        if example.difficulty is not None:
            numbers.setdefault(example.family, []).append(example.difficulty)
    found = []
    for example in examples:
        if example.difficulty is None:
            found.append(Difficulty(unit="structural", reason="the example has no structural difficulty"))
            continue
        low, high = min(numbers[example.family]), max(numbers[example.family])
        relative = (example.difficulty - low) / (high - low) if high > low else 0.5
        found.append(Difficulty(example.difficulty, relative, example.difficulty_unit or "structural"))
    return found


def _solved(path: Path, examples: Sequence[Example], classes: int, metric: str) -> list[Difficulty]:
    """Return the difficulties that a model's successes give."""
    table = path / "verdicts.parquet" if path.is_dir() else path
    rates = pass_rates(table, [e.id for e in examples], metric)
    unit = f"pass rate in {classes} classes"
    return [
        Difficulty(class_of(rates[e.id], classes), 1.0 - rates[e.id], unit) if e.id in rates
        else Difficulty(unit=unit, reason="no verdict of the model")
        for e in examples
    ]  # fmt: skip
