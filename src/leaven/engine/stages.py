"""Steps that compose stages and belong to none of them: size-matched subsets of a source.

Not covered: what a stage does (data/, lm/, evals/, analysis/, report/); which steps a study needs (plan.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leaven.core.rng import rng
from leaven.core.step import StepContext, step
from leaven.core.tables import EXAMPLES, read_table, write_table
from leaven.errors import DataError


@step(version=1)
def subset(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Draw as many rows from `pool` as `like` has, at random and without replacement: a size-matched control.

    Args:
        spec: seed.
        inputs: `pool` and `like`, folders with examples.parquet.
        out: Receives examples.parquet and report.json.
        ctx: Unused.

    Raises:
        DataError: When the pool is smaller than what it is matched with.
    """
    pool = read_table(inputs["pool"] / "examples.parquet", EXAMPLES)
    wanted = read_table(inputs["like"] / "examples.parquet", EXAMPLES).height
    if pool.height < wanted:
        raise DataError(
            f"size-matched subset: expected a pool of at least {wanted} rows, found {pool.height}; add rows to the pool"
        )
    rows = sorted(rng(spec["seed"], "subset").choice(pool.height, size=wanted, replace=False).tolist())
    write_table(out / "examples.parquet", pool[rows], EXAMPLES)
    (out / "report.json").write_text(json.dumps({"rows_pool": pool.height, "rows_kept": wanted}))
