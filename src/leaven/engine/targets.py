"""What influence is asked about -> tokens: a benchmark's own responses, or the answers that a model got right; and the mean of
several models' scores.

A model's answer is cut at the markers that formats write, so that its tokens are those that it generated. Not covered: influence
(attribution/), which models and targets (attributions.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from leaven.core.registry import load_plugins
from leaven.core.step import StepContext, step
from leaven.core.tables import INFLUENCE, VERDICTS, read_examples, read_items, read_samples, read_table, write_table
from leaven.core.types import Generate, Item, Kind, Segment
from leaven.data.formats import END, FORMATS, MARKERS
from leaven.data.tokenise import TokenWriter
from leaven.data.tokenizer import Tokenizer
from leaven.errors import DataError
from leaven.evals.harness import open_benchmark, requests_of
from leaven.evals.run import setting_of

Rows = Iterator[tuple[str, list[Segment]]]


@step(version=1)
def target_texts(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Tokenise the texts whose log-likelihood is the target, as training texts are (data/tokenise).

    Args:
        spec: source (the query's name), format, difficulties (none: all), limit; for own_correct also `asked` (the spec of the
            generate step) and metric.
        inputs: `tokenizer`; `examples` (a folder with examples.parquet), or for own_correct `items`, `samples` and `verdicts`;
            `plugin:*` files.
        out: Receives a tokenise artifact.
        ctx: Unused beyond the stop flag.

    Raises:
        DataError: no text is left.
    """
    load_plugins(inputs)
    rows = _own_correct(spec, inputs) if "samples" in inputs else _references(spec, inputs)
    tokenizer, writer, n = Tokenizer.load(inputs["tokenizer"]), TokenWriter(spec["source"], spec["format"]), 0
    for n, (name, segments) in enumerate(rows, 1):
        ctx.check_stop()
        writer.add(name, segments, tokenizer.encode_segments(segments))
        if n == spec["limit"]:
            break
    if not n:
        raise DataError(
            f"target {spec['source']!r}: expected at least one text, found none"
            + (" answered correctly; ask about reference texts (texts: reference), or train longer" if "samples" in inputs else
               f" of difficulty {', '.join(map(str, spec['difficulties']))}")
        )  # fmt: skip
    writer.write(out)


def _references(spec: Mapping[str, Any], inputs: Mapping[str, Path]) -> Rows:
    form = FORMATS.get(spec["format"], "format")
    for example in read_examples(inputs["examples"] / "examples.parquet"):
        if not spec["difficulties"] or example.difficulty in spec["difficulties"]:
            yield example.id, form(example)


def _own_correct(spec: Mapping[str, Any], inputs: Mapping[str, Path]) -> Rows:
    """Yield the prompt and the model's own answer of every sample that was judged right."""
    asked = spec["asked"]
    benchmark = open_benchmark(asked["benchmark"])
    setting = setting_of(asked, benchmark)
    items: dict[str, Item] = {i.id: i for i in read_items(inputs["items"] / "items.parquet")}
    verdicts = read_table(inputs["verdicts"] / "verdicts.parquet", VERDICTS)
    right = set(verdicts.filter((pl.col("metric") == spec["metric"]) & (pl.col("score") == 1.0)).select("item", "index").rows())
    for sample in read_samples(inputs["samples"] / "samples.parquet"):
        item = items[sample.item]
        wanted = not spec["difficulties"] or item.example.difficulty in spec["difficulties"]
        request = requests_of(benchmark, item, setting)[sample.request]
        if wanted and isinstance(request, Generate) and (sample.item, sample.index) in right and sample.text:
            answer = list(answer_segments(sample.text, sample.finish == "stop"))
            yield f"{sample.item}#{sample.index}", [*request.prompt, *answer]


_OPENED: tuple[tuple[str, str, str], ...] = tuple((name, *pair) for name, pair in MARKERS.items())
_OPENING = re.compile("|".join(f"^{re.escape(opening)}" for _, opening, _ in _OPENED), re.MULTILINE)
_KIND_OF: dict[str, Kind] = {"thought": "thought", "code": "code", "answer": "answer"}


def answer_segments(text: str, ended: bool) -> Iterator[Segment]:
    """Yield a model's answer as learned segments, cut where formats put their markers; an answer that ended has the end token."""
    at = 0
    for match in _OPENING.finditer(text):
        if match.start() < at:
            continue
        yield from _piece("answer", text[at : match.start()])
        name, opening, closing = next(o for o in _OPENED if o[1] == match[0])
        yield from _piece("template", opening)
        inner = match.end()
        following = _OPENING.search(text, inner)
        if name == "code":  # the closing fence decides; headings inside programs are comments
            closed = text.find(closing, inner)
            stop = closed if closed >= 0 else len(text)
        else:
            stop = following.start() - len(closing) if following else len(text) - len(closing) * text.endswith(closing)
        stop = max(stop, inner)
        yield from _piece(_KIND_OF[name], text[inner:stop])
        at = stop
        if text.startswith(closing, stop):
            yield from _piece("template", closing)
            at = stop + len(closing)
    yield from _piece("answer", text[at:])
    if ended:
        yield from _piece("template", END)


def _piece(kind: Kind, text: str) -> Iterable[Segment]:
    return [Segment(kind=kind, text=text, learn=1.0, role="assistant", turn=1)] if text else []


@step(version=1)
def mean_influence(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Average the scores of whole texts over models that differ in their seed only.

    Args:
        spec: empty.
        inputs: folders of the attribute step.
        out: Receives influence.parquet with instance rows.
        ctx: Unused.

    Raises:
        DataError: the models were not scored on the same texts.
    """
    frames = [read_table(folder / "influence.parquet", INFLUENCE).filter(pl.col("level") == "instance") for folder in inputs.values()]
    keys = ["method", "query", "source", "example", "format", "window"]
    joined = pl.concat(frames).group_by(keys, maintain_order=True)
    mean = joined.agg(pl.col("score").mean(), pl.len().alias("models"), pl.col("n_learned_tokens").first())
    if mean.filter(pl.col("models") != len(frames)).height:
        raise DataError(
            f"mean influence: expected every text to be scored by all {len(frames)} models, found texts scored by fewer (keep: 0 "
            "keeps all; queries of single answers differ between models)"
        )
    fixed = {"model": f"mean of {len(frames)}", "step": 0, "level": "instance", "decomposition": "", "segment": -1, "token": -1}
    rows = mean.with_columns([pl.lit(value).alias(name) for name, value in fixed.items()])
    write_table(out / "influence.parquet", rows.select([pl.col(c).cast(t) for c, t in INFLUENCE.items()]), INFLUENCE)
