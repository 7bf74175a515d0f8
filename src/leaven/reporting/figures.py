"""Report facts -> the figures of a report: forest plot (forest.py), score by difficulty, learning curves.

Each figure is a pure function of ReportData that draws itself at a given width, so the page carries a wide and a
narrow drawing of the same numbers. A figure without data is left out.
Paper: score by difficulty follows Kou et al. 2025 (difficulty levels), loss curves follow Liu et al. 2025, fig. 1.
Not covered: PDF files of the same drawings (pdf.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from leaven.reporting.facts import Curve, ReportData, Score
from leaven.reporting.forest import forest_figure
from leaven.reporting.lines import Axes, Line, draw_lines
from leaven.reporting.marks import Figure, grouped, lower_is_better, measure_words, styles
from leaven.reporting.svg import Canvas
from leaven.reporting.wording import level_text, number

MAX_SEED_LINES = 48
"""With more runs than this, learning curves show medians only."""


def figures(data: ReportData) -> dict[str, tuple[Figure, ...]]:
    """Return the figures of a report by section: "forest" (at most one), "difficulty" and "curves"."""
    forest = forest_figure(data)
    return {
        "forest": (forest,) if forest else (),
        "difficulty": difficulty_figures(data),
        "curves": curve_figures(data),
    }


def difficulty_figures(data: ReportData) -> tuple[Figure, ...]:
    """Return one figure for each (benchmark, metric, level) that has scores at two or more difficulties."""
    style, drawn = styles(data), []
    rows = [s for s in data.scores if s.difficulty is not None and s.estimate is not None]
    for n, ((benchmark, metric, level), group) in enumerate(
        grouped(rows, lambda s: (s.benchmark, s.metric, s.level)).items()
    ):
        levels = sorted({s.difficulty for s in group if s.difficulty is not None})
        if len(levels) < 2:
            continue
        lines = [
            _difficulty_line(name, style[name], [s for s in group if s.condition == name])
            for name in dict.fromkeys(s.condition for s in group)
        ]
        unit = difficulty_unit(data, benchmark)
        percent = all(s.binary for s in group)
        axes = Axes(
            f"difficulty ({unit})" if unit else "difficulty",
            metric.replace("_", " ")
            + (", %" if percent else "")
            + (" (lower is better)" if lower_is_better(data, metric) else ""),
            (levels[0] - 0.4, levels[-1] + 0.4),
            _score_range(group),
            tuple(levels),
            _seen_span(group),
            percent,
        )
        title = f"{measure_words(metric, benchmark)} by difficulty".capitalize() + (
            f", {level_text(level)}" if level_text(level) else ""
        )
        said = "; ".join(
            f"{line.label} from {number(line.points[0][1], percent=percent)} at {line.points[0][0]:g} to "
            f"{number(line.points[-1][1], percent=percent)} at {line.points[-1][0]:g}"
            for line in lines[:8]
        )
        caption = "Bars are 95 % intervals. " + (
            "Shaded difficulties may occur in training, by construction." if axes.shaded else ""
        )
        drawn.append(
            Figure(
                name=f"difficulty-{n + 1}",
                title=title,
                description=f"{title}: {said}.",
                caption=caption.strip(),
                table="by-difficulty",
                draw=_drawing(lines, axes),
            )
        )
    return tuple(drawn)


def difficulty_unit(data: ReportData, benchmark: str) -> str:
    """Return the unit in which a benchmark counts difficulty, as the study or its items state it."""
    stated = next((str(b.get("difficulty_unit", "")) for b in data.benchmarks if b.get("name") == benchmark), "")
    return stated or next(
        (s.difficulty_unit for s in data.samples if s.benchmark == benchmark and s.difficulty_unit), ""
    )


def _difficulty_line(name: str, style: int, scores: list[Score]) -> Line:
    scores = sorted(scores, key=lambda s: s.difficulty or 0)
    return Line(
        name,
        style,
        tuple((float(s.difficulty or 0), s.estimate or 0.0) for s in scores),
        tuple((float(s.difficulty or 0), s.low, s.high) for s in scores if s.low is not None and s.high is not None),
    )


def _seen_span(group: list[Score]) -> tuple[float, float, str] | None:
    seen = sorted({s.difficulty for s in group if s.seen and s.difficulty is not None})
    if not seen or any(s.difficulty in range(seen[0], seen[-1] + 1) and not s.seen for s in group):
        return None
    return seen[0] - 0.4, seen[-1] + 0.5, "seen in training"


def _score_range(group: list[Score]) -> tuple[float, float]:
    values = [v for s in group for v in (s.estimate, s.low, s.high) if v is not None]
    return (0.0, 1.0) if min(values) >= 0 and max(values) <= 1 else (min(0.0, min(values)), max(values) * 1.05)


def _drawing(lines: Sequence[Line], axes: Axes) -> Callable[[float], Canvas]:
    return lambda width: draw_lines(lines, axes, width)


def curve_figures(data: ReportData) -> tuple[Figure, ...]:
    """Return one figure of training loss for each (stage, level): the median over seeds, and the seeds where they
    are few.
    """
    style, drawn = styles(data), []
    curves = [c for c in data.curves if len(c.points) > 1]
    for n, ((stage, level), group) in enumerate(grouped(curves, lambda c: (c.stage, c.level)).items()):
        names = list(dict.fromkeys(c.condition for c in group))
        with_seeds = len(group) <= MAX_SEED_LINES
        lines = [
            _curve_line(name, style[name], [c for c in group if c.condition == name], with_seeds) for name in names
        ]
        values = [y for line in lines for points in (line.points, *line.faint) for _, y in points]
        steps = [x for line in lines for x, _ in line.points]
        axes = Axes(
            "optimiser step",
            "loss, nats per learned token",
            (0.0, max(steps)),
            (min(0.0, min(values)), max(values) * 1.02),
            marks=False,
        )
        place = ", ".join(w for w in (stage and f"stage {stage}", level_text(level)) if w)
        title = "Training loss" + (f", {place}" if place else "")
        said = "; ".join(f"{line.label} ends at {number(line.points[-1][1])}" for line in lines[:8])
        caption = "Strong lines: median over seeds" + ("; faint lines: single seeds." if with_seeds else ".")
        caption += " Conditions may learn different tokens, so a lower loss is not a better model."
        drawn.append(
            Figure(
                name=f"curves-{n + 1}",
                title=title,
                description=f"{title}, median over seeds: {said}.",
                caption=caption,
                table="final-loss",
                draw=_drawing(lines, axes),
            )
        )
    return tuple(drawn)


def median_curve(curves: Sequence[Curve]) -> tuple[tuple[float, float], ...]:
    """Return the median loss over seeds at every step that all of them share (all steps of a single seed)."""
    tables = [dict(c.points) for c in curves]
    shared = sorted(set(tables[0]).intersection(*tables[1:]))
    return tuple((x, median(t[x] for t in tables)) for x in shared)


def _curve_line(name: str, style: int, curves: list[Curve], with_seeds: bool) -> Line:
    points = median_curve(curves) or curves[0].points
    return Line(name, style, points, faint=tuple(c.points for c in curves) if with_seeds and len(curves) > 1 else ())
