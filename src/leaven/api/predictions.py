"""A file of ready answers -> samples of a benchmark's items, in the shapes that other harnesses write.

Rows {id, completion}: the id may be called task_id, question_id or item and may leave out the benchmark's own prefix (11 for mbpp/11);
the text may be called solution, prediction, output, response, code, text, generated_text or be a list of texts (several samples, also as
code_list). Several rows of one id are several samples. Not covered: judging them (evals/), scores computed elsewhere (`leaven compare`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leaven.core.types import Item, Sample
from leaven.errors import DataError

ANSWERS = ("completion", "prediction", "output", "response", "text", "solution", "generated_text", "code", "code_list", "completions")
IDS = ("id", "item", "task_id", "question_id")


def read_predictions(path: Path, items: Sequence[Item]) -> list[Sample]:
    """Return ready answers as samples in item order.

    Raises:
        DataError: For a row without id or text, ids the benchmark does not have, and items without any answer.
    """
    from leaven.data.sources.rows import read_rows

    names = _names(items)
    found: dict[str, list[Sample]] = {}
    strange: dict[str, str] = {}
    for row in read_rows(path):
        if row.problem or not isinstance(row.value, Mapping):
            raise DataError(f"{path}, {row.where}: expected a row {{id, completion}}, {row.problem or 'found ' + row.start}")
        identity = next((str(row.value[k]) for k in IDS if row.value.get(k) is not None), None)
        column = next((k for k in ANSWERS if k in row.value), None)
        if identity is None or column is None:
            raise DataError(
                f"{path}, {row.where}: expected an id ({', '.join(IDS)}) and a text ({', '.join(ANSWERS)}), found {sorted(row.value)}"
            )
        item = names.get(identity) or names.get(identity.lower())
        if item is None:
            strange.setdefault(identity, row.where)
            continue
        own = found.setdefault(item, [])
        for text in _texts(row.value[column], f"{path}, {row.where}, {column}"):
            own.append(Sample(item=item, request=0, index=len(own), text=text, finish="stop"))
    lost = [i.id for i in items if i.id not in found]
    if lost or strange:
        raise DataError(
            f"{path}: expected predictions for the benchmark's {len(items)} items; missing {len(lost)} {lost[:3]}, "
            f"not in the benchmark {len(strange)} {list(strange)[:3]}. Give an item without an answer an empty completion "
            "(it counts as a failure), or use only the first items with --limit"
        )
    return [s for i in items for s in found[i.id]]


def _names(items: Sequence[Item]) -> dict[str, str]:
    """Return what a prediction may call an item -> its id: the id, in any case, or the part after its first slash where that is unique."""
    short = Counter(i.id.partition("/")[2] for i in items)
    names = {i.id.partition("/")[2]: i.id for i in items if short[i.id.partition("/")[2]] == 1 and "/" in i.id}
    return names | {i.id.lower(): i.id for i in items} | {i.id: i.id for i in items}


def _texts(value: Any, where: str) -> list[str]:
    """Return the texts of one row; None is an empty completion."""
    values = value if isinstance(value, list) else [value]
    for one in values:
        if one is not None and not isinstance(one, str):
            raise DataError(f"{where}: expected a text or a list of texts, found {type(one).__name__} {str(one)[:60]!r}")
    return [one or "" for one in values]
