"""`leaven new`: a ready study, either the embedded quickstart or one that asks whether a person's own data helps.

The second compares three conditions at equal steps: a base mixture, the same plus the given rows, the same plus as many random
other rows (so that "more data" is not mistaken for "this data").
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from leaven.api.running import refused_rows
from leaven.errors import DataError, StudyError, did_you_mean

EMBEDDED = ("quickstart",)
BASE_ROWS = 6000
FEWEST_ROWS = 20
"""Fewer rows than this cannot move a model measurably; the study would only spend time."""


def new(
    name: str, folder: Path | str | None = None, *, data: Path | str | None = None, model: Path | str | None = None
) -> Path:
    """Write a study into a new folder and return the study file's path.

    Args:
        name: `quickstart`, or any name together with `data`.
        folder: Where to write; default is ./NAME.
        data: A file of training examples: is it worth adding?
        model: A local Hugging Face folder to tune; default is a small model from scratch.

    Raises:
        StudyError: For an unknown name or a folder that already holds a study.
        DataError: When `data` cannot be read.
    """
    target = Path(folder) if folder is not None else Path(name)
    study = target / "study.yaml"
    if study.exists():
        raise StudyError(f"{study} exists already; run it with `leaven run {study}` or choose another folder")
    if data is None:
        if name not in EMBEDDED:
            raise StudyError(
                f"new: expected {' or '.join(EMBEDDED)}, or a name with --data FILE; found {name!r}.{did_you_mean(name, EMBEDDED)}"
            )
        target.mkdir(parents=True, exist_ok=True)
        for file in ("study.yaml", "README.md"):
            (target / file).write_text(
                (resources.files("leaven.quickstart") / file).read_text(encoding="utf-8"), encoding="utf-8"
            )
        return study
    text = _own_data_study(name, Path(data), Path(model) if model is not None else None, target)
    target.mkdir(parents=True, exist_ok=True)
    study.write_text(text, encoding="utf-8")
    return study


def _own_data_study(name: str, data: Path, model: Path | None, target: Path) -> str:
    """Return the text of a with / without / size-matched-random study for a file."""
    if not data.is_file():
        raise DataError(f"--data {data}: expected a file, found none")
    if model is not None and not (model / "config.json").is_file():
        raise DataError(f"--model {model}: expected a local Hugging Face folder with config.json, found none")
    rows, refused = _usable_rows(data)
    if rows < FEWEST_ROWS:
        raise DataError(
            f"--data {data}: expected at least {FEWEST_ROWS} usable rows, found {rows}"
            + (f" and {refused}" if refused else "")
        )
    here = target.absolute()
    shown = {
        "data": os.path.relpath(data.absolute(), here),
        "model": os.path.relpath(model.absolute(), here) if model else "",
    }
    lines = TEMPLATE.format(
        name=name,
        file=shown["data"],
        rows=rows,
        shown=data.name,
        refused=f"  # {refused}" if refused else "",
        base=BASE_ROWS,
        control=max(rows, 1000),
        total=BASE_ROWS + rows,
        model=f"{{kind: hf, folder: {shown['model']}}}"
        if model
        else "{kind: tiny, width: 128, layers: 4, heads: 4, max_tokens: 512}",
        lr="1.0e-5" if model else "2.0e-3",
        width="" if model else "tokenizer: {kind: bpe, vocab_size: 4096}\n",
    )
    return lines


def _usable_rows(data: Path) -> tuple[int, str]:
    """Return how many rows of a file become examples, and what was refused, read exactly as the study will read it."""
    import json
    import tempfile

    from leaven.core.step import StepContext
    from leaven.data.sources.files import load_file

    with tempfile.TemporaryDirectory() as folder:
        spec = {
            "name": "mine",
            "shape": "auto",
            "fields": None,
            "limit": None,
            "licence": "",
            "domain": "",
            "on_bad_row": "count",
        }
        load_file(spec, {"file": data}, Path(folder), StepContext())
        report = json.loads((Path(folder) / "report.json").read_text(encoding="utf-8"))
    return int(report["rows_kept"]), refused_rows(report)


TEMPLATE = """\
# Is this data worth adding? Three conditions at equal optimiser steps; change anything, then: leaven plan study.yaml
leaven: 1
study: {name}
question: Does adding {shown} to the training data make the model reason better than adding as much other data?

data:
  sources:
    base:                          # procedural problems with reasoning, made by leaven
      world: {{families: [last_letters, coin_flip, variables], n: {base}}}
      licence: Apache-2.0
    pool:                          # where the size-matched control comes from: other tasks than base, so no row is a repeat
      world: {{families: [word_problem, reverse_words, ordering], n: {control}}}
      licence: Apache-2.0
    mine: {{file: "{file}", licence: unknown}}{refused}
    random: {{subset_of: pool, size_of: mine}}
  stages:
    sft:
      mixture: {{base: {base}}}
      budget: {{examples: {total}}}  # equal for all three: the same number of steps
      batch: 32
      max_tokens: 512
      truncate: right
      repeat: repeat

conditions:
  without: {{description: base data only}}
  with: {{description: base data plus the given rows, data: {{stages: {{sft: {{mixture: {{base: {base}, mine: {rows}}}}}}}}}}}
  random: {{description: base data plus as many other rows, data: {{stages: {{sft: {{mixture: {{base: {base}, random: {rows}}}}}}}}}}}

{width}model: {model}
train: {{lr: {lr}, schedule: cosine, warmup_ratio: 0.05}}
seeds: [0, 1, 2, 3]

measure:
  reasoning:
    benchmark: answer
    world: {{families: [last_letters, coin_flip, variables], n: 300, seed: 2, split: test}}
    format: thought_answer
    max_new_tokens: 128

contrasts:
  - {{name: this data against other data of the same size, treatment: with, control: random, benchmark: reasoning,
     margin: 0.02, primary: true}}
  - {{name: this data against none, treatment: with, control: without, benchmark: reasoning, margin: 0.02}}
"""
