"""Token rows with loss weights -> batches that keep every document apart, padded or packed.

The unit of attribution is a `Text`: one example (or window of one) as the model was trained on it. How texts lie in a
batch is layout only: padded rows and packed rows (own positions, block-diagonal mask) give the same scores, and a
test holds them equal. The first token of a text is context; position t carries the loss of token t + 1. Not covered:
formats and tokenising (data/), what a model does with a batch (passes.py).

Shapes: B rows, T columns, D documents, M targets (positions with loss).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from leaven.core.rng import rng
from leaven.data.tokenise import load_tokens
from leaven.errors import DataError

BATCH_TOKENS = 2048
"""Padded tokens per batch; bounds activations (tokens x sum of widths) and logits."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Text:
    """One training or query text: ids int[N], learn float[N] loss weight of each token, segment int[N] number of its
    segment.

    `weight` multiplies the loss of the whole text; `start` is the first token of the example that this window shows.
    """

    example: str
    ids: np.ndarray
    learn: np.ndarray
    segment: np.ndarray | None = None
    weight: float = 1.0
    source: str = ""
    format: str = ""
    start: int = 0

    def token_weights(self) -> np.ndarray:
        """Return weight x learn of every token, float64[N]; the first is 0 because nothing precedes it."""
        result = self.weight * self.learn.astype(np.float64)
        result[:1] = 0.0
        return result


def load_texts(folder: Path | str, examples: Sequence[str] | None = None) -> list[Text]:
    """Return the texts of a tokenise artifact (all, or those named), with the segment number of every token.

    Raises:
        DataError: the folder is no tokenise artifact, or an example is not in it.
    """
    tokens = load_tokens(folder)
    number: dict[str, np.ndarray] = {}
    for (example,), rows in tokens.segments().group_by("example", maintain_order=True):
        sizes = (rows["end"] - rows["start"]).to_numpy()
        number[str(example)] = np.repeat(rows["segment"].to_numpy(), sizes)
    known = {r["example"]: r for r in tokens.lengths.iter_rows(named=True)}
    return [
        Text(
            example=name,
            ids=np.asarray(tokens.ids(name), np.int64),
            learn=np.asarray(tokens.learn(name), np.float32),
            segment=number[name],
            source=known[name]["source"],
            format=known[name]["format"],
        )
        for name in (known if examples is None else examples)
    ]


def fit_to(texts: Sequence[Text], max_tokens: int) -> tuple[list[Text], int, int]:
    """Cut texts to the model's context as `truncate: right` does; return those with loss left, and how many were cut
    and dropped."""
    kept, cut, dropped = [], 0, 0
    for text in texts:
        if len(text.ids) > max_tokens:
            text, cut = without_tokens(text, np.arange(len(text.ids)) >= max_tokens), cut + 1
        if np.any(text.token_weights() != 0):
            kept.append(text)
        else:
            dropped += 1
    return kept, cut, dropped


def without_tokens(text: Text, drop: np.ndarray) -> Text:
    """Return a text with the tokens where `drop` (bool[N]) is true deleted: the counterfactual of
    leave-segment-out."""
    keep = ~drop
    return Text(
        example=text.example,
        ids=text.ids[keep],
        learn=text.learn[keep],
        weight=text.weight,
        source=text.source,
        segment=None if text.segment is None else text.segment[keep],
        format=text.format,
        start=text.start,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Documents laid out in rows, each without the tokens from its last target on, which no loss depends on.

    `lengths` counts all tokens of each text. ids int64[B,T]; positions and document int64[B,T] are None for padded
    rows; place int64[D,T'] is where each document's tokens lie in the flattened rows (B*T = nowhere); at int64[M],
    targets int64[M], weights float32[M] (weight x learn) are the positions with loss, in the order of documents;
    owner int64[M] and token int64[M] say which document, and which of its tokens, each predicts. `numbers` are the
    documents' indices among all texts.
    """

    numbers: list[int]
    lengths: list[int]
    ids: Tensor
    positions: Tensor | None
    document: Tensor | None
    place: Tensor
    at: Tensor
    targets: Tensor
    weights: Tensor
    owner: Tensor
    token: Tensor
    at_place: Tensor = field(repr=False)

    def by_document(self, x_R: Tensor) -> Tensor:
        """Return rows [R,*] (all B*T tokens, or the M positions with loss) as [D,T',*], zero where a document has
        ended."""
        whole = x_R.shape[0] == self.ids.numel()
        if whole and self.document is None:
            return x_R.unflatten(0, tuple(self.ids.shape))
        place = self.place if whole else self.at_place
        padded = torch.cat([x_R, x_R.new_zeros(1, *x_R.shape[1:])])
        return padded.index_select(0, place.flatten()).unflatten(0, tuple(place.shape))

    def whole_rows(self, x_R: Tensor) -> Tensor:
        """Return values of the M positions with loss spread over all B*T tokens (others 0); B*T rows pass
        unchanged."""
        if x_R.shape[0] == self.ids.numel():
            return x_R
        return x_R.new_zeros(self.ids.numel(), *x_R.shape[1:]).index_copy_(0, self.at, x_R)


def make_batches(
    texts: Sequence[Text], max_tokens: int, batch_tokens: int = BATCH_TOKENS, pack_tokens: int = 0, device: str = "cpu"
) -> Iterator[Batch]:
    """Yield batches over all texts, sorted by length so that little is padded.

    Args:
        texts: at least one; each with a positive loss weight somewhere.
        max_tokens: the model's context.
        batch_tokens: most padded tokens per batch (a single longer text still gets its own).
        pack_tokens: 0 = one text per padded row; else rows of up to this many tokens hold several texts.
        device: where tensors go.

    Raises:
        DataError: a text is longer than the context or has no token with loss.
    """
    for rows in plan_batches(texts, max_tokens, batch_tokens, pack_tokens):
        yield lay_out(rows, texts, bool(pack_tokens), device)


def plan_batches(
    texts: Sequence[Text], max_tokens: int, batch_tokens: int = BATCH_TOKENS, pack_tokens: int = 0
) -> list[list[list[int]]]:
    """Return which texts (by number) lie in which row of which batch; arguments and errors as of make_batches."""
    for text in texts:
        _check(text, max_tokens)
    used = [_used(text) for text in texts]
    order = sorted(range(len(texts)), key=lambda i: (-used[i], i))
    rows = _packed_rows(order, used, pack_tokens) if pack_tokens else [[i] for i in order]
    widths = [sum(used[i] for i in row) for row in rows]
    batches, begin = [], 0
    while begin < len(rows):
        width, count = widths[begin], 1
        while begin + count < len(rows):
            width = max(width, widths[begin + count])
            if width * (count + 1) > batch_tokens:
                break
            count += 1
        batches.append(rows[begin : begin + count])
        begin += count
    return batches


def label_draws(texts: Sequence[Text], batch: Batch, seed: int) -> Tensor:
    """Return one uniform number per target, float32[M], that depends on seed, example and window alone: equal in
    every pass."""
    draws = [
        rng(seed, "fisher-labels", texts[n].source, texts[n].example, texts[n].start).random(len(texts[n].ids))[
            np.flatnonzero(texts[n].token_weights())
        ]
        for n in batch.numbers
    ]
    return torch.from_numpy(np.concatenate(draws).astype(np.float32)).to(batch.ids.device)


def _check(text: Text, max_tokens: int) -> None:
    where = f"text {text.source}/{text.example}"
    if not len(text.ids) == len(text.learn) or (text.segment is not None and len(text.segment) != len(text.ids)):
        raise DataError(
            f"{where}: expected one loss weight and one segment number per token, found {len(text.ids)} tokens and "
            f"{len(text.learn)} loss weights; tokenise it again"
        )
    if len(text.ids) > max_tokens:
        raise DataError(
            f"{where}: expected at most {max_tokens} tokens (the model's context), found {len(text.ids)}; cut "
            "it as training did"
        )
    if not np.any(text.token_weights() != 0):
        raise DataError(
            f"{where}: expected a token with loss after the first, found none among {len(text.ids)}; leave it out"
        )


def _used(text: Text) -> int:
    """Return how many tokens the model has to see: the last one with loss, and what follows it, is only predicted."""
    return int(np.flatnonzero(text.token_weights())[-1])


def _packed_rows(order: Sequence[int], used: Sequence[int], pack_tokens: int) -> list[list[int]]:
    """First-fit in order of length; texts longer than a row get their own."""
    rows: list[list[int]] = []
    room: list[int] = []
    for i in order:
        size = used[i]
        for r, free in enumerate(room):
            if size <= free:
                rows[r].append(i)
                room[r] -= size
                break
        else:
            rows.append([i])
            room.append(pack_tokens - size)
    return rows


def lay_out(rows: Sequence[Sequence[int]], texts: Sequence[Text], packed: bool, device: str) -> Batch:
    """Return the batch whose rows hold these texts."""
    numbers = [i for row in rows for i in row]
    used = {i: _used(texts[i]) for i in numbers}
    width, longest = max(sum(used[i] for i in row) for row in rows), max(used.values())
    ids = np.zeros((len(rows), width), np.int64)
    positions, document = np.zeros_like(ids), np.full_like(ids, -1)
    place = np.full((len(numbers), longest), ids.size, np.int64)
    at, targets, weights, owner, token = [], [], [], [], []
    d = 0
    for r, row in enumerate(rows):
        column = 0
        for i in row:
            text, n = texts[i], used[i]
            span = slice(column, column + n)
            ids[r, span], positions[r, span], document[r, span] = text.ids[:n], np.arange(n), d
            place[d, :n] = r * width + np.arange(column, column + n)
            weight = text.token_weights()
            learned = np.flatnonzero(weight)
            at.append(r * width + column + learned - 1)
            targets.append(text.ids[learned])
            weights.append(weight[learned])
            owner.append(np.full(len(learned), d))
            token.append(learned)
            column, d = column + n, d + 1
    sizes = [len(a) for a in at]
    at_place = np.full((d, max(sizes)), sum(sizes), np.int64)
    for k, (end, size) in enumerate(zip(np.cumsum(sizes), sizes, strict=True)):
        at_place[k, :size] = np.arange(end - size, end)
    tensors = [torch.from_numpy(x).to(device) for x in (ids, positions, document, place, at_place)]
    flat = [torch.from_numpy(np.concatenate(x)).to(device) for x in (at, targets, weights, owner, token)]
    return Batch(
        numbers,
        [len(texts[i].ids) for i in numbers],
        tensors[0],
        tensors[1] if packed else None,
        tensors[2] if packed else None,
        tensors[3],
        flat[0],
        flat[1],
        flat[2].float(),
        flat[3],
        flat[4],
        tensors[4],
    )
