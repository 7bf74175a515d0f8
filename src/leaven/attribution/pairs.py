"""Preconditioned queries x training texts -> the pairs to keep with their token scores, from one pass over the texts.

Every pair gets a text score; with `keep` only each query's `keep` highest and `keep` lowest pairs stay and only they
get tokens, so nothing of size Q x N is held. Token scores of a pair cost as much as T / Q of a text's gradients, so
what matters is not to compute them for pairs that leave again: batches come in random order, a few of them are held,
and when one is let go only its pairs that stand where the share of texts seen so far puts the final ones get tokens.
The few final pairs that were misjudged have their texts run again. With one query, or every pair kept, token scores
come first and text scores are their sums. Not covered: scores from a store (store.py), tables (scores.py).

Shapes: Q queries, N texts, D texts of a batch, R rows of a batch, M positions with loss, T tokens of one text.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from leaven.attribution.passes import Seen, Tracked, Vectors
from leaven.attribution.scores import Pair, Targets, batch_scores, refuse_dense, row_dots
from leaven.attribution.texts import BATCH_TOKENS, Batch, Text, lay_out, make_batches, plan_batches
from leaven.core.rng import rng
from leaven.core.step import StepContext
from leaven.errors import StudyError

Decomposition = Literal["position", "loss"]
HELD_BYTES = 1 << 29
"""Most bytes of batches held back until it is clear whose tokens are wanted; one batch is always held."""


def pairs(
    tracked: Tracked,
    texts: Sequence[Text],
    targets: Targets,
    *,
    decompositions: Sequence[Decomposition] = ("position",),
    keep: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    pack_tokens: int = 0,
    ctx: StepContext | None = None,
) -> list[Pair]:
    """Return scored pairs with their decompositions, by query and then from the highest score down.

    Args:
        tracked: model and layers.
        texts: training texts, streamed once (twice for a few of them).
        targets: preconditioned queries.
        decompositions: any of "position" (g_t^T P a_t per layer) and "loss" (one forward-mode pass per query and text).
        keep: 0 = all pairs; else the `keep` highest and `keep` lowest of each query.
        batch_tokens: most padded tokens per batch.
        pack_tokens: rows of several texts when above 0 (layout only).
        ctx: progress and stop.

    Raises:
        DataError: all pairs were asked for and there are too many.
        StudyError: an unknown decomposition.
        BackendError: "loss" with an architecture that has no forward-mode derivatives.
    """
    unknown = [d for d in decompositions if d not in ("position", "loss")]
    if unknown:
        raise StudyError(f"decomposition: expected position or loss, found {unknown[0]!r}")
    if not keep:
        refuse_dense(len(targets.names), sum(len(t.ids) for t in texts))
    ctx, positions = ctx or StepContext(), "position" in decompositions
    vectors = targets.vectors
    kept = [Extremes(keep) for _ in targets.names]
    window = _Window(vectors, kept, texts)
    plan = plan_batches(texts, tracked.model.max_tokens, batch_tokens, pack_tokens)
    if keep:  # the share of texts seen then says how many of the final pairs have been seen
        plan = [plan[k] for k in rng(0, "batch-order").permutation(len(plan))]
    done = 0
    with tracked.steady():
        for rows in plan:
            ctx.check_stop()
            seen = tracked.backward(lay_out(rows, texts, bool(pack_tokens), tracked.device))
            if len(kept) == 1 or (positions and not keep):
                _take_all(seen, vectors, kept, texts, positions)
            else:
                scores_DQ = batch_scores(seen, vectors, len(kept)).cpu().numpy()
                for query, extremes in enumerate(kept):
                    for d, number in enumerate(seen.batch.numbers):
                        if extremes.admits(scores_DQ[d, query]):
                            extremes.add(Pair(query, number, float(scores_DQ[d, query])))
                done_share = (done + len(seen.batch.numbers)) / len(texts)
                if positions:
                    window.hold(seen, done_share)
            done += len(seen.batch.numbers)
            ctx.progress(done, len(texts), "scores")
    window.let_go(0, 1.0)
    found = [pair for extremes in kept for pair in extremes.sorted()]
    if positions:
        with tracked.steady():
            _run_again(tracked, texts, vectors, [p for p in found if "position" not in p.tokens], batch_tokens, ctx)
    if "loss" in decompositions:
        _split_by_loss(tracked, texts, targets.vectors, found, batch_tokens, ctx)
    return found


class Extremes:
    """The `keep` highest and lowest pairs of one query (all of them for 0)."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.held: list[Pair] = []
        self.low, self.high = np.inf, -np.inf

    def admits(self, score: float) -> bool:
        """Say whether a pair of this score may stay."""
        return not self.keep or len(self.held) < 2 * self.keep or score > self.high or score < self.low

    def add(self, pair: Pair) -> None:
        """Take a pair; it stays while it is among the extremes."""
        self.held.append(pair)
        if self.keep and len(self.held) > 4 * self.keep:
            self._cut()

    def likely(self, share: float) -> list[Pair]:
        """Return the pairs that should still be held at the end, when this share of all texts has been seen."""
        self._cut()
        if not self.keep:
            return self.held
        most = min(self.keep, math.ceil(share * self.keep))
        return self.held if len(self.held) <= 2 * most else self.held[:most] + self.held[-most:]

    def sorted(self) -> list[Pair]:
        """Return those that stayed, from the highest score down."""
        self._cut()
        return self.held

    def _cut(self) -> None:
        self.held.sort(key=lambda p: (-p.score, p.text))
        if self.keep and len(self.held) > 2 * self.keep:
            self.held = self.held[: self.keep] + self.held[-self.keep :]
            self.high, self.low = self.held[self.keep - 1].score, self.held[self.keep].score


class _Window:
    """Batches held back, oldest first."""

    def __init__(self, vectors: Vectors, kept: Sequence[Extremes], texts: Sequence[Text]) -> None:
        self.vectors, self.kept, self.texts = vectors, kept, texts
        self.held: list[tuple[Seen, int]] = []

    def hold(self, seen: Seen, share: float) -> None:
        """Take a batch, and let go of old ones beyond the limit."""
        tensors = {id(x): x for x in (*seen.inputs.values(), *seen.grads.values())}
        self.held.append((seen, sum(x.numel() * x.element_size() for x in tensors.values())))
        self.let_go(HELD_BYTES, share)

    def let_go(self, limit: int, share: float) -> None:
        """Let go of the oldest batches until the rest takes at most `limit` bytes (one may always stay unless 0)."""
        while self.held and sum(size for _, size in self.held) > limit and (len(self.held) > 1 or not limit):
            seen, _ = self.held.pop(0)
            place = {number: d for d, number in enumerate(seen.batch.numbers)}
            chosen = [p for extremes in self.kept for p in extremes.likely(share) if p.text in place]
            _split_by_position(seen, self.vectors, chosen, place, self.texts)


def _take_all(seen: Seen, vectors: Vectors, kept: Sequence[Extremes], texts: Sequence[Text], positions: bool) -> None:
    """Score every position first: a text's score is their sum."""
    batch = seen.batch
    for query, extremes in enumerate(kept):
        by_document = batch.by_document(_position_scores(seen, vectors, query)).cpu().numpy()
        for d, number in enumerate(batch.numbers):
            score = float(by_document[d].sum())
            if extremes.admits(score):
                pair = Pair(query, number, score)
                if positions:
                    pair.tokens["position"] = _of_length(by_document[d], len(texts[number].ids))
                extremes.add(pair)


def _position_scores(seen: Seen, vectors: Vectors, query: int) -> Tensor:
    """Return the position decomposition over all tokens of the batch, [B*T] in fp64."""
    batch = seen.batch
    total = torch.zeros(batch.ids.numel(), dtype=torch.float64, device=seen.losses.device)
    for name, vector in vectors.items():
        found = row_dots(seen.inputs[name], seen.grads[name], vector[query]).double()
        if len(found) == len(total):
            total += found
        else:
            total.index_add_(0, batch.at, found)
    return total


def _split_by_position(
    seen: Seen, vectors: Vectors, chosen: Sequence[Pair], place: dict[int, int], texts: Sequence[Text]
) -> None:
    """Give pairs of this batch that lack them their position scores; one text at a time stays in the cache."""
    chosen = [p for p in chosen if "position" not in p.tokens]
    if not chosen:
        return
    batch = seen.batch
    longest = max(batch.lengths)
    total = torch.zeros(len(chosen), longest, dtype=torch.float64, device=batch.ids.device)
    for name, vector in vectors.items():
        a, g = seen.inputs[name], seen.grads[name]
        whole = len(a) == batch.ids.numel()
        a_DTi, g_DTo = batch.by_document(a), batch.by_document(g)
        for k, pair in enumerate(chosen):
            d = place[pair.text]
            found = row_dots(a_DTi[d], g_DTo[d], vector[pair.query]).double()
            if whole:
                total[k, : len(found)] += found
            else:  # rows of the positions with loss, each before the token that it predicts
                at = batch.token[batch.owner == d] - 1
                total[k].index_add_(0, at, found[: len(at)])
    for pair, scores in zip(chosen, total.cpu().numpy(), strict=True):
        pair.tokens["position"] = _of_length(scores, len(texts[pair.text].ids))


def _of_length(scores: np.ndarray, length: int) -> np.ndarray:
    """Return a text's row cut or filled to its length: what follows its last target is not run and scores 0."""
    result = np.zeros(length)
    result[: len(scores)] = scores[:length]
    return result


def _run_again(
    tracked: Tracked, texts: Sequence[Text], vectors: Vectors, lacking: Sequence[Pair], batch_tokens: int, ctx: StepContext
) -> None:
    """Give position scores to pairs that were misjudged while they were seen."""
    for batch, number in _batches_of(tracked, texts, lacking, batch_tokens, ctx):
        place = {text: d for d, text in enumerate(number)}
        chosen = [p for p in lacking if p.text in place]
        _split_by_position(tracked.backward(batch), vectors, chosen, place, texts)


def _split_by_loss(
    tracked: Tracked, texts: Sequence[Text], vectors: Vectors, found: Sequence[Pair], batch_tokens: int, ctx: StepContext
) -> None:
    """Give every pair its loss decomposition: one forward-mode pass per query over its texts."""
    by_query: dict[int, list[Pair]] = defaultdict(list)
    for pair in found:
        by_query[pair.query].append(pair)
    for query, of_query in by_query.items():
        direction, pair_of = {n: v[query] for n, v in vectors.items()}, {p.text: p for p in of_query}
        for batch, number in _batches_of(tracked, texts, of_query, batch_tokens, ctx):
            changes = tracked.loss_changes(batch, direction).double()
            spread = changes.new_zeros(len(number), max(batch.lengths))
            spread = spread.index_put_((batch.owner, batch.token), changes).cpu().numpy()
            for d, text in enumerate(number):
                pair_of[text].tokens["loss"] = spread[d, : batch.lengths[d]].copy()


def _batches_of(
    tracked: Tracked, texts: Sequence[Text], of: Sequence[Pair], batch_tokens: int, ctx: StepContext
) -> Iterator[tuple[Batch, list[int]]]:
    """Yield batches of the texts of pairs, with their numbers among all texts."""
    chosen = sorted({p.text for p in of})
    if chosen:
        for batch in make_batches([texts[n] for n in chosen], tracked.model.max_tokens, batch_tokens, device=tracked.device):
            ctx.check_stop()
            yield batch, [chosen[k] for k in batch.numbers]
