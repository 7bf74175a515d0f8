"""Report facts -> the three figures of a report: forest plot, score by difficulty, learning curves.

Each figure is a pure function of ReportData that draws itself at a given width, so the page carries a wide and a narrow drawing of
the same numbers. A condition keeps its colour and its marker shape through the whole report. A figure without data is left out.
Paper: forest plots of contrasts are ours; score by difficulty follows Kou et al. 2025, fig. 3 (difficulty levels), loss curves
follow Liu et al. 2025, fig. 1.
Not covered: PDF drawings of the same numbers (exports.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from leaven.core.types import Finding
from leaven.report.facts import Curve, ReportData, Score
from leaven.report.svg import LIGHT, SHAPES, Canvas, spread, tick_text, ticks
from leaven.report.wording import interval, level_text, number, plural, shorten, text_width

WIDE, NARROW = 860.0, 340.0
MAX_ROWS = 60
MAX_SEED_LINES = 48
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure: its drawing function, the words a screen reader says, the caption and the id of the table with its numbers."""

    name: str
    title: str
    description: str
    caption: str
    table: str
    draw: Callable[[float], Canvas]

    def wide(self) -> str:
        """Return the drawing for screens of 860 px and more, and for paper."""
        return self.draw(WIDE).render(f"{self.name}-w", self.title, self.description, cls="wide")

    def narrow(self) -> str:
        """Return the drawing for phones."""
        return self.draw(NARROW).render(f"{self.name}-n", self.title, self.description, cls="narrow")

    def standalone(self) -> str:
        """Return a self-contained SVG file in the light colours."""
        return self.draw(WIDE).render(self.name, self.title, self.description, standalone=True) + "\n"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a forest plot; `dots` are single seeds, `band` is half the width of what counts as no difference."""

    label: str
    estimate: float
    low: float | None
    high: float | None
    style: int
    strong: bool = False
    dots: tuple[float, ...] = ()
    band: float | None = None
    words: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """Rows of a forest plot on one axis."""

    heading: str
    rows: tuple[Row, ...]
    zero: bool
    percent: bool = False
    hidden: int = 0


def mark(style: int) -> tuple[str, str]:
    """Return the colour class and marker shape of the condition with index `style`; 49 pairs before one repeats."""
    return f"c{style % len(LIGHT)}", SHAPES[(style + style // len(LIGHT)) % len(SHAPES)]


def styles(data: ReportData) -> dict[str, int]:
    """Return the style index of each condition, in the order in which the study names them."""
    names = [c.name for c in data.conditions] + [s.condition for s in data.scores] + [c.condition for c in data.curves]
    return {name: i for i, name in enumerate(dict.fromkeys(names))}


def figures(data: ReportData) -> dict[str, tuple[Figure, ...]]:
    """Return the figures of a report by section: "forest" (at most one), "difficulty" and "curves"."""
    forest = forest_figure(data)
    return {"forest": (forest,) if forest else (), "difficulty": difficulty_figures(data), "curves": curve_figures(data)}


# ---- forest plot ------------------------------------------------------------------------------------------------------------


def forest_figure(data: ReportData) -> Figure | None:
    """Return the forest plot: every contrast with its interval on the left of nothing and right of nothing, then the scores."""
    panels = _panels(data)
    if not panels:
        return None
    contrasts = _drawn(data)
    said = "; ".join(f"{contrast_label(c)}: {_effect_words(c)}" for c in contrasts[:8])
    text = f"Differences between conditions with 95 % intervals. {said}." if said else "Scores of the conditions with 95 % intervals."
    caption = "Marks are estimates, bars are 95 % intervals."
    if any(r.band for p in panels for r in p.rows):
        caption += " Shaded: differences within the margin, which count as none."
    if any(r.dots for p in panels for r in p.rows):
        caption += " Small dots are single seeds."
    hidden = sum(p.hidden for p in panels)
    caption += f" {plural(hidden, 'more row')} in the tables." if hidden else ""
    return Figure(name="forest", title="Forest plot of contrasts and scores", description=text, caption=caption,
                  table="contrasts" if data.contrasts else "scores", draw=lambda width: _draw_forest(panels, width))


def contrast_label(contrast: Finding) -> str:
    """Return "treatment vs control" and the level, without the measure and its items, which stand beside it."""
    benchmark, metric = contrast_measure(contrast)
    return contrast.title.replace(f": {metric} on {benchmark}", "", 1)


def _drawn(data: ReportData) -> list[Finding]:
    """Return the contrasts over all items of their benchmark that could be taken, the primary ones first."""
    drawn = [c for c in data.contrasts if c.estimate is not None and c.data.get("difficulty") is None]
    return sorted(drawn, key=lambda c: not data.is_primary(c))


def _panels(data: ReportData) -> list[Panel]:
    style = styles(data)
    panels = []
    for (benchmark, metric), group in _grouped(_drawn(data), contrast_measure).items():
        rows = tuple(Row(contrast_label(c), c.estimate or 0.0, c.low, c.high, 6, strong=data.is_primary(c) and len(group) > 1,
                         band=contrast_margin(c), words=_effect_words(c)) for c in group[:MAX_ROWS])
        percent = all(is_binary(c) for c in group)
        panels.append(Panel(f"Difference in {_of(metric, benchmark)}" + (", points" if percent else ""), rows, True, percent,
                            len(group) - len(rows)))
    scope = data.primary_scope()
    overall = [s for s in data.scores if s.difficulty is None and s.estimate is not None and s.scope == scope]
    for (benchmark, metric), scores in _grouped(overall, score_measure).items():
        rows = tuple(Row(series_label(s.condition, s.level), s.estimate or 0.0, s.low, s.high, style[s.condition], dots=s.per_seed,
                         words=_score_words(s)) for s in scores[:MAX_ROWS])
        percent = all(s.binary for s in scores)
        name = _of(metric, benchmark)
        panels.append(Panel(name[:1].upper() + name[1:] + (", %" if percent else ""), rows, False, percent, len(scores) - len(rows)))
    return panels


def _effect_words(contrast: Finding) -> str:
    percent = is_binary(contrast)
    return (f"{number(contrast.estimate, sign=True, percent=percent)} "
            f"{interval(contrast.low, contrast.high, sign=True, percent=percent)}")


def _score_words(score: Score) -> str:
    return f"{number(score.estimate, percent=score.binary)} {interval(score.low, score.high, percent=score.binary)}"


def is_binary(contrast: Finding) -> bool:
    """Return whether a contrast is between pass rates, whose differences are shown in percentage points."""
    return bool(contrast.data.get("binary"))


def contrast_margin(contrast: Finding) -> float | None:
    """Return the margin within which the rule says "no difference", else the minimum detectable effect."""
    margin = contrast.data.get("margin")
    return float(margin) if margin else contrast.mde


def contrast_measure(contrast: Finding) -> tuple[str, str]:
    """Return (benchmark with its restriction of items, metric) of a contrast."""
    benchmark, metric = str(contrast.data.get("benchmark", "")), str(contrast.data.get("metric", "") or contrast.unit or "score")
    _, found, rest = contrast.title.partition(f": {metric} on {benchmark}")
    return benchmark + (rest.split(" @ ")[0] if found else ""), metric


def score_measure(score: Score) -> tuple[str, str]:
    """Return (benchmark with its restriction of items, metric) of a score."""
    return score.benchmark + (f" ({score.scope})" if score.scope else ""), score.metric


def series_label(condition: str, level: str) -> str:
    """Return "condition" or "condition (learning_rate = 0.001)"."""
    cell = level_text(level)
    return f"{condition} ({cell})" if cell else condition


def _of(metric: str, benchmark: str) -> str:
    name = metric.replace("_", " ")
    return f"{name} on {benchmark}" if benchmark else name


def _grouped(rows: Iterable[T], key: Callable[[T], object]) -> dict[tuple[str, str], list[T]]:
    groups: dict[tuple[str, str], list[T]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)  # type: ignore[arg-type]
    return groups


def _draw_forest(panels: Sequence[Panel], width: float) -> Canvas:
    canvas = Canvas(width)
    y = 4.0
    labels = min(max(text_width(r.label, bold=r.strong) for p in panels for r in p.rows) + 18, 270.0)
    for panel in panels:
        y = _draw_panel(canvas, panel, y, labels) + 26
    canvas.height = y - 18
    return canvas


def _draw_panel(canvas: Canvas, panel: Panel, top: float, label_width: float) -> float:
    narrow = canvas.width < 500
    left, right = (12.0, canvas.width - 14) if narrow else (label_width, canvas.width - 172)
    step = 46.0 if narrow else 30.0
    low, high = _extent(panel)
    at = _scale(low, high, left, right)
    canvas.text(0, top + 13, shorten(panel.heading, canvas.width, 13, bold=True), cls="strong", full=panel.heading)
    first = top + (28 if narrow else 24)
    bottom = first + step * len(panel.rows)
    for tick in ticks(low, high, 4 if narrow else 6):
        zero = panel.zero and tick == 0
        for y in range(len(panel.rows)) if narrow else (0,):
            start = first + step * y + (21 if narrow else 0)
            canvas.line(at(tick), start, at(tick), start + 25 if narrow else bottom, cls="zero" if zero else "rule", width=1.25 if zero else 1)
        canvas.text(at(tick), bottom + 16, tick_text(100 * tick if panel.percent else tick), cls="mute", anchor="middle")
    for i, row in enumerate(panel.rows):
        _draw_row(canvas, row, first + step * i, step, at, (low, high), left, contrast=panel.zero)
    if panel.zero:
        canvas.text(right, bottom + 34, "first named is higher \u2192", cls="mute", anchor="end")
        canvas.text(left, bottom + 34, "\u2190 lower", cls="mute")
    return bottom + (36 if panel.zero else 18)


def _draw_row(canvas: Canvas, row: Row, top: float, step: float, at: Callable[[float], float], extent: tuple[float, float],
              left: float, *, contrast: bool) -> None:
    narrow = left < 50
    colour, shape = mark(row.style)
    y = top + (step - 13 if narrow else step / 2)
    cls = "strong" if row.strong else ""
    room = canvas.width - text_width(row.words, bold=row.strong) - 10 if narrow else left - 14
    canvas.text(0, top + 15 if narrow else y + 4.5, shorten(row.label, room, bold=row.strong), cls=cls, full=row.label)
    canvas.text(canvas.width, top + 15 if narrow else y + 4.5, row.words, cls=("num " + cls).strip(), anchor="end")
    if row.band:
        a, b = max(-row.band, extent[0]), min(row.band, extent[1])
        canvas.rect(at(a), y - 9, at(b) - at(a), 18, cls="band")
    for dot in row.dots:
        canvas.marker("circle", at(dot), y + 8, cls=colour, size=1.6)
    if row.low is not None and row.high is not None:
        canvas.line(at(max(row.low, extent[0])), y, at(min(row.high, extent[1])), y, cls=colour, width=2.5 if row.strong else 2)
    canvas.marker("square" if contrast else shape, at(row.estimate), y, cls=colour, size=5.5 if row.strong else 5)


def _extent(panel: Panel) -> tuple[float, float]:
    values = [v for r in panel.rows for v in (r.estimate, r.low, r.high, *r.dots) if v is not None]
    if panel.zero:
        values.append(0.0)
    low, high = min(values), max(values)
    if not panel.zero and low >= 0 and high <= 1.0:
        return 0.0, 1.0
    pad = (high - low or abs(high) or 1.0) * 0.06
    return (low - pad, high + pad)


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = high - low or 1.0
    return lambda value: start + (min(max(value, low), high) - low) / span * (end - start)


# ---- lines with direct labels -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """One labelled line; `bars` are intervals at its points, `faint` lines (single seeds) of the same style lie behind it."""

    label: str
    style: int
    points: tuple[tuple[float, float], ...]
    bars: tuple[tuple[float, float, float], ...] = ()
    faint: tuple[tuple[tuple[float, float], ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Axes:
    """The two axes of a line chart; `shaded` marks a span of x with its label."""

    x_name: str
    y_name: str
    x: tuple[float, float]
    y: tuple[float, float]
    x_ticks: tuple[float, ...] = ()
    shaded: tuple[float, float, str] | None = None
    percent: bool = False
    marks: bool = True


def _draw_lines(lines: Sequence[Line], axes: Axes, width: float) -> Canvas:
    narrow = width < 500
    longest = max(text_width(line.label) for line in lines) + 26
    gutter = 0.0 if narrow else min(max(longest, 70.0), 230.0)
    height = max(250.0 if narrow else 300.0, (0 if narrow else 16.0 * len(lines)) + 40)
    top = 40.0 if axes.shaded else 26.0
    left, right, bottom = 44.0, width - gutter - 14, top + height - 60
    canvas = Canvas(width)
    at_x, at_y = _scale(*axes.x, left + 4, right - 4), _scale(*axes.y, bottom, top)
    if axes.shaded:
        a, b, words = axes.shaded
        canvas.rect(at_x(a), top, at_x(b) - at_x(a), bottom - top, cls="band")
        canvas.text((at_x(a) + at_x(b)) / 2, top - 7, words, cls="mute", anchor="middle")
    canvas.text(0, 12, axes.y_name, cls="mute")
    for tick in ticks(*axes.y, 5):
        canvas.line(left, at_y(tick), right, at_y(tick), cls="rule")
        canvas.text(left - 8, at_y(tick) + 4.5, tick_text(100 * tick if axes.percent else tick), cls="mute num", anchor="end")
    for tick in axes.x_ticks or ticks(*axes.x, 4 if narrow else 6):
        canvas.text(at_x(tick), bottom + 18, tick_text(tick), cls="mute", anchor="middle")
    canvas.text(right, bottom + 36, axes.x_name, cls="mute", anchor="end")
    _draw_series(canvas, lines, axes, at_x, at_y)
    ends = [at_y(line.points[-1][1]) for line in lines]
    last = max(at_x(line.points[-1][0]) for line in lines) + 12
    if narrow:
        canvas.height = _legend(canvas, lines, bottom + 56)
    else:
        for line, end, y in zip(lines, ends, spread(ends, 16, top, bottom + 8), strict=True):
            colour, shape = mark(line.style)
            canvas.polyline([(last, end), (max(last, right - 4), end), (right + 12, y)], cls=colour, width=1, opacity=0.6)
            canvas.marker(shape, right + 18, y, cls=colour, size=4)
            canvas.text(right + 28, y + 4.5, shorten(line.label, gutter - 26), full=line.label)
        canvas.height = bottom + 42
    return canvas


def _draw_series(canvas: Canvas, lines: Sequence[Line], axes: Axes, at_x: Callable[[float], float],
                 at_y: Callable[[float], float]) -> None:
    for line in lines:
        for faint in line.faint:
            canvas.polyline([(at_x(x), at_y(y)) for x, y in faint], cls=mark(line.style)[0], width=1, opacity=0.3)
    for i, line in enumerate(lines):
        colour, shape = mark(line.style)
        shift = (i - (len(lines) - 1) / 2) * min(5.0, 24 / max(len(lines), 1)) if line.bars else 0.0
        for x, low, high in line.bars:
            canvas.line(at_x(x) + shift, at_y(low), at_x(x) + shift, at_y(high), cls=colour, width=1.75)
        points = [(at_x(x) + shift, at_y(y)) for x, y in line.points]
        canvas.polyline(points, cls=colour, width=2)
        for x, y in points if axes.marks else points[-1:]:
            canvas.marker(shape, x, y, cls=colour, size=4)


def _legend(canvas: Canvas, lines: Sequence[Line], y: float) -> float:
    x = 6.0
    for line in lines:
        label = shorten(line.label, canvas.width - 30)
        if x > 6 and x + text_width(label) + 22 > canvas.width:
            x, y = 6.0, y + 20
        colour, shape = mark(line.style)
        canvas.marker(shape, x, y - 4.5, cls=colour, size=4)
        canvas.text(x + 10, y, label, full=line.label)
        x += text_width(label) + 28
    return y + 8


# ---- score by difficulty ----------------------------------------------------------------------------------------------------


def difficulty_figures(data: ReportData) -> tuple[Figure, ...]:
    """Return one figure for each (benchmark, metric, level) that has scores at two or more difficulties."""
    style, drawn = styles(data), []
    rows = [s for s in data.scores if s.difficulty is not None and s.estimate is not None]
    for n, ((benchmark, metric, level), group) in enumerate(_grouped(rows, lambda s: (s.benchmark, s.metric, s.level)).items()):
        levels = sorted({s.difficulty for s in group if s.difficulty is not None})
        if len(levels) < 2:
            continue
        lines = [_difficulty_line(name, style[name], [s for s in group if s.condition == name])
                 for name in dict.fromkeys(s.condition for s in group)]
        unit = difficulty_unit(data, benchmark)
        percent = all(s.binary for s in group)
        axes = Axes(f"difficulty ({unit})" if unit else "difficulty", metric.replace("_", " ") + (", %" if percent else ""),
                    (levels[0] - 0.4, levels[-1] + 0.4), _score_range(group), tuple(levels), _seen_span(group), percent)
        title = f"{_of(metric, benchmark)} by difficulty".capitalize() + (f", {level_text(level)}" if level_text(level) else "")
        said = "; ".join(f"{line.label} from {number(line.points[0][1], percent=percent)} at {line.points[0][0]:g} to "
                         f"{number(line.points[-1][1], percent=percent)} at {line.points[-1][0]:g}"
                         for line in lines[:8])
        caption = "Bars are 95 % intervals. " + ("Shaded difficulties may occur in training, by construction." if axes.shaded else "")
        drawn.append(Figure(name=f"difficulty-{n + 1}", title=title, description=f"{title}: {said}.", caption=caption.strip(),
                            table="by-difficulty", draw=_drawing(lines, axes)))
    return tuple(drawn)


def difficulty_unit(data: ReportData, benchmark: str) -> str:
    """Return the unit in which a benchmark counts difficulty, as the study or its items state it."""
    stated = next((str(b.get("difficulty_unit", "")) for b in data.benchmarks if b.get("name") == benchmark), "")
    return stated or next((s.difficulty_unit for s in data.samples if s.benchmark == benchmark and s.difficulty_unit), "")


def _difficulty_line(name: str, style: int, scores: list[Score]) -> Line:
    scores = sorted(scores, key=lambda s: s.difficulty or 0)
    return Line(name, style, tuple((float(s.difficulty or 0), s.estimate or 0.0) for s in scores),
                tuple((float(s.difficulty or 0), s.low, s.high) for s in scores if s.low is not None and s.high is not None))


def _seen_span(group: list[Score]) -> tuple[float, float, str] | None:
    seen = sorted({s.difficulty for s in group if s.seen and s.difficulty is not None})
    if not seen or any(s.difficulty in range(seen[0], seen[-1] + 1) and not s.seen for s in group):
        return None
    return seen[0] - 0.4, seen[-1] + 0.5, "seen in training"


def _score_range(group: list[Score]) -> tuple[float, float]:
    values = [v for s in group for v in (s.estimate, s.low, s.high) if v is not None]
    return (0.0, 1.0) if min(values) >= 0 and max(values) <= 1 else (min(0.0, min(values)), max(values) * 1.05)


def _drawing(lines: Sequence[Line], axes: Axes) -> Callable[[float], Canvas]:
    return lambda width: _draw_lines(lines, axes, width)


# ---- learning curves --------------------------------------------------------------------------------------------------------


def curve_figures(data: ReportData) -> tuple[Figure, ...]:
    """Return one figure of training loss for each (stage, level): the median over seeds, and the seeds where they are few."""
    style, drawn = styles(data), []
    curves = [c for c in data.curves if len(c.points) > 1]
    for n, ((stage, level), group) in enumerate(_grouped(curves, lambda c: (c.stage, c.level)).items()):
        names = list(dict.fromkeys(c.condition for c in group))
        with_seeds = len(group) <= MAX_SEED_LINES
        lines = [_curve_line(name, style[name], [c for c in group if c.condition == name], with_seeds) for name in names]
        values = [y for line in lines for points in (line.points, *line.faint) for _, y in points]
        steps = [x for line in lines for x, _ in line.points]
        axes = Axes("optimiser step", "loss, nats per learned token", (0.0, max(steps)), (min(0.0, min(values)), max(values) * 1.02),
                    marks=False)
        place = ", ".join(w for w in (stage and f"stage {stage}", level_text(level)) if w)
        title = "Training loss" + (f", {place}" if place else "")
        said = "; ".join(f"{line.label} ends at {number(line.points[-1][1])}" for line in lines[:8])
        caption = "Strong lines: median over seeds" + ("; faint lines: single seeds." if with_seeds else ".")
        caption += " Conditions may learn different tokens, so a lower loss is not a better model."
        drawn.append(Figure(name=f"curves-{n + 1}", title=title, description=f"{title}, median over seeds: {said}.", caption=caption,
                            table="final-loss", draw=_drawing(lines, axes)))
    return tuple(drawn)


def median_curve(curves: Sequence[Curve]) -> tuple[tuple[float, float], ...]:
    """Return the median loss over seeds at every step that all of them share (all steps of a single seed)."""
    tables = [dict(c.points) for c in curves]
    shared = sorted(set(tables[0]).intersection(*tables[1:]))
    return tuple((x, median(t[x] for t in tables)) for x in shared)


def _curve_line(name: str, style: int, curves: list[Curve], with_seeds: bool) -> Line:
    points = median_curve(curves) or curves[0].points
    return Line(name, style, points, faint=tuple(c.points for c in curves) if with_seeds and len(curves) > 1 else ())
