"""Two sets of result files of any tool -> paired difference, interval, McNemar, minimum detectable effect, and a
sentence.

One file a side: items are paired and clustered, and the interval speaks for other items only. Several files a side
are seeds: the effect rule (effect.py) makes it speak for other training runs too. Files are paired by the seed number
in their paths (seed-3, seed_3, seed=3) when every path has one, else by position. What is compared is a - b. Not
covered: detecting columns (result_files.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from leaven.analysis.contrasts import Paired, UnequalSeeds, pair
from leaven.analysis.effect import Effect
from leaven.analysis.findings import plain_json
from leaven.analysis.result_files import ScoreFile, read_scores
from leaven.analysis.rule import Answer, Direction, amount, decide, direction_of
from leaven.analysis.stats import Interval, McNemar, mcnemar, wilson
from leaven.errors import DataError, RefusedError


@dataclass(frozen=True, slots=True)
class Comparison:
    """The comparison of two sides; `effect.estimate` is mean(a) - mean(b).

    `mcnemar` and the Wilson intervals exist for one file a side with 0/1 scores of single samples, else None.
    `both_pass` and `both_fail` complete the 2x2 table.
    """

    name_a: str
    name_b: str
    item_column: str
    score_column: str
    effect: Effect
    answer: Answer
    wilson_a: Interval | None
    wilson_b: Interval | None
    mcnemar: McNemar | None
    both_pass: int | None
    both_fail: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types."""
        return plain_json(dataclasses.asdict(self))

    def lines(self) -> list[str]:
        """Return the comparison as lines of text, the answer first."""
        e, binary = self.effect, self.effect.binary
        out = [self.answer.sentence]
        for name, mean, bounds in (
            (self.name_a, e.mean_treatment, self.wilson_a),
            (self.name_b, e.mean_control, self.wilson_b),
        ):
            tail = (
                f" [95 % Wilson interval {amount(bounds.low, binary)} to {amount(bounds.high, binary)}]"
                if bounds
                else ""
            )
            out.append(f"  {name}: {amount(mean, binary)}{tail}")
        scale, unit = (100, " points") if binary else (1, "")
        out.append(
            f"  difference: {scale * e.estimate:+.4g}{unit}, 95 % interval {scale * e.low:+.4g} to "
            f"{scale * e.high:+.4g}, "
            f"standard error {scale * e.se:.3g}, p = {e.p:.3g}"
        )
        if self.mcnemar:
            m = self.mcnemar
            out.append(
                f"  items only {self.name_a} passes: {m.only_a}; only {self.name_b}: {m.only_b}; both: "
                f"{self.both_pass}; "
                f"neither: {self.both_fail}; McNemar exact p = {m.p_exact:.3g} (mid-p {m.p_mid:.3g})"
            )
        out.append(f"  minimum detectable effect (80 % power): {scale * self.answer.mde:.3g}{unit}")
        return out + [f"  note: {note}" for note in e.notes]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def compare_files(
    a: Sequence[Path],
    b: Sequence[Path],
    *,
    cluster: str | None = None,
    metric: str | None = None,
    item: str | None = None,
    margin: float | None = None,
    direction: Direction | None = None,
    unequal_seeds: UnequalSeeds = "refuse",
) -> Comparison:
    """Compare two sets of result files item by item.

    Args:
        a, b: one file a side, or one per seed. cluster: column whose equal values mark dependent items (templates,
            documents).
        metric, item: score and id columns (detected when None); `X:Y` when side a calls it X and side b Y.
        margin: smallest difference that would matter, in
            score units.
        direction: whether more or less is better (default: by the metric's name).

    Raises:
        DataError: a file cannot be read or its ids or scores are not usable.
        RefusedError: the sides hold different items, or different seeds.
    """
    if not a or not b:
        raise DataError(f"compare: expected at least one file a side, found {len(a)} and {len(b)}")
    for side in (a, b):
        _refuse_repeats([Path(p) for p in side])
    metrics, items = _per_side(metric), _per_side(item)
    files_a, files_b = (
        [read_scores(Path(p), item=items[i], metric=metrics[i], cluster=cluster) for p in side]
        for i, side in enumerate((a, b))
    )
    if metrics[0] == metrics[1]:
        _same_measure(files_a + files_b)
    _refuse_other_items(files_a + files_b)
    seeds_a, seeds_b = _seeds([f.path for f in files_a]), _seeds([f.path for f in files_b])
    if len(a) == len(b) == 1 or seeds_a is None or seeds_b is None:
        seeds_a, seeds_b = list(range(len(a))), list(range(len(b)))
    names = _side_names([f.path for f in files_a], [f.path for f in files_b])
    paired = pair(
        _stack(files_a, seeds_a), _stack(files_b, seeds_b), names=names, unequal_seeds=unequal_seeds, where="compare"
    )
    effect = paired.effect()
    score = files_a[0].score_column
    answer = decide(
        effect,
        treatment=names[0],
        control=names[1],
        measure=metrics[0] or score,
        margin=margin,
        direction=direction or direction_of(metrics[0] or score),
    )
    return Comparison(*names, files_a[0].item_column, score, effect, answer, *_single_run(paired, files_a, files_b))


def _single_run(
    paired: Paired, files_a: list[ScoreFile], files_b: list[ScoreFile]
) -> tuple[Interval | None, Interval | None, McNemar | None, int | None, int | None]:
    """Return Wilson intervals, McNemar and the agreeing counts where both sides are one run with one 0/1 score per
    item."""
    single = len(files_a) == len(files_b) == 1 and all(f.rows["item"].is_unique().all() for f in files_a + files_b)
    if not (single and paired.binary):
        return None, None, None, None, None
    x, y = paired.treatment_SN[0] == 1, paired.control_SN[0] == 1
    only_a, only_b = int((x & ~y).sum()), int((~x & y).sum())
    return (
        wilson(int(x.sum()), len(x)),
        wilson(int(y.sum()), len(y)),
        mcnemar(only_a, only_b),
        int((x & y).sum()),
        int((~x & ~y).sum()),
    )


def _stack(files: list[ScoreFile], seeds: list[int]) -> pl.DataFrame:
    """Return the rows of all files with their seed."""
    return pl.concat(
        [f.rows.with_columns(pl.lit(s, dtype=pl.Int32).alias("seed")) for f, s in zip(files, seeds, strict=True)]
    )


def _refuse_repeats(paths: list[Path]) -> None:
    """Raise DataError for files that are not there and RefusedError when one file is given twice (it would count as two seeds)."""
    seen: dict[str, Path] = {}
    for path in paths:
        if not path.is_file():
            raise DataError(
                f"compare: expected a result file at {path}, found {'a folder' if path.is_dir() else 'none'}"
            )
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        if content in seen:
            raise RefusedError(f"compare: {seen[content]} and {path} are the same file; every file must be another run")
        seen[content] = path


def _per_side(name: str | None) -> tuple[str | None, str | None]:
    """Return the column of side a and of side b."""
    left, separator, right = (name or "").partition(":")
    return (left, right) if separator else (name, name)


def _same_measure(files: list[ScoreFile]) -> None:
    """Raise RefusedError when files were scored in different columns."""
    columns = {f.score_column: f.path for f in files}
    if len(columns) > 1:
        raise RefusedError(
            "compare: expected one score column in all files, found "
            + ", ".join(f"{c!r} in {p}" for c, p in columns.items())
            + f". Name one that all have with --metric, or --metric {':'.join(columns)} if these mean the same"
        )


def _refuse_other_items(files: list[ScoreFile]) -> None:
    """Raise RefusedError unless every file holds the items of the first."""
    first = set(files[0].rows["item"].to_list())
    for other in files[1:]:
        items = set(other.rows["item"].to_list())
        if items != first:
            only_first, only_other = sorted(first - items), sorted(items - first)
            raise RefusedError(
                f"compare: expected the same items, found {len(first)} in {files[0].path} and {len(items)} in "
                f"{other.path}: {len(first & items)} in "
                f"common, {len(only_first)} only in the first (e.g. {only_first[:3]}), {len(only_other)} only in the "
                f"second (e.g. {only_other[:3]}). "
                "Evaluate both on the same benchmark and version"
            )


def _seeds(paths: list[Path]) -> list[int] | None:
    """Return the seed numbers in the paths, or None unless each path has one and all differ."""
    found = [re.findall(r"seed[-_=]?(\d+)", str(p), flags=re.IGNORECASE) for p in paths]
    seeds = [int(f[-1]) for f in found if f]
    return seeds if len(seeds) == len(paths) == len(set(seeds)) else None


def _side_names(a: list[Path], b: list[Path]) -> tuple[str, str]:
    """Return short names that tell the sides apart: file stems, else their folders, else "a" and "b"."""
    for part in (lambda p: p.name.split(".")[0], lambda p: p.parent.name, lambda p: p.parent.parent.name):
        name_a, name_b = part(a[0]), part(b[0])
        stripped = (
            [re.sub(r"[-_.]?seed[-_=]?\d+", "", n, flags=re.IGNORECASE) for n in (name_a, name_b)]
            if len(a) > 1
            else [name_a, name_b]
        )
        if all(stripped) and stripped[0] != stripped[1]:
            return stripped[0], stripped[1]
    return "a", "b"
