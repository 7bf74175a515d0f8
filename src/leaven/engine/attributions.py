"""The `attribute` section of a study -> nodes: target texts, influence per model, its mean over seeds, models trained again.

Not covered: what the steps compute (attribution/, targets.py); what a report shows of it (analysis/influence.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from leaven.core.hashing import canonical, plain
from leaven.engine.graph import FileInput
from leaven.engine.origins import Origins
from leaven.errors import StudyError
from leaven.spec.attribute import Attribute, Target
from leaven.spec.study import Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained and measured model as attribution sees it; `tokens` and `order` are those of its last stage."""

    cell: Cell
    seed: int
    base: str
    model: str
    tokenizer: str | FileInput
    order: str
    tokens: Mapping[str, str]
    samples: Mapping[str, str]
    verdicts: Mapping[str, str]
    asked: Callable[[str], Mapping[str, Any]]
    """Benchmark -> spec of its generate step."""
    format_in: Callable[[str, str], str]
    """(place in the study file, declared format) -> format."""


class Attributions:
    """Adds the nodes of every attribution and knows which artifact an intervention uses."""

    def __init__(self, origins: Origins) -> None:
        self.origins, self.study = origins, origins.study
        self.nodes: dict[tuple[str, str, str, int], str] = {}

    def add(self, trained: Trained) -> dict[str, str]:
        """Return name -> node of the attributions that ask about this model."""
        found = {}
        for name, asked in self.study.attribute.items():
            if trained.cell.condition in asked.of:
                found[name] = self._attribute(name, asked, trained)
                self.nodes[name, trained.cell.condition, canonical(trained.cell.level), trained.seed] = found[name]
        return found

    def scores(self, name: str, cell: Cell, seed: int, where: str) -> str:
        """Return the node with the scores that an intervention of this cell and seed uses.

        Raises:
            StudyError: the attribution asks about several conditions, so that it is not clear whose scores are meant.
        """
        asked = self.study.attribute[name]
        if len(asked.of) != 1:
            raise StudyError(f"{where}: expected an attribution of one condition, found {', '.join(asked.of)} in attribute.{name}.of")
        level = canonical(cell.level)
        if asked.seeds == "own":
            return self.nodes[name, asked.of[0], level, seed]
        inputs: dict[str, str | FileInput] = {
            f"seed-{s}": self.nodes[name, asked.of[0], level, s] for s in self.study.seeds
        }
        identity = "/".join(filter(None, ("attribution", name, cell.label)))
        return self.origins.add(identity, "leaven.engine.targets:mean_influence", {}, inputs, (identity,))

    def _attribute(self, name: str, asked: Attribute, trained: Trained) -> str:
        inputs: dict[str, str | FileInput] = {"model": trained.model, **{f"tokens:{k}": v for k, v in trained.tokens.items()}}
        for query, target in asked.queries.items():
            inputs[f"queries:{query}"] = self._target(name, query, target, trained)
        spec = {
            "modules": asked.modules,
            "fisher": asked.fisher,
            "damping": {"rule": "relative", "value": asked.damping},
            "reduce": asked.reduce,
            "queries": "single" if asked.single else "aggregate",
            "level": asked.level,
            "decompositions": list(asked.decompositions),
            "keep": asked.keep,
            "baselines": list(asked.baselines),
            "seed": 0,
            "refine": {"passes": asked.refine, "seed": 0} if asked.refine else None,
        }
        identity = f"{trained.base}/attribution-{name}"
        return self.origins.add(identity, "leaven.attribution.run:attribute", spec, inputs, (identity,))

    def _target(self, name: str, query: str, target: Target, trained: Trained) -> str:
        """Return the node of a target's tokens."""
        where = self.origins.loaded.where(f"attribute.{name}.queries.{query}")
        form = trained.format_in(f"{where}.format", target.format)
        inputs: dict[str, str | FileInput] = {"tokenizer": trained.tokenizer, **self.origins.plugins}
        spec: dict[str, Any] = {"source": query, "format": form, "difficulties": list(target.difficulties), "limit": target.limit}
        if target.texts == "own_correct":
            assert target.of is not None
            measured = {"samples": trained.samples[target.of], "verdicts": trained.verdicts[target.of]}
            inputs |= {"items": self.origins.items(target.of, self.study.measure[target.of]), **measured}
            spec |= {"asked": dict(trained.asked(target.of)), "metric": target.metric}
            identity = f"{trained.base}/target-{query}"
        else:
            inputs["examples"] = self.origins.examples(f"attribute.{name}.queries.{query}", f"data/target-{query}", target)
            identity = f"targets/{query}/{form}"
        return self.origins.add(identity, "leaven.engine.targets:target_texts", plain(spec), inputs, (identity,))
