"""Segment and token scores + the tokenised texts -> mean influence of kinds, behaviours and token classes, top tokens, strips.

Only units with a learned token count: what stands in a prompt is read, not learned. Segments take their kind (thought, code)
and tags (verification, backtracking, ...) from the tokenised data, tokens their text from the model's tokenizer (Kou et al.
2025, figures 6-11). A strip shows the texts that help and hurt most, token by token, cut to the stretch that weighs most.
Not covered: detecting behaviours (data/behaviours.py), token classes themselves (data/token_classes.py).

Shapes: S seeds, N units, G clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from leaven.analysis.influence_groups import LENGTHS, Labelled, controlled, labelled, record_of
from leaven.analysis.influence_inputs import AttributionRun
from leaven.analysis.influence_means import Estimate, difference, mean, over_seeds, sums_of
from leaven.analysis.influence_tables import Cell, Scores
from leaven.core.tables import SEGMENTS, read_table
from leaven.data.behaviours import EXPLORATORY
from leaven.data.token_classes import token_class
from leaven.data.tokenise import load_tokens
from leaven.data.tokenizer import Tokenizer

Row = dict[str, Any]
Floats = NDArray[np.float64]
FLOOR = 20
"""A token must occur this often to be listed."""
LISTED = 12
"""Tokens listed at either end."""
SHOWN = 2
"""Texts shown token by token at either end of a target."""
STRIP_TOKENS = 120
"""Most tokens shown of one text."""
STRUCTURE = ("layout", "bracket", "punctuation", "keyword", "operator")
EXPLORES = "exploratory"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Texts:
    """What stands behind token rows: the id of every token, and id -> (text, class)."""

    ids_N: NDArray[np.int64]
    pieces: Mapping[int, tuple[str, str]]

    def classes(self) -> NDArray[np.str_]:
        """Return the class of every token [N]."""
        names = {i: c for i, (_, c) in self.pieces.items()}
        return np.array([names[i] for i in self.ids_N.tolist()])


# ---- segments ----------------------------------------------------------------------------------------------------


def segment_means(cell: Cell, scores: Scores, labels: pl.DataFrame) -> tuple[list[Row], list[Row]]:
    """Return mean influence of learned segments by kind and by behaviour, and what sets exploratory ones apart.

    The second list holds, per form, the mean of exploratory segments and their difference from other segments of thoughts.
    """
    marked = _with_segments(scores, cell.runs[0])
    if marked is None:
        return [], []
    scores, kinds, tags = marked
    texts = labelled(scores.units, labels)
    explores = np.array([bool(EXPLORATORY & set(t)) for t in tags], bool)
    thought = np.array(kinds) == "thought"
    groups = [("kind", k, np.array(kinds) == k) for k in dict.fromkeys(kinds)]
    named = sorted({t for of in tags for t in of})
    groups += [("behaviour", t, np.array([t in of for of in tags], bool)) for t in named]
    found, effects = [], []
    for length in LENGTHS:
        values, there = controlled(scores.values, scores.tokens, length)

        def of(keep: NDArray[np.bool_], values: Floats = values, there: NDArray[np.bool_] = there) -> Any:
            return sums_of(values, texts.cluster_N, texts.n_clusters, keep & there)

        for by, group, keep in groups:
            found.append(record_of(cell, scores, mean(of(keep)), by=by, within="", group=group, length=length))
        if explores.any():
            effects.append(record_of(cell, scores, mean(of(explores)), by="behaviour", within="", group=EXPLORES, length=length))
            if (rest := thought & ~explores).any():
                est = difference(of(explores), of(rest))
                effects.append(record_of(cell, scores, est, by="behaviour", within="", group="exploratory - other", length=length))
    return found, effects


def _with_segments(scores: Scores, run: AttributionRun) -> tuple[Scores, list[str], list[list[str]]] | None:
    """Return the learned segments that the tokenised data knows, their kinds and tags."""
    frames = []
    for source, folder in run.tokens.items():
        path = Path(folder) / "segments.parquet"
        if path.is_file():
            columns = read_table(path, SEGMENTS).select("example", "segment", "kind", "tags")
            frames.append(columns.with_columns(pl.lit(source).alias("source")))
    if not frames:
        return None
    known = pl.concat(frames).unique(["source", "example", "segment"], keep="first")
    units = scores.units.with_row_index("row").join(known, on=["source", "example", "segment"], how="inner", maintain_order="left")
    units = units.filter(pl.col("n_tokens") > 0)
    if units.is_empty():
        return None
    kept = replace(scores, values=scores.values[:, units["row"].to_numpy()], units=units.drop("row", "kind", "tags"))
    return kept, units["kind"].to_list(), [list(t or ()) for t in units["tags"].to_list()]


# ---- tokens ------------------------------------------------------------------------------------------------------


def with_texts(scores: Scores, run: AttributionRun) -> tuple[Scores, Texts] | None:
    """Return the token scores whose text is known, with it; None without tokenised data or tokenizer."""
    if run.tokenizer is None or not run.tokens:
        return None
    tables = {source: load_tokens(folder) for source, folder in run.tokens.items()}
    places = pl.concat(
        [t.lengths.select("example", "n_tokens", "offset").with_columns(pl.lit(source).alias("source")) for source, t in tables.items()]
    ).rename({"n_tokens": "whole"})
    units = scores.units.with_row_index("row").join(places, on=["source", "example"], how="inner", maintain_order="left")
    at = pl.col("window") + pl.col("token")
    units = units.with_columns(at.alias("at")).filter(pl.col("at") < pl.col("whole"))
    if units.is_empty():
        return None
    ids = np.zeros(units.height, np.int64)
    sources = units["source"].to_numpy()
    flat = (units["offset"] + units["at"]).to_numpy()
    for source, table in tables.items():
        here = sources == source
        ids[here] = table.flat_ids[flat[here]]
    tokenizer = Tokenizer.load(run.tokenizer)
    pieces = {int(i): tokenizer.decode([int(i)], special="keep") for i in np.unique(ids)}
    kept = replace(scores, values=scores.values[:, units["row"].to_numpy()], units=units.drop("row", "offset", "at", "whole"))
    return kept, Texts(ids_N=ids, pieces={i: (text, token_class(text)) for i, text in pieces.items()})


def class_means(cell: Cell, scores: Scores, texts: Texts, labels: pl.DataFrame) -> tuple[list[Row], list[Row]]:
    """Return mean influence of learned tokens by class, and connectors and structure against all other tokens."""
    scores, ids = _learned(scores, texts)
    of = labelled(scores.units, labels)
    classes = replace(texts, ids_N=ids).classes()
    found, effects = [], []

    def sums(keep: NDArray[np.bool_]) -> Any:
        return sums_of(scores.values, of.cluster_N, of.n_clusters, keep)

    for name in sorted(set(classes.tolist())):
        est = mean(sums(classes == name))
        found.append(record_of(cell, scores, est, by="token_class", within="", group=name, length="raw"))
    for name, members in (("connector", ("connector",)), ("structure", STRUCTURE)):
        inside = np.isin(classes, members)
        if inside.any() and not inside.all():
            est = difference(sums(inside), sums(~inside))
            effects.append(record_of(cell, scores, est, by="token_class", within="", group=f"{name} - other", length="raw"))
    return found, effects


def top_tokens(cell: Cell, scores: Scores, texts: Texts, labels: pl.DataFrame) -> list[Row]:
    """Return the tokens of highest and lowest mean influence among those that occur at least FLOOR times."""
    scores, ids = _learned(scores, texts)
    of = labelled(scores.units, labels)
    words = {i: _word(text) for i, (text, _) in texts.pieces.items()}
    number = {w: n for n, w in enumerate(dict.fromkeys(words.values()))}
    kind = {w: texts.pieces[i][1] for i, w in words.items()}
    word_N = np.array([number[words[i]] for i in ids.tolist()], np.int64)
    counts = np.bincount(word_N, minlength=len(number))
    sums = np.bincount(word_N, scores.averaged, len(number))
    names = list(number)
    frequent = np.flatnonzero(counts >= FLOOR)
    ranked = frequent[np.argsort(-sums[frequent] / counts[frequent], kind="stable")]
    if not len(ranked):
        return []
    ends = [("top", n) for n in ranked[:LISTED]] + [("bottom", n) for n in ranked[LISTED:][-LISTED:][::-1]]
    found = []
    for side, n in ends:
        est = mean(sums_of(scores.values, of.cluster_N, of.n_clusters, word_N == n))
        row = record_of(cell, scores, est, token=names[n], token_class=kind[names[n]], side=side, n_frequent=len(ranked))
        found.append(row)
    return found


def _learned(scores: Scores, texts: Texts) -> tuple[Scores, NDArray[np.int64]]:
    """Return the tokens that carry loss, and their ids."""
    keep = scores.tokens > 0
    return replace(scores, values=scores.values[:, keep], units=scores.units.filter(pl.Series(keep))), texts.ids_N[keep]


def _word(text: str) -> str:
    """Return a token as it is listed: without the blank before it; white space made visible."""
    return text.strip() or text.replace("\n", "\u21b5").replace("\t", "\u21e5").replace(" ", "\u2423") or "(nothing)"


# ---- texts token by token ----------------------------------------------------------------------------------------


def strips(cell: Cell, scores: Scores, texts: Texts, labels: pl.DataFrame) -> list[Row]:
    """Return the texts that help and hurt a target most, with the step of every token: -2 (hurts much) to 2 (helps much)."""
    keys = ["source", "example", "window"]
    numbered = scores.units.with_row_index("row").with_columns(pl.Series("score", scores.averaged))
    per_text = numbered.group_by(keys, maintain_order=True).agg(pl.col("score").sum(), pl.col("row"))
    ranked = per_text.sort("score", descending=True, maintain_order=True)
    size = min(SHOWN, ranked.height // 2)
    chosen = [("top", n) for n in range(size)] + [("bottom", ranked.height - 1 - n) for n in range(size)]
    found = []
    for side, n in chosen:
        row = ranked.row(n, named=True)
        at = np.array(row["row"], np.int64)
        at = at[np.argsort(scores.units["token"].to_numpy()[at], kind="stable")]
        label = labelled(scores.units[at[:1].tolist()], labels)
        found.append(
            {
                **cell.about(),
                "method": scores.method,
                "target": scores.target,
                "decomposition": scores.decomposition,
                "side": side,
                "source": row["source"],
                "example": row["example"],
                "label": _label(label),
                "score": over_seeds(scores.values[:, at].sum(1).tolist(), len(at)).record(cell.seeds, cell.nodes),
                **_pieces(scores.averaged[at], [texts.pieces[i][0] for i in texts.ids_N[at].tolist()]),
            }
        )
    return found


def _label(texts: Labelled) -> str:
    """Return "math, algebra, difficulty 3"."""
    row = texts.frame.row(0, named=True)
    words = [str(row[c]) for c in ("domain", "family") if row.get(c)]
    return ", ".join(words + ([f"difficulty {row['difficulty']}"] if row.get("difficulty") is not None else []))


def _pieces(score_T: Floats, words: Sequence[str]) -> Row:
    """Return the heaviest stretch of a text as runs of tokens of one step, and how much is left out on either side."""
    size = np.abs(score_T)
    largest = float(size.max()) or 1.0
    first = 0
    if len(size) > STRIP_TOKENS:
        total = np.concatenate([[0.0], np.cumsum(size)])
        first = int(np.argmax(total[STRIP_TOKENS:] - total[:-STRIP_TOKENS]))
    runs: list[list[Any]] = []
    for score, word in list(zip(score_T.tolist(), words, strict=True))[first : first + STRIP_TOKENS]:
        share = abs(score) / largest
        step = (2 if share > 1 / 2 else 1 if share > 1 / 8 else 0) * (1 if score > 0 else -1)
        if runs and runs[-1][1] == step:
            runs[-1][0] += word
        else:
            runs.append([word, step])
    pieces = [{"text": text, "step": step} for text, step in runs]
    shown = min(len(size) - first, STRIP_TOKENS)
    return {"pieces": pieces, "n_before": first, "n_after": len(size) - first - shown, "largest": largest}


def effect_record(row: Row, measure: str, estimate: Estimate | None = None) -> Row:
    """Return a group's record as an effect that a claim can be held against."""
    kept = {k: row[k] for k in ("name", "condition", "level", "method", "target")}
    return {**kept, "measure": measure, "length": row.get("length", "raw"), "effect": row["mean"]}
