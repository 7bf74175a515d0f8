"""The schemas of tables.py -> docs/artifacts.md: `python -m leaven.core.schema_page > docs/artifacts.md`.

Names and types come from the schemas themselves, the sentence under each heading from the text beside it in tables.py,
so that the page cannot say anything the code does not (a test compares both). Only which artifact holds which table is
written here.
Not covered: tables that a single stage defines for its own output (analysis scores), files that are no tables.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from leaven.core import tables
from leaven.errors import DataError

PLACES: dict[str, str] = {
    "EXAMPLES": "`examples.parquet` of every source (`data/NAME`)",
    "ITEMS": "`items.parquet` of every benchmark (`items/NAME`)",
    "LENGTHS": "`lengths.parquet` of every tokenised source (`tokens/SOURCE/FORMAT`), beside the arrays `ids.npy`, "
               "`learn.npy` and `kind.npy`",
    "SEGMENTS": "`segments.parquet` of every tokenised source (`tokens/SOURCE/FORMAT`)",
    "ORDER": "`order.parquet` of every stage (`CONDITION/seed-N/order-STAGE`)",
    "REALISED": "`realised.parquet` of every stage (`CONDITION/seed-N/order-STAGE`), and all of them in "
                "`tables/realised.parquet`",
    "CURVE": "`curve.parquet` of every trained model (`CONDITION/seed-N/model`), and all of them in "
             "`tables/curves.parquet`",
    "SAMPLES": "`samples.parquet` of every evaluation (`CONDITION/seed-N/samples-NAME`)",
    "VERDICTS": "`verdicts.parquet` of every evaluation (`CONDITION/seed-N/verdicts-NAME`)",
    "RESULTS": "`tables/results.parquet` of the run folder",
    "INFLUENCE": "`influence.parquet` of every attribution (`leaven attribute`)",
    "PROBE_VALUES": "`values.parquet` of every probe (`CONDITION/seed-N/probe-NAME`)",
    "PROBE_GRID": "`grid.parquet` of every attention probe (`CONDITION/seed-N/probe-NAME`)",
    "PERTURBED": "`perturbed.parquet` of every perturbed source (`data/SOURCE/PERTURBATIONS`)",
    "LABELS": "`labels.parquet` of every labelled source (`data/SOURCE+label`)",
    "REWEIGHED": "`reweighed.parquet` of every stage with `reweigh` (`CONDITION/seed-N/order-STAGE`)",
    "LEFT_OUT": "`left_out.parquet` of every stage with `leave_out` (`CONDITION/seed-N/order-STAGE`)",
    "RETRAINED": "`retrained.parquet` of every retraining (`CONDITION/seed-N/retrained-NAME`)",
    "SUBSETS": "`subsets.parquet` beside it",
    "OUTCOMES": "`outcomes.parquet` of every model in a study with attributions (`CONDITION/seed-N/outcomes-NAME`)",
    "FUNNEL": "`funnel.parquet` of every synthesis (`leaven synthesize`)",
    "TIMINGS": "`timings.parquet` beside what was timed",
}
"""Schema -> where its table is found; artifact names are links in the run folder `runs/STUDY/`."""

INTRO = """\
# Artifacts

The tables that leaven writes, as Parquet. This page is generated from `src/leaven/core/tables.py` (`make docs`).

Every name below is a link in the run folder `runs/STUDY/`; what it leads to lies in the store under its content key,
with a manifest: which step made it, from which inputs, on which machine (`leaven why runs/STUDY ARTIFACT`). Where a
study varies something, the level stands between condition and seed.

Open a table with any Parquet reader, or ask in SQL: `leaven results runs/STUDY --sql 'select * from results limit 5'`.
Times are never part of an artifact's identity; they live in tables called timings. Where a column counts, its name says
what (`n_tokens`); log-likelihoods are in nats.
"""


def schemas() -> dict[str, tuple[tables.Schema, str]]:
    """Return name -> (schema, the text that follows it) in the order of tables.py.

    Raises:
        DataError: When a schema has no place in PLACES, or a place no schema.
    """
    body = ast.parse(Path(tables.__file__).read_text(encoding="utf-8")).body
    texts: dict[str, str] = {}
    for number, node in enumerate(body):
        if not isinstance(node, ast.AnnAssign) or ast.unparse(node.annotation) != "Schema":
            continue
        after = body[number + 1] if number + 1 < len(body) else None
        text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
        texts[ast.unparse(node.target)] = " ".join(str(text).split())
    if set(texts) != set(PLACES):
        raise DataError(f"schema_page: expected a place for each of {sorted(texts)}, found {sorted(PLACES)}; "
                        "complete PLACES")
    return {name: (getattr(tables, name), text) for name, text in texts.items()}


def page() -> str:
    """Return docs/artifacts.md."""
    parts = [INTRO]
    for name, (schema, text) in schemas().items():
        inherits = name != "EXAMPLES" and tables.EXAMPLES.keys() <= schema.keys()
        own = {c: k for c, k in schema.items() if not (inherits and c in tables.EXAMPLES)}
        rows = "\n".join(f"| `{column}` | {_type_name(kind)} |" for column, kind in own.items())
        rows += "\n| all columns of EXAMPLES | |" if inherits else ""
        parts.append(f"## {name}\n\nIn {PLACES[name]}.\n{text}\n\n| column | type |\n|---|---|\n{rows}\n")
    return "\n".join(parts)


def _type_name(kind: object) -> str:
    """Return a column type as people say it."""
    text = str(kind() if isinstance(kind, type) else kind)
    return {"String": "text", "Boolean": "true or false", "List(String)": "list of texts"}.get(text, text.lower())


if __name__ == "__main__":
    sys.stdout.write(page())
