"""The store's history -> what a graph will cost: seconds, bytes, and what is cached and why not.

Estimates are medians over manifests of the same step whose spec agrees most with the asked one; no model of the machine
is kept. A forecast stops being exact where a step must run, because what reads its output is named by content that does
not exist yet. Not covered: FLOPs and tokens (plan.py knows what a step means).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from leaven.engine.graph import FileInput, Node, in_order, step_facts
from leaven.engine.provenance import changes, keys_of, leaves
from leaven.engine.store import Manifest, Recipe, Source, Store

MOST_RECENT = 64
"""Artifacts per step that estimates look at; comparing specs with a whole large store costs more than it tells."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Expected cost of one step; `based_on` counts the artifacts behind it (0 = unknown, all numbers 0)."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    size_bytes: int = 0
    peak_rss_bytes: int = 0
    based_on: int = 0


class History:
    """What the artifacts of a store cost, by step."""

    def __init__(self, store: Store) -> None:
        self._by_function: dict[str, list[tuple[dict[str, Any], Manifest]]] = {}
        for manifest in store.manifests():
            row = (dict(leaves(manifest.recipe.spec)), manifest)
            self._by_function.setdefault(manifest.recipe.function, []).append(row)
        for function, rows in self._by_function.items():
            self._by_function[function] = sorted(rows, key=lambda row: row[1].created)[-MOST_RECENT:]

    def estimate(self, function: str, spec: Mapping[str, Any]) -> Estimate:
        """Return the median cost of the artifacts of `function` whose spec shares most fields with `spec`."""
        rows = self._by_function.get(function, [])
        if not rows:
            return Estimate()
        asked = dict(leaves(spec))
        alike = [sum(name in have and have[name] == value for name, value in asked.items()) for have, _ in rows]
        close = [manifest for n, (_, manifest) in zip(alike, rows, strict=True) if n == max(alike)]
        return Estimate(wall_s=statistics.median(m.cost.wall_s for m in close),
                        cpu_s=statistics.median(m.cost.cpu_s for m in close),
                        size_bytes=int(statistics.median(m.size_bytes for m in close)),
                        peak_rss_bytes=max(m.cost.peak_rss_bytes for m in close), based_on=len(close))


def recipe_of(node: Node, sources: Mapping[str, Source]) -> Recipe:
    """Return the recipe of a node whose inputs are known."""
    facts = step_facts(node.function)
    return Recipe(node.function, facts.version, facts.deterministic, dict(node.spec), dict(sources))


def sources_of(node: Node, built: Mapping[str, Manifest]) -> dict[str, Source] | None:
    """Return the inputs of a node as sources, None while one is not built; `built` maps node ids to manifests."""
    found: dict[str, Source] = {}
    for name, source in sorted(node.inputs.items()):
        if isinstance(source, FileInput):
            found[name] = Source("", "", source.sha256)
        elif source not in built:
            return None
        else:
            found[name] = Source(source, built[source].key, built[source].identity)
    return found


@dataclass(frozen=True, slots=True)
class Forecast:
    """What would happen to one node: `cached`, `run`, or `depends` (it runs unless a rerun input turns out unchanged).

    `key` is "" when it depends; `estimate` is the cost if it runs; `reason` says why it would.
    """

    node: Node
    state: Literal["cached", "run", "depends"]
    key: str
    estimate: Estimate
    reason: str


def forecast(nodes: Sequence[Node], store: Store, *, run_dir: Path | None = None) -> list[Forecast]:
    """Return what a run would do, writing nothing; `run_dir` lets reasons name what changed since its last run."""
    built: dict[str, Manifest] = {}
    keys: dict[str, str] = {}
    previous = keys_of(run_dir) if run_dir is not None else {}
    history = History(store)
    found = []
    for node in in_order(nodes):
        cost = history.estimate(node.function, node.spec)
        sources = sources_of(node, built)
        if sources is None:
            waits = next(p for p in node.parents() if p not in built)
            found.append(Forecast(node, "depends", "", cost, f"reads {waits}, which runs first"))
            continue
        recipe = recipe_of(node, sources)
        keys[node.id] = recipe.key
        manifest = store.lookup(recipe.key)
        if manifest is not None:
            built[node.id] = manifest
            found.append(Forecast(node, "cached", recipe.key, cost, ""))
        else:
            found.append(Forecast(node, "run", recipe.key, cost, _reason(recipe, store, previous.get(node.id, []))))
    return found


def _reason(recipe: Recipe, store: Store, previous: Sequence[str]) -> str:
    """Say why a recipe has no artifact."""
    damage = store.damage(recipe.key)
    if damage:
        return f"its artifact is damaged: {damage}"
    if (store.work(recipe.key)).is_dir():
        return "it was started before and resumes"
    old = next((m for key in reversed(previous) if key != recipe.key and (m := store.manifest(key)) is not None), None)
    if old is not None:
        return "; ".join(changes(old.recipe, recipe))
    return "its artifact was removed from the store" if recipe.key in previous else "never built"
