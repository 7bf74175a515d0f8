"""Reweighed orders: mirrored exactly, totals kept, slots paired, controls that differ in groups alone."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaven.core.step import StepContext
from leaven.core.tables import INFLUENCE, LEFT_OUT, LENGTHS, ORDER, REWEIGHED, read_table, write_examples, write_table
from leaven.core.types import Example
from leaven.data.build import build_order
from leaven.data.reweigh import check_intervention
from leaven.data.reweigh.targets import by_shares, flip, tilt, whole
from leaven.errors import DataError, StudyError
from leaven.spec.data import Budget, LeaveOut, Reweigh, Stage

SETTINGS: dict[str, Any] = {
    "by": "difficulty", "how": "flip", "mode": "reweight", "match": ["source"], "control": "none", "sources": None, "range": None,
    "pool": None, "target": {}, "method": "", "query": "", "tau": None, "floor": 0.1,
}  # fmt: skip
LEVELS = {"math": (1, 1, 1, 1, 2, 2, 2, 3, 4, 5), "code": (1, 2, 2, 3, 3, 3), "pool": (1, 4, 5, 5)}
SIZES = {"math": 400, "code": 240, "pool": 160}


def level_of(source: str, number: int) -> int | None:
    """Return the planted difficulty: one example in 20 has none."""
    return None if number % 20 == 19 else LEVELS[source][number % len(LEVELS[source])]


def write_source(root: Path, source: str) -> dict[str, Path]:
    """Write examples and tokens of made-up lengths 10-60 that do not depend on difficulty."""
    n = SIZES[source]
    size = np.random.default_rng(n).integers(10, 61, n)
    tokens, examples = root / f"{source}-tokens", root / f"{source}-examples"
    tokens.mkdir(parents=True)
    rows = [
        {"source": source, "example": f"{source}-{i}", "format": "auto", "n_tokens": k, "n_learned_tokens": k - 4, "n_thought_tokens": 0,
         "n_code_tokens": k - 4, "offset": int(size[:i].sum())} for i, k in enumerate(size.tolist())
    ]  # fmt: skip
    write_table(tokens / "lengths.parquet", rows, LENGTHS)
    for name, dtype in (("ids", np.int32), ("learn", np.float32), ("kind", np.int8)):
        np.save(tokens / f"{name}.npy", np.ones(int(size.sum()), dtype=dtype))
    domain = "code" if source == "code" else "math"
    write_examples(
        examples / "examples.parquet",
        [Example(id=f"{source}-{i}", source=source, question="q", answer="a", domain=domain, family=f"f{i % 3}",
                 difficulty=level_of(source, i), difficulty_unit="math") for i in range(n)],
    )  # fmt: skip
    return {f"{source}|auto": tokens, f"examples:{source}": examples}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("reweigh")
    return {k: v for s in SIZES for k, v in write_source(root, s).items()}


class Built:
    """What build_order wrote; `levels` are the difficulties in the slots."""

    def __init__(self, folder: Path) -> None:
        self.table = read_table(folder / "order.parquet", ORDER)
        self.report = json.loads((folder / "report.json").read_text())
        path = folder / "reweighed.parquet"
        self.changes = read_table(path, REWEIGHED) if path.is_file() else pl.DataFrame(schema=REWEIGHED)
        gone = folder / "left_out.parquet"
        self.left_out = read_table(gone, LEFT_OUT) if gone.is_file() else pl.DataFrame(schema=LEFT_OUT)
        self.levels = [level_of(s, int(e.split("-")[1])) for s, e in self.table.select("source", "example").iter_rows()]

    def histogram(self, source: str) -> dict[int, int]:
        pairs = zip(self.table["source"], self.levels, strict=True)
        return dict(sorted(Counter(d for s, d in pairs if s == source and d is not None).items()))

    def weights(self, source: str, column: str | None = None) -> dict[int, float]:
        """Return difficulty -> sum of weights (times a column)."""
        found: dict[int, float] = {}
        amount = self.table["weight"].cast(pl.Float64) * (self.table[column] if column else 1.0)
        for s, d, a in zip(self.table["source"], self.levels, amount, strict=True):
            if s == source and d is not None:
                found[d] = found.get(d, 0.0) + a
        return dict(sorted(found.items()))


@pytest.fixture
def build(inputs: dict[str, Path], tmp_path: Path) -> Any:
    def run(reweigh: dict[str, Any] | None = None, extra: dict[str, Path] | None = None, **changes: Any) -> Built:
        out = tmp_path / f"order-{len(list(tmp_path.iterdir()))}"
        out.mkdir()
        spec = {"stage": "sft", "seed": 3, "mixture": {"math": 0.6, "code": 0.4, "pool": 0.0}, "batch": 20, "budget": {"steps": 12},
                "max_tokens": 64, "truncate": "error", **changes}  # fmt: skip
        if reweigh is not None:
            spec["reweigh"] = {**SETTINGS, **reweigh}
        build_order(spec, {**inputs, **(extra or {})}, out, StepContext())
        return Built(out)

    return run


# ---- targets ---------------------------------------------------------------------------------------------------------

AMOUNTS = st.dictionaries(st.integers(1, 10), st.integers(1, 500), min_size=1, max_size=8)


@given(AMOUNTS)
def test_a_flip_mirrors_counts_keeps_their_sum_and_undoes_itself(amounts: dict[int, int]) -> None:
    mirrored = flip(amounts)
    assert list(dict(sorted(mirrored.items())).values()) == [amounts[d] for d in sorted(amounts, reverse=True)]
    assert flip(mirrored) == amounts
    on_scale = flip(amounts, 1, 10)
    assert {11 - d: n for d, n in on_scale.items() if n} == amounts and sum(on_scale.values()) == sum(amounts.values())


def test_a_flip_on_a_scale_names_what_lies_outside() -> None:
    with pytest.raises(DataError, match=r"difficulties from 1 to 5, found \[7\]"):
        flip({1: 2, 7: 1}, 1, 5)


def test_a_tilt_by_hand() -> None:
    # exp(0), exp(1), exp(2) over amounts 1, 1, 2: mean (1 + e + 2 e^2) / 4
    mean = (1 + math.e + 2 * math.e**2) / 4
    weights = tilt({1: 0.0, 2: 0.5, 3: 1.0}, {1: 1, 2: 1, 3: 2}, tau=0.5, floor=0.0)
    assert weights == pytest.approx({1: 1 / mean, 2: math.e / mean, 3: math.e**2 / mean})
    # 1/mean = .216 < .25: the first is lifted to .25, the others share 4 - .25 in the ratio e : 2 e^2
    lifted = tilt({1: 0.0, 2: 0.5, 3: 1.0}, {1: 1, 2: 1, 3: 2}, tau=0.5, floor=0.25)
    scale = 3.75 / (math.e + 2 * math.e**2)
    assert lifted == pytest.approx({1: 0.25, 2: math.e * scale, 3: math.e**2 * scale})


@given(
    st.dictionaries(st.integers(0, 9), st.tuples(st.floats(-5, 5), st.integers(1, 99)), min_size=1),
    st.one_of(st.none(), st.floats(0.05, 10)),
    st.floats(0, 0.9),
)
def test_tilted_weights_have_mean_one_respect_the_floor_and_rise_with_the_score(
    groups: dict[int, tuple[float, int]], tau: float | None, floor: float
) -> None:
    scores, amounts = {g: s for g, (s, _) in groups.items()}, {g: n for g, (_, n) in groups.items()}
    weights = tilt(scores, amounts, tau, floor)
    assert sum(weights[g] * amounts[g] for g in groups) == pytest.approx(sum(amounts.values()))
    assert min(weights.values()) >= floor - 1e-9
    ordered = [weights[g] for g in sorted(groups, key=lambda g: scores[g])]
    assert all(a <= b + 1e-9 for a, b in zip(ordered, ordered[1:], strict=False))


@given(st.dictionaries(st.integers(0, 9), st.floats(0, 50), min_size=1))
def test_whole_numbers_stay_next_to_their_targets(targets: dict[int, float]) -> None:
    total = round(sum(targets.values()))
    found = whole(targets, total)
    assert all(abs(found[g] - t) <= 1 + 1e-6 for g, t in targets.items()) and abs(sum(found.values()) - total) <= 1


def test_declared_shares() -> None:
    assert by_shares({1: 30, 2: 10}, {"1": 0.25, "2": 0.75}) == {1: 10, 2: 30}
    with pytest.raises(DataError, match="none for 2"):
        by_shares({1: 30, 2: 10}, {"1": 1.0})
    with pytest.raises(DataError, match="add up to 1"):
        by_shares({1: 30}, {"1": 0.7})


# ---- weights ---------------------------------------------------------------------------------------------------------


def test_reweight_mirrors_the_mass_of_each_source_and_nothing_else(build: Any) -> None:
    plain, flipped = build(), build({})
    assert plain.table.drop("weight").equals(flipped.table.drop("weight"))
    for source in ("math", "code"):
        before = plain.histogram(source)
        assert list(flipped.weights(source).values()) == pytest.approx(list(reversed(before.values())), rel=1e-6)
    unlabelled = flipped.table.filter(pl.Series([d is None for d in flipped.levels]))
    assert len(unlabelled) and (unlabelled["weight"] == 1).all()


def test_reweight_with_matched_tokens_mirrors_learned_tokens(build: Any) -> None:
    plain, flipped = build(), build({"match": ["source", "tokens"]})
    for source in ("math", "code"):
        before = plain.weights(source, "n_learned_tokens")
        after = flipped.weights(source, "n_learned_tokens")
        assert list(after.values()) == pytest.approx(list(reversed(before.values())), rel=1e-5)


def test_only_named_sources_change(build: Any) -> None:
    plain, flipped = build(), build({"sources": ["math"]})
    assert flipped.weights("code") == plain.weights("code") and flipped.weights("math") != plain.weights("math")


def test_the_control_deals_the_same_weights_out_at_random(build: Any) -> None:
    flipped, control = build({}), build({"control": "random_swap"})
    for source in ("math", "code"):
        one, two = (b.table.filter(pl.col("source") == source)["weight"].sort() for b in (flipped, control))
        assert one.equals(two)
    means = {d: w / control.histogram("math")[d] for d, w in control.weights("math").items() if control.histogram("math")[d] > 20}
    assert max(means.values()) < 2 * min(means.values())  # flipped: a factor of 16


def test_declared_shares_of_a_group_can_be_zero(build: Any) -> None:
    target = {"1": 0.0, "2": 0.25, "3": 0.25, "4": 0.25, "5": 0.25}
    weights = build({"how": "target", "target": target, "sources": ["math"]}).weights("math")
    total = sum(weights.values())
    assert {d: w / total for d, w in weights.items()} == pytest.approx({1: 0, 2: 0.25, 3: 0.25, 4: 0.25, 5: 0.25}, rel=1e-5)


# ---- examples --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("match", [["source"], ["source", "tokens"]])
def test_resample_mirrors_the_slots_with_examples_of_the_order(build: Any, match: list[str]) -> None:
    plain, flipped = build(), build({"mode": "resample", "match": match})
    for source in ("math", "code"):
        assert list(flipped.histogram(source).values()) == list(reversed(plain.histogram(source).values()))
        pair = [b.table.filter(pl.col("source") == source) for b in (plain, flipped)]
        assert set(pair[1]["example"]) <= set(pair[0]["example"])
    same = ["step", "slot", "source", "weight"]
    assert plain.table.select(same).equals(flipped.table.select(same))
    changed = (plain.table["example"] != flipped.table["example"]).sum()
    assert changed == sum(f["changed"] for f in flipped.report["reweigh"]["cells"].values())
    assert flipped.report["reweigh"]["source_matched"] is True
    if "tokens" in match:
        totals = [b.table.group_by("source").agg(pl.col("n_tokens").sum()).sort("source") for b in (plain, flipped)]
        off = (totals[1]["n_tokens"] - totals[0]["n_tokens"]) / totals[0]["n_tokens"]
        assert off.abs().max() < 0.01


def test_repetitions_are_spread_evenly(build: Any) -> None:
    flipped = build({"mode": "resample"})
    rows = zip(flipped.table["example"], flipped.table["source"], flipped.levels, strict=True)
    hardest = [e for e, s, d in rows if (s, d) == ("math", 5)]
    counts = Counter(hardest).values()
    assert max(counts) - min(counts) <= 1


def test_the_random_swap_changes_the_same_slots_and_keeps_the_histogram(build: Any) -> None:
    plain = build()
    for mode, steps in (("resample", 12), ("replace", 4)):
        plain = build(budget={"steps": steps})
        settings = {"mode": mode, "match": ["source"] if mode == "resample" else [], "pool": None if mode == "resample" else "pool"}
        flipped = build({**settings, "sources": ["math"]}, budget={"steps": steps})
        control = build({**settings, "sources": ["math"], "control": "random_swap"}, budget={"steps": steps})
        gone = [b.table["example"] != plain.table["example"] for b in (flipped, control)]
        assert gone[0].sum() > 5 and gone[0].equals(gone[1])
        assert control.levels == plain.levels and control.levels != flipped.levels


def test_replace_brings_in_unseen_examples_of_the_same_source(build: Any) -> None:
    plain = build(budget={"steps": 3})
    flipped = build({"mode": "replace", "sources": ["math"]}, budget={"steps": 3})
    assert list(flipped.histogram("math").values()) == list(reversed(plain.histogram("math").values()))
    arrived = flipped.table.filter(flipped.table["example"] != plain.table["example"])
    assert not set(arrived["example"]) & set(plain.table["example"]) and set(arrived["source"]) == {"math"}
    assert flipped.table["example"].n_unique() == flipped.table.height


def test_the_pool_serves_when_the_source_has_run_out(build: Any) -> None:
    settings = {"mode": "replace", "sources": ["math"], "match": [], "pool": "pool"}
    plain, flipped = build(), build(settings)
    levels = Counter(d for s, d in zip(flipped.table["source"], flipped.levels, strict=True) if s in ("math", "pool") and d)
    assert [levels[d] for d in range(1, 6)] == list(reversed(plain.histogram("math").values()))
    fact = flipped.report["reweigh"]["cells"]["math"]
    assert fact["from_pool"] > 0 and flipped.report["reweigh"]["source_matched"] is False
    used = flipped.table.filter(pl.col("source") == "math")["example"]
    unused = {f"math-{i}" for i in range(SIZES["math"]) if level_of("math", i) == 5} - set(used)
    assert not unused  # every hard example of the source itself came first
    with pytest.raises(DataError, match=r"candidates of difficulty 5 for \d+ slots, found \d+ that the order does not hold yet"):
        build({"mode": "replace", "sources": ["math"]})


def sized(inputs: dict[str, Path], folder: Path, easy: tuple[int, int], hard: tuple[int, int]) -> Path:
    """Write the tokens of "math" anew, with lengths drawn from one range for difficulties 1-3 and from another for 4 and 5."""
    folder.mkdir()
    random = np.random.default_rng(5)
    n = [int(random.integers(*(hard if (level_of("math", i) or 0) >= 4 else easy), endpoint=True)) for i in range(SIZES["math"])]
    lengths = pl.Series("n_tokens", n, dtype=pl.Int32)
    for name, dtype in (("ids", np.int32), ("learn", np.float32), ("kind", np.int8)):
        np.save(folder / f"{name}.npy", np.ones(sum(n), dtype=dtype))
    frame = pl.read_parquet(inputs["math|auto"] / "lengths.parquet")
    frame = frame.with_columns(lengths, n_learned_tokens=lengths - 4, offset=lengths.cast(pl.Int64).cum_sum() - lengths)
    frame.write_parquet(folder / "lengths.parquet")
    return folder


def test_tokens_are_kept_where_hard_examples_are_longer_and_the_control_changes_the_same_slots(
    build: Any, inputs: dict[str, Path], tmp_path: Path
) -> None:
    other = {"math|auto": sized(inputs, tmp_path / "sized", (10, 55), (20, 60))}
    plain, free = (build(r, other, max_tokens=None) for r in (None, {"mode": "resample", "sources": ["math"]}))
    settings = {"mode": "resample", "sources": ["math"], "match": ["source", "tokens"]}
    flipped, control = (build({**settings, **more}, other, max_tokens=None) for more in ({}, {"control": "random_swap"}))
    totals = [b.table["n_tokens"].sum() for b in (plain, free, flipped, control)]
    assert totals[1] > 1.05 * totals[0] and all(abs(t - totals[0]) <= 0.01 * totals[0] for t in totals[2:])
    assert list(flipped.histogram("math").values()) == list(reversed(plain.histogram("math").values()))
    assert control.levels == plain.levels and flipped.report["reweigh"]["cells"]["math"]["exchanged_for_length"] > 0
    gone = [b.table["example"] != plain.table["example"] for b in (flipped, control)]
    assert gone[0].equals(gone[1])


def test_lengths_that_cannot_be_matched_are_refused(build: Any, inputs: dict[str, Path], tmp_path: Path) -> None:
    other = {"math|auto": sized(inputs, tmp_path / "sized", (12, 12), (60, 60))}
    with pytest.raises(DataError, match=r"cannot be kept within 1%: [\d,]+ before, [\d,]+ after \(\+\d"):
        build({"mode": "resample", "match": ["source", "tokens"]}, other, max_tokens=None)


def test_packs_follow_the_new_lengths(build: Any) -> None:
    packed = build({"mode": "resample"}, pack="best_fit").table
    fill = packed.group_by("step", "pack").agg(pl.col("n_tokens").sum())
    assert fill["n_tokens"].max() <= 64 and fill.height < packed.height


def test_another_seed_gives_up_other_slots_and_the_same_seed_the_same(build: Any) -> None:
    one, again = (build({"mode": "resample"}).table for _ in range(2))
    assert one.equals(again)
    other = build({"mode": "resample"}, seed=4).table
    assert not other["example"].equals(one["example"])


# ---- influence -------------------------------------------------------------------------------------------------------


def influence_rows(source: str, scores: dict[str, float]) -> list[dict[str, Any]]:
    base = {"model": "m", "step": 0, "method": "ekfac", "format": "auto", "level": "instance", "decomposition": "", "segment": -1,
            "token": -1, "n_learned_tokens": 1, "source": source, "window": 0}  # fmt: skip
    queries = [("a", 0.5), ("b", 1.5)]  # the mean over both is the score
    rows = [{**base, "query": q, "example": e, "score": s * f} for e, s in scores.items() for q, f in queries]
    return rows + [{**base, "method": "random", "query": "a", "example": e, "score": 9.0} for e in scores]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    scores = {f"math-{i}": float(level_of("math", i) or 0) / 10 for i in range(SIZES["math"])}
    write_table(tmp_path / "influence" / "influence.parquet", influence_rows("math", scores), INFLUENCE)
    return tmp_path / "influence"


def test_weights_follow_the_mean_influence_of_each_difficulty(build: Any, table: Path) -> None:
    settings = {"how": "influence", "sources": ["math"], "tau": 0.2, "floor": 0.0}
    plain, tilted = build(), build(settings, {"influence": table})
    per_slot = {d: w / plain.histogram("math")[d] for d, w in tilted.weights("math").items()}
    for d in range(1, 5):  # a level is worth .1, tau is .2
        assert per_slot[d + 1] / per_slot[d] == pytest.approx(math.exp(0.5), rel=1e-4)
    assert sum(tilted.weights("math").values()) == pytest.approx(sum(plain.weights("math").values()), rel=1e-5)


def test_single_examples_can_be_weighed_and_resampled(build: Any, table: Path) -> None:
    settings = {"by": "example", "how": "influence", "sources": ["math"], "floor": 0.2}
    tilted = build(settings, {"influence": table})
    weight = tilted.table.filter(pl.col("source") == "math")["weight"]
    assert weight.min() >= 0.2 - 1e-6 and weight.mean() == pytest.approx(1, rel=1e-5) and weight.n_unique() == 6
    drawn = build({**settings, "mode": "resample"}, {"influence": table})
    levels = [d or 0 for s, d in zip(drawn.table["source"], drawn.levels, strict=True) if s == "math"]
    before = [d or 0 for s, d in zip(tilted.table["source"], tilted.levels, strict=True) if s == "math"]
    assert np.mean(levels) > np.mean(before) + 0.3 and len(levels) == len(before)


def test_an_influence_table_must_cover_every_example(build: Any, table: Path) -> None:
    settings = {"how": "influence", "sources": ["math"]}
    with pytest.raises(DataError, match=r"expected a score for each of the \d+ examples of code, math"):
        build({**settings, "sources": None}, {"influence": table})
    with pytest.raises(DataError, match="no query is called 'aa'"):
        build({**settings, "query": "aa"}, {"influence": table})
    with pytest.raises(DataError, match="the method 'ekfak'"):
        build({**settings, "method": "ekfak"}, {"influence": table})


# ---- left out ---------------------------------------------------------------------------------------------------------

LEAVE: dict[str, Any] = {"groups": [], "by": "difficulty", "count": None, "end": "helpful", "method": "", "query": "", "sources": ["math"],
                         "control": "none"}  # fmt: skip


def test_a_group_that_is_left_out_is_not_drawn_and_the_others_keep_their_order(build: Any) -> None:
    plain, without = build(), build(leave_out={**LEAVE, "groups": ["4", "5"]})
    assert set(without.histogram("math")) == {1, 2, 3} and without.histogram("code") == plain.histogram("code")
    stay = {f"math-{i}" for i in range(SIZES["math"]) if level_of("math", i) not in (4, 5)}
    names = [[e for e in b.table["example"] if e in stay] for b in (plain, without)]
    assert names[1][: len(names[0])] == names[0] and len(names[1]) > len(names[0])
    control = build(leave_out={**LEAVE, "groups": ["4", "5"], "control": "random"})
    assert control.left_out.height == without.left_out.height and set(control.histogram("math")) == {1, 2, 3, 4, 5}
    assert not set(control.table["example"]) & set(control.left_out["example"])


def test_the_most_helpful_and_the_most_harmful_examples_go(build: Any, table: Path) -> None:
    settings = {**LEAVE, "count": 60}
    helpful, harmful = (build(extra={"influence": table}, leave_out={**settings, "end": end}) for end in ("helpful", "harmful"))
    assert helpful.left_out.height == 60 and helpful.left_out["score"].min() >= 0.4 and 5 not in helpful.histogram("math")
    assert harmful.left_out["score"].max() <= 0.1 and 5 in harmful.histogram("math")


def test_examples_can_be_left_out_by_name(build: Any, tmp_path: Path) -> None:
    gone = build().table.filter(pl.col("source") == "math")["example"][0]
    (tmp_path / "ids.jsonl").write_text(json.dumps({"source": "math", "id": gone}))
    assert gone not in build(extra={"left_out": tmp_path / "ids.jsonl"}, leave_out=LEAVE).table["example"]
    (tmp_path / "bad.jsonl").write_text(json.dumps({"id": "code-1"}))
    for settings, extra, message in (
        (LEAVE, {"left_out": tmp_path / "bad.jsonl"}, "line 1: expected {source, id} of an example of math"),
        ({**LEAVE, "groups": ["7"]}, {}, "found no example of 7. Known: 1, 2, 3, 4, 5"),
        ({**LEAVE, "groups": ["f0", "f1", "f2"], "by": "family"}, {}, "found that all 400 go"),
    ):
        with pytest.raises(DataError, match=message):
            build(extra=extra, leave_out=settings)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "exactly one of groups, influence and ids, found none"),
        ({"groups": ("1",), "ids": "x"}, "found groups, ids"),
        ({"influence": "x"}, "count: expected a number beside `influence`"),
        ({"groups": ("1",), "sources": ("mth",)}, "Did you mean 'math'"),
    ],
)
def test_what_cannot_be_left_out_is_refused(fields: dict[str, Any], message: str) -> None:
    stage = Stage(mixture={"math": 1, "code": 1}, budget=Budget(steps=1), leave_out=LeaveOut(**fields))
    with pytest.raises(StudyError, match=message):
        check_intervention(stage, "leave_out", "study.yaml:3 data.stages.sft.leave_out")


# ---- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reweigh", "message"),
    [
        ({"by": "family"}, "by: a flip mirrors difficulties"),
        ({"how": "target"}, "target: expected the share"),
        ({"how": "influence"}, "influence: expected influence.parquet"),
        ({"influence": "x"}, "a table is used by how: influence"),
        ({"range": (5, 1)}, r"range: expected \[lowest, highest\]"),
        ({"pool": "code"}, "pool: new examples come in with mode: replace"),
        ({"mode": "replace", "pool": "cod", "match": ()}, "Did you mean 'code'"),
        ({"mode": "replace", "pool": "code"}, "take `source` out of `match`"),
        ({"sources": ("mth",)}, "Did you mean 'math'"),
        ({"floor": 1.0}, "floor: expected"),
        ({"tau": 0.0, "how": "influence", "influence": "x"}, "tau: expected"),
        ({"by": "example", "how": "influence", "influence": "x", "mode": "resample", "control": "random_swap"}, "control: a random swap"),
    ],
)
def test_settings_that_do_not_fit_are_refused(reweigh: dict[str, Any], message: str) -> None:
    stage = Stage(mixture={"math": 1, "code": 1}, budget=Budget(steps=1), reweigh=Reweigh(**reweigh))
    with pytest.raises(StudyError, match=message) as caught:
        check_intervention(stage, "reweigh", "study.yaml:9 data.stages.sft.reweigh")
    assert "study.yaml:9" in str(caught.value)


def test_a_stage_that_extends_another_cannot_be_reweighed() -> None:
    stage = Stage(mixture={"math": 1}, budget=Budget(steps=1), extends="plain", reweigh=Reweigh())
    with pytest.raises(StudyError, match="leave `extends` or `reweigh` out"):
        check_intervention(stage, "reweigh", "x")


def test_sources_without_labels_are_named(build: Any, inputs: dict[str, Path], tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    examples = [Example(id=f"math-{i}", source="math", question="q", answer="a") for i in range(SIZES["math"])]
    write_examples(bare / "examples.parquet", examples)
    with pytest.raises(DataError, match="expected labelled examples in math, found none; give the sources a `label`"):
        build({"sources": ["math"]}, {"examples:math": bare})
