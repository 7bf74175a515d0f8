"""Schedules: the published phase shares, exact totals, refusals, a schedule of one's own."""

from __future__ import annotations

import numpy as np
import pytest

from leaven.data.schedules import SCHEDULES, Weights, integral
from leaven.errors import StudyError

MA_2024 = {
    "uniform": [0.375, 0.375, 0.375, 0.375],
    "stepwise_increase": [0.3, 0.3, 0.4, 0.5],
    "stepwise_decrease": [0.5, 0.4, 0.3, 0.3],
}


def code_shares(kind: str, n: int, share: float = 0.375, **options: object) -> np.ndarray:
    weights = Weights({"text": 1 - share, "code": share}, {"kind": kind, "options": {"of": "code", **options}})
    return weights.blocks(n)[:, weights.sources.index("code")]


@pytest.mark.parametrize("kind", MA_2024)
def test_named_phases_are_those_of_table_5_and_use_the_same_total(kind: str) -> None:
    assert np.allclose(code_shares(kind, 4), MA_2024[kind], atol=1e-12)
    for n in (4, 7, 100, 1001):
        assert code_shares(kind, n).mean() == pytest.approx(0.375, abs=1e-12)


def test_named_phases_scale_with_the_requested_share() -> None:
    assert np.allclose(code_shares("stepwise_decrease", 4, share=0.6), [0.8, 0.64, 0.48, 0.48])
    with pytest.raises(StudyError, match="share of 'code'|share of 'text'"):
        code_shares("stepwise_decrease", 4, share=0.9)


def test_phases_by_share_and_by_weights_agree() -> None:
    by_share = code_shares("phases", 8, share=0.4, shares=[0.2, 0.6])
    both = Weights(
        {"text": 0.6, "code": 0.4},
        {"kind": "phases", "options": {"weights": [{"text": 8, "code": 2}, {"text": 0.4, "code": 0.6}]}},
    )
    assert np.allclose(by_share, both.blocks(8)[:, 0]) and np.allclose(by_share, [0.2] * 4 + [0.6] * 4)
    lengths = code_shares("phases", 8, share=0.5, shares=[0.2, 0.6], lengths=[1, 3])
    assert np.allclose(lengths, [0.2] * 2 + [0.6] * 6)


def test_a_block_across_a_phase_boundary_gets_the_mean() -> None:
    assert np.allclose(code_shares("phases", 3, share=0.4, shares=[0.2, 0.6]), [0.2, 0.4, 0.6])


def test_linear_and_cosine_solve_for_the_missing_end() -> None:
    line = code_shares("linear", 10, share=0.4, start=0.7)
    assert np.allclose(np.diff(line), -0.06) and line[0] == pytest.approx(0.67)
    wave = code_shares("cosine", 1000, share=0.4, end=0.1)
    assert wave[0] == pytest.approx(0.7, abs=1e-4) and wave[-1] == pytest.approx(0.1, abs=1e-4)
    assert wave[500] == pytest.approx(0.4, abs=1e-3) and np.all(np.diff(wave) < 0)


def test_points_are_joined_by_lines() -> None:
    shares = code_shares("points", 4, share=0.35, shares=[0.2, 0.4, 0.4])
    assert np.allclose(shares, [0.25, 0.35, 0.4, 0.4])


def test_sources_outside_the_group_keep_their_proportions() -> None:
    weights = Weights(
        {"a": 1, "b": 3, "code": 4, "tests": 2}, {"kind": "linear", "options": {"of": ["code", "tests"], "start": 0.9}}
    )
    blocks = weights.blocks(50)
    assert np.allclose(blocks[:, 1], 3 * blocks[:, 0]) and np.allclose(blocks[:, 2], 2 * blocks[:, 3])
    assert np.allclose(blocks.sum(axis=1), 1) and np.allclose(blocks.mean(axis=0), [0.1, 0.3, 0.4, 0.2])


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ({"kind": "lineer", "options": {}}, "Did you mean 'linear'"),
        ({"kind": "linear", "options": {"start": 1}}, "schedule.options.of"),
        ({"kind": "linear", "options": {"of": "cod", "start": 1}}, "schedule.options.of"),
        ({"kind": "linear", "options": {"of": "code"}}, "start or end"),
        ({"kind": "linear", "options": {"of": "code", "begin": 1}}, "unknown .'begin'"),
        ({"kind": "phases", "options": {"of": "code"}}, "missing .'shares'"),
        ({"kind": "phases", "options": {"of": "code", "shares": [0.1, 0.2]}}, "averages to .*mixture: "),
        ({"kind": "phases", "options": {"weights": [{"code": 1}, {"prose": 1}]}}, "unknown sources .'prose'"),
        ({"kind": "linear", "options": {"of": "code", "start": 1.2}}, "within 0 and 1"),
        ({"kind": "constant", "options": {"of": "code", "end": 1}}, "unknown .'end'"),
    ],
)
def test_what_does_not_fit_is_refused(schedule: dict[str, object], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        Weights({"text": 0.5, "code": 0.5}, schedule)


@pytest.mark.parametrize("mixture", [{}, {"a": 0.0}, {"a": -1.0, "b": 2.0}, {"a": float("nan")}])
def test_a_mixture_needs_positive_weights(mixture: dict[str, float]) -> None:
    with pytest.raises(StudyError, match="mixture"):
        Weights(mixture)


def test_a_schedule_of_ones_own_is_one_function() -> None:
    @SCHEDULES("saw_for_test")
    def saw(t: np.ndarray, share: float, *, teeth: int = 4) -> np.ndarray:
        return integral(lambda u: 2 * share * ((teeth * u) % 1.0), t)

    shares = code_shares("saw_for_test", 8, share=0.4, teeth=4)
    assert np.allclose(shares, [0.2, 0.6] * 4, atol=1e-9)
