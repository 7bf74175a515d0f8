"""The `attribute` section of a study -> nodes: target texts, influence per model, its mean over seeds, models trained again.

Not covered: what the steps compute (attribution/, targets.py); what a report shows of it (analysis/influence.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from leaven.core.hashing import canonical, plain
from leaven.engine.graph import FileInput
from leaven.engine.origins import Origins, operations
from leaven.errors import StudyError
from leaven.spec.attribute import Attribute, Retraining, Target
from leaven.spec.data import Stage
from leaven.spec.study import Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained and measured model as attribution sees it; `tokens` and `stage` are those of its last stage."""

    cell: Cell
    seed: int
    base: str
    model: str
    tokenizer: str | FileInput
    tokens: Mapping[str, str]
    samples: Mapping[str, str]
    verdicts: Mapping[str, str]
    stage: Stage
    asked: Callable[[str], Mapping[str, Any]]
    """Benchmark -> spec of its generate step."""
    format_in: Callable[[str, str], str]
    """(place in the study file, declared format) -> format."""


Place = tuple[str, str, str, int]
"""Attribution, condition, level, seed."""


class Attributions:
    """Adds the nodes of every attribution and knows which artifact an intervention uses."""

    def __init__(self, origins: Origins) -> None:
        self.origins, self.study = origins, origins.study
        self.trained: list[Trained] = []
        self.nodes: dict[Place, str] = {}
        self.targets: dict[Place, dict[str, str]] = {}
        self.outcomes: dict[Place, str] = {}
        self.retrained: dict[Place, dict[str, str]] = {}
        self.validations: dict[tuple[str, str, str], str] = {}

    def add(self, trained: Trained) -> dict[str, str]:
        """Return name -> node of the attributions that ask about this model."""
        self.trained.append(trained)
        found = {}
        for name, asked in self.study.attribute.items():
            if trained.cell.condition in asked.of:
                place = (name, trained.cell.condition, canonical(trained.cell.level), trained.seed)
                self.targets[place] = {q: self._target(name, q, t, trained) for q, t in asked.queries.items()}
                found[name] = self.nodes[place] = self._attribute(name, asked, trained, self.targets[place])
        return found

    def finish(self) -> None:
        """Add what needs the attributions of all seeds: what every model says of the targets, and models trained again."""
        for trained in self.trained:
            for name, asked in self.study.attribute.items():
                place = (name, trained.cell.condition, canonical(trained.cell.level), trained.seed)
                if place in self.nodes and asked.retrain:
                    self.retrained[place] = {r: self._retrain(name, r, how, trained) for r, how in asked.retrain.items()}
                if len(asked.of) == 1:
                    inputs = _queries(self.targets[name, asked.of[0], place[2], trained.seed])
                    identity = f"{trained.base}/outcomes-{name}"
                    step = "leaven.attribution.outcomes:outcomes"
                    self.outcomes[place] = self.origins.add(
                        identity, step, {"reduce": asked.reduce}, {"model": trained.model, **inputs}, (identity,)
                    )
        for name, condition, level in dict.fromkeys(place[:3] for place in self.nodes):
            if self.study.attribute[name].retrain or self.study.attribute[name].planted:
                self.validations[name, condition, level] = self._validate(name, condition, level)

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

    def _attribute(self, name: str, asked: Attribute, trained: Trained, targets: Mapping[str, str]) -> str:
        inputs: dict[str, str | FileInput] = {"model": trained.model, **{f"tokens:{k}": v for k, v in trained.tokens.items()}}
        inputs |= {**_queries(targets), **self.origins.plugins}
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

    def _validate(self, name: str, condition: str, level: str) -> str:
        """Return the node that compares the scores of all seeds with the copies trained again."""
        seeds = self.study.seeds
        inputs: dict[str, str | FileInput] = {f"influence:{s}": self.nodes[name, condition, level, s] for s in seeds}
        inputs |= {
            f"retrained:{kind}-{s}": node for s in seeds for kind, node in self.retrained.get((name, condition, level, s), {}).items()
        }
        label = next(t.cell.label for t in self.trained if canonical(t.cell.level) == level)
        planted = plain(self.study.attribute[name].planted)
        spec = {"planted": planted} if planted else {}
        identity = "/".join(filter(None, ("attribution", f"{name}-validation", condition, label)))
        return self.origins.add(identity, "leaven.attribution.validate:validate", spec, inputs, (identity,))

    def facts(self, without: Collection[str]) -> tuple[dict[str, Any], dict[str, str | FileInput]]:
        """Return what the analysis is told of all attributions, and its inputs; nothing without attributions."""
        inputs: dict[str, str | FileInput] = {}

        def given(node: str | FileInput) -> str:
            name = node if isinstance(node, str) else node.path
            if name not in without:
                inputs[f"of-attribution:{name}"] = node
            return f"of-attribution:{name}"

        labels: dict[tuple[str, str, str], None] = {}
        runs = []
        by_place = {(t.cell.condition, canonical(t.cell.level), t.seed): t for t in self.trained}
        for (name, condition, level, seed), node in self.nodes.items():
            trained = by_place[condition, level, seed]
            of = trained.cell.data.sources
            labels |= {(s, of[s].domain, self.origins.trained(trained.stage, s, trained.cell)): None for s in trained.stage.mixture}
            runs.append({
                "name": name, "condition": condition, "level": level, "seed": seed, "input": given(node), "node": node,
                "tokens": {key.partition("|")[0]: given(tokens) for key, tokens in trained.tokens.items()},
                "tokenizer": given(trained.tokenizer),
            })  # fmt: skip
        if not runs:
            return {}, {}
        cell = ("name", "condition", "level", "seed")
        domains = {q: t.domain or q for a in self.study.attribute.values() for q, t in a.queries.items()}
        facts = {
            "runs": runs,
            "labels": [{"source": source, "domain": domain, "input": given(node)} for source, domain, node in labels],
            "outcomes": [{**dict(zip(cell, place, strict=True)), "input": given(node)} for place, node in self.outcomes.items()],
            "validation": [
                {**dict(zip(cell[:3], place, strict=True)), "input": given(node), "node": node} for place, node in self.validations.items()
            ],
            "domains": domains,
            "roles": {c: role for c in self.study.conditions if (role := self._role(c))},
            "paper": "kou2025" in self.study.papers,
        }
        return facts, inputs

    def _role(self, condition: str) -> str:
        """Return what a condition plays in Kou et al. 2025, "" for nothing."""
        cell = next(t.cell for t in self.trained if t.cell.condition == condition)
        stage = list(cell.data.stages.values())[-1]
        named = {o["name"]: o["options"] for o in operations(stage.perturb)}
        if "exploration" in named:
            return "random_deletion" if named["exploration"].get("delete") == "random" else "truncated"
        if stage.reweigh is None:
            return "original" if any(condition in a.of for a in self.study.attribute.values()) else ""
        if stage.reweigh.control == "random_swap":
            return "random_swap"
        if stage.reweigh.how != "flip":
            return ""
        flipped = {cell.data.sources[s].domain for s in stage.reweigh.sources or stage.mixture}
        return f"flip_{flipped.pop()}" if len(flipped) == 1 else "flip"

    def _retrain(self, name: str, retrained: str, how: Retraining, trained: Trained) -> str:
        """Return the node of copies trained again from the very inputs of this model's last stage."""
        asked, where = self.study.attribute[name], self.origins.loaded.where(f"attribute.{name}.retrain.{retrained}")
        training = self.origins.by_id[trained.model]
        if training.spec["model"]["kind"] != "tiny":
            raise StudyError(
                f"{where}: copies are trained of the embedded model (model.kind: tiny), found {training.spec['model']['kind']}; add "
                "conditions with data.stages.NAME.leave_out instead"
            )
        level = canonical(trained.cell.level)
        inputs = {k: v for k, v in training.inputs.items() if k != "continue"}
        inputs |= _queries(self.targets[name, trained.cell.condition, level, trained.seed])
        spec: dict[str, Any] = {k: training.spec[k] for k in ("model", "train", "stage", "seed")}
        spec |= {"checkpoints": how.checkpoints, "queries": "single" if asked.single else "aggregate", "reduce": asked.reduce}
        if how.kind == "half":
            spec["subsets"] = {"kind": "half", "n": how.n, "fraction": how.fraction, "seed": 0}
        elif how.kind == "groups":
            spec["subsets"] = {"kind": "groups", "by": how.by, "groups": list(how.groups)}
            inputs |= {f"examples:{s}": self.origins.trained(trained.stage, s, trained.cell) for s in trained.stage.mixture}
        else:
            queries = [] if asked.single else list(asked.queries)
            spec["subsets"] = {"kind": "top", "counts": list(how.counts), "end": how.end, "methods": [], "queries": queries,
                               "controls": how.controls, "seed": 0}  # fmt: skip
            inputs["influence"] = self.scores(name, trained.cell, trained.seed, where)
        identity = f"{trained.base}/retrained-{name}-{retrained}"
        return self.origins.add(identity, "leaven.attribution.retrain:retrain", spec, inputs, (identity,))

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


def _queries(targets: Mapping[str, str]) -> dict[str, str | FileInput]:
    """Return target texts as inputs of a step."""
    return {f"queries:{query}": node for query, node in targets.items()}
