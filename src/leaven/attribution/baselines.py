"""Scores of one model that any curvature method has to beat, each [Q,N] like its own, higher = more helpful.

gradient_dot <g_q, g_n> / N (identity curvature); gradient_cosine; embedding, the cosine of mean last hidden states;
BM25 over tokens (Robertson & Zaragoza 2009; k1 1.5, b 0.75); loss; length; random. The last three do not look at the
query. Units are the method's own: compare rankings, not values. Not covered: scores along training
(baselines_gradient.py), projected gradients (projections.py), embeddings of another model; names (methods.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from leaven.attribution.passes import Tracked, Vectors
from leaven.attribution.queries import Query
from leaven.attribution.texts import BATCH_TOKENS, Text, make_batches
from leaven.core.rng import rng
from leaven.core.step import StepContext
from leaven.errors import StudyError

GRADIENT = ("gradient_dot", "gradient_cosine")
PLAIN = ("embedding", "bm25", "loss", "length", "random")


def gradient_scores(
    tracked: Tracked,
    texts: Sequence[Text],
    gradients: Vectors,
    *,
    batch_tokens: int = BATCH_TOKENS,
    ctx: StepContext | None = None,
) -> dict[str, np.ndarray]:
    """Return gradient_dot and gradient_cosine of query gradients [Q,o,i] with every text, from one pass.

    A text or query without any gradient has cosine 0.
    """
    ctx, done = ctx or StepContext(), 0
    n_queries = len(next(iter(gradients.values())))
    dot, square = np.zeros((n_queries, len(texts))), np.zeros(len(texts))
    for batch in make_batches(texts, tracked.model.max_tokens, batch_tokens, device=tracked.device):
        ctx.check_stop()
        seen = tracked.backward(batch)
        for name, vector in gradients.items():
            each = seen.text_gradients(name).flatten(1)
            dot[:, batch.numbers] += (vector.flatten(1) @ each.t()).double().cpu().numpy()
            square[batch.numbers] += each.square().sum(1, dtype=torch.float64).cpu().numpy()
        done += len(batch.numbers)
        ctx.progress(done, len(texts), "gradient baselines")
    of_query = sum(v.flatten(1).square().sum(1, dtype=torch.float64).cpu().numpy() for v in gradients.values())
    scale = np.sqrt(np.outer(of_query, square))
    cosine = np.divide(dot, scale, out=np.zeros_like(dot), where=scale > 0)
    return {"gradient_dot": dot / len(texts), "gradient_cosine": cosine}


def plain_scores(name: str, tracked: Tracked, texts: Sequence[Text], queries: Sequence[Query], seed: int = 0) -> np.ndarray:
    """Return a baseline without gradients, [Q,N].

    Raises:
        StudyError: an unknown name.
    """
    if name == "bm25":
        return bm25(texts, queries)
    if name == "embedding":
        return embedding_scores(tracked, texts, queries)
    if name == "loss":
        row = text_losses(tracked, texts)
    elif name == "length":
        row = np.array([np.count_nonzero(t.token_weights()) for t in texts], float)
    elif name == "random":
        row = rng(seed, "random-scores").random(len(texts))
    else:
        raise StudyError(f"baseline: expected one of {', '.join((*GRADIENT, *PLAIN))}, found {name!r}")
    return np.tile(row, (len(queries), 1))


@torch.no_grad()
def text_losses(tracked: Tracked, texts: Sequence[Text], batch_tokens: int = BATCH_TOKENS) -> np.ndarray:
    """Return each text's weighted summed loss in nats, float64[N], by forward passes alone."""
    result = np.zeros(len(texts))
    for batch in make_batches(texts, tracked.model.max_tokens, batch_tokens, device=tracked.device):
        hidden = tracked.model.hidden(batch.ids, batch.positions, batch.document, batch.at)
        nats = -tracked.model.logprobs(hidden, batch.targets).double() * batch.weights
        total = nats.new_zeros(len(batch.numbers)).index_add_(0, batch.owner, nats)
        result[batch.numbers] = total.cpu().numpy()
    return result


def embedding_scores(tracked: Tracked, texts: Sequence[Text], queries: Sequence[Query], batch_tokens: int = BATCH_TOKENS) -> np.ndarray:
    """Return the cosine of each query's mean embedding and each text's, [Q,N]; see `embeddings`."""
    asked = np.stack([embeddings(tracked, q.texts, batch_tokens).mean(0) for q in queries])
    found = embeddings(tracked, texts, batch_tokens)
    scale = np.outer(np.linalg.norm(asked, axis=1), np.linalg.norm(found, axis=1))
    return np.divide(asked @ found.T, scale, out=np.zeros((len(asked), len(found))), where=scale > 0)


@torch.no_grad()
def embeddings(tracked: Tracked, texts: Sequence[Text], batch_tokens: int = BATCH_TOKENS) -> np.ndarray:
    """Return each text's mean last hidden state over all its tokens but those from the last target on, float64[N,D]."""
    result = None
    for batch in make_batches(texts, tracked.model.max_tokens, batch_tokens, device=tracked.device):
        real = batch.place < batch.ids.numel()
        hidden = tracked.model.hidden(batch.ids, batch.positions, batch.document, batch.place[real]).double()
        owner = torch.arange(len(real), device=real.device)[:, None].expand_as(real)[real]
        total = hidden.new_zeros(len(real), hidden.shape[1]).index_add_(0, owner, hidden)
        result = np.zeros((len(texts), hidden.shape[1])) if result is None else result
        result[batch.numbers] = (total / real.sum(1, keepdim=True)).cpu().numpy()
    return np.zeros((0, 0)) if result is None else result


def bm25(texts: Sequence[Text], queries: Sequence[Query], k1: float = 1.5, b: float = 0.75) -> np.ndarray:
    """Return Okapi BM25 of all tokens of a query's texts against all tokens of each training text, [Q,N]."""
    counts = [Counter(t.ids.tolist()) for t in texts]
    lengths = np.array([len(t.ids) for t in texts], float)
    holding: dict[int, list[tuple[int, int]]] = {}
    for n, count in enumerate(counts):
        for token, times in count.items():
            holding.setdefault(token, []).append((n, times))
    norm = k1 * (1 - b + b * lengths / lengths.mean())
    result = np.zeros((len(queries), len(texts)))
    for q, query in enumerate(queries):
        for token, asked in Counter(i for t in query.texts for i in t.ids.tolist()).items():
            where = np.array(holding.get(token, ()), float).reshape(-1, 2)
            rarity = np.log1p((len(texts) - len(where) + 0.5) / (len(where) + 0.5))
            at, times = where[:, 0].astype(int), where[:, 1]
            result[q, at] += asked * rarity * times * (k1 + 1) / (times + norm[at])
    return result
