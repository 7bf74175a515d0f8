"""Examples -> examples with changed code or thought: comments, docstrings, signatures, names, noise, mistakes, filler, exploration, wrong
responses.

One perturbation is one small class in a file beside this one (contract: operation.py); passes.py draws the examples it
changes and proves each change by execution; the step here does so for a source and writes what became of every row. The
same operations change the programs of a model, or gold ones, before they are scored (`perturb_code`).
Ablations of Liu et al. 2025, section 5.3 (Figs. 7 and 8): inconsistent code, annotation removal, identifier attack.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leaven.core.registry import load_plugins
from leaven.core.step import StepContext, step
from leaven.core.tables import PERTURBED, read_examples, write_examples, write_table
from leaven.data.perturb import broken, explore, filler, mislabel, noise, rename, strip, structure
from leaven.data.perturb.driver import perturb_code, perturb_examples, summary
from leaven.data.perturb.operation import PERTURBATIONS, Change, Operation, Option, Skip, check_operations

__all__ = [
    "PERTURBATIONS",
    "Change",
    "Operation",
    "Option",
    "Skip",
    "check_operations",
    "perturb",
    "perturb_code",
    "perturb_examples",
]
BUILT_IN = (broken, explore, filler, mislabel, noise, rename, strip, structure)
"""The modules whose classes are registered by being imported here."""


@step(version=1)
def perturb(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Change the examples of a source; write examples.parquet, perturbed.parquet (PERTURBED) and report.json.

    Args:
        spec: operations (see `check_operations`), seed, prove (default true).
        inputs: `examples`, a folder with examples.parquet; "plugin:..." files that register perturbations.
        out: Receives the three files; ids and order of the examples stay.
        ctx: Progress says how many rows are changed, unchanged, skipped and refused; its stop flag ends the programs.

    Raises:
        StudyError: an operation is unknown or misspelt.
        Interrupted: `ctx.stop` turned true; verdicts so far lie under `out`/_resume and are not taken again.
    """
    load_plugins(inputs)
    operations = check_operations(spec["operations"])
    examples, rows = perturb_examples(
        read_examples(Path(inputs["examples"]) / "examples.parquet"),
        [o.plain() for o in operations],
        int(spec["seed"]),
        prove=spec.get("prove", True),
        tier=ctx.runtime.sandbox_tier,
        workers=ctx.runtime.threads,
        log=out / "_resume" / "verdicts.jsonl",
        stop=ctx.stop,
        progress=ctx.progress,
    )
    write_examples(out / "examples.parquet", examples)
    write_table(out / "perturbed.parquet", rows, PERTURBED)
    report = {"examples": len(examples), "seed": int(spec["seed"]), "operations": summary(operations, rows)}
    (out / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
