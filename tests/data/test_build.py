"""Order tables: pairing, budgets, cuts, packing, continuation, and one golden digest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from leaven.core.hashing import table_digest
from leaven.core.step import StepContext
from leaven.core.tables import LENGTHS, ORDER, REALISED, read_table, write_table
from leaven.data.build import build_order
from leaven.data.order_tables import check_realised
from leaven.errors import DataError, StudyError

KINDS = {"prompt": 0, "thought": 1, "code": 2, "template": 5}
PARTS = {"thought_code": ("thought", "code"), "code_thought": ("code", "thought"), "code_only": ("code",)}
SPEC = {
    "stage": "sft",
    "seed": 3,
    "mixture": {"code": 0.25, "text": 0.75},
    "formats": {"code": "thought_code", "text": "thought_code"},
    "batch": 10,
    "budget": {"steps": 12},
    "max_tokens": 60,
    "truncate": "right",
}


def write_source(folder: Path, source: str, form: str, n: int) -> Path:
    """Write a tokenise artifact of `n` made-up examples: 4 prompt, 1-20 thought, 3-40 code tokens and an end token."""
    rng = np.random.default_rng(n)
    lengths, kinds, offset = [], [], 0
    for i in range(n):
        size = {"thought": int(rng.integers(1, 21)), "code": int(rng.integers(3, 41))}
        parts = [("prompt", 4), *((p, size[p]) for p in PARTS[form]), ("template", 1)]
        kind = np.repeat([KINDS[p] for p, _ in parts], [k for _, k in parts])
        kinds.append(kind)
        lengths.append(
            {
                "source": source,
                "example": f"{source}-{i}",
                "format": form,
                "n_tokens": len(kind),
                "n_learned_tokens": len(kind) - 4,
                "n_thought_tokens": int((kind == 1).sum()),
                "n_code_tokens": int((kind == 2).sum()),
                "offset": offset,
            }
        )
        offset += len(kind)
    folder.mkdir(parents=True)
    kind = np.concatenate(kinds).astype(np.int8)
    np.save(folder / "kind.npy", kind)
    np.save(folder / "ids.npy", np.arange(len(kind), dtype=np.int32))
    np.save(folder / "learn.npy", (kind != 0).astype(np.float32))
    write_table(folder / "lengths.parquet", lengths, LENGTHS)
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sources")
    return {
        f"{s}|{f}": write_source(root / f"{s}-{f}", s, f, n) for s, n in (("code", 300), ("text", 400)) for f in PARTS
    }


class Built:
    """What build_order wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.table = read_table(folder / "order.parquet", ORDER)
        self.realised = read_table(folder / "realised.parquet", REALISED)
        self.report = json.loads((folder / "report.json").read_text())


@pytest.fixture
def build(sources: dict[str, Path], tmp_path: Path) -> Any:
    def run(extra_inputs: Mapping[str, Path] | None = None, **changes: Any) -> Built:
        out = tmp_path / f"order-{len(list(tmp_path.iterdir()))}"
        out.mkdir()
        spec = {k: v for k, v in {**SPEC, **changes}.items() if v is not None}
        build_order(spec, {**sources, **(extra_inputs or {})}, out, StepContext())
        return Built(out)

    return run


def formats(name: str) -> dict[str, str]:
    return {"code": name, "text": name}


def test_conditions_that_differ_only_in_format_hold_the_same_examples(build: Any) -> None:
    for changes in (
        {},
        {"budget": {"examples": 117}},
        {"budget": {"epochs": 0.5}},
        {"truncate": "drop", "max_tokens": 30},
        {
            "mixture": {"code": 0.4, "text": 0.6},
            "schedule": {"kind": "linear", "options": {"of": "code", "start": 0.8}},
        },
    ):
        slots = [build(formats=formats(name), **changes).table for name in PARTS]
        keys = [t.select("step", "slot", "source", "example") for t in slots]
        assert keys[0].equals(keys[1]) and keys[0].equals(keys[2])
        assert not slots[0].equals(slots[1])


def test_the_table_is_sorted_and_typed(build: Any) -> None:
    built = build()
    assert built.table.equals(built.table.sort("stage", "step", "slot")) and dict(built.table.schema) == ORDER
    assert built.table.group_by("step", maintain_order=True).len()["len"].to_list() == [10] * 12
    assert built.table.filter(pl.col("step") == 3)["slot"].to_list() == list(range(10))


def test_seeds_differ_and_the_same_seed_does_not(build: Any) -> None:
    first, again, other = build(), build(), build(seed=4)
    assert first.table.equals(again.table) and not first.table["example"].equals(other.table["example"])


def test_the_realised_mixture_is_the_plan(build: Any) -> None:
    realised = build().realised
    assert (realised["realised"] - realised["planned"]).abs().max() < 1
    assert realised.filter(pl.col("source") == "code")["realised"].sum() == 30
    steps = build(
        schedule={"kind": "stepwise_decrease", "options": {"of": "code"}}, mixture={"code": 0.375, "text": 0.625}
    ).realised
    shares = steps.filter(pl.col("source") == "code")["realised"].to_numpy().reshape(4, 3).mean(axis=1) / 10
    assert shares == pytest.approx([0.5, 0.4, 0.3, 0.3])


def test_a_table_that_misses_the_plan_is_found(build: Any) -> None:
    built = build()
    assert (
        built.report["sources"]["code"]["realised_share"] == built.report["sources"]["code"]["requested_share"] == 0.25
    )
    moved = pl.when(pl.col("block") == 7).then(2.0 - 4.0 * (pl.col("source") == "text")).otherwise(0.0)
    wrong = built.realised.with_columns(realised=pl.col("realised") + moved)
    with pytest.raises(DataError, match="misses the plan: .* at step 7"):
        check_realised(wrong, "examples", 1)


def test_a_quarter_of_code_is_a_subset_of_a_half(build: Any) -> None:
    drawn = [
        set(
            build(mixture={"code": share, "text": 1 - share})
            .table.filter(pl.col("source") == "code")["example"]
            .to_list()
        )
        for share in (0.25, 0.5, 1.0)
    ]
    assert drawn[0] < drawn[1] < drawn[2] and [len(d) for d in drawn] == [30, 60, 120]


def test_shares_of_tokens_are_within_one_row(build: Any) -> None:
    for unit in ("tokens", "learned_tokens"):
        built = build(unit=unit, formats={"code": "code_only", "text": "thought_code"})
        off = built.realised.with_columns(off=(pl.col("realised") - pl.col("planned")).cum_sum().over("source"))
        assert off["off"].abs().max() <= 60
        column = {"tokens": "n_tokens", "learned_tokens": "n_learned_tokens"}[unit]
        totals = dict(built.table.group_by("source").agg(pl.col(column).sum()).iter_rows())
        assert totals["code"] / sum(totals.values()) == pytest.approx(0.25, abs=60 / sum(totals.values()))


@pytest.mark.parametrize(("measure", "column"), [("tokens", "n_tokens"), ("learned_tokens", "n_learned_tokens")])
@pytest.mark.parametrize("batch", [{"batch": 10}, {"batch": None, "batch_tokens": 300}])
@pytest.mark.parametrize("unit", ["examples", "tokens"])
def test_a_token_budget_ends_with_the_step_that_reaches_it(
    build: Any, measure: str, column: str, batch: dict[str, Any], unit: str
) -> None:
    built = build(budget={measure: 4000}, unit=unit, **batch)
    totals = built.table.group_by("step", maintain_order=True).agg(pl.col(column).sum())[column].to_numpy().cumsum()
    assert totals[-1] >= 4000 > totals[-2] and built.report[measure] == totals[-1]
    if "batch_tokens" in batch:
        sizes = built.table.group_by("step", maintain_order=True).agg(pl.col("n_tokens").sum())["n_tokens"]
        assert sizes.max() <= 300 and sizes.head(-1).min() > 200


def test_schedules_work_with_token_budgets(build: Any) -> None:
    table = build(
        budget={"tokens": 8000},
        mixture={"code": 0.5, "text": 0.5},
        schedule={"kind": "linear", "options": {"of": "code", "start": 0.9}},
    ).table
    is_code = (table["source"] == "code").to_numpy()
    third = len(is_code) // 3
    assert (
        is_code[:third].mean() > 0.7
        and is_code[-third:].mean() < 0.3
        and is_code.mean() == pytest.approx(0.5, abs=0.05)
    )


def test_epochs_pass_the_source_that_runs_out_first(build: Any) -> None:
    built = build(budget={"epochs": 1.0}, mixture={"code": 0.5, "text": 0.5})
    assert built.report["sources"]["code"]["examples"] == 300 and built.report["repeats"] == 0
    twice = build(budget={"epochs": 2.0}, mixture={"code": 1.0}, repeat="repeat")
    assert set(twice.table.group_by("example").len()["len"].to_list()) == {2} and twice.report["repeats"] == 300


def test_exhaustion_is_an_error_that_says_what_to_do(build: Any) -> None:
    with pytest.raises(DataError, match="'text'.*found 400.*repeat"):
        build(budget={"steps": 60})
    assert build(budget={"steps": 60}, repeat="repeat").report["repeats"] == 50


def test_what_is_cut_is_counted_against_the_arrays(build: Any, sources: dict[str, Path]) -> None:
    cut_code = []
    for form in ("thought_code", "code_thought"):
        built = build(formats=formats(form), max_tokens=25)
        lengths = pl.concat([read_table(sources[f"{s}|{form}"] / "lengths.parquet") for s in ("code", "text")])
        joined = built.table.join(lengths, on=["source", "example"], suffix="_whole")
        total = {k: joined[f"n_{k}_tokens"].sum() for k in ("thought", "code")}
        kept = {k: 0 for k in total}
        arrays = {s: (np.load(sources[f"{s}|{form}"] / "kind.npy")) for s in ("code", "text")}
        for row in joined.iter_rows(named=True):
            inside = arrays[row["source"]][row["offset"] + row["start_token"] :][: row["n_tokens"]]
            assert row["n_tokens"] == min(25, row["n_tokens_whole"]) and row["n_learned_tokens"] == int(
                (inside[1:] != 0).sum()
            )
            for k in kept:
                kept[k] += int((inside == KINDS[k]).sum())
        assert {k: built.report[f"cut_{k}_tokens"] for k in total} == {k: total[k] - kept[k] for k in total}
        cut_code.append(built.report["cut_code_tokens"])
    assert cut_code[0] > cut_code[1]  # right truncation takes the code of the order that puts it last


def test_keep_code_loses_no_code_that_fits(build: Any) -> None:
    built = build(max_tokens=46, truncate="keep_code", budget={"steps": 30})
    assert built.report["cut_code_tokens"] == 0 and built.table["start_token"].max() > 0


def test_too_long_is_an_error_by_default(build: Any) -> None:
    with pytest.raises(DataError, match="at most max_tokens = 30 tokens, found .* longest is '(code|text)-"):
        build(max_tokens=30, truncate=None)


def test_dropped_rows_keep_their_slot_without_weight(build: Any) -> None:
    built = build(truncate="drop", max_tokens=30)
    dropped = built.table.filter(pl.col("weight") == 0)
    assert (
        0 < dropped.height == built.report["dropped"]
        and dropped["n_learned_tokens"].sum() == 0
        and dropped["n_tokens"].max() <= 30
    )
    assert (
        built.table.height == 120
        and built.report["tokens"] == built.table.filter(pl.col("weight") > 0)["n_tokens"].sum()
    )


def test_dropping_every_row_is_an_error_where_tokens_count(build: Any) -> None:
    for changes in ({"budget": {"tokens": 100}}, {"batch": None, "batch_tokens": 100}):
        with pytest.raises(DataError, match="all are dropped"):
            build(truncate="drop", max_tokens=2, **changes)


def test_long_documents_are_split_into_pieces_that_cover_them(build: Any) -> None:
    built = build(truncate="split", max_tokens=16, mixture={"code": 1.0}, budget={"epochs": 1.0})
    pieces = (
        built.table.sort("example", "start_token")
        .group_by("example", maintain_order=True)
        .agg("start_token", "n_tokens")
    )
    assert pieces.height == 300 and built.table["n_tokens"].max() == 16
    for row in pieces.iter_rows(named=True):
        assert row["start_token"] == [16 * i for i in range(len(row["start_token"]))] and row["n_tokens"][:-1] == [
            16
        ] * (len(row["n_tokens"]) - 1)


def test_packing_shares_rows_inside_a_step_only(build: Any) -> None:
    packed, plain = build(pack="best_fit"), build()
    assert packed.table.drop("pack").equals(plain.table.drop("pack"))
    fill = packed.table.group_by("step", "pack").agg(pl.col("n_tokens").sum())
    assert (
        fill["n_tokens"].max() <= 60
        and packed.report["packed_rows"] == fill.height < plain.report["packed_rows"] == 120
    )
    assert plain.table["pack"].equals(plain.table["slot"])


def test_an_order_is_continued_exactly(build: Any) -> None:
    short = build()
    for budget in ({"steps": 20}, {"tokens": 9000}, {"tokens_of": "other"}):
        other = build(budget={"steps": 18})
        long = build({"extends": short.folder, "tokens_of": other.folder}, budget=budget)
        assert long.table.head(120).equals(short.table) and long.table.height > 120
    assert long.report["tokens"] == other.report["tokens"]
    with pytest.raises(DataError, match="extends: expected .* difference at line 0"):
        build({"extends": short.folder}, budget={"steps": 20}, seed=9)
    with pytest.raises(DataError, match="longer than the 120 slots"):
        build({"extends": short.folder}, budget={"steps": 2})


def test_leaving_examples_out_keeps_the_order_of_the_rest(build: Any) -> None:
    whole = build(mixture={"code": 1.0}, budget={"epochs": 1.0})
    gone = whole.table["example"].to_list()[:7]
    rest = build(mixture={"code": 1.0}, budget={"epochs": 1.0}, exclude=gone)
    assert rest.table["example"].to_list() == whole.table["example"].to_list()[7:]
    only = build(mixture={"code": 0.5, "text": 0.5}, budget={"epochs": 1.0}, only={"code": gone})
    assert set(only.table.filter(pl.col("source") == "code")["example"]) == set(gone) and only.table.height == 14


def test_weights_come_from_a_table(build: Any, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    chosen = build().table["example"][0]
    pl.DataFrame({"example": [chosen], "weight": [0.25]}).write_parquet(folder / "weights.parquet")
    table = build({"weights": folder}).table
    assert set(table.filter(pl.col("example") == chosen)["weight"]) == {0.25} and set(table["weight"]) == {0.25, 1.0}
    pl.DataFrame({"example": [chosen], "weight": [-1.0]}).write_parquet(folder / "weights.parquet")
    with pytest.raises(DataError, match="weights.parquet"):
        build({"weights": folder})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"unit": "rows"}, "unit: expected one of"),
        ({"budget": {"steps": 3, "tokens": 4}}, "exactly one of"),
        ({"budget": {"steps": 0}}, "at least 1"),
        ({"budget": {"hours": 1}}, "exactly one of"),
        ({"batch": None}, "batch"),
        ({"truncate": "left"}, "truncate: expected"),
        ({"pack": "first_fit"}, "pack: expected"),
        ({"pack": "best_fit", "max_tokens": None}, "needs max_tokens"),
        ({"formats": {"code": "mixed"}}, r"'code\|mixed'"),
        ({"unit": "tokens", "budget": {"epochs": 1}}, "budget.epochs"),
    ],
)
def test_a_wrong_spec_is_refused(build: Any, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        build(**changes)


def test_golden_order(build: Any) -> None:
    """Fails when the same spec gives another order: bump `@step(version=...)` of build_order, then renew the digest."""
    built = build(pack="best_fit", max_tokens=48, schedule={"kind": "cosine", "options": {"of": "code", "start": 0.4}})
    assert build_order.step_version == 1  # type: ignore[attr-defined]
    assert table_digest(built.folder / "order.parquet")[:16] == "08a0e90483ec272e"
