"""Examples, and the model's own answers to them -> lengths: steps of thought, lines and statements of code, tokens of both.

Table 9 of Liu et al. 2025 counts steps and tokens. Steps of a thought: its numbered steps where it numbers them ("1.", "Step 2:"),
else its sentences; `sentences` and `lines` are given beside. Code: non-blank `lines`, and `statements` of its syntax tree
(docstrings are none; no row where it does not parse). `other` is "reference" for the example's own text and "sample" for what the
model wrote, averaged over an item's samples; both for the parts that the format shows. Parts of a sample are found as for
judging (core/responses.py).
Not covered: quality against the reference (evals/overlap.py).
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from leaven.core.responses import response_parts
from leaven.core.step import StepContext, step
from leaven.core.tables import read_samples
from leaven.core.types import Example
from leaven.data.tokenizer import Tokenizer
from leaven.errors import DataError
from leaven.probes.held_out import open_held_out, read_limited, texts_of, value_row, write_values

PARTS = ("thought", "code", "answer")
_NUMBERED = re.compile(r"^[ \t]*(?:\*\*)?(?:step[ \t]+)?\d+[ \t]*[.):](?=[ \t*]|$)", re.IGNORECASE | re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*(?:\s+|$)|\n+")


@step(version=2)
def measure(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Write lengths of the examples' thoughts, code and answers, and of the samples' where the input `samples` is given.

    Args:
        spec: format, limit, options {}.
        inputs: `model` (its tokenizer), `examples`, optionally `samples`, `plugin:*`.
        out: Receives values.parquet, report.json, timings.parquet.
        ctx: Progress and stop.

    Raises:
        StudyError: an unknown option or format.
        DataError: no example can be shown, or no sample belongs to an example.
    """
    held = open_held_out("lengths", spec, inputs, ctx)
    shown = {s.example for s in held.shown}
    examples = {e.id: e for e in read_limited(spec, inputs) if e.id in shown}
    texts = {e.id: _parts(e, str(spec["format"])) for e in examples.values()}
    tokenizer = held.backend.tokenizer
    rows: list[dict[str, Any]] = []
    for example, parts in texts.items():
        ctx.check_stop()
        for part, text in parts.items():
            rows += length_rows(example, part, "reference", text, tokenizer)
    counts = dict(held.counts)
    if "samples" in inputs:
        found = _sample_rows(Path(inputs["samples"]), examples, texts, tokenizer, ctx)
        counts["n_samples"] = len(found)
        rows += found
    write_values(out, "lengths", rows, counts, held.began)


def _parts(example: Example, format_name: str) -> dict[str, str]:
    """Return the texts of an example's response by part."""
    return {part: text for part, text in texts_of(example, format_name).items() if part in PARTS}


def length_rows(example: str, part: str, whose: str, text: str, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Return the lengths of one text."""
    n = len(tokenizer.encode(text))
    return [value_row(example, part, k, v, n, other=whose) for k, v in {"tokens": n, **lengths(part, text)}.items()]


def lengths(part: str, text: str) -> dict[str, float]:
    """Return the counts that a part's text has: lines, and steps and sentences (prose) or statements (code)."""
    lines = sum(bool(line.strip()) for line in text.splitlines())
    if part == "code":
        n = count_statements(text)
        return {"lines": lines} | ({} if n is None else {"statements": n})
    sentences = count_sentences(text)
    return {"lines": lines, "sentences": sentences, "steps": len(_NUMBERED.findall(text)) or sentences}


def count_sentences(text: str) -> int:
    """Return the number of sentences: stretches that end in . ! ? before white space, or at a line's end; the number of a
    step is none."""
    return sum(any(c.isalnum() for c in piece) for piece in _SENTENCE_END.split(_NUMBERED.sub("", text)) if piece)


def count_statements(code: str) -> int | None:
    """Return the number of statements of Python code, nested ones and definitions included, docstrings not; None if it
    does not parse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
    holders = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    docstrings = sum(isinstance(n, holders) and ast.get_docstring(n, clean=False) is not None for n in ast.walk(tree))
    return sum(isinstance(n, ast.stmt) for n in ast.walk(tree)) - docstrings


def _sample_rows(
    folder: Path,
    examples: Mapping[str, Example],
    texts: Mapping[str, Mapping[str, str]],
    tokenizer: Tokenizer,
    ctx: StepContext,
) -> list[dict[str, Any]]:
    """Return the lengths of the samples, averaged per example; an empty part counts as length 0."""
    values: dict[tuple[str, str, str], list[float]] = {}
    for sample in read_samples(folder / "samples.parquet"):
        ctx.check_stop()
        example = examples.get(sample.item)
        if example is None or not sample.finish:  # scored texts carry no finish: nothing was written
            continue
        parts = response_parts(sample.text, example.entry_point)
        for part in texts[example.id]:
            for row in length_rows(example.id, part, "sample", parts[part], tokenizer):
                values.setdefault((example.id, part, row["name"]), []).append(row["value"])
    if not values:
        raise DataError(
            f"probe lengths: expected samples whose item is one of {len(examples)} examples, found none in {folder}; "
            "measure the probe on the examples that were generated for"
        )
    means = {key: float(np.mean(found)) for key, found in values.items()}
    return [
        value_row(e, part, name, mean, round(means[e, part, "tokens"]), other="sample")
        for (e, part, name), mean in means.items()
    ]
