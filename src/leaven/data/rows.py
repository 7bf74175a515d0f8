"""Tokenised source + cutting policy -> the rows that can fill a training slot, with their lengths after the cut.

A row is an example, or with `truncate: split` one of the consecutive pieces of a long document. Rows are sorted by
example id, so that draws depend on which examples there are and not on the order a file lists them in.
Not covered: which rows are drawn (mixture.py), rows sharing one packed row (packing.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from leaven.data.packing import Window, window
from leaven.data.tokenise import CODE, THOUGHT, TokenTable
from leaven.errors import DataError, StudyError

CUTS = ("right", "drop", "keep_code", "error", "split")


@dataclass(frozen=True, slots=True)
class Rows:
    """Parallel columns over the rows of one source.

    `ids` str[rows]; `start`, `n`, `n_learned`, `cut_thought`, `cut_code` int64[rows] in tokens; `kept` bool[rows] is
    False for rows that `truncate: drop` blanks (they keep their slot with weight 0).
    """

    format: str
    ids: np.ndarray
    start: np.ndarray
    n: np.ndarray
    n_learned: np.ndarray
    cut_thought: np.ndarray
    cut_code: np.ndarray
    kept: np.ndarray

    def size(self, unit: str) -> np.ndarray:
        """Return int64[rows]: what a row counts in `unit` (examples, tokens, learned_tokens); dropped ones no token."""
        if unit == "examples":
            return np.ones(len(self.n), dtype=np.int64)
        return np.where(self.kept, self.n if unit == "tokens" else self.n_learned, 0)


def make_rows(table: TokenTable, max_tokens: int | None, truncate: str) -> Rows:
    """Cut every example of a tokenised source to at most `max_tokens` tokens.

    Raises:
        StudyError: unknown policy.
        DataError: `truncate` is "error" and examples are too long.
    """
    if truncate not in CUTS:
        raise StudyError(f"truncate: expected one of {CUTS}, found {truncate!r}")
    lengths = table.lengths.sort("example")
    ids = lengths["example"].to_numpy().astype(object)
    n = lengths["n_tokens"].to_numpy().astype(np.int64)
    learned = lengths["n_learned_tokens"].to_numpy().astype(np.int64)
    zero = np.zeros(len(n), dtype=np.int64)
    rows = Rows(lengths["format"][0], ids, zero, n, learned, zero.copy(), zero.copy(), np.ones(len(n), dtype=bool))
    long = np.flatnonzero(n > max_tokens) if max_tokens is not None else np.empty(0, dtype=np.int64)
    if not len(long):
        return rows
    if truncate == "error":
        worst = long[np.argmax(n[long])]
        raise DataError(
            f"source {lengths['source'][0]!r}: expected rows of at most max_tokens = {max_tokens} tokens, found "
            f"{len(long)} of {len(n)} longer; the longest is {ids[worst]!r} with {n[worst]}. Raise max_tokens "
            "or set truncate to right, drop, keep_code or split"
        )
    assert max_tokens is not None
    return _cut(table, rows, long, max_tokens, truncate)


def _cut(table: TokenTable, rows: Rows, long: np.ndarray, max_tokens: int, truncate: str) -> Rows:
    """Replace the rows numbered `long` by their windows, in place of the originals."""
    source, windows = [np.arange(len(rows.n))], []
    source[0] = np.delete(source[0], long)
    owners: list[int] = []
    for row in long.tolist():
        kind, learn = table.kinds(rows.ids[row]), table.learn(rows.ids[row])
        found = (
            _split(learn, max_tokens)
            if truncate == "split"
            else [window(kind, learn, max_tokens, truncate, CODE, THOUGHT)]
        )  # type: ignore[arg-type]
        windows += found
        owners += [row] * len(found)
    keep = source[0]
    owner = np.concatenate([keep, np.array(owners, dtype=np.int64)])

    def column(whole: np.ndarray, name: str) -> np.ndarray:
        return np.concatenate([whole[keep], np.array([getattr(w, name) for w in windows], dtype=whole.dtype)])

    columns = {
        name: column(getattr(rows, name), name)
        for name in ("start", "n", "n_learned", "cut_thought", "cut_code", "kept")
    }
    order = np.lexsort((columns["start"], owner))
    return Rows(rows.format, rows.ids[owner][order], **{name: values[order] for name, values in columns.items()})


def _split(learn: np.ndarray, max_tokens: int) -> list[Window]:
    """Return the consecutive pieces of an example, leaving out those in which nothing can be learned."""
    pieces = []
    for start in range(0, len(learn), max_tokens):
        part = learn[start : start + max_tokens]
        if n_learned := int((part[1:] > 0).sum()):
            pieces.append(Window(start, len(part), n_learned))
    return pieces


def allowed(
    rows: Rows,
    source: str,
    only: Collection[str] | Mapping[str, Collection[str]] | None,
    exclude: Collection[str] | Mapping[str, Collection[str]] | None,
) -> np.ndarray:
    """Return bool[rows]: rows that filters leave; a filter is a collection of example ids, or source -> ids."""
    mask = np.ones(len(rows.ids), dtype=bool)
    for names, wanted in ((only, True), (exclude, False)):
        listed = names.get(source) if isinstance(names, Mapping) else names
        if listed is not None:
            chosen = set(listed)
            mask &= np.fromiter((i in chosen for i in rows.ids), dtype=bool, count=len(mask)) == wanted
    return mask
