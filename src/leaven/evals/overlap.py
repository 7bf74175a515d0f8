"""A model's answers to examples -> how near their thought and code come to the examples' own: BLEU and CodeBLEU.

The probe `overlap` (probes/kinds.py names it; it lies here because it judges texts and needs no model). Rows of PROBE_VALUES per
example, averaged over its samples: `bleu` of the thought and of the code (sentence BLEU, smoothing exp, effective order), `codebleu` of
the code with its four parts. Rows with an empty example are the corpus numbers, of all samples together (Liu et al. 2025, table
9, where neither tokens nor smoothing are given). A part the model did not write counts as 0; code is found as for judging.
Not covered: whether the code is right (benchmarks), lengths (probes/lengths.py).
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from leaven.core.registry import load_plugins
from leaven.core.responses import response_parts
from leaven.core.step import StepContext, step
from leaven.core.tables import PROBE_VALUES, TIMINGS, read_held_out, read_samples, write_table
from leaven.errors import DataError
from leaven.evals.bleu import corpus_bleu, mean_sentence_bleu, words, words_13a
from leaven.evals.codebleu import CodeBleu, codebleu

TOKENS = {"words": words, "13a": words_13a}
Pair = tuple[str, str]
"""Reference and what the model wrote."""


@step(version=1)
def measure(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Write BLEU and CodeBLEU of samples against their examples.

    Args:
        spec: limit, options {tokens: words | 13a}.
        inputs: `examples` (or items), `samples` of the same ids, `plugin:*`.
        out: Receives values.parquet, report.json, timings.parquet.
        ctx: Progress and stop.

    Raises:
        DataError: no sample belongs to an example with a thought or code.
        MissingExtraError: there is code and tree-sitter is not installed.
    """
    began, cpu = time.time(), time.process_time()
    load_plugins(inputs)
    tokens = str((spec.get("options") or {}).get("tokens", "words"))
    pairs = _pairs(spec, inputs)
    rows = []
    for i, ((example, part), found) in enumerate(pairs.items()):
        ctx.check_stop()
        ctx.progress(i, len(pairs), "overlap with the references")
        rows += overlap_rows(example, part, found, tokens, whole=False)
    for part in sorted({part for _, part in pairs}):
        ctx.check_stop()
        rows += overlap_rows("", part, [p for (_, x), found in pairs.items() if x == part for p in found], tokens, whole=True)
    write_table(out / "values.parquet", rows, PROBE_VALUES)
    report = {
        "n_examples": len({example for example, _ in pairs}),
        "n_samples": {part: sum(len(v) for (_, p), v in pairs.items() if p == part) for part in ("thought", "code")},
        "n_missing": {part: sum(not h for (_, p), v in pairs.items() if p == part for _, h in v) for part in ("thought", "code")},
        "grammar": grammar(),
    }
    (out / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    timing = {"name": "probe overlap", "wall_s": time.time() - began, "cpu_s": time.process_time() - cpu, "detail": ""}
    write_table(out / "timings.parquet", [timing], TIMINGS)


def overlap_rows(example: str, part: str, pairs: Sequence[Pair], tokens: str, *, whole: bool) -> list[dict[str, Any]]:
    """Return the rows of one part: of one example's samples (means), or of a corpus (`whole`)."""
    references = [[TOKENS[tokens](r)] for r, _ in pairs]
    written = [TOKENS[tokens](h) for _, h in pairs]
    values = {"bleu": corpus_bleu(references, written) if whole else mean_sentence_bleu(references, written)}
    if part == "code":
        values |= _code_values(pairs, whole)
    n = round(sum(map(len, written)) / (1 if whole else len(written)))
    row = {"example": example, "part": part, "other": "sample", "layer": -1, "n_tokens": n}
    return [{**row, "name": name, "value": value} for name, value in values.items()]


def grammar() -> str:
    """Return the version of tree-sitter's Python grammar that CodeBLEU reads trees with, "" when there is none."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("tree-sitter-python")
    except PackageNotFoundError:
        return ""


def _code_values(pairs: Sequence[Pair], whole: bool) -> dict[str, float]:
    """Return CodeBLEU and its parts, corpus-wide or averaged; a program that is not there scores 0."""
    none = CodeBleu(0.0, 0.0, 0.0, 0.0, 0.0)
    if whole:
        scores = [codebleu([[r] for r, _ in pairs], [h for _, h in pairs])]
    else:
        scores = [codebleu([[r]], [h]) if h else none for r, h in pairs]
    means = {f.name: sum(getattr(s, f.name) for s in scores) / len(scores) for f in dataclasses.fields(CodeBleu)}
    return {"codebleu" if name == "total" else f"codebleu_{name}": value for name, value in means.items()}


def _pairs(spec: Mapping[str, Any], inputs: Mapping[str, Path]) -> dict[tuple[str, str], list[Pair]]:
    """Return (example, part) -> the pairs of its samples, for parts the example has."""
    if "samples" not in inputs:
        raise DataError("probe overlap: expected the input 'samples', the model's answers to the examples, found none")
    examples = {e.id: e for e in islice(read_held_out(Path(inputs["examples"])), spec.get("limit"))}
    pairs: dict[tuple[str, str], list[Pair]] = {}
    for sample in read_samples(Path(inputs["samples"]) / "samples.parquet"):
        example = examples.get(sample.item)
        if example is None or not sample.finish:  # scored texts carry no finish: nothing was written
            continue
        found = response_parts(sample.text, example.entry_point)
        for part in ("thought", "code"):
            if reference := getattr(example, part):
                pairs.setdefault((example.id, part), []).append((reference, found[part]))
    if not pairs:
        raise DataError(
            f"probe overlap: expected samples whose item is one of {len(examples)} examples with thought or code, found none "
            f"in {inputs['samples']}; generate answers to the probe's own examples"
        )
    return pairs
