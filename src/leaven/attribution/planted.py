"""Influence tables + which sources were planted to help, to hurt or as noise -> how well scores tell them apart.

Not covered: whether what was planted does what it should (retraining without it: validate.py, kind group).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leaven.attribution.agreement import Validation, planted_auc
from leaven.attribution.validate import read_scores_of
from leaven.errors import DataError


def planted_records(
    tables: Sequence[Path], planted: Mapping[str, Mapping[str, Sequence[str]]], spec: Mapping[str, Any]
) -> list[Validation]:
    """Return the area under the ROC curve of helpful against harmful, and against noise, for every method.

    Args:
        tables: influence tables (or folders), one per model.
        planted: query -> {"helpful": sources, "harmful": sources, "noise": sources}; the last two may be empty.
        spec: as of `validate`.

    Raises:
        DataError: a source has no scored example.
    """
    queries = list(planted)
    keys, scores = read_scores_of(tables, queries)
    source = np.array([s for s, _ in keys])
    missing = sorted({s for told in planted.values() for named in told.values() for s in named} - set(source))
    if missing:
        raise DataError(f"planted: expected scored examples of every source named, found none of {', '.join(missing)}")
    wanted = str(spec.get("reference", "ekfac"))
    reference = wanted if wanted in scores else next(iter(scores))
    found: list[Validation] = []
    for against in ("harmful", "noise"):
        asked = [n for n, q in enumerate(queries) if planted[q].get(against)]
        if not asked:
            continue
        labels = np.zeros((len(asked), len(keys)), int)
        for row, n in zip(labels, asked, strict=True):
            row[np.isin(source, planted[queries[n]]["helpful"])] = 1
            row[np.isin(source, planted[queries[n]][against])] = -1
        chosen = {method: dense[:, asked] for method, dense in scores.items()}
        draws, seed = int(spec.get("draws", 1000)), int(spec.get("seed", 0))
        found += planted_auc(labels, chosen, statistic=f"helpful above {against}", reference=reference, draws=min(draws, 300), seed=seed)
    return found
