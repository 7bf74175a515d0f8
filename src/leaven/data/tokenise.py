"""Examples + format + tokenizer -> token arrays with loss weight and kind of every token, and the spans of segments.

One artifact per (source, format, tokenizer): examples are tokenised once and every order table refers to them. Three
parallel arrays (ids.npy, learn.npy, kind.npy) are read through memory maps; lengths.parquet says where each example
lies; segments.parquet keeps the spans that probes, perturbations and segment-level influence use.
Not covered: templates (formats.py), cutting and packing (packing.py), which examples are trained when (build.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl

from leaven.core.registry import load_plugins
from leaven.core.step import StepContext, step
from leaven.core.tables import LENGTHS, SEGMENTS, read_examples, read_table, write_table
from leaven.core.types import Example, Kind, Segment
from leaven.data import packing
from leaven.data.formats import FORMATS
from leaven.data.tokenizer import Encoded, Tokenizer
from leaven.errors import DataError

KINDS: tuple[str, ...] = get_args(Kind)
"""Kind names; kind.npy holds indices into this tuple."""
CODE, THOUGHT = KINDS.index("code"), KINDS.index("thought")

_BATCH = 512
_NAMED = 5


@step(version=2)
def tokenise(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Tokenise `inputs["examples"]` (examples.parquet) with `inputs["tokenizer"]` in `spec["format"]` under the name
    `spec["source"]`.

    Writes lengths.parquet, segments.parquet, ids.npy, learn.npy, kind.npy. Inputs called "plugin:..." are Python
    files that register formats.

    Raises:
        DataError: an example lacks a field the format needs, ids repeat, or examples have no learned token.
    """
    load_plugins(inputs)
    form = FORMATS.get(spec["format"], "format")
    tokenizer = Tokenizer.load(inputs["tokenizer"])
    examples = list(read_examples(Path(inputs["examples"]) / "examples.parquet"))
    if not examples:
        raise DataError(f"source {spec['source']!r}: expected examples, found an empty table in {inputs['examples']}")
    writer = TokenWriter(spec["source"], spec["format"])
    for start in range(0, len(examples), _BATCH):
        ctx.check_stop()
        ctx.progress(start, len(examples), f"tokenising {spec['source']}")
        batch = examples[start : start + _BATCH]
        segments = [form(e) for e in batch]
        for example, pieces, encoded in zip(batch, segments, tokenizer.encode_many(segments), strict=True):
            writer.add(example.id, pieces, encoded)
    writer.write(out)


class TokenWriter:
    """Collects tokenised examples column by column, then writes the artifact."""

    def __init__(self, source: str, format_name: str) -> None:
        self.source, self.format = source, format_name
        self.ids: list[np.ndarray] = []
        self.learn: list[np.ndarray] = []
        self.kind: list[np.ndarray] = []
        self.lengths: dict[str, list[Any]] = {c: [] for c in LENGTHS}
        self.segments: dict[str, list[Any]] = {c: [] for c in SEGMENTS}
        self.unlearned: list[str] = []
        self.offset = 0

    def add(self, example: str, segments: Sequence[Segment], encoded: Encoded) -> None:
        """Add one example by its id."""
        n = len(encoded.ids)
        learn = encoded.learn.astype(np.float32, copy=True)
        learn[:1] = 0.0  # nothing stands before the first token: no model can learn it
        codes = np.array([KINDS.index(s.kind) for s in segments], dtype=np.int8)
        kind = codes[encoded.segment] if n else np.empty(0, dtype=np.int8)
        if not (learn > 0).any():
            wanted = [s.kind for s in segments if s.learn > 0]
            why = (
                f"its learned parts {wanted} hold no token" if wanted else "no segment is learned (no assistant turn?)"
            )
            self.unlearned.append(f"{example!r}: {why}")
        counts = np.bincount(encoded.segment, minlength=len(segments))
        ends = np.cumsum(counts)
        row = {
            "source": self.source,
            "example": example,
            "format": self.format,
            "n_tokens": n,
            "n_learned_tokens": int((learn > 0).sum()),
            "n_thought_tokens": int((kind == THOUGHT).sum()),
            "n_code_tokens": int((kind == CODE).sum()),
            "offset": self.offset,
        }
        for column, value in row.items():
            self.lengths[column].append(value)
        columns = self.segments
        columns["example"] += [example] * len(segments)
        columns["segment"] += range(len(segments))
        for name in ("kind", "part", "turn"):
            columns[name] += [getattr(s, name) for s in segments]
        columns["tags"] += [list(s.tags) for s in segments]
        columns["start"] += (ends - counts).tolist()
        columns["end"] += ends.tolist()
        self.ids.append(encoded.ids.astype(np.int32, copy=False))
        self.learn.append(learn)
        self.kind.append(kind)
        self.offset += n

    def write(self, out: Path) -> None:
        """Write the artifact; raise DataError for examples without a learned token, or repeated ids."""
        if self.unlearned:
            raise DataError(
                f"source {self.source!r}, format {self.format!r}: expected at least one learned token in every "
                f"example, found {len(self.unlearned)} of {len(self.ids)} without: {'; '.join(self.unlearned[:_NAMED])}"
                f"{' ...' if len(self.unlearned) > _NAMED else ''}. Remove these rows or choose a format that fits them"
            )
        lengths = pl.DataFrame(self.lengths, schema=LENGTHS)
        repeated = lengths.filter(pl.col("example").is_duplicated())["example"].unique(maintain_order=True)
        if len(repeated):
            raise DataError(
                f"source {self.source!r}: expected unique example ids, found {len(repeated)} repeated, "
                f"e.g. {repeated[:_NAMED].to_list()}; give every row its own id"
            )
        for name, arrays in (("ids", self.ids), ("learn", self.learn), ("kind", self.kind)):
            np.save(out / f"{name}.npy", np.concatenate(arrays))
        write_table(out / "lengths.parquet", lengths, LENGTHS)
        write_table(out / "segments.parquet", pl.DataFrame(self.segments, schema=SEGMENTS), SEGMENTS)


class TokenTable:
    """A tokenise artifact behind memory maps; arrays returned are read-only views."""

    def __init__(self, folder: Path) -> None:
        """Use `load_tokens`."""
        self.folder = folder
        self.lengths = read_table(folder / "lengths.parquet", LENGTHS)
        self.flat_ids, self.flat_learn, self.flat_kinds = (
            np.load(folder / f"{n}.npy", mmap_mode="r") for n in ("ids", "learn", "kind")
        )
        names = self.lengths["example"].to_list()
        spans = zip(self.lengths["offset"].to_list(), self.lengths["n_tokens"].to_list(), strict=True)
        self._span = {name: slice(at, at + n) for name, (at, n) in zip(names, spans, strict=True)}

    def span(self, example: str) -> slice:
        """Return where an example lies in the flat arrays; raise DataError when it is not here."""
        if example not in self._span:
            raise DataError(
                f"{self.folder}: expected example {example!r}, found {len(self._span)} others; "
                "the order table and the tokenised source do not belong together"
            )
        return self._span[example]

    def ids(self, example: str) -> np.ndarray:
        """Return the token ids of an example: int32[N]."""
        return self.flat_ids[self.span(example)]

    def learn(self, example: str) -> np.ndarray:
        """Return the loss weights of an example's tokens: float32[N]; the first is always 0."""
        return self.flat_learn[self.span(example)]

    def kinds(self, example: str) -> np.ndarray:
        """Return the kind numbers (indices into KINDS) of an example's tokens: int8[N]."""
        return self.flat_kinds[self.span(example)]

    def segments(self) -> pl.DataFrame:
        """Return the SEGMENTS table."""
        return read_table(self.folder / "segments.parquet", SEGMENTS)


def load_tokens(folder: Path | str) -> TokenTable:
    """Open a tokenise artifact; raise DataError when a file is missing or the arrays do not fit the table."""
    folder = Path(folder)
    try:
        table = TokenTable(folder)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: expected a tokenise artifact, {type(error).__name__}: {error}") from error
    total = int(table.lengths["n_tokens"].sum())
    if not len(table.flat_ids) == len(table.flat_learn) == len(table.flat_kinds) == total:
        raise DataError(
            f"{folder}: expected {total} tokens, found {len(table.flat_ids)} ids, {len(table.flat_learn)} loss weights "
            f"and {len(table.flat_kinds)} kinds; the artifact is damaged, delete it and run again"
        )
    return table


# ---- what a person looks at before spending anything -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a rendered example: text, its kind and part, whether it is learned, whether truncation cuts it."""

    kind: str
    part: str
    text: str
    learned: bool
    n_tokens: int
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Rendered:
    """One example as a model will see it."""

    source: str
    example: str
    format: str
    n_tokens: int
    n_learned_tokens: int
    pieces: tuple[Piece, ...]


def preview(
    examples: Iterable[Example],
    format_name: str,
    tokenizer: Tokenizer,
    n: int = 3,
    max_tokens: int | None = None,
    truncate: packing.Truncate = "right",
) -> list[Rendered]:
    """Render the first `n` examples with learned and cut stretches marked; counts are those of the whole example."""
    rendered = []
    for example in islice(examples, n):
        segments = FORMATS.get(format_name, "format")(example)
        encoded = tokenizer.encode_segments(segments)
        size = len(encoded.ids)
        kept = slice(0, size)
        if max_tokens is not None and size > max_tokens:
            kind = np.array([KINDS.index(segments[i].kind) for i in encoded.segment], dtype=np.int8)
            found = packing.window(kind, encoded.learn, max_tokens, truncate, CODE, THOUGHT)
            kept = slice(found.start, found.start + found.n) if found.kept else slice(0, 0)
        pieces = tuple(_pieces(segments, encoded, kept, tokenizer))
        n_learned = int((encoded.learn[1:] > 0).sum())
        rendered.append(Rendered(example.source, example.id, format_name, size, n_learned, pieces))
    return rendered


def _pieces(segments: list[Segment], encoded: Encoded, kept: slice, tokenizer: Tokenizer) -> Iterator[Piece]:
    """Yield each segment, in up to three pieces where a cut goes through it."""
    ends = np.cumsum(np.bincount(encoded.segment, minlength=len(segments))).tolist()
    for segment, begin, end in zip(segments, [0, *ends[:-1]], ends, strict=True):
        inner = sorted({begin, end, *(edge for edge in (kept.start, kept.stop) if begin < edge < end)})
        for a, b in zip(inner[:-1], inner[1:], strict=True):
            whole = (a, b) == (
                begin,
                end,
            ) and segment.kind != "template"  # a chat template may spell markers in its own way
            text = segment.text if whole else tokenizer.decode(encoded.ids[a:b], special="keep")
            yield Piece(segment.kind, segment.part, text, segment.learn > 0, b - a, cut=not kept.start <= a < kept.stop)
