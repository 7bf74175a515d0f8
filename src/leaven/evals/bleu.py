"""Tokens of references and hypotheses -> BLEU (Papineni et al. 2002), in the variants that the papers' numbers come from.

BLEU = brevity x exp(mean over n = 1..order of log p_n), p_n = clipped n-gram matches / n-grams, both summed over the corpus. What
happens to p_n = 0, and to hypotheses shorter than the order, is where implementations part:

| smoothing | p_n | equals |
|---|---|---|
| none | as it is: one order without a match gives 0 | sacrebleu `smooth_method="none"` |
| exp | 1/(2 total), 1/(4 total), ... for the orders without a match | sacrebleu's default |
| floor | 0.1/total where there is no match | sacrebleu `smooth_method="floor"` |
| epsilon | 0.1/total where there is no match, totals at least 1 per sentence | nltk's `method1`, the BLEU inside CodeBLEU |
| add_one | (matches + 1)/(total + 1) at every order; shortest reference | CodeXGLUE's bleu.py (Ma et al. 2024, section 2.7) |

`corpus_bleu` sums over the corpus, `mean_sentence_bleu` averages sentences, `concat_bleu` joins everything into one segment as the
released notebook of Ma et al. does (n-grams then match across problems: only for comparing with its numbers). All are shares of 1.
Not covered: choosing references; CodeBLEU (codebleu.py).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from leaven.errors import DataError

Smoothing = Literal["none", "exp", "floor", "epsilon", "add_one"]
Tokens = Sequence[str]

EPSILON = 0.1
_13A = (
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))


def words(text: str) -> list[str]:
    """Return what stands between white space."""
    return text.split()


def words_13a(text: str) -> list[str]:
    """Return the tokens of mteval-v13a, sacrebleu's default: punctuation apart, numbers whole."""
    line = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    if "&" in line:
        for entity, sign in _ENTITIES:
            line = line.replace(entity, sign)
    line = f" {line} "
    for pattern, replacement in _13A:
        line = pattern.sub(replacement, line)
    return line.split()


def corpus_bleu(
    references: Sequence[Sequence[Tokens]],
    hypotheses: Sequence[Tokens],
    *,
    order: int = 4,
    smoothing: Smoothing = "exp",
    effective_order: bool = False,
) -> float:
    """Return BLEU of a corpus in [0, 1].

    Args:
        references: one or more references per hypothesis, as tokens.
        hypotheses: as many token lists.
        order: longest n-gram.
        smoothing: see the module.
        effective_order: average over the orders for which the hypotheses have n-grams at all (short sentences).

    Raises:
        DataError: the numbers of references and hypotheses differ, or a hypothesis has no reference.
    """
    _check(references, hypotheses)
    matches, totals = [0.0] * order, [0.0] * order
    n_hypothesis = n_reference = 0
    for several, hypothesis in zip(references, hypotheses, strict=True):
        for n in range(1, order + 1):
            found, total = _matches(several, hypothesis, n)
            matches[n - 1] += found
            totals[n - 1] += max(1, total) if smoothing == "epsilon" else total
        n_hypothesis += len(hypothesis)
        n_reference += reference_length(several, len(hypothesis), shortest=smoothing == "add_one")
    precisions = _precisions(matches, totals, smoothing)
    if effective_order:
        precisions = [p for p, total in zip(precisions, totals, strict=True) if total > 0]
    if not n_hypothesis or not precisions or min(precisions) <= 0:
        return 0.0
    brevity = 1.0 if n_hypothesis >= n_reference else math.exp(1 - n_reference / n_hypothesis)
    return brevity * math.exp(math.fsum(math.log(p) for p in precisions) / len(precisions))


def mean_sentence_bleu(
    references: Sequence[Sequence[Tokens]],
    hypotheses: Sequence[Tokens],
    *,
    order: int = 4,
    smoothing: Smoothing = "exp",
    effective_order: bool = True,
) -> float:
    """Return the mean of the sentences' BLEU; arguments as for corpus_bleu."""
    _check(references, hypotheses)
    return math.fsum(
        corpus_bleu([r], [h], order=order, smoothing=smoothing, effective_order=effective_order)
        for r, h in zip(references, hypotheses, strict=True)
    ) / len(hypotheses)


def concat_bleu(references: Sequence[Tokens], hypotheses: Sequence[Tokens], *, order: int = 4) -> float:
    """Return BLEU of all hypotheses joined against all references joined, add_one (Ma et al. 2024; see the module)."""
    _check([[r] for r in references], hypotheses)
    whole, whole_hypothesis = ([t for tokens in side for t in tokens] for side in (references, hypotheses))
    return corpus_bleu([[whole]], [whole_hypothesis], order=order, smoothing="add_one")


def ngrams(tokens: Tokens, n: int) -> Counter[tuple[str, ...]]:
    """Return how often each n-gram occurs."""
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def reference_length(references: Sequence[Tokens], length: int, *, shortest: bool = False) -> int:
    """Return the length of the reference closest to `length`, the shorter of two equally close (or the shortest at all)."""
    sizes = [len(r) for r in references]
    return min(sizes) if shortest else min(sizes, key=lambda size: (abs(size - length), size))


def _matches(references: Sequence[Tokens], hypothesis: Tokens, n: int) -> tuple[int, int]:
    """Return the n-grams of a hypothesis that occur in a reference (each as often as in the richest one) and all of them."""
    counts = ngrams(hypothesis, n)
    most: Counter[tuple[str, ...]] = Counter()
    for reference in references:
        most |= ngrams(reference, n)
    return sum(min(count, most[gram]) for gram, count in counts.items()), sum(counts.values())


def _precisions(matches: Sequence[float], totals: Sequence[float], smoothing: Smoothing) -> list[float]:
    """Return p_n for every order."""
    if smoothing == "add_one":
        return [(m + 1) / (t + 1) for m, t in zip(matches, totals, strict=True)]
    if not any(matches):  # no word in common: 0 in every other variant
        return [0.0] * len(matches)
    result, halved = [], 1.0
    for m, t in zip(matches, totals, strict=True):
        if m or not t:
            result.append(m / t if t else 0.0)
        elif smoothing == "exp":
            halved *= 2
            result.append(1 / (halved * t))
        else:
            result.append(EPSILON / t if smoothing in ("floor", "epsilon") else 0.0)
    return result


def _check(references: Sequence[Sequence[Tokens]], hypotheses: Sequence[Tokens]) -> None:
    if len(references) != len(hypotheses) or not hypotheses:
        raise DataError(
            f"BLEU: expected as many references as hypotheses and at least one, found {len(references)} and {len(hypotheses)}"
        )
    empty = next((i for i, several in enumerate(references) if not several), None)
    if empty is not None:
        raise DataError(f"BLEU: expected at least one reference for every hypothesis, found none for number {empty}")
