"""Roll-ups against scipy and hand-made tables; planted groups; length control; token classes."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from leaven.attribution.factors import Damping, fit_factors
from leaven.attribution.levels import composition, length_correlation, rollup, token_class
from leaven.attribution.pairs import pairs
from leaven.attribution.passes import Tracked
from leaven.attribution.queries import Query, query_gradients
from leaven.attribution.scores import ekfac_targets, influence_table
from leaven.core.rng import rng
from leaven.core.tables import INFLUENCE
from leaven.errors import DataError


def table(scores, lengths=None):
    """Return instance rows e0, e1, ... of one method and query."""
    rows = {c: [None] * len(scores) for c in INFLUENCE} | {
        "method": ["m"] * len(scores),
        "query": ["q"] * len(scores),
        "example": [f"e{k}" for k in range(len(scores))],
        "level": ["instance"] * len(scores),
        "decomposition": [""] * len(scores),
        "n_learned_tokens": list(lengths if lengths is not None else [1] * len(scores)),
        "score": list(map(float, scores)),
    }
    return pl.DataFrame(rows, schema=INFLUENCE)


def labels(groups, **more):
    return pl.DataFrame({"example": [f"e{k}" for k in range(len(groups))], "domain": groups, **more})


def test_interval_over_texts_is_the_t_interval():
    scores = rng(0, "levels").normal(size=20)
    found = rollup(table(scores), labels(["a"] * 12 + ["b"] * 8), ["domain"])
    for row, part in zip(found.iter_rows(named=True), (scores[:12], scores[12:]), strict=True):
        low, high = stats.t.interval(0.95, len(part) - 1, part.mean(), stats.sem(part))
        assert (row["mean"], row["low"], row["high"]) == pytest.approx((part.mean(), low, high))
        assert row["n"] == row["n_clusters"] == len(part)


def test_equal_rows_of_a_cluster_count_once():
    scores = np.repeat([1.0, 2.0, 4.0], 5)
    found = rollup(table(scores), labels(["a"] * 15, family=np.repeat([0, 1, 2], 5)), ["domain"], cluster="family")
    assert found["n_clusters"][0] == 3
    assert found["se"][0] == pytest.approx(stats.sem([1.0, 2.0, 4.0]))


def test_length_control():
    lengths = np.arange(1, 21)
    scores = 0.5 * lengths + np.where(np.arange(20) % 2, 1.0, 0.0)
    groups = ["odd" if k % 2 else "even" for k in range(20)]
    raw = table(scores, lengths)
    per_token = rollup(raw, labels(groups), ["domain"], length="per_token")
    assert per_token["mean"][0] == pytest.approx((scores / lengths)[::2].mean())
    regressed = rollup(raw, labels(groups), ["domain"], length="regressed")
    assert regressed["mean"][1] - regressed["mean"][0] == pytest.approx(
        1.0, abs=0.05
    )  # raw: 1.5, half a token longer each
    assert length_correlation(raw)["spearman"][0] > 0.9


def test_composition_of_the_top():
    found = composition(table([5, 4, 3, 2, 1, 0]), labels(["a", "a", "b", "a", "b", "b"]), "domain", 2)
    assert found.rows() == [("m", "q", "a", 2, 1.0, 0.0, 0.5), ("m", "q", "b", 2, 0.0, 1.0, 0.5)]


def test_planted_group_helps_more_than_noise(make_model, make_texts):
    helpful, noise, queries = (
        make_texts(30, noise=0.0),
        make_texts(30, seed=1, noise=1.0),
        make_texts(10, seed=2, noise=0.0),
    )
    texts = helpful + noise
    tracked = Tracked(make_model(texts, steps=60), "linear")
    gradients = query_gradients(tracked, [Query("pattern", tuple(queries))])
    targets = ekfac_targets(["pattern"], gradients, fit_factors(tracked, texts), Damping())
    scores = influence_table(texts, ["pattern"], pairs(tracked, texts, targets), method="ekfac", level="segment")
    kind = pl.DataFrame({"example": [t.example for t in texts], "group": ["helpful"] * 30 + ["noise"] * 30})
    low, high = rollup(scores, kind, ["group"]).select("low", "mean").rows(), rollup(scores, kind, ["group"])["high"]
    assert low[0][0] > max(0, low[1][1]) and high[1] < low[0][1]
    split = rollup(scores, kind, ["group", "segment"], level="segment", decomposition="position")
    assert split.height == 4 and split.group_by("group").agg(pl.col("mean").sum()).sort("group")["mean"][
        0
    ] == pytest.approx(low[0][1])


@pytest.mark.parametrize(
    ("piece", "kind"),
    [(" Wait", "connector"), ("However", "connector"), (" return", "keyword"), ("  ", "layout"), ("\n", "layout"),
     ("42", "number"), ("3.5", "number"), ("==", "operator"), ("(", "bracket"), (",", "punctuation"), 
     ("<|end|>", "special"), (" x1", "word"), ("a+b", "other")],
)  # fmt: skip
def test_token_classes(piece, kind):
    assert token_class(piece) == kind


def test_labels_of_other_data_are_refused():
    with pytest.raises(DataError, match="belong to other data"):
        rollup(table([1, 2]), pl.DataFrame({"example": ["x"], "domain": ["a"]}), ["domain"])
    with pytest.raises(DataError, match="expected labels with a key"):
        rollup(table([1, 2]), labels(["a", "b"]), ["topic"])
