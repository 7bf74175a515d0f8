"""Baselines against explicit gradients and hand-computed values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from leaven.attribution import exact
from leaven.attribution.baselines import bm25, gradient_scores, plain_scores, tracin
from leaven.attribution.passes import Tracked
from leaven.attribution.queries import query_gradients, single_queries
from leaven.attribution.texts import Text
from leaven.errors import StudyError


def test_dot_and_cosine_are_those_of_explicit_gradients(tracked, make_texts):
    texts, queries = make_texts(7), single_queries(make_texts(2, seed=3))
    found = gradient_scores(tracked, texts, query_gradients(tracked, queries), batch_tokens=20)
    g_q = exact.gradients(tracked, [q.texts[0] for q in queries]).double().numpy()
    g_n = exact.gradients(tracked, texts).double().numpy()
    dot = g_q @ g_n.T
    np.testing.assert_allclose(found["gradient_dot"], dot / 7, rtol=1e-3, atol=1e-5 * abs(dot).max())
    scale = np.outer(np.linalg.norm(g_q, axis=1), np.linalg.norm(g_n, axis=1))
    np.testing.assert_allclose(found["gradient_cosine"], dot / scale, rtol=1e-3, atol=1e-5)


def test_tracin_adds_checkpoints_by_learning_rate(make_model, make_texts):
    texts, queries = make_texts(5), single_queries(make_texts(2, seed=3))
    early, late = Tracked(make_model(), "linear"), Tracked(make_model(texts, steps=10), "linear")
    each = [gradient_scores(t, texts, query_gradients(t, queries))["gradient_dot"] for t in (early, late)]
    np.testing.assert_allclose(tracin([(early, 0.5), (late, 0.1)], texts, queries), 0.5 * each[0] + 0.1 * each[1])
    with pytest.raises(StudyError, match="checkpoint"):
        tracin([], texts, queries)


def test_baselines_without_gradients(tracked, make_texts):
    texts, queries = make_texts(6), single_queries(make_texts(2, seed=3))
    wanted = exact.losses(tracked, texts, exact.parameters(tracked))
    np.testing.assert_allclose(plain_scores("loss", tracked, texts, queries)[1], wanted, rtol=1e-4)
    assert plain_scores("length", tracked, texts, queries)[0].tolist() == [t.token_weights().sum() for t in texts]
    random = plain_scores("random", tracked, texts, queries, seed=1)
    assert np.array_equal(random, plain_scores("random", tracked, texts, queries, seed=1))
    assert not np.array_equal(random, plain_scores("random", tracked, texts, queries, seed=2))
    with pytest.raises(StudyError, match="bm25"):
        plain_scores("bm52", tracked, texts, queries)


def test_bm25_by_hand():
    def text(*ids):
        return Text(example="x", ids=np.array(ids), learn=np.ones(len(ids), np.float32))

    texts = [text(1, 1, 2), text(2, 3, 4), text(5, 6, 7, 8, 9, 2)]
    scores = bm25(texts, single_queries([text(1, 3), text(2, 2), text(12, 12)]))
    rare, common = math.log1p(2.5 / 1.5), math.log1p(0.5 / 3.5)
    short, long = 1.5 * (0.25 + 0.75 * 3 / 4), 1.5 * (0.25 + 0.75 * 6 / 4)
    first = [rare * 2 * 2.5 / (2 + short), rare * 2.5 / (1 + short), 0]
    second = [2 * common * 2.5 / (1 + x) for x in (short, short, long)]
    np.testing.assert_allclose(scores, [first, second, [0, 0, 0]])
