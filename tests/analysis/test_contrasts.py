"""Pairing by seed and item: what is compared, what is refused, what is left out."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from leaven.analysis.contrasts import Contrast, pair
from leaven.errors import DataError, RefusedError, StudyError


def side(seeds: list[int], items: int = 6, value: float = 1.0) -> pl.DataFrame:
    rows = [
        {"seed": s, "item": f"i{i}", "cluster": f"c{i // 2}", "score": value if i % 2 else 0.0}
        for s in seeds
        for i in range(items)
    ]
    return pl.DataFrame(rows)


def test_pairs_seeds_by_value_whatever_the_order_of_rows() -> None:
    a = side([2, 0, 1]).with_columns(pl.col("seed").cast(pl.Float64).alias("score"))
    b = side([0, 1, 2]).with_columns((pl.col("seed") * 1.0).alias("score"))
    found = pair(a.sample(fraction=1, shuffle=True, seed=1), b)
    assert found.seeds == (0, 1, 2) and (found.treatment_SN == found.control_SN).all()
    assert found.clusters == ("c0", "c0", "c1", "c1", "c2", "c2")


def test_unequal_seeds_are_refused_naming_both_sides() -> None:
    with pytest.raises(
        RefusedError, match=r"precede has seeds \[0, 1, 2\], follow has \[1, 2, 3\] \(in common: \[1, 2\]\)"
    ):
        pair(side([0, 1, 2]), side([1, 2, 3]), names=("precede", "follow"))
    common = pair(side([0, 1, 2]), side([1, 2, 3]), unequal_seeds="common")
    assert common.seeds == common.control_seeds == (1, 2) and "common seeds" in common.effect().notes[0]
    welch = pair(side([0, 1, 2]), side([1, 2, 3]), unequal_seeds="welch")
    assert (welch.seeds, welch.control_seeds) == ((0, 1, 2), (1, 2, 3))
    assert any("Welch" in note for note in welch.effect().notes)
    with pytest.raises(RefusedError):
        pair(side([0]), side([1]), unequal_seeds="common")


def test_missing_items_are_named() -> None:
    b = side([0, 1]).filter(~((pl.col("seed") == 1) & (pl.col("item") == "i3")))
    with pytest.raises(DataError, match="control seed 1 has 5; missing: 'i3'"):
        pair(side([0, 1]), b)


def test_samples_of_an_item_are_averaged() -> None:
    a = pl.concat([side([0, 1]), side([0, 1], value=0.0)])
    found = pair(a, side([0, 1]))
    assert found.binary and found.treatment_SN[0].tolist() == [0, 0.5, 0, 0.5, 0, 0.5]


def test_what_was_not_measured_leaves_both_sides() -> None:
    b = side([0, 1]).with_columns(
        pl.when((pl.col("seed") == 1) & (pl.col("item") == "i2")).then(None).otherwise(pl.col("score")).alias("score")
    )
    found = pair(side([0, 1]), b)
    assert "i2" not in found.items and len(found.items) == 5 and "1 of 6 items" in found.notes[0]


def test_an_item_in_two_clusters_is_an_error() -> None:
    with pytest.raises(DataError, match="several clusters"):
        pair(side([0, 1]), side([0, 1]).with_columns(pl.lit("x").alias("cluster")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contol": "x"}, "Did you mean 'control'"),
        ({"unequal_seeds": "any"}, "refuse, common or welch"),
        ({"control": ""}, "missing"),
        ({"where": {"min_dificulty": 3}}, "Did you mean 'min_difficulty'"),
        ({"direction": "up"}, "higher or lower"),
    ],
)
def test_declarations_are_checked(change: dict[str, Any], message: str) -> None:
    good = {"name": "x", "treatment": "a", "control": "b", "benchmark": "world"}
    assert Contrast.of(good).better == "higher"
    with pytest.raises(StudyError, match=message):
        Contrast.of({**good, **change})
