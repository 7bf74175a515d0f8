"""Manifests beside published folders -> which artifact and which machine each number came from.

A published folder carries `_manifest.json` (node, key, recipe with the keys of its inputs, fingerprint). Starting at a step's own
inputs, the keys are followed through the store they lie in, as far as their folders exist; a folder without a manifest (a notebook's
plain path) ends the walk there. Only facts that do not change between runs are taken: never times or costs.
Not covered: writing manifests (engine/store.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST = "_manifest.json"
MODEL_STEPS = "leaven.lm."
NUMERIC_STEPS = (MODEL_STEPS, "leaven.evals.")
"""Steps whose floating-point results may depend on the machine; data steps are exact."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One published step: its readable node, key, step function, the keys it read, and the machine it ran on."""

    node: str
    key: str
    function: str
    inputs: tuple[str, ...]
    fingerprint: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Lineage:
    """Every artifact reachable from a report's inputs, by key, and the key of each node."""

    artifacts: Mapping[str, Artifact]
    keys: Mapping[str, str]

    def key(self, node: str) -> str:
        """Return the key of a node, "" when it is not known."""
        return self.keys.get(node, "")

    def model(self, node: str) -> str:
        """Return the key of the model nearest upstream of `node`, "" when none is known."""
        return next((a.key for a in self._upstream(node) if a.function.startswith(MODEL_STEPS)), "")

    def machines(self, node: str) -> list[Mapping[str, Any]]:
        """Return the distinct fingerprints of the numeric steps behind `node`."""
        return distinct(a.fingerprint for a in self._upstream(node) if a.function.startswith(NUMERIC_STEPS))

    def _upstream(self, node: str) -> list[Artifact]:
        """Return the artifact of `node` and what it was made from, nearest first."""
        waiting, met = [self.keys.get(node, "")], []
        while waiting:
            artifact = self.artifacts.get(waiting.pop(0))
            if artifact is not None and artifact not in met:
                met.append(artifact)
                waiting += artifact.inputs
        return met


def lineage(folders: Iterable[Path]) -> Lineage:
    """Return what the manifests in `folders` and, through their recipes, in the same store say."""
    waiting, artifacts = list(folders), {}
    while waiting:
        folder = waiting.pop()
        artifact = _artifact(folder)
        if artifact is None or artifact.key in artifacts:
            continue
        artifacts[artifact.key] = artifact
        if folder.name == artifact.key:
            waiting += [folder.parents[1] / key[:2] / key for key in artifact.inputs if key not in artifacts]
    return Lineage(artifacts, {a.node: a.key for a in sorted(artifacts.values(), key=lambda a: a.key)})


def distinct(fingerprints: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return fingerprints without repeats, in a fixed order."""
    found = {json.dumps(f, sort_keys=True): f for f in fingerprints if f}
    return [found[text] for text in sorted(found)]


def _artifact(folder: Path) -> Artifact | None:
    """Return the artifact in `folder`; None without a readable manifest, which plain folders do not have."""
    try:
        raw = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        recipe = raw["recipe"]
        return Artifact(
            str(raw["node"]),
            str(raw["key"]),
            str(recipe["function"]),
            tuple(sorted(str(i["key"]) for i in recipe["inputs"].values())),
            dict(raw["fingerprint"]),
        )
    except (OSError, json.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None
