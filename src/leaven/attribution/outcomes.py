"""A model + tokenised target texts -> the log-likelihood of every text: what influence predicts the change of, measured.

Not covered: models trained again without some examples, many at a time (retrain.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from leaven.attribution.baselines import text_losses
from leaven.attribution.passes import Tracked
from leaven.attribution.texts import fit_to, load_texts
from leaven.core.step import StepContext, step
from leaven.core.tables import OUTCOMES, write_table
from leaven.errors import DataError
from leaven.lm.backend import open_backend


@step(version=1)
def outcomes(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Write outcomes.parquet and report.json.

    Args:
        spec: reduce (sum | mean over the learned tokens of a text).
        inputs: `model`; `queries:NAME` target texts (tokenise artifacts).
        out: receives the files above.
        ctx: progress, stop and resources.

    Raises:
        DataError: a query without a text that keeps a learned token within the model's context.
    """
    backend: Any = open_backend(inputs["model"], ctx.runtime)
    tracked = Tracked(backend.model, "mlp")
    rows: list[dict[str, Any]] = []
    names = sorted(n for n in inputs if n.startswith("queries:"))
    for done, name in enumerate(names):
        ctx.check_stop()
        ctx.progress(done, len(names), "targets")
        texts, _, _ = fit_to(load_texts(inputs[name]), tracked.model.max_tokens)
        if not texts:
            raise DataError(f"outcomes: expected a learned token within {tracked.model.max_tokens} tokens in {name}, found none")
        tokens = np.array([t.token_weights().sum() for t in texts]) if spec["reduce"] == "mean" else np.ones(len(texts))
        values = -text_losses(tracked, texts) / tokens
        query = name.partition(":")[2]
        rows += [{"query": query, "item": t.example, "value": float(v)} for t, v in zip(texts, values, strict=True)]
    write_table(out / "outcomes.parquet", rows, OUTCOMES)
    (out / "report.json").write_text(json.dumps({"n_texts": len(rows)}) + "\n", encoding="utf-8")
