"""Steps that compose stages and belong to none of them: size-matched subsets of a source, synthesis by a teacher.

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
from leaven.errors import DataError, StudyError


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


@step(version=1, deterministic=False)
def synthesise(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Make records of question, thought, code and tests from seeds with a teacher (Liu et al. 2025, section 3.1).

    Args:
        spec: The fields of spec.synthesis.Synthesis as plain data.
        inputs: "source:NAME" for every source (folders with examples.parquet and report.json); "recorded" and "shots", files, where
            the spec names them.
        out: Receives the files of data.synthesis; replies and verdicts already there are used again.
        ctx: Progress and the stop flag.

    Raises:
        BackendError: When the server cannot be used; what it answered is kept.
        Interrupted: When stopped; what it answered is kept.
    """
    from leaven.data.synthesis import prepare_files
    from leaven.data.synthesis import synthesise as run
    from leaven.data.teacher import Recorded, Reference, identity_of
    from leaven.spec.load import load_spec
    from leaven.spec.runtime import secret
    from leaven.spec.synthesis import Synthesis

    typed: Synthesis = load_spec(Synthesis, None, json.loads(json.dumps(spec)))
    prepared = prepare_files(typed, inputs, ctx)
    teacher: Any = Reference(prepared.seeds)
    if typed.teacher.recorded is not None:
        teacher = Recorded(inputs["recorded"])
    elif typed.teacher.server is not None:
        from leaven.lm.server import Server

        name, asking = typed.teacher.key_env, typed.asking
        if name and not secret(name):
            raise StudyError(f"teacher.key_env: expected the API key in the environment variable {name}, found none; set it and run again")
        teacher = Server(typed.teacher.server, secret(name), asking.concurrency, asking.requests_per_minute, asking.timeout_s,
                         asking.attempts, asking.backoff_s, asking.give_up_after)  # fmt: skip
    run(prepared, typed, teacher, identity_of(typed.teacher, inputs.get("recorded"), prepared.seeds), out, ctx)
