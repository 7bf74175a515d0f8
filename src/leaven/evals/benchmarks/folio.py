"""folio: first-order-logic entailment (Han et al. 2022), rows {premises, conclusion, label}; True, False or Uncertain (chance 1/3).

Each label is scored as the answer's text and the likeliest is chosen; nothing is generated. Option `normalise`: `tokens` (default,
mean log-likelihood per token) or `none`. Metric: accuracy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from leaven.core.types import Item, Request, Sample, Score, Verdict
from leaven.errors import DataError
from leaven.evals.benchmarks.rows import problem_item, required
from leaven.evals.harness import BENCHMARKS, Execution, Setting, gold_request
from leaven.evals.judge import judge_labels

LABELS = ("True", "False", "Uncertain")


@BENCHMARKS("folio")
class Folio:
    """Choose the likeliest of three labels."""

    metrics = ("accuracy",)

    def items(self, rows: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> Iterator[Item]:
        """Yield one item per conclusion; items that share premises form one cluster."""
        for index, row in enumerate(rows):
            premises = required(row, "premises", index, "folio")
            text = " ".join(premises) if isinstance(premises, list) else str(premises)
            label = {"unknown": "Uncertain"}.get(str(row.get("label", "")).lower(), str(row.get("label", "")))
            if label not in LABELS:
                raise DataError(f"benchmark folio, row {index + 1}: expected a label of {', '.join(LABELS)}, found {row.get('label')!r}")
            question = f"{text}\nIs the following statement true, false or uncertain? {required(row, 'conclusion', index, 'folio')}"
            cluster = str(row.get("story_id", "")) or text[:200]
            yield problem_item("folio", f"folio/{index}", question, answer=label, domain="logic", cluster=cluster)

    def requests(self, item: Item, setting: Setting) -> list[Request]:
        """Ask for the log-likelihood of every label."""
        return [_label_request(item, label, setting) for label in LABELS]

    def judge(self, item: Item, outputs: Sequence[Sample], setting: Setting) -> list[Verdict | Execution]:
        """Choose the likeliest label."""
        per_token = setting.options.get("normalise", "tokens") == "tokens"
        return [judge_labels(item, outputs, LABELS, item.example.answer, per_token=per_token)]


def _label_request(item: Item, label: str, setting: Setting) -> Score:
    """Return the gold request of the same item with another label as its answer."""
    example = dataclasses.replace(item.example, answer=label)
    return dataclasses.replace(gold_request(dataclasses.replace(item, example=example), setting), label=label)
