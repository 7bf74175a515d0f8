"""folio: first-order-logic entailment (Han et al. 2022), rows {premises, conclusion, label}; True, False or Uncertain (chance 1/3).

Each label is scored as the answer's text and the likeliest is chosen; nothing is generated. Option `normalise`: `prior` (default: minus the
label's log-likelihood after a question without premises, so that a label a model likes anyway gains nothing; Holtzman et al. 2021,
domain-conditional PMI), `tokens` (mean per token) or `none`. Metric: accuracy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from leaven.core.types import Item, Request, Sample, Score, Verdict
from leaven.errors import DataError, StudyError, did_you_mean
from leaven.evals.benchmarks.rows import problem_item, required
from leaven.evals.harness import BENCHMARKS, Execution, Setting, gold_request
from leaven.evals.judge import judge_labels

LABELS = ("True", "False", "Uncertain")
QUESTION = "Is the following statement true, false or uncertain?"


@BENCHMARKS("folio")
class Folio:
    """Choose the likeliest of three labels."""

    metrics = ("accuracy",)
    options = ("normalise",)

    def items(self, rows: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> Iterator[Item]:
        """Yield one item per conclusion; items that share premises form one cluster."""
        for index, row in enumerate(rows):
            premises = required(row, "premises", index, "folio")
            text = " ".join(premises) if isinstance(premises, list) else str(premises)
            label = {"unknown": "Uncertain"}.get(str(row.get("label", "")).lower(), str(row.get("label", "")))
            if label not in LABELS:
                raise DataError(
                    f"benchmark folio, row {index + 1}: expected a label of {', '.join(LABELS)}, found {row.get('label')!r}"
                )
            question = f"{text}\n{QUESTION} {required(row, 'conclusion', index, 'folio')}"
            cluster = str(row.get("story_id", "")) or text[:200]
            yield problem_item("folio", f"folio/{index}", question, answer=label, domain="logic", cluster=cluster)

    def requests(self, item: Item, setting: Setting) -> list[Request]:
        """Ask for the log-likelihood of every label; with `prior`, of every label after the bare question too."""
        asked: list[Request] = [_label_request(item, label, setting) for label in LABELS]
        if _normalise(setting) == "prior":
            bare = dataclasses.replace(item, example=dataclasses.replace(item.example, question=QUESTION))
            asked += [_label_request(bare, label, setting) for label in LABELS]
        return asked

    def judge(self, item: Item, outputs: Sequence[Sample], setting: Setting) -> list[Verdict | Execution]:
        """Choose the likeliest label."""
        own, prior = outputs[: len(LABELS)], outputs[len(LABELS) :]
        how = _normalise(setting)
        scores = [(s.logprob_nats or 0.0) / (max(1, s.n_tokens) if how == "tokens" else 1) for s in own]
        if how == "prior":
            scores = [score - (s.logprob_nats or 0.0) for score, s in zip(scores, prior, strict=True)]
        return [judge_labels(item, scores, LABELS, item.example.answer)]


def _normalise(setting: Setting) -> str:
    """Return how label scores are normalised; raise StudyError for an unknown way."""
    how = str(setting.options.get("normalise", "prior"))
    if how not in ("prior", "tokens", "none"):
        raise StudyError(
            f"folio, option normalise: expected prior, tokens or none, found {how!r}.{did_you_mean(how, ('prior', 'tokens', 'none'))}"
        )
    return how


def _label_request(item: Item, label: str, setting: Setting) -> Score:
    """Return the gold request of the same item with another label as its answer."""
    example = dataclasses.replace(item.example, answer=label)
    return dataclasses.replace(gold_request(dataclasses.replace(item, example=example), setting), label=label)
