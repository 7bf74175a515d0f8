"""`leaven plan`: builds the data of a study (cheap, cached, no training) and says what the rest would cost.

Data steps run because only they know tokens, cuts and rows without loss; nothing else is built or spent.
Not covered: the formulas (engine/cost.py), drawing tables (cli.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leaven.api.running import execute, load, run_dir_of, source_notes
from leaven.core.hashing import canonical
from leaven.core.tables import read_examples
from leaven.data.tokenise import Rendered, preview
from leaven.data.tokenizer import Tokenizer
from leaven.engine.cost import Brought, TrainingCost, training_costs
from leaven.engine.estimate import Forecast, forecast
from leaven.engine.graph import Node, in_order
from leaven.engine.origins import format_of, named_path
from leaven.engine.plan import Plan, build_plan, differences
from leaven.engine.run import Outcome
from leaven.engine.store import Store
from leaven.spec.runtime import store_path

DATA_STEPS = ("leaven.data.", "leaven.engine.stages:")


@dataclass(frozen=True, slots=True)
class PlanReport:
    """What a study will do and cost; `outcome` is how building its data ended (None when it was not built)."""

    plan: Plan
    forecasts: list[Forecast]
    costs: list[TrainingCost]
    differences: list[dict[str, Any]]
    outcome: Outcome | None
    notes: list[str]
    previews: list[tuple[str, Rendered]]


def plan(
    path: Path | str,
    set: Sequence[str] = (),
    *,
    build_data: bool = True,
    previews: int = 0,
    log: Callable[[Any], None] | None = None,
) -> PlanReport:
    """Return what running a study would do, cost and train on.

    Args:
        path: The study file.
        set: `dotted.path=value` overrides.
        build_data: Build sources, tokens and order tables so that counts are exact; skipped where files are absent.
        previews: Rendered examples per condition and source.
        log: Receives engine events while data is built.

    Raises:
        StudyError: When the study file is wrong.
    """
    loaded = load(path, set)
    found = build_plan(loaded, allow_missing_files=True)
    store = Store(store_path(loaded.study.runtime))
    folder = run_dir_of(loaded)
    data = _data_alone(found.nodes)
    outcome = None
    if build_data and not found.missing:
        outcome = execute(found, folder, only=data, log=log, resume=f"leaven plan {path}")
    forecasts = forecast(found.nodes, store, run_dir=folder)
    rendered = _previews(found, forecasts, store, previews) if previews else []
    return PlanReport(
        found,
        forecasts,
        training_costs(forecasts, store, _brought(found)),
        differences(loaded.cells),
        outcome,
        source_notes(folder),
        rendered,
    )


def _data_alone(nodes: Sequence[Node]) -> list[str]:
    """Return the data steps that need no trained model: order tables made from influence wait for the run."""
    found: set[str] = set()
    for node in in_order(nodes):
        before = [i for i in node.inputs.values() if isinstance(i, str)]
        if node.function.startswith(DATA_STEPS) and all(i in found for i in before):
            found.add(node.id)
    return [n.id for n in nodes if n.id in found]


def _brought(found: Plan) -> dict[str, Brought]:
    """Return which training step of a plan trains which Hugging Face model."""
    cells = {(c.condition, canonical(c.level)): c for c in found.loaded.cells}
    folder = found.loaded.path.absolute().parent
    models = found.loaded.study.runtime.paths.models
    brought = {}
    for run in found.runs:
        model = cells[run.condition, run.level].model
        if model.kind == "hf" and model.folder is not None:
            path = named_path(folder, model.folder, "model", models)
            brought |= {node: Brought(path, model) for node in run.models.values()}
    return brought


def _previews(found: Plan, forecasts: list[Forecast], store: Store, n: int) -> list[tuple[str, Rendered]]:
    """Render the first examples of every condition's stages from built sources."""
    folders = {f.node.id: store.path(f.key) for f in forecasts if f.state == "cached"}
    by_id = {node.id: node for node in found.nodes}
    rows: list[tuple[str, Rendered]] = []
    for cell in {c.condition: c for c in found.loaded.cells}.values():
        run = next(r for r in found.runs if r.condition == cell.condition)
        for name, stage in cell.data.stages.items():
            tokenizer = by_id[run.models[name]].inputs["tokenizer"]
            folder = folders.get(tokenizer) if isinstance(tokenizer, str) else Path(tokenizer.path)
            for source in (s for s, weight in stage.mixture.items() if weight > 0):
                examples = folders.get(found.sources[cell.condition][source])
                if folder is None or examples is None:
                    continue
                limit = None if stage.truncate in ("split", "error") else stage.max_tokens
                for shown in preview(
                    read_examples(examples / "examples.parquet"),
                    format_of(stage, source),
                    Tokenizer.load(folder),
                    n,
                    limit,
                    "right" if limit is None else stage.truncate,
                ):  # type: ignore[arg-type]
                    rows.append((f"{cell.condition} / {name} / {source}", shown))
    return rows
