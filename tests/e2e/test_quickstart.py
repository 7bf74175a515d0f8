"""The embedded study, shortened: it completes with the weakest sandbox tier forced, and its test items are not in training."""

from __future__ import annotations

from pathlib import Path

import polars as pl

import leaven

SHORT = (
    "seeds=[0,1]",
    "data.stages.sft.budget.steps=12",
    "data.stages.sft.batch=16",
    "data.sources.depth_5.world.n=200",
    "data.sources.depth_6.world.n=200",
    "data.sources.depth_4.world.n=200",
    "measure.programs.world.n=120",
    "model.layers=1",
    "model.width=32",
)


def test_quickstart_completes_on_the_weakest_tier(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEAVEN_STORE", raising=False)
    result = leaven.run(leaven.new("quickstart"), (*SHORT, "runtime.sandbox_tier=D"))
    assert result.exit_code == 0 and result.answer and result.report is not None
    verdicts = pl.read_parquet(str(tmp_path / "runs/quickstart/*/seed-*/verdicts-programs/verdicts.parquet"))
    ran = verdicts.filter(pl.col("status") != "no_answer")
    assert set(ran["tier"]) <= {"D"} and not set(verdicts["status"]) & {"harness_error", "not_measured"}
    trained = pl.read_parquet(str(tmp_path / "runs/quickstart/data/depth_*/examples.parquet"))
    items = pl.read_parquet(str(tmp_path / "runs/quickstart/items/programs/items.parquet"))
    deeper = items.filter(pl.col("difficulty") >= 3)
    assert not set(deeper["question"]) & set(trained["question"]) and not deeper["seen"].any()
    assert items.filter(pl.col("difficulty") <= 2)["seen"].all()
    assert items["question"].is_unique().all()
