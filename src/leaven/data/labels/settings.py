"""The `label` section of a source -> refusal of what does not fit together, before anything runs.

Not covered: what only the file can tell (no such column, no value on the scale): attach.py says that.
"""

from __future__ import annotations

from collections.abc import Iterator

from leaven.data.labels.scales import SCALES
from leaven.errors import StudyError
from leaven.spec.data import Label, Source


def check_label(source: Source, where: str) -> None:
    """Raise StudyError with every way in which a source's `label` does not fit itself or its source.

    Args:
        source: with or without a `label` section.
        where: its place in the study file.
    """
    if source.label is None:
        return
    problems = [*_fits_itself(source.label), *_fits_source(source.label, source)]
    if problems:
        raise StudyError("\n".join(f"{where}{p}" for p in problems))


def _fits_itself(label: Label) -> Iterator[str]:
    if not (label.difficulty or label.domain or label.behaviours):
        yield ": expected at least one of difficulty, domain and behaviours, found none"
    for field, scale in (("grades", "aops"), ("grader", "aops"), ("verdicts", "pass_rate")):
        if getattr(label, field) is not None and label.difficulty != scale:
            yield f".{field}: it is for difficulty: {scale}, found difficulty: {label.difficulty or 'none'}"
    if label.grades is not None and label.grader is not None:
        yield ".grader: expected replies that are there (grades) or a model to ask, found both"
    if label.difficulty == "pass_rate" and label.verdicts is None:
        yield ".verdicts: expected the file of a model's verdicts on these examples, found none; `leaven evaluate` writes one"
    if label.column and (label.difficulty not in SCALES or label.grades or label.grader):
        yield f".column: a column is read for {', '.join(SCALES)} without grades, found difficulty: {label.difficulty or 'none'}"
    if label.classes < 2:
        yield f".classes: expected at least 2 classes, found {label.classes}"


def _fits_source(label: Label, source: Source) -> Iterator[str]:
    from_column = label.difficulty in SCALES and not (label.grades or label.grader)
    if from_column and source.file is None:
        yield (
            f".difficulty: {label.difficulty!r} is read from a column of a file, and this source has none; "
            + ("use structural for procedural problems" if source.world else "label the source that it is drawn from")
        )
