"""Agreement with retraining: against explicit loops, on a model whose influence is exact, and from folders to records."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, rankdata, spearmanr

from leaven.attribution.agreement import (
    agreements,
    dense_codes,
    pearson,
    planted_auc,
    reliability_ceiling,
    removal_drops,
    spearman,
    weighted_ranks,
)
from leaven.attribution.subsets import plan_copies, subsets_table, top_name
from leaven.attribution.validate import predicted_values, validate
from leaven.core.rng import rng
from leaven.core.step import Resources, StepContext
from leaven.core.tables import INFLUENCE, RETRAINED, SUBSETS, write_table
from leaven.errors import DataError

QUIET = StepContext(runtime=Resources(threads=1))


def one(records, **fields):
    """Return the single record with these fields."""
    found = [r for r in records if all((r[k] if isinstance(r, dict) else getattr(r, k)) == v for k, v in fields.items())]
    assert len(found) == 1, (fields, len(found))
    return found[0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=4, max_size=12), st.integers(0, 2**32))
def test_weighted_ranks_are_ranks_of_the_resample(values, seed):
    draw = np.random.default_rng(seed)
    chosen = np.sort(draw.integers(len(values), size=len(values)))
    counts = np.bincount(chosen, minlength=len(values)).astype(float)
    x, y = np.array(values, float), draw.normal(size=len(values))
    found = weighted_ranks(dense_codes(x), counts)
    assert np.allclose(found[chosen], rankdata(x[chosen]))
    if len(set(x[chosen])) > 1:
        assert np.isclose(spearman(x, y, counts), spearmanr(x[chosen], y[chosen]).statistic)
        assert np.isclose(pearson(x, y, counts), pearsonr(x[chosen], y[chosen]).statistic)
    else:
        assert spearman(x, y, counts) == pearson(x, y, counts) == 0


def made(k=30, seeds=3, queries=4, n=20, noise=1.0):
    draw = rng(0, "validation-test")
    truth = draw.normal(size=(queries, n))
    kept = (draw.random((k, n)) < 0.5).astype(float)
    realised = (kept @ truth.T)[:, None] + noise * draw.normal(size=(k, seeds, queries))
    scores = {
        "ekfac": truth + draw.normal(size=(2, queries, n)),
        "other": truth + 3 * draw.normal(size=(2, queries, n)),
        "random": np.tile(draw.normal(size=(2, 1, n)), (1, queries, 1)),
        "constant": np.ones((2, queries, n)) * 0,
    }
    return kept, realised, scores


def test_datamodelling_score_is_the_loop():
    kept, realised, scores = made()
    names = ["a", "b", "c", "d"]
    predicted = {m: predicted_values(s, kept) for m, s in scores.items()}
    records = agreements("lds", "spearman", predicted, realised, names, draws=50)
    mean = realised.mean(1)
    for method, per_model in scores.items():

        def of(score_QN, q):
            summed = [sum(score_QN[q, n] for n in range(20) if row[n]) for row in kept]
            return spearmanr(summed, mean[:, q]).statistic if len(set(summed)) > 1 else 0.0

        single = np.mean([[of(model, q) for q in range(4)] for model in per_model])
        averaged = [of(per_model.mean(0), q) for q in range(4)]
        assert np.isclose(one(records, method=method, query="all", models_averaged=1).value, single)
        assert np.isclose(one(records, method=method, query="all", models_averaged=2).value, np.mean(averaged))
        assert np.isclose(one(records, method=method, query="c", models_averaged=2).value, averaged[2])
    best, other = (one(records, method=m, query="all", models_averaged=2) for m in ("ekfac", "other"))
    assert best.minus_reference == best.minus_low == best.minus_high == 0
    assert np.isclose(other.minus_reference, other.value - best.value) and other.minus_high < 0
    assert best.low < best.value < best.high and best.n_subsets == 30 and best.n_seeds == 3


def test_intervals_are_resamples_of_subsets_and_queries():
    kept, realised, scores = made()
    predicted = {m: predicted_values(s, kept) for m, s in scores.items()}
    found = one(agreements("lds", "spearman", predicted, realised, list("abcd"), draws=400), method="other", query="all", models_averaged=2)
    draw, mean, samples = np.random.default_rng(5), realised.mean(1), []
    for _ in range(400):
        rows, columns = draw.integers(30, size=30), draw.integers(4, size=4)
        each = [[spearmanr(predicted[m].mean(0)[rows, q], mean[rows, q]).statistic for q in columns] for m in ("other", "ekfac")]
        samples.append((np.mean(each[0]), np.mean(each[0]) - np.mean(each[1])))
    for value, (low, high) in zip(
        np.quantile(samples, [0.025, 0.975], axis=0).T, ((found.low, found.high), (found.minus_low, found.minus_high)), strict=True
    ):
        assert np.allclose(value, [low, high], atol=0.06)


def test_scores_are_averaged_over_disjoint_groups_of_models():
    kept, realised, _ = made()
    draw = rng(4, "ensembles")
    scores = {"ekfac": draw.normal(size=(5, 4, 20)), "other": draw.normal(size=(5, 4, 20))}
    predicted = {m: predicted_values(s, kept) for m, s in scores.items()}
    records = agreements("lds", "spearman", predicted, realised, list("abcd"), averaged=[2, 1, 5], draws=30)
    groups = {1: [[0], [1], [2], [3], [4]], 2: [[0, 1], [2, 3]], 5: [[0, 1, 2, 3, 4]]}
    for size, chosen in groups.items():
        alone = {"ekfac": np.stack([scores["ekfac"][g].mean(0) for g in chosen])}
        wanted = [
            spearmanr(predicted_values(a[None], kept)[0, :, q], realised.mean(1)[:, q]).statistic for a in alone["ekfac"] for q in range(4)
        ]
        assert np.isclose(one(records, method="ekfac", query="all", models_averaged=size).value, np.mean(wanted))
    assert len([r for r in records if r.query == "a"]) == 2  # of all five alone
    labels = np.tile([1] * 10 + [-1] * 10, (4, 1))
    of_auc = one(planted_auc(labels, scores, averaged=[2], draws=10), method="other", models_averaged=2).value
    pairs = [one(planted_auc(labels, {"ekfac": scores["other"][g]}, draws=5), models_averaged=2).value for g in groups[2]]
    assert np.isclose(of_auc, np.mean(pairs))
    with pytest.raises(DataError, match="1 to 5 models, found 6"):
        agreements("lds", "spearman", predicted, realised, list("abcd"), averaged=[6])


def test_ceiling_is_what_the_noiseless_values_reach():
    draw = rng(1, "ceiling")
    clean = draw.normal(size=(4000, 1, 3))
    noisy = clean + 1.5 * draw.normal(size=(4000, 5, 3))
    reached = spearman(clean[:, 0].T, noisy.mean(1).T, np.ones(4000)).mean()
    assert abs(reliability_ceiling(noisy) - reached) < 0.02
    assert reliability_ceiling(noisy[:, :1]) is None


def test_linear_model_has_score_1():
    """Least squares with many examples: influence (Newton, H^-1 g) predicts half-subset retraining almost exactly."""
    draw = rng(2, "linear-model")
    x, noise = draw.normal(size=(400, 3)), draw.normal(size=400)
    y, queries = x @ np.array([1.0, -2.0, 0.5]) + 0.5 * noise, draw.normal(size=(5, 3))
    fitted = np.linalg.lstsq(x, y, rcond=None)[0]
    scores = (queries @ np.linalg.inv(x.T @ x)) @ (x * (y - x @ fitted)[:, None]).T  # effect of keeping on the prediction
    kept = np.stack([draw.permutation(400) < 200 for _ in range(60)]).astype(float)
    realised = np.stack([queries @ np.linalg.lstsq(x[k > 0], y[k > 0], rcond=None)[0] for k in kept])[:, None]
    predicted = {"ekfac": predicted_values(scores[None], kept), "reversed": predicted_values(-scores[None], kept)}
    records = agreements("lds", "spearman", predicted, realised, list("abcde"), draws=20)
    assert one(records, method="ekfac", query="all").value > 0.98
    assert one(records, method="reversed", query="all").value < -0.98
    # scores that are the effects themselves have 1 exactly
    truth = (kept @ scores.T)[:, None]
    assert one(agreements("lds", "spearman", predicted, truth, list("abcde"), draws=20), method="ekfac", query="all").low == pytest.approx(
        1
    )


def test_planted_auc_counts_pairs():
    draw = rng(3, "auc")
    labels = np.array([[1] * 6 + [-1] * 5 + [0] * 4, [0] * 4 + [-1] * 6 + [1] * 5])
    scores = {"ekfac": np.round(labels + draw.normal(size=(2, 2, 15)), 1), "blind": np.zeros((2, 2, 15))}
    records = planted_auc(labels, scores, draws=50)

    def pairs(row, label):
        return np.mean([(a > b) + 0.5 * (a == b) for a in row[label > 0] for b in row[label < 0]])

    wanted = np.mean([[pairs(model[q], labels[q]) for q in range(2)] for model in scores["ekfac"]])
    assert np.isclose(one(records, method="ekfac", models_averaged=1).value, wanted)
    assert one(records, method="blind", models_averaged=2).value == 0.5
    with pytest.raises(DataError, match="of one kind for query 1"):
        planted_auc(np.array([[1, -1], [1, 0]]), {"ekfac": np.zeros((1, 2, 2))})


def test_removal_is_compared_with_random_removal():
    draw = rng(4, "removal")
    random, drop = draw.normal(size=(5, 8)), draw.normal(size=(5, 8)) + 2
    found = one(removal_drops({"ekfac": drop}, random, statistic="top-5", draws=200), method="ekfac")
    assert np.isclose(found.value, drop.mean()) and np.isclose(found.minus_reference, (drop - random).mean())
    assert 0 < found.minus_low < found.minus_reference < found.minus_high and found.reference == "random"


@pytest.fixture
def folders(tmp_path):
    """Return a function that writes retrained folders of two seeds whose values follow the true scores, and influence tables."""
    keys = [("s", f"e{n:02d}") for n in range(12)]
    draw = rng(5, "validate-folders")
    truth = dict(zip(("p", "q"), draw.normal(size=(2, 12)), strict=True))

    def write(spec, groups=None, **inputs):
        if groups is not None:
            copies = groups
        else:
            copies = plan_copies(spec, keys, inputs)
        found = {}
        for seed in (0, 1):
            rows = [
                {"copy": c, "seed": seed, "step": step, "query": query, "n_left_out": len(copy.left_out),
                 "value": step / 20 * (score.sum() - score[list(copy.left_out)].sum()) + 0.1 * seed}
                for c, copy in enumerate(copies) for step in (10, 20) for query, score in truth.items()
            ]  # fmt: skip
            folder = tmp_path / f"{spec['kind']}-{seed}"
            write_table(folder / "retrained.parquet", rows, RETRAINED)
            write_table(folder / "subsets.parquet", subsets_table(copies, keys), SUBSETS)
            found[f"retrained:{spec['kind']}-{seed}"] = folder
        return found

    def table(name, methods):
        rows = [
            dict.fromkeys(INFLUENCE) | {
                "model": name, "step": -1, "method": m, "query": query, "source": s, "example": e, "format": "f", "window": 0,
                "level": "instance", "score": float(sign * truth[query][n]),
            }
            for m, sign in methods.items() for query in truth for n, (s, e) in enumerate(keys)
        ]  # fmt: skip
        write_table(tmp_path / name / "influence.parquet", rows, INFLUENCE)
        return tmp_path / name

    return write, table, truth


def run(inputs, out, **spec):
    out.mkdir()
    validate({"draws": 40} | spec, inputs, out, QUIET)
    return json.loads((out / "validation.json").read_text())


def test_folders_to_records_of_three_kinds(folders, tmp_path):
    write, table, truth = folders
    tables = {f"influence:{n}": table(n, {"ekfac": 1, "wrong": -1}) for n in ("a", "b")}
    half = write({"kind": "half", "n": 20})
    top = write(
        {"kind": "top", "counts": [3], "methods": ["ekfac", "wrong"], "queries": ["p", "q"], "controls": 2}, influence=tables["influence:a"]
    )
    records = run(half | top | tables, tmp_path / "out")
    assert one(records, kind="lds", method="ekfac", query="all", models_averaged=2)["value"] == pytest.approx(1)
    assert one(records, kind="lds", method="wrong", query="q")["value"] == pytest.approx(-1)
    assert one(records, kind="lds", method="ekfac", query="all", models_averaged=1)["ceiling"] == pytest.approx(1, abs=0.02)
    best = np.mean([np.sort(t)[-3:].sum() for t in truth.values()])
    drop = one(records, kind="top", statistic="top-3", method="ekfac")
    copies = [
        c.group
        for c in plan_copies(
            {"kind": "top", "counts": [3], "controls": 2}, [("s", f"e{n:02d}") for n in range(12)], {"influence": tables["influence:a"]}
        )
    ]
    assert copies == ["", top_name("", "", "helpful", 3), "random|3|0", "random|3|1"]
    assert drop["value"] == pytest.approx(best, abs=0.1) and drop["minus_reference"] > 0
    assert one(records, kind="top", method="wrong")["value"] < 0
    other = top["retrained:top-1"] / "subsets.parquet"  # each seed may remove the top of its own model
    frame = pl.read_parquet(other)
    frame.with_columns(example=pl.when(pl.col("copy") == 1).then(pl.lit("e00")).otherwise("example")).write_parquet(other)
    assert run(top | tables, tmp_path / "own")[0] == one(records, kind="top", statistic="top-3", method="ekfac")
    early = run(half | tables, tmp_path / "early", step=10)
    assert {r["step"] for r in early} == {10}


def test_groups_are_predicted(folders, tmp_path):
    from leaven.attribution.subsets import Copy

    write, table, _ = folders
    groups = [Copy("", ()), *(Copy(f"g{k}", tuple(range(2 * k, 2 * k + 2))) for k in range(6))]
    inputs = write({"kind": "groups"}, groups) | {"influence:a": table("a", {"ekfac": 1, "wrong": -1})}
    records = run(inputs, tmp_path / "out")
    for statistic, right, wrong in (("spearman", 1, -1), ("pearson", 1, -1), ("sign", 1, 0)):
        assert one(records, kind="group", statistic=statistic, method="ekfac", query="all")["value"] == pytest.approx(right, abs=0.01)
        assert one(records, kind="group", statistic=statistic, method="wrong", query="all")["value"] == pytest.approx(wrong, abs=0.01)


def test_refuses_what_does_not_fit(folders, tmp_path):
    write, table, _ = folders
    half, scores = write({"kind": "half", "n": 5}), {"influence:a": table("a", {"ekfac": 1})}
    with pytest.raises(DataError, match="after step 7, found others"):
        run(half | scores, tmp_path / "o1", step=7)
    with pytest.raises(DataError, match="inputs retrained"):
        run(scores, tmp_path / "o2")
    with pytest.raises(DataError, match="inputs influence"):
        run(half, tmp_path / "o3")
    with pytest.raises(DataError, match="found 'bm26'"):
        run(half | scores, tmp_path / "o4", reference="bm26")
    path = scores["influence:a"] / "influence.parquet"
    pl.read_parquet(path).head(20).write_parquet(path)
    with pytest.raises(DataError, match="every pair kept"):
        run(half | scores, tmp_path / "o5")
    other = half["retrained:half-1"] / "subsets.parquet"
    frame = pl.read_parquet(other)
    frame.with_columns(example=pl.lit("e00")).write_parquet(other)
    with pytest.raises(DataError, match="every other seed"):
        run(half | scores, tmp_path / "o6")


def test_planted_sources_are_told_apart_without_any_retraining(tmp_path):
    base = {"model": "m", "step": 0, "format": "f", "window": 0, "level": "instance", "decomposition": "", "segment": -1, "token": -1,
            "n_learned_tokens": 1, "query": "q"}  # fmt: skip
    means = {"good": (1.0, 1.0), "bad": (-1.0, 1.0), "noise": (-2.0, 3.0)}  # by "right", which knows, and "wrong", which errs on noise
    rows = [
        {**base, "method": method, "source": source, "example": str(n), "score": level[m] + 0.01 * n}
        for m, method in enumerate(("right", "wrong"))
        for source, level in means.items()
        for n in range(5)
    ]
    write_table(tmp_path / "table" / "influence.parquet", rows, INFLUENCE)
    (tmp_path / "out").mkdir()
    planted = {"q": {"helpful": ["good"], "harmful": ["bad"], "noise": ["noise"]}}
    validate({"planted": planted}, {"influence:0": tmp_path / "table"}, tmp_path / "out", QUIET)
    told = json.loads((tmp_path / "out" / "validation.json").read_text())
    assert {(r["method"], r["statistic"]): r["value"] for r in told} == {
        ("right", "helpful above harmful"): 1.0, ("right", "helpful above noise"): 1.0,
        ("wrong", "helpful above harmful"): 0.5, ("wrong", "helpful above noise"): 0.0,
    }  # fmt: skip
    planted["q"]["noise"] = ["nosie"]
    with pytest.raises(DataError, match="found none of nosie"):
        validate({"planted": planted}, {"influence:0": tmp_path / "table"}, tmp_path / "out", QUIET)
