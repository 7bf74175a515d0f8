"""Properties of mixtures, schedules, packing and orders, for any weights, sizes and seeds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from leaven.core.tables import LENGTHS
from leaven.data.build import compile_order
from leaven.data.mixture import BlockRounding, Draws, TokenBalance
from leaven.data.packing import best_fit
from leaven.data.schedules import Weights

weight = st.one_of(st.integers(0, 10).map(lambda i: i / 10), st.floats(0.001, 1))
mixtures = st.lists(weight, min_size=1, max_size=5).filter(lambda ws: sum(ws) > 0.05)


def table(source: str, form: str, lengths: list[int]) -> Any:
    """A TokenTable of examples whose tokens are all learned but the first two; nothing else of it is read."""
    rows = {
        "source": source,
        "example": [f"{source}{i:03}" for i in range(len(lengths))],
        "format": form,
        "n_tokens": lengths,
        "n_learned_tokens": [max(1, n - 2) for n in lengths],
        "n_thought_tokens": 0,
        "n_code_tokens": 0,
        "offset": 0,
    }
    frame = pl.DataFrame(rows, schema_overrides={c: t for c, t in LENGTHS.items()}).select(list(LENGTHS))
    span = dict(zip(frame["example"], lengths, strict=True))
    return SimpleNamespace(
        lengths=frame,
        folder=Path("memory"),
        kinds=lambda e: np.full(span[e], 2, dtype=np.int8),
        learn=lambda e: (np.arange(span[e]) > 1).astype(np.float32),
    )


@st.composite
def orders(draw: st.DrawFn) -> dict[str, Any]:
    names = ["a", "b", "c"][: draw(st.integers(1, 3))]
    return {
        "stage": "s",
        "seed": draw(st.integers(0, 99)),
        "mixture": {n: draw(st.floats(0.05, 1)) for n in names},
        "batch": draw(st.integers(1, 17)),
        "budget": {"steps": draw(st.integers(1, 30))},
        "max_tokens": 40,
        "truncate": "right",
        "repeat": "repeat",
    }


def tables(spec: dict[str, Any], form: str = "f", most: int = 60) -> dict[str, Any]:
    return {
        name: table(name, form, np.random.default_rng([spec["seed"], i, most]).integers(3, most, size=37).tolist())
        for i, name in enumerate(spec["mixture"])
    }


@settings(deadline=None)
@given(mixtures, st.integers(1, 70), st.integers(1, 120))
def test_every_block_is_within_one_example_of_the_plan(mixture: list[float], n: int, blocks: int) -> None:
    weights = (np.array(mixture) / sum(mixture)).tolist()
    rounding, found = BlockRounding(len(weights)), []
    for _ in range(blocks):
        found.append(rounding.counts(weights, n))
        rounding.commit(weights, found[-1])
    counts, plan = np.array(found), np.tile(np.array(weights) * n, (blocks, 1))
    assert (counts.sum(axis=1) == n).all() and (counts >= 0).all()
    assert np.abs(counts - plan).max() < 1 and np.abs((counts - plan).cumsum(axis=0)).max() < 1 + 1e-6


@settings(deadline=None)
@given(st.data(), st.integers(2, 5), st.integers(1, 30))
def test_moving_weights_are_met_in_every_block(data: st.DataObject, k: int, n: int) -> None:
    rounding, worst = BlockRounding(k), 0.0
    for _ in range(25):
        raw = np.array(data.draw(st.lists(st.integers(0, 9), min_size=k, max_size=k).filter(any)), dtype=float)
        weights = (raw / raw.sum()).tolist()
        counts = rounding.counts(weights, n)
        rounding.commit(weights, counts)
        assert sum(counts) == n and min(counts) >= 0
        worst = max(worst, float(np.abs(np.array(counts) - np.array(weights) * n).max()))
    assert worst < 1


@settings(deadline=None)
@given(mixtures, st.integers(0, 2**32), st.lists(st.integers(1, 500), min_size=5, max_size=5))
def test_token_shares_stay_within_one_row(mixture: list[float], seed: int, longest: list[int]) -> None:
    weights, rng = (np.array(mixture) / sum(mixture)).tolist(), np.random.default_rng(seed)
    balance = TokenBalance(len(weights))
    for _ in range(200):
        sizes = [int(rng.integers(1, longest[s] + 1)) for s in range(len(weights))]
        source = balance.next_source(weights, sizes)
        balance.give(weights, source, sizes[source])
        assert max(map(abs, balance.owed)) <= max(longest[: len(weights)])


@settings(deadline=None)
@given(
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(["linear", "cosine"]),
    st.sampled_from(["start", "end"]),
    st.integers(1, 400),
)
def test_continuous_schedules_integrate_to_the_requested_share(
    share: float, reach: float, kind: str, end: str, n: int
) -> None:
    share = 0.02 + 0.96 * share
    known = share + (2 * reach - 1) * min(share, 1 - share)  # every ramp that stays within [0, 1]
    weights = Weights({"code": share, "text": 1 - share}, {"kind": kind, "options": {"of": "code", end: known}})
    blocks = weights.blocks(n)
    assert np.allclose(blocks.mean(axis=0), [share, 1 - share], atol=1e-9) and np.allclose(blocks.sum(axis=1), 1)


@settings(deadline=None)
@given(st.floats(0.01, 0.75), st.integers(1, 300))
def test_named_phases_have_equal_totals(share: float, n: int) -> None:
    totals = [
        Weights({"code": share, "text": 1 - share}, {"kind": k, "options": {"of": "code"}}).blocks(n).mean(axis=0)
        for k in ("uniform", "stepwise_increase", "stepwise_decrease")
    ]
    assert np.allclose(totals, [share, 1 - share], atol=1e-9)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 99))
def test_draws_are_prefixes_and_pass_evenly(size: int, few: int, more: int, seed: int) -> None:
    mask = np.ones(size, dtype=bool)
    short, long = (Draws(seed, "s", "x", allowed=mask, repeat="repeat") for _ in range(2))
    short.take(few)
    long.take(few + more)
    assert long.rows()[:few].tolist() == short.rows().tolist()
    times = Counter(long.rows().tolist())
    assert max(times.values(), default=0) - min((times[i] for i in range(size)), default=0) <= 1


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), max_size=60), st.integers(50, 90))
def test_packing_never_overflows_and_keeps_every_example(lengths: list[int], capacity: int) -> None:
    packs = best_fit(np.array(lengths, dtype=np.int64), capacity)
    fill = Counter[int]()
    for pack, n in zip(packs.tolist(), lengths, strict=True):
        fill[pack] += n
    assert (
        len(packs) == len(lengths) and all(v <= capacity for v in fill.values()) and set(fill) == set(range(len(fill)))
    )
    assert sum(2 * v <= capacity for v in fill.values()) <= 1  # two half-empty rows would have been one


@settings(deadline=None, max_examples=60)
@given(orders(), st.integers(1, 20), st.sampled_from(["examples", "tokens"]), st.sampled_from(["none", "best_fit"]))
def test_a_longer_order_begins_with_the_shorter(spec: dict[str, Any], extra: int, unit: str, pack: str) -> None:
    short = compile_order({**spec, "unit": unit, "pack": pack}, tables(spec))
    long = compile_order(
        {**spec, "unit": unit, "pack": pack, "budget": {"steps": spec["budget"]["steps"] + extra}}, tables(spec)
    )
    again = compile_order({**spec, "unit": unit, "pack": pack}, tables(spec))
    assert long.table.head(short.table.height).equals(short.table) and short.table.equals(again.table)


@settings(deadline=None, max_examples=60)
@given(orders(), st.sampled_from(["right", "drop", "keep_code"]))
def test_formats_pair_whatever_their_lengths(spec: dict[str, Any], truncate: str) -> None:
    keys = ["step", "slot", "source", "example"]
    one, two = (
        compile_order({**spec, "truncate": truncate}, tables(spec, form, most)) for form, most in (("f", 30), ("g", 90))
    )
    assert one.table.select(keys).equals(two.table.select(keys))


@settings(deadline=None, max_examples=60)
@given(
    orders(),
    st.sampled_from(["tokens", "learned_tokens"]),
    st.integers(1, 3000),
    st.sampled_from(["examples", "tokens"]),
)
def test_token_budgets_are_reached_within_one_step(spec: dict[str, Any], measure: str, target: int, unit: str) -> None:
    order = compile_order({**spec, "unit": unit, "budget": {measure: target}}, tables(spec))
    steps = order.table.group_by("step", maintain_order=True).agg(
        pl.col("n_tokens" if measure == "tokens" else "n_learned_tokens").sum()
    )
    totals = steps.to_series(1).cum_sum().to_list()
    assert totals[-1] >= target and (len(totals) == 1 or totals[-2] < target) and order.report[measure] == totals[-1]
