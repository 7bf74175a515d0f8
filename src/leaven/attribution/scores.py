"""Preconditioned queries x training texts -> influence of texts, segments and tokens, from one pass over the training
texts.

score(q, n) = <(H + d)^-1 grad(-f_q), grad L_n> / N: by how many nats the target f_q falls when text n is removed
(first order), so positive = helpful (Koh & Liang 2017; Grosse et al. 2023, eq. 28; Kou et al. 2025). Two
decompositions, each with sum = the text's score:
  position    g_t^T P a_t per layer: what the computation at token t contributes (it carries the losses of later
  tokens too); loss        d loss_t along P, one forward-mode pass per query: what learning to predict token t
  contributes.
Segments are sums of either over their tokens. With bf16 products the sums agree to about 1 % instead of rounding.
Not covered: which pairs are kept and split (pairs.py), several devices.

Shapes: Q queries, N texts, D texts of a batch, R rows of a batch, M positions with loss, T tokens of one text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from leaven.attribution.factors import Damping, Factors
from leaven.attribution.passes import Seen, Tracked, Vectors
from leaven.attribution.texts import BATCH_TOKENS, Text, make_batches, without_tokens
from leaven.core.step import StepContext
from leaven.core.tables import INFLUENCE
from leaven.errors import DataError

DENSE_PAIRS = 1 << 27
"""Most (query, text) scores held when every pair is kept: 1 GB."""


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Named query vectors [Q,o,i] per layer such that <vector, text gradient> is the score."""

    names: tuple[str, ...]
    vectors: Vectors


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """One kept (query, text): its score and, where asked for, its decompositions [T] in nats, indexed by token."""

    query: int
    text: int
    score: float
    tokens: dict[str, np.ndarray] = field(default_factory=dict)


def ekfac_targets(names: Sequence[str], gradients: Vectors, factors: Factors, damping: Damping) -> Targets:
    """Precondition query gradients [Q,o,i] once; scores are then in nats per removed training text."""
    solved = factors.precondition(gradients, factors.damping(damping))
    return Targets(tuple(names), {n: v / factors.n_texts for n, v in solved.items()})


def text_scores(
    tracked: Tracked,
    texts: Sequence[Text],
    targets: Targets,
    *,
    batch_tokens: int = BATCH_TOKENS,
    pack_tokens: int = 0,
    ctx: StepContext | None = None,
) -> np.ndarray:
    """Return every score, float64[Q,N].

    Raises:
        DataError: more pairs than memory should hold; use `pairs` with keep.
    """
    refuse_dense(len(targets.names), len(texts))
    result = np.zeros((len(targets.names), len(texts)))
    with tracked.steady():
        for seen in _passes(tracked, texts, batch_tokens, pack_tokens, ctx):
            result[:, seen.batch.numbers] = batch_scores(seen, targets.vectors, len(targets.names)).t().cpu().numpy()
    return result


def segment_counterfactuals(
    tracked: Tracked, texts: Sequence[Text], targets: Targets, *, batch_tokens: int = BATCH_TOKENS
) -> list[tuple[int, int, int, float]]:
    """Return (query, text, segment, score of the text - score of the text without the segment) for every segment.

    The rest is run again without the segment's tokens; a rest without loss scores 0. Kou et al. 2025's sum over a
    segment is the other reading; both are reported because later tokens lose their context here.
    """
    whole = text_scores(tracked, texts, targets, batch_tokens=batch_tokens)
    rests, of = [], []
    found: list[tuple[int, int, int, float]] = []
    for n, text in enumerate(texts):
        for segment in np.unique(_segments(text)).tolist():
            rest = without_tokens(text, _segments(text) == segment)
            if len(rest.ids) > 1 and np.any(rest.token_weights() != 0):
                rests.append(rest)
                of.append((n, segment))
            else:
                found += [(q, n, segment, float(whole[q, n])) for q in range(len(whole))]
    if rests:
        left = text_scores(tracked, rests, targets, batch_tokens=batch_tokens)
        found += [
            (q, n, s, float(whole[q, n] - left[q, k])) for k, (n, s) in enumerate(of) for q in range(len(targets.names))
        ]
    return sorted(found)


def influence_table(
    texts: Sequence[Text],
    names: Sequence[str],
    found: Sequence[Pair],
    *,
    method: str,
    model: str = "",
    step: int = -1,
    level: Literal["instance", "segment", "token"] = "instance",
) -> pl.DataFrame:
    """Return pairs as INFLUENCE rows: texts, and down to `level` their segments and tokens in each decomposition."""
    columns: dict[str, list[Any]] = {c: [] for c in INFLUENCE}

    def add(pair: Pair, level: str, split: str, segment: int | None, token: int | None, n: int, score: float) -> None:
        text = texts[pair.text]
        row = (model, step, method, names[pair.query], text.source, text.example, text.format, text.start)
        for column, value in zip(INFLUENCE, (*row, level, split, segment, token, n, score), strict=True):
            columns[column].append(value)

    for pair in found:
        learned = texts[pair.text].token_weights() != 0
        add(pair, "instance", "", None, None, int(learned.sum()), pair.score)
        if level == "instance":
            continue
        of = _segments(texts[pair.text])
        for split, scores in pair.tokens.items():
            for segment in np.unique(of).tolist():
                inside = of == segment
                add(pair, "segment", split, segment, None, int(learned[inside].sum()), float(scores[inside].sum()))
            for token in range(len(scores)) if level == "token" else ():
                add(pair, "token", split, int(of[token]), token, int(learned[token]), float(scores[token]))
    return pl.DataFrame(columns, schema=INFLUENCE)


def counterfactual_table(
    tracked: Tracked, texts: Sequence[Text], targets: Targets, found: Sequence[Pair], *, method: str, model: str = ""
) -> pl.DataFrame:
    """Return the segment rows (decomposition leave_out) of the pairs found, each segment's rest run again."""
    chosen = sorted({p.text for p in found})
    wanted = {(p.query, p.text) for p in found}
    rows = []
    for query, k, segment, score in segment_counterfactuals(tracked, [texts[n] for n in chosen], targets):
        if (query, chosen[k]) in wanted:
            text = texts[chosen[k]]
            learned = int(np.count_nonzero(text.token_weights()[_segments(text) == segment]))
            key = (model, -1, method, targets.names[query], text.source, text.example, text.format, text.start)
            rows.append((*key, "segment", "leave_out", segment, None, learned, score))
    return pl.DataFrame(rows, schema=INFLUENCE, orient="row")


def dense_pairs(scores_QN: np.ndarray) -> list[Pair]:
    """Return a score matrix as pairs without decompositions."""
    return [Pair(q, n, float(s)) for q, row in enumerate(scores_QN) for n, s in enumerate(row)]


def _passes(
    tracked: Tracked, texts: Sequence[Text], batch_tokens: int, pack_tokens: int, ctx: StepContext | None
) -> Iterator[Seen]:
    """Yield one backward pass per batch, with progress."""
    ctx, done = ctx or StepContext(), 0
    for batch in make_batches(texts, tracked.model.max_tokens, batch_tokens, pack_tokens, tracked.device):
        ctx.check_stop()
        yield tracked.backward(batch)
        done += len(batch.numbers)
        ctx.progress(done, len(texts), "scores")


def batch_scores(seen: Seen, vectors: Vectors, queries: int) -> Tensor:
    """Return the scores of a batch, [D,Q] in fp64."""
    total = torch.zeros(len(seen.batch.numbers), queries, dtype=torch.float64, device=seen.losses.device)
    for name, vector in vectors.items():
        if queries == 1:
            found = row_dots(seen.inputs[name], seen.grads[name], vector[0])
            total += seen.batch.by_document(found).sum(1, dtype=torch.float64)[:, None]
        else:
            total += (seen.text_gradients(name).flatten(1).float() @ vector.flatten(1).t()).double()
    return total


def row_dots(a_Ri: Tensor, g_Ro: Tensor, vector_oi: Tensor) -> Tensor:
    """Return g_t^T P a_t of every row in fp32, [R]; the product goes towards the smaller side."""
    vector_oi = vector_oi.to(a_Ri.dtype)
    if g_Ro.shape[1] <= a_Ri.shape[1]:
        return (a_Ri @ vector_oi.t()).mul_(g_Ro).sum(1, dtype=torch.float32)
    return (g_Ro @ vector_oi).mul_(a_Ri).sum(1, dtype=torch.float32)


def _segments(text: Text) -> np.ndarray:
    """Return the segment of every token; a text without segments is one."""
    return np.zeros(len(text.ids), np.int32) if text.segment is None else np.asarray(text.segment)


def refuse_dense(queries: int, rows: int) -> None:
    """Raise DataError when so many values should not be held at once."""
    if queries * rows > DENSE_PAIRS:
        raise DataError(
            f"scores: expected at most {DENSE_PAIRS} values at once, found {queries} queries x {rows} rows; "
            "keep the top and bottom of each query (keep=100) or aggregate queries"
        )
