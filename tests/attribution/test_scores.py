"""Scores against exact influence and explicit token gradients; both decompositions sum to the text's score; top-k
equals sorting."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import spearmanr

from leaven.attribution import exact
from leaven.attribution.factors import Damping, fit_factors
from leaven.attribution.pairs import pairs
from leaven.attribution.passes import Tracked
from leaven.attribution.queries import Query, query_gradients, single_queries
from leaven.attribution.scores import (
    Targets,
    dense_pairs,
    ekfac_targets,
    influence_table,
    segment_counterfactuals,
    text_scores,
)
from leaven.attribution.texts import without_tokens
from leaven.errors import DataError, StudyError


@pytest.fixture(scope="module")
def setting(tracked, make_texts):
    """Return training texts, queries and their targets."""
    texts, queries = make_texts(14), make_texts(3, seed=4)
    factors = fit_factors(tracked, texts)
    gradients = query_gradients(tracked, single_queries(queries))
    return texts, queries, ekfac_targets([q.example for q in queries], gradients, factors, Damping())


def test_query_gradients_are_of_the_mean_log_likelihood(tracked, make_texts):
    texts = make_texts(5, seed=6)
    explicit = exact.gradients(tracked, texts)
    lengths = torch.tensor([float(t.token_weights().sum()) for t in texts])
    found = exact.flatten(tracked, query_gradients(tracked, [Query("all", tuple(texts))]))[0]
    torch.testing.assert_close(found, explicit.mean(0), rtol=1e-3, atol=1e-5)
    found = exact.flatten(
        tracked, query_gradients(tracked, [Query("a", tuple(texts[:2])), Query("b", tuple(texts[2:]))], "mean")
    )
    wanted = explicit / lengths[:, None]
    torch.testing.assert_close(found, torch.stack([wanted[:2].mean(0), wanted[2:].mean(0)]), rtol=1e-3, atol=1e-5)


def test_scores_are_products_with_exact_gradients(tracked, setting):
    texts, _, targets = setting
    wanted = exact.flatten(tracked, targets.vectors).double() @ exact.gradients(tracked, texts).double().t()
    for layout in ({}, {"batch_tokens": 25}, {"pack_tokens": 24}):
        np.testing.assert_allclose(
            text_scores(tracked, texts, targets, **layout), wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max())
        )


def test_aggregated_query_is_the_mean_of_single_ones(tracked, setting):
    texts, queries, targets = setting
    factors = fit_factors(tracked, texts)
    one = ekfac_targets(["all"], query_gradients(tracked, [Query("all", tuple(queries))]), factors, Damping())
    single = text_scores(tracked, texts, targets)
    np.testing.assert_allclose(
        text_scores(tracked, texts, one)[0], single.mean(0), rtol=1e-3, atol=1e-4 * abs(single).max()
    )


@pytest.mark.parametrize("n_queries", [1, 3])
@pytest.mark.parametrize("layout", [{}, {"pack_tokens": 24}])
def test_both_decompositions_sum_to_the_score(tracked, setting, n_queries, layout):
    texts, _, targets = setting
    targets = Targets(targets.names[:n_queries], {n: v[:n_queries] for n, v in targets.vectors.items()})
    scores = text_scores(tracked, texts, targets)
    found = pairs(tracked, texts, targets, decompositions=("position", "loss"), **layout)
    assert len(found) == n_queries * len(texts)
    for pair in found:
        assert pair.score == pytest.approx(scores[pair.query, pair.text], rel=1e-3, abs=1e-4 * abs(scores).max())
        for values in pair.tokens.values():
            assert len(values) == len(texts[pair.text].ids)
            assert values.sum() == pytest.approx(pair.score, rel=1e-4, abs=1e-5 * np.abs(values).sum())


def test_loss_decomposition_equals_explicit_token_gradients(tracked, setting):
    texts, _, targets = setting
    for pair in pairs(tracked, texts[:4], targets, decompositions=("loss",)):
        text = texts[pair.text]
        vector = exact.flatten(tracked, targets.vectors)[pair.query]
        wanted = np.zeros(len(text.ids))
        wanted[np.flatnonzero(text.token_weights())] = exact.token_gradients(tracked, text) @ vector
        np.testing.assert_allclose(pair.tokens["loss"], wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


def test_position_decomposition_equals_a_loop_over_positions(make_model, make_texts):
    # one layer without what follows it mixing tokens: only the position's own row of g and a enters
    tracked = Tracked(make_model(), "mlp", layers=[0])
    text = make_texts(1)[0]
    targets = ekfac_targets(
        ["q"], query_gradients(tracked, [Query("q", (text,))]), fit_factors(tracked, [text]), Damping()
    )
    from leaven.attribution.texts import make_batches

    seen = tracked.backward(next(make_batches([text], 32)))
    (pair,) = pairs(tracked, [text], targets)
    wanted = [
        sum(float(seen.grads[n][t] @ targets.vectors[n][0] @ seen.inputs[n][t]) for n in tracked.names())
        for t in range(len(text.ids) - 1)
    ] + [0.0]  # the last token is only predicted
    np.testing.assert_allclose(pair.tokens["position"], wanted, rtol=1e-4, atol=1e-6 * max(map(abs, wanted)))


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_keeping_extremes_equals_sorting_all(tracked, setting, keep):
    texts, _, targets = setting
    scores = text_scores(tracked, texts, targets)
    found = pairs(tracked, texts, targets, keep=keep, batch_tokens=18)
    whole = {(p.query, p.text): p.tokens["position"] for p in pairs(tracked, texts, targets)}
    for query in range(len(targets.names)):
        order = np.argsort(-scores[query], kind="stable").tolist()
        kept = [p for p in found if p.query == query]
        assert [p.text for p in kept] == order[:keep] + order[-keep:]
        for p in kept:
            np.testing.assert_allclose(
                p.tokens["position"], whole[query, p.text], rtol=1e-3, atol=1e-5 * abs(scores).max()
            )


def test_leaving_a_segment_out_equals_scoring_the_rest(tracked, setting):
    texts, _, targets = setting
    found = {(q, n, s): value for q, n, s, value in segment_counterfactuals(tracked, texts[:5], targets)}
    assert len(found) == 3 * 5 * 2
    text = texts[2]
    rest = without_tokens(text, text.segment == 0)
    vectors = exact.flatten(tracked, targets.vectors)
    wanted = vectors @ (exact.gradients(tracked, [text])[0] - exact.gradients(tracked, [rest])[0])
    np.testing.assert_allclose(
        [found[q, 2, 0] for q in range(3)], wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max())
    )
    only_end = dataclasses.replace(text, learn=np.where(text.segment == 1, text.learn, 0).astype(np.float32))
    whole = text_scores(tracked, [only_end], targets)
    without_end = {(q, s): v for q, _, s, v in segment_counterfactuals(tracked, [only_end], targets)}
    np.testing.assert_allclose([without_end[q, 1] for q in range(3)], whole[:, 0])  # nothing left to learn


def test_table_holds_levels_that_add_up(tracked, setting):
    texts, _, targets = setting
    found = pairs(tracked, texts[:3], targets, decompositions=("position", "loss"))
    table = influence_table(texts, targets.names, found, method="ekfac", level="token")
    key = ["query", "example"]
    whole = table.filter(level="instance").select(*key, "score", "n_learned_tokens").sort(key)
    assert whole.height == 9
    for level in ("segment", "token"):
        for split in ("position", "loss"):
            part = (
                table.filter(level=level, decomposition=split)
                .group_by(key)
                .agg(pl.col("score", "n_learned_tokens").sum())
                .sort(key)
            )
            np.testing.assert_allclose(part["score"], whole["score"], rtol=1e-4, atol=1e-5 * whole["score"].abs().max())
            assert part["n_learned_tokens"].to_list() == whole["n_learned_tokens"].to_list()
    assert influence_table(texts, ["a"], dense_pairs(np.ones((1, 2))), method="random").height == 2


def test_positive_means_that_removal_hurts(make_model, make_texts):
    # exact influence against the finite difference of one damped Newton step; then EK-FAC's sign of a text for itself
    texts = make_texts(12, noise=0.1)
    tracked = Tracked(make_model(texts, steps=60), "linear")
    gradients = exact.gradients(tracked, texts)
    ggn = exact.curvature(tracked, texts)
    damping = exact.mean_diagonal_damping(tracked, ggn, 1.0)
    theta = exact.parameters(tracked)
    added = exact.flatten(tracked, {n: torch.full(tracked.shape(n), damping[n]) for n in tracked.names()})
    scores = exact.exact_scores(tracked, ggn, damping, gradients[:1], gradients)
    small = 1e-2
    for n in (0, 1, 2):
        move = torch.linalg.solve((ggn + added.diag()).double(), gradients[n].double()) / len(texts)
        change = exact.losses(tracked, texts[:1], theta + small * move.float()) - exact.losses(
            tracked, texts[:1], theta - small * move.float()
        )
        assert float(change) / (2 * small) == pytest.approx(
            float(scores[0, n]), rel=2e-2, abs=2e-3 * float(scores.abs().max())
        )
    factors = fit_factors(tracked, texts)
    own = text_scores(
        tracked,
        texts,
        ekfac_targets([t.example for t in texts], query_gradients(tracked, single_queries(texts)), factors, Damping()),
    )
    assert np.diag(own).min() > 0


def test_ekfac_ranks_like_exact_influence(make_model, make_texts):
    texts, queries = make_texts(192, prompts=False), make_texts(8, seed=4, prompts=False)
    tracked = Tracked(make_model(texts, steps=100), "linear")
    ggn = exact.curvature(tracked, texts)
    damping = exact.mean_diagonal_damping(tracked, ggn, 0.1)
    g_q, g_n = exact.gradients(tracked, queries), exact.gradients(tracked, texts)
    factors = fit_factors(tracked, texts)
    targets = ekfac_targets(
        [q.example for q in queries], query_gradients(tracked, single_queries(queries)), factors, Damping()
    )
    found = text_scores(tracked, texts, targets)
    dot = g_q @ g_n.t()

    def agreement(scores, matrix):
        wanted = exact.exact_scores(tracked, matrix, damping, g_q, g_n)
        return np.mean([spearmanr(a, b).statistic for a, b in zip(scores, wanted, strict=True)])

    block = exact.layer_blocks(tracked, ggn)
    assert agreement(found, block) >= 0.8
    assert agreement(found, block) > agreement(dot, block) + 0.1
    assert agreement(found, ggn) > agreement(dot, ggn)


def test_planted_texts_help_more_than_noise(make_model, make_texts):
    helpful, noise = make_texts(30, noise=0.0), make_texts(30, seed=1, noise=1.0)
    queries, texts = make_texts(10, seed=2, noise=0.0), helpful + noise
    tracked = Tracked(make_model(texts, steps=60), "linear")
    gradients = query_gradients(tracked, [Query("pattern", tuple(queries))])
    targets = ekfac_targets(["pattern"], gradients, fit_factors(tracked, texts), Damping())
    found = influence_table(texts, ["pattern"], pairs(tracked, texts, targets), method="ekfac", level="segment")
    score = dict(found.filter(level="instance").select("example", "score").iter_rows())
    of = [np.array([score[t.example] for t in part]) for part in (helpful, noise)]
    (help_mean, noise_mean), (help_se, noise_se) = [x.mean() for x in of], [x.std(ddof=1) / len(x) ** 0.5 for x in of]
    assert help_mean - 2 * help_se > max(0, noise_mean) and noise_mean + 2 * noise_se < help_mean
    segments = found.filter(level="segment", decomposition="position").group_by("example").agg(pl.col("score").sum())
    assert segments.sort("example")["score"].to_list() == pytest.approx([score[e] for e in sorted(score)], rel=1e-3, abs=1e-4)


def test_refusals(tracked, setting, monkeypatch):
    texts, _, targets = setting
    with pytest.raises(StudyError, match="position or loss"):
        pairs(tracked, texts, targets, decompositions=("words",))
    monkeypatch.setattr("leaven.attribution.scores.DENSE_PAIRS", 10)
    with pytest.raises(DataError, match="keep"):
        text_scores(tracked, texts, targets)
    with pytest.raises(DataError, match="at least one text"):
        query_gradients(tracked, [Query("none", ())])
