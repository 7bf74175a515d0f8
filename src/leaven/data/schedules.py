"""A requested share and a schedule -> mixture weights of every block (optimiser step) of a stage.

A schedule is a registered function `f(t, share, **options)` that returns the *integral* of the scheduled share from 0
to t (t in [0, 1] is progress through the stage, `share` the share the mixture asks for on average). Working with
integrals makes totals exact for any number of blocks: a block's weight is the mean share over its interval, so a
schedule moves *when* a source is seen, never how much of it (Ma et al. 2024, Table 5: uniform, stepwise increase and
stepwise decrease all use 37.5 % code). Scheduled is the group of sources named by the option `of`; the other sources
share the rest in the proportions of the mixture.
Not covered: turning weights into whole examples (mixture.py).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from leaven.core.registry import Registry
from leaven.errors import StudyError

Integral = Callable[..., np.ndarray]
SCHEDULES: Registry[Integral] = Registry("schedule")

_CELLS = 4096
_EPSILON = 1e-9


def integral(share_at: Callable[[np.ndarray], np.ndarray], t: np.ndarray) -> np.ndarray:
    """Return the integral from 0 to `t` of a share given as a function of progress (midpoint rule on 4,096 cells).

    For schedules without a closed form; exact for shares that are linear within each cell.
    """
    edges = np.linspace(0.0, 1.0, _CELLS + 1)
    values = np.asarray(share_at((edges[:-1] + edges[1:]) / 2), dtype=np.float64)
    return np.interp(t, edges, np.concatenate([[0.0], np.cumsum(values)]) / _CELLS)


@SCHEDULES("constant")
def constant(t: np.ndarray, share: float) -> np.ndarray:
    """The same share throughout."""
    return share * t


@SCHEDULES("phases")
def phases(
    t: np.ndarray, share: float, *, shares: Sequence[float], lengths: Sequence[float] | None = None
) -> np.ndarray:
    """Piecewise constant: `shares` of the phases, equally long unless `lengths` (relative) are given."""
    shares = list(shares)
    lengths = [1.0] * len(shares) if lengths is None else list(lengths)
    if not shares or len(lengths) != len(shares) or min(lengths) <= 0:
        raise StudyError(
            f"schedule.options: expected one positive length per share, found shares {shares}, lengths {lengths}"
        )
    width = np.asarray(lengths, dtype=np.float64) / np.sum(lengths)
    edges = np.concatenate([[0.0], np.cumsum(width)])
    edges[-1] = 1.0
    return np.interp(t, edges, np.concatenate([[0.0], np.cumsum(width * np.asarray(shares, dtype=np.float64))]))


@SCHEDULES("uniform")
def uniform(t: np.ndarray, share: float) -> np.ndarray:
    """Ma et al. 2024, Table 5: the same share in four phases (5:3 text to code at 37.5 % code)."""
    return _table5(t, share, (0.375, 0.375, 0.375, 0.375))


@SCHEDULES("stepwise_increase")
def stepwise_increase(t: np.ndarray, share: float) -> np.ndarray:
    """Ma et al. 2024, Table 5: text to code 7:3, 7:3, 6:4, 5:5 at 37.5 % code; scaled for another share."""
    return _table5(t, share, (0.3, 0.3, 0.4, 0.5))


@SCHEDULES("stepwise_decrease")
def stepwise_decrease(t: np.ndarray, share: float) -> np.ndarray:
    """Ma et al. 2024, Table 5: text to code 5:5, 6:4, 7:3, 7:3 at 37.5 % code; scaled for another share."""
    return _table5(t, share, (0.5, 0.4, 0.3, 0.3))


def _table5(t: np.ndarray, share: float, shares: Sequence[float]) -> np.ndarray:
    return phases(t, share, shares=[s * (share / 0.375) for s in shares])


@SCHEDULES("linear")
def linear(t: np.ndarray, share: float, *, start: float | None = None, end: float | None = None) -> np.ndarray:
    """A line from `start` to `end`; the one not given is solved for so that the mean is the share asked for."""
    a, b = _ends(share, start, end, "linear")
    return a * t + (b - a) * t * t / 2


@SCHEDULES("cosine")
def cosine(t: np.ndarray, share: float, *, start: float | None = None, end: float | None = None) -> np.ndarray:
    """Half a cosine from `start` to `end`; the one not given is solved for so that the mean is the share asked for."""
    a, b = _ends(share, start, end, "cosine")
    return b * t + (a - b) * (t / 2 + np.sin(np.pi * t) / (2 * np.pi))


def _ends(share: float, start: float | None, end: float | None, name: str) -> tuple[float, float]:
    """Return both ends of a symmetric ramp, whose mean is (start + end) / 2."""
    if start is None and end is None:
        raise StudyError(f"schedule.options: {name} needs start or end, found neither")
    a = 2 * share - end if start is None else start  # type: ignore[operator]
    return a, 2 * share - a if end is None else end


@SCHEDULES("points")
def points(t: np.ndarray, share: float, *, shares: Sequence[float]) -> np.ndarray:
    """Straight lines through `shares` at equally spaced times from 0 to 1 (at least two)."""
    if len(shares) < 2:
        raise StudyError(f"schedule.options.shares: expected at least two points, found {list(shares)}")
    y = np.asarray(shares, dtype=np.float64)
    x = np.linspace(0.0, 1.0, len(y))
    whole = np.concatenate([[0.0], np.cumsum((y[1:] + y[:-1]) / 2 * np.diff(x))])
    i = np.clip(np.searchsorted(x, t, side="right") - 1, 0, len(y) - 2)
    u = t - x[i]
    return whole[i] + y[i] * u + (y[i + 1] - y[i]) / (x[i + 1] - x[i]) * u * u / 2


class Weights:
    """Mixture weights as a function of progress, for a fixed sorted list of sources.

    `share[s]` is each source's requested (and, over the whole stage, exact) share.
    """

    def __init__(self, mixture: Mapping[str, float], schedule: Mapping[str, Any] | None = None) -> None:
        """Take a schedule {"kind": name, "options": {...}}; raise StudyError when it does not fit the mixture."""
        self.sources = sorted(mixture)
        weights = np.array([mixture[s] for s in self.sources], dtype=np.float64)
        if not self.sources or not np.all(np.isfinite(weights)) or np.any(weights < 0) or weights.sum() <= 0:
            raise StudyError(
                f"mixture: expected at least one source and weights >= 0 that do not all vanish, found {dict(mixture)}"
            )
        self.share = weights / weights.sum()
        schedule = schedule or {}
        kind, options = schedule.get("kind", "constant"), dict(schedule.get("options") or {})
        self._integral = SCHEDULES.get(kind, "schedule.kind")
        if kind == "phases" and "weights" in options:
            self._matrix: np.ndarray | None = self._phase_matrix(options)
            self._lengths = options.get("lengths")
        else:
            self._matrix = None
            of = options.pop("of", None)
            self._group = self._scheduled_group(kind, of)
            self._check_options(kind, options)
            self._options = options
        self._check(kind)

    def between(self, t0: np.ndarray | float, t1: np.ndarray | float) -> np.ndarray:
        """Return the mean weights over the progress intervals [t0, t1]: float64[blocks, sources], rows sum to 1."""
        t0, t1 = np.atleast_1d(np.asarray(t0, dtype=np.float64)), np.atleast_1d(np.asarray(t1, dtype=np.float64))
        weights = (self._cumulative(t1) - self._cumulative(t0)) / (t1 - t0)[:, None]
        return np.where(np.abs(weights) < _EPSILON, 0.0, weights)  # a share of zero stays zero despite rounding

    def blocks(self, n: int) -> np.ndarray:
        """Return the weights of `n` equally long blocks: float64[n, sources]; their mean is `share` up to rounding."""
        edges = np.arange(n + 1) / n
        return self.between(edges[:-1], edges[1:])

    @property
    def moves(self) -> bool:
        """Whether the weights change over the stage."""
        return bool(np.abs(self.blocks(64) - self.share).max() > _EPSILON)

    def _cumulative(self, t: np.ndarray) -> np.ndarray:
        if self._matrix is not None:
            columns = [phases(t, 0.0, shares=column, lengths=self._lengths) for column in self._matrix.T]
            return np.stack(columns, axis=1)
        inside = self._group
        total = float(self.share[inside].sum())
        if not inside.any() or total >= 1 - 1e-15:
            return t[:, None] * self.share[None, :]
        group = self._integral(t, total, **self._options)
        within = np.where(inside, self.share / max(total, 1e-300), 0.0)
        outside = np.where(inside, 0.0, self.share / (1 - total))
        return group[:, None] * within[None, :] + (t - group)[:, None] * outside[None, :]

    def _scheduled_group(self, kind: str, of: str | Sequence[str] | None) -> np.ndarray:
        if kind == "constant":
            return np.zeros(len(self.sources), dtype=bool)
        names = [of] if isinstance(of, str) else list(of or [])
        unknown = [n for n in names if n not in self.sources]
        if not names or unknown or len(set(names)) == len(self.sources):
            raise StudyError(
                f"schedule.options.of: expected the name(s) of the scheduled source(s), some but not all of "
                f"{self.sources}; found {of!r}"
            )
        return np.array([s in names for s in self.sources])

    def _check_options(self, kind: str, options: Mapping[str, Any]) -> None:
        parameters = list(inspect.signature(self._integral).parameters.values())[2:]
        known = [p.name for p in parameters]
        missing = [p.name for p in parameters if p.default is p.empty and p.name not in options]
        unknown = [o for o in options if o not in known]
        if missing or unknown:
            raise StudyError(f"schedule.options: {kind} takes {['of', *known]}; missing {missing}, unknown {unknown}")

    def _phase_matrix(self, options: Mapping[str, Any]) -> np.ndarray:
        """Return the normalised weights of each phase from {"weights": [{source: weight}, ...]}."""
        rows = [[float(phase.get(s, 0.0)) for s in self.sources] for phase in options["weights"]]
        unknown = sorted({s for phase in options["weights"] for s in phase} - set(self.sources))
        if unknown or not rows or min(map(sum, rows)) <= 0 or set(options) - {"weights", "lengths"}:
            raise StudyError(
                f"schedule.options: expected weights (one mapping of the sources {self.sources} per phase, none "
                f"empty) and lengths; found unknown sources {unknown} in {dict(options)}"
            )
        matrix = np.asarray(rows, dtype=np.float64)
        return matrix / matrix.sum(axis=1, keepdims=True)

    def _check(self, kind: str) -> None:
        """Raise StudyError when a share leaves [0, 1] or the mean is not the share that the mixture asks for."""
        fine = self.blocks(1000)
        if fine.min() < -_EPSILON or fine.max() > 1 + _EPSILON:
            at, s = np.unravel_index(int(np.argmin(fine)), fine.shape)
            raise StudyError(
                f"schedule {kind}: the share of {self.sources[s]!r} would be {fine.min():.4f} at {at / 10:.1f} % of "
                f"the stage; shares must stay within 0 and 1. Use a smaller swing or another requested share "
                f"(now {dict(zip(self.sources, self.share.round(6).tolist(), strict=True))})"
            )
        mean = self._cumulative(np.array([1.0]))[0]
        if np.abs(mean - self.share).max() > 1e-6:
            found = dict(zip(self.sources, mean.round(6).tolist(), strict=True))
            raise StudyError(
                f"schedule {kind}: averages to {found}, but the mixture asks for "
                f"{dict(zip(self.sources, self.share.round(6).tolist(), strict=True))}; make them agree, "
                f"e.g. mixture: {found}"
            )
