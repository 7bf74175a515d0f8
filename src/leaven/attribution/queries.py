"""Target texts -> the gradient of a target quantity, one per query.

The target of a query is f = mean over its texts of log p(learned tokens | the rest), summed over tokens (Kou et al.
2025, the mean log-likelihood surrogate over correctly answered items) or averaged over them. Gradients are of -f, so
that their product with the gradient of a training text's loss is positive where training on the text raises f. Not
covered: preconditioning (factors.py, refine.py), which texts to ask about beyond the correct ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from leaven.attribution.passes import Tracked, Vectors
from leaven.attribution.sums import Basis, rotated, turns
from leaven.attribution.texts import BATCH_TOKENS, Text, make_batches
from leaven.core.types import Item, Sample, Segment, Verdict
from leaven.data.tokenizer import Tokenizer
from leaven.errors import DataError

Reduce = Literal["sum", "mean"]


@dataclass(frozen=True, slots=True)
class Query:
    """A named target: the mean over `texts` of their log-likelihood."""

    name: str
    texts: tuple[Text, ...]


def single_queries(texts: Sequence[Text]) -> list[Query]:
    """Return one query per text, named after its example."""
    return [Query(t.example, (t,)) for t in texts]


def query_gradients(
    tracked: Tracked,
    queries: Sequence[Query],
    reduce: Reduce = "sum",
    batch_tokens: int = BATCH_TOKENS,
    bases: Mapping[str, Basis] | None = None,
) -> Vectors:
    """Return d(-f)/dW of every query, [Q,o,i] per layer in fp32.

    Args:
        tracked: model and layers.
        queries: at least one, each with at least one text.
        reduce: "sum" or "mean" over the learned tokens of a text.
        batch_tokens: most padded tokens per batch.
        bases: turn every gradient into this eigenbasis.

    Raises:
        DataError: no query, a query without texts, or a text that does not fit the model.
    """
    empty = [q.name for q in queries if not q.texts]
    if not queries or empty:
        raise DataError(f"queries: expected at least one text per query, found none in {empty or 'an empty list'}")
    texts, owner = [], []
    for number, query in enumerate(queries):
        for text in query.texts:
            tokens = float(text.token_weights().sum()) if reduce == "mean" else 1.0
            texts.append(dataclasses.replace(text, weight=text.weight / (len(query.texts) * tokens)))
            owner.append(number)
    result = {n: torch.zeros(len(queries), *tracked.shape(n), device=tracked.device) for n in tracked.names()}
    # a query of many texts is cheaper turned once than token by token
    early = None if bases is None or len(texts) > 4 * len(queries) else turns(bases, tracked.numbers)
    with tracked.steady():
        for batch in make_batches(texts, tracked.model.max_tokens, tracked.at_once(batch_tokens), device=tracked.device):
            seen, shared = tracked.backward(batch), {}
            of = torch.tensor([owner[n] for n in batch.numbers], device=tracked.device)
            for name, total in result.items():
                if len(queries) == 1 and early is None:  # one product over all tokens; no gradient per text is formed
                    total[0].add_(seen.grads[name].t() @ seen.inputs[name])
                elif early is None:
                    total.index_add_(0, of, seen.text_gradients(name).float())
                else:
                    for part, found in rotated(seen, name, early[name], shared):
                        total.index_add_(0, of[part], found.float())
    if bases is not None and early is None:
        return {n: bases[n].q_out.t() @ v @ bases[n].q_in for n, v in result.items()}
    return result


def correct_texts(
    items: Sequence[Item],
    samples: Sequence[Sample],
    verdicts: Sequence[Verdict],
    prompts: Mapping[str, Sequence[Segment]],
    tokenizer: Tokenizer,
    metric: str,
) -> list[Text]:
    """Return prompt + the model's own answer of every item that it answered correctly (one text per correct sample).

    Args:
        items: benchmark items.
        samples: what the model generated for them.
        verdicts: how that was judged.
        prompts: what the model was shown, by item id (segments without loss).
        tokenizer: the model's own.
        metric: which verdicts count; correct means a score of 1.

    Raises:
        DataError: nothing was answered correctly.
    """
    known = {item.id for item in items}
    correct = {(v.item, v.index) for v in verdicts if v.metric == metric and v.score == 1.0 and v.item in known}
    texts = []
    for sample in samples:
        if (sample.item, sample.index) in correct and sample.text:
            segments = [*prompts[sample.item], Segment(kind="answer", text=sample.text, learn=1.0)]
            texts.append(text_of(f"{sample.item}#{sample.index}", segments, tokenizer))
    if not texts:
        raise DataError(
            f"correct answers by {metric!r}: expected at least one verdict with score 1, found none among "
            f"{len(verdicts)}; the mean log-likelihood of correct answers is undefined, so give reference texts instead"
        )
    return texts


def text_of(name: str, segments: Sequence[Segment], tokenizer: Tokenizer, source: str = "", form: str = "") -> Text:
    """Return a Text of segments in a model's tokens."""
    encoded = tokenizer.encode_segments(segments)
    return Text(
        example=name,
        ids=encoded.ids.astype(np.int64),
        learn=encoded.learn,
        segment=encoded.segment,
        source=source,
        format=form,
    )
