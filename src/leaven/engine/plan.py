"""A loaded study -> the graph of steps that answers it, with every name checked against the registries.

Equal work is one node: conditions share sources, tokens, order tables and trained prefixes because nodes are merged when function,
spec and inputs are equal. Seeds and levels multiply only what depends on them.
Not covered: running (run.py), costs (cost.py), what the steps do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from leaven.core.hashing import canonical, plain
from leaven.engine.answers import add_analysis_and_report
from leaven.engine.attributions import Attributions, Trained
from leaven.engine.graph import FileInput, Node
from leaven.engine.names import check_names
from leaven.engine.origins import Origins, format_of, operations
from leaven.errors import StudyError, did_you_mean
from leaven.evals.harness import metrics_of, open_benchmark
from leaven.probes.kinds import find_kind, needed_inputs
from leaven.spec.attribute import Attribute
from leaven.spec.load import LoadedStudy, optimiser_of
from leaven.spec.measure import Measure
from leaven.spec.study import Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRef:
    """One trained and measured model of the study, by the node ids of its artifacts."""

    id: str
    condition: str
    level: str
    seed: int
    models: Mapping[str, str]
    orders: Mapping[str, str]
    samples: Mapping[str, str]
    verdicts: Mapping[str, str]
    checkpoints: Mapping[str, Mapping[str, str]]
    """Benchmark -> "i/k", a share of the last stage's steps -> verdicts of the model kept there."""
    probes: Mapping[str, str]
    attributions: Mapping[str, str]


@dataclass(slots=True)
class Plan:
    """The graph of a study and the references that later steps and people need."""

    loaded: LoadedStudy
    nodes: list[Node] = field(default_factory=list)
    runs: list[RunRef] = field(default_factory=list)
    sources: dict[str, dict[str, str]] = field(default_factory=dict)
    perturbed: dict[str, dict[str, str]] = field(default_factory=dict)
    funnels: dict[str, FileInput] = field(default_factory=dict)
    items: dict[str, str] = field(default_factory=dict)
    tokenizers: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    attributions: Attributions | None = None

    def node(self, identity: str) -> Node:
        """Return the node called `identity`; raise StudyError with a suggestion when there is none."""
        for node in self.nodes:
            if node.id == identity:
                return node
        raise StudyError(f"no step is called {identity!r}.{did_you_mean(identity, [n.id for n in self.nodes])}")


def build_plan(loaded: LoadedStudy, *, allow_missing_files: bool = False) -> Plan:
    """Return the graph of a study.

    Args:
        loaded: A checked study.
        allow_missing_files: List absent data files in `Plan.missing` instead of raising (`leaven plan` of a study whose data is elsewhere).

    Raises:
        StudyError: For names that no registry knows, with the line.
        DataError: For files that do not exist.
    """
    return _Builder(loaded, allow_missing_files).build()


def answer_from(plan: Plan, without: Collection[str]) -> Plan:
    """Return the plan with analysis and report made from the runs whose steps are not in `without`."""
    kept = [n for n in plan.nodes if n.id not in ("analysis", "report") and n.id not in without]
    rest = dataclasses.replace(plan, nodes=kept)

    def add(
        identity: str,
        function: str,
        spec: Mapping[str, Any],
        inputs: Mapping[str, str | FileInput],
        links: tuple[str, ...] = (),
    ) -> str:
        rest.nodes.append(Node(identity, function, dict(spec), dict(inputs), links))
        return identity

    add_analysis_and_report(rest, add, without)
    return rest


def differences(cells: Iterable[Cell]) -> list[dict[str, Any]]:
    """Return every dotted path in which conditions differ: {path, values: {condition: value}}, computed from the resolved cells."""
    flat: dict[str, dict[str, Any]] = {}
    for cell in cells:
        if cell.condition not in flat:
            tree = {s: plain(getattr(cell, s)) for s in ("data", "model", "tokenizer", "train")}
            flat[cell.condition] = dict(_leaves(tree, ""))
    paths = sorted({p for leaves in flat.values() for p in leaves})
    found = []
    for path in paths:
        values = {name: leaves.get(path) for name, leaves in flat.items()}
        if len({canonical(v) for v in values.values()}) > 1:
            found.append({"path": path, "values": values})
    return found


def _leaves(tree: Any, at: str) -> Iterable[tuple[str, Any]]:
    """Yield (dotted path, value) of every leaf; a list is a leaf."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, f"{at}.{key}" if at else key)
    else:
        yield at, tree


class _Builder:
    """Adds the runs of every condition, level and seed in data-flow order."""

    def __init__(self, loaded: LoadedStudy, allow_missing: bool) -> None:
        self.loaded, self.study = loaded, loaded.study
        self.origins = Origins(loaded, allow_missing)
        self.attributions = Attributions(self.origins)
        self.plan = Plan(loaded)

    def build(self) -> Plan:
        """Return the finished plan."""
        check_names(self.loaded)
        for name, measure in self.study.measure.items():
            self.plan.items[name] = self.origins.items(name, measure)
        for cell in self._cells_in_order():
            for seed in self.study.seeds:
                self._run(cell, seed)
        self.attributions.finish()
        self.plan.attributions = self.attributions
        self.plan.nodes = list(self.origins.by_id.values())
        for name in ("missing", "sources", "perturbed", "tokenizers", "funnels"):
            setattr(self.plan, name, getattr(self.origins, name))
        add_analysis_and_report(self.plan, self.origins.add)
        self.plan.nodes = list(self.origins.by_id.values())
        return self.plan

    def _cells_in_order(self) -> list[Cell]:
        """Return the cells so that a condition comes after the ones it extends, matches or takes scores from; raise StudyError for a
        cycle."""
        ordered: list[Cell] = []
        left = list(self.loaded.cells)
        while left:
            names = {c.condition for c in left}
            ready = [c for c in left if not (_needs(c, self.study.attribute) & names)]
            if not ready:
                raise StudyError(
                    f"{self.loaded.where('conditions')}: `extends`, `tokens_of` and `influence` form a circle among "
                    f"{', '.join(sorted(names))}"
                )
            ordered += ready
            left = [c for c in left if c not in ready]
        return ordered

    def _run(self, cell: Cell, seed: int) -> None:
        """Add order, training and evaluation of one (condition, level, seed)."""
        level = canonical(cell.level)
        base = "/".join(filter(None, (cell.condition, cell.label, f"seed-{seed}")))
        tokenizer = self.origins.tokenizer(cell)
        models: dict[str, str] = {}
        orders: dict[str, str] = {}
        previous: str | None = None
        stages = list(cell.data.stages)
        for name in stages:
            orders[name], tokens = self._order(cell, name, seed, base, tokenizer)
            last = name == stages[-1]
            previous = self._train(cell, name, seed, base, tokenizer, orders[name], tokens, previous, last)
            models[name] = previous
        assert previous is not None
        before = models[stages[-2]] if len(stages) > 1 else None
        if before is None and cell.model.kind == "hf":
            before = self.origins.model_folder(cell)
        measured = self._measure(cell, seed, base, previous)
        trained = Trained(
            cell=cell,
            seed=seed,
            base=base,
            model=previous,
            tokenizer=tokenizer,
            stage=cell.data.stages[stages[-1]],
            tokens=tokens,
            samples=measured["samples"],
            verdicts=measured["verdicts"],
            asked=lambda name: self._question(cell, name, self.study.measure[name]),
            format_in=lambda where, declared: self._asked_format(cell, where, declared),
        )
        self.plan.runs.append(
            RunRef(
                id=base,
                condition=cell.condition,
                level=level,
                seed=seed,
                models=models,
                orders=orders,
                probes=self._probe(cell, seed, base, previous, before, measured["samples"]),
                attributions=self.attributions.add(trained),
                **measured,
            )
        )

    def _earlier(self, condition: str, cell: Cell, seed: int) -> RunRef:
        """Return the run of another condition at the same level and seed."""
        level = canonical(cell.level)
        return next(r for r in self.plan.runs if (r.condition, r.level, r.seed) == (condition, level, seed))

    def _order(
        self, cell: Cell, name: str, seed: int, base: str, tokenizer: str | FileInput
    ) -> tuple[str, dict[str, str]]:
        """Return the order table's node and the tokenised sources it draws from, by input name."""
        stage = cell.data.stages[name]
        tokens: dict[str, str] = {}
        for source in stage.mixture:
            form = format_of(stage, source)
            inputs: dict[str, str | FileInput] = {
                "examples": self.origins.trained(stage, source, cell),
                "tokenizer": tokenizer,
                **self.origins.plugins,
            }
            changed = "+".join([form, *(o["name"] for o in operations(stage.perturb))])
            identity = f"tokens/{source}/{changed}"
            tokens[f"{source}|{form}"] = self.origins.add(
                identity, "leaven.data.tokenise:tokenise", {"source": source, "format": form}, inputs, (identity,)
            )
        budget = {k: v for k, v in plain(stage.budget).items() if v is not None}
        changed, labelled = self.origins.interventions(
            stage, name, cell, lambda asked, where: self.attributions.scores(asked, cell, seed, where)
        )
        inputs = {**tokens, **labelled, **self.origins.plugins}
        if stage.extends is not None:
            inputs["extends"] = self._earlier(stage.extends, cell, seed).orders[name]
        if stage.budget.tokens_of is not None:
            inputs["tokens_of"] = self._earlier(stage.budget.tokens_of, cell, seed).orders[name]
            budget = {"tokens_of": True}
        spec = {
            "stage": name,
            "seed": seed,
            "mixture": dict(stage.mixture),
            "unit": stage.unit,
            "schedule": plain(stage.schedule),
            "formats": {s: format_of(stage, s) for s in stage.mixture},
            "batch": stage.batch,
            "budget": budget,
            "max_tokens": stage.max_tokens,
            "truncate": stage.truncate,
            "pack": stage.pack,
            "repeat": stage.repeat,
            **changed,
        }
        return self.origins.add(
            f"{base}/order-{name}", "leaven.data.build:build_order", spec, inputs, (f"{base}/order-{name}",)
        ), tokens

    def _train(
        self,
        cell: Cell,
        name: str,
        seed: int,
        base: str,
        tokenizer: str | FileInput,
        order: str,
        tokens: Mapping[str, str],
        previous: str | None,
        last: bool,
    ) -> str:
        """Return the node of one training stage."""
        inputs: dict[str, str | FileInput] = {
            "order": order,
            "tokenizer": tokenizer,
            **{f"tokens:{k}": v for k, v in tokens.items()},
        }
        if previous is not None:
            inputs["init"] = previous
        elif cell.model.kind == "hf":
            inputs["init"] = self.origins.model_folder(cell)
        extends = cell.data.stages[name].extends
        if extends is not None:
            inputs["continue"] = self._earlier(extends, cell, seed).models[name]
        model = (
            {k: v for k, v in plain(cell.model).items() if k != "folder"}
            if cell.model.kind == "tiny"
            else {"kind": "hf"}
        )
        spec = {
            "model": model,
            "train": plain(optimiser_of(cell.train, name)),
            "stage": name,
            "seed": seed,
            "reset_optimizer": True,
        }
        identity = f"{base}/model" if last else f"{base}/model-{name}"
        return self.origins.add(identity, "leaven.lm.loop:train", spec, inputs, (identity,))

    def _measure(self, cell: Cell, seed: int, base: str, model: str) -> dict[str, dict[str, Any]]:
        """Return samples and verdicts of every benchmark for one model, and the verdicts of its checkpoints."""
        samples: dict[str, str] = {}
        verdicts: dict[str, str] = {}
        checkpoints: dict[str, dict[str, str]] = {}
        for name, measure in self.study.measure.items():
            spec = self._question(cell, name, measure)
            samples[name], verdicts[name] = self._asked(f"{base}/{{}}-{name}", name, measure, spec, seed, model)
            kept = cell.train.checkpoints or 0
            goes_on = list(cell.data.stages.values())[-1].extends is not None  # its earlier models are the other condition's
            for index in range(1, kept) if measure.at == "all" and not goes_on else ():
                share = f"{index}/{kept}"
                spec_here = {**spec, "checkpoint": share}
                identity = f"{base}/checkpoint-{index}-of-{kept}/{{}}-{name}"
                checkpoints.setdefault(name, {})[share] = self._asked(identity, name, measure, spec_here, seed, model)[1]
        return {"samples": samples, "verdicts": verdicts, "checkpoints": checkpoints}

    def _question(self, cell: Cell, name: str, measure: Measure) -> dict[str, Any]:
        """Return the spec with which a cell's models answer a benchmark."""
        where = self.loaded.where(f"measure.{name}")
        benchmark = open_benchmark(measure.benchmark, f"{where}.benchmark")
        return {
            "benchmark": measure.benchmark,
            "format": self._asked_format(cell, where, measure.format),
            "begin": measure.begin,
            "n": measure.n,
            "metrics": list(metrics_of(benchmark, measure.metrics, f"{where}.metrics")),
            "temperature": measure.temperature,
            "top_p": measure.top_p,
            "max_new_tokens": measure.max_new_tokens,
            "options": measure.options,
        }

    def _asked(
        self, identity: str, name: str, measure: Measure, spec: Mapping[str, Any], seed: int, model: str
    ) -> tuple[str, str]:
        """Return the nodes of one model's samples and verdicts; `identity` has a place for their kind."""
        inputs: dict[str, str | FileInput] = {"items": self.plan.items[name], **self.origins.plugins}
        one = identity.format("samples")
        samples = self.origins.add(
            one, "leaven.evals.run:generate", {**spec, "seed": seed}, {**inputs, "model": model}, (one,)
        )
        two = identity.format("verdicts")
        changed = operations(measure.perturb) if measure.perturb_what == "generated" else []
        judged = {**{k: v for k, v in spec.items() if k != "checkpoint"}, "limits": measure.limits, "perturb": changed}
        return samples, self.origins.add(two, "leaven.evals.run:judge", judged, {**inputs, "samples": samples}, (two,))

    def _probe(
        self, cell: Cell, seed: int, base: str, model: str, before: str | FileInput | None, samples: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the node of every probe of one model; `before` is what its last stage started from."""
        found: dict[str, str] = {}
        for name, probe in self.study.probe.items():
            where = self.loaded.where(f"probe.{name}")
            spec = {
                "kind": probe.kind,
                "format": self._asked_format(cell, where, probe.format),
                "limit": probe.limit,
                "seed": 0,
                "options": probe.options,
            }
            inputs: dict[str, str | FileInput] = {
                "model": model,
                "examples": self.origins.examples(f"probe.{name}", f"data/probe-{name}", probe),
                **self.origins.plugins,
            }
            needed = needed_inputs(probe.kind, probe.options)
            if before is not None:
                inputs["base"] = before
            elif "base" in needed:
                raise StudyError(
                    f"{where}: {probe.kind} compares with the model that the last stage starts from, but {cell.condition!r} has one "
                    "stage and starts from random weights; put a stage before it, or start from a folder (model.kind: hf)"
                )
            if "samples" in needed and probe.of is None:
                raise StudyError(f"{where}: {probe.kind} looks at answers; expected `of: BENCHMARK` as its origin")
            if probe.of is not None and "samples" in (*needed, *find_kind(probe.kind).uses):
                inputs["samples"] = samples[probe.of]
            identity = f"{base}/probe-{name}"
            function = ":".join(find_kind(probe.kind).step.rsplit(".", 1))
            found[name] = self.origins.add(identity, function, spec, inputs, (identity,))
        return found

    def _asked_format(self, cell: Cell, where: str, declared: str) -> str:
        """Return the format in which a model is asked or looked at: the declared one, else the one of its last stage."""
        if declared != "trained":
            return declared
        stage = list(cell.data.stages.values())[-1]
        formats = {format_of(stage, s) for s, weight in stage.mixture.items() if weight > 0}
        if len(formats) != 1:
            raise StudyError(
                f"{where}: condition {cell.condition!r} is trained in several formats "
                f"({', '.join(sorted(formats))}); say which to ask in with `format:`"
            )
        return formats.pop()


def _needs(cell: Cell, attributions: Mapping[str, Attribute]) -> set[str]:
    """Return the conditions that a cell's stages extend or match, or whose models tell the influence that they use."""
    names = {s.extends for s in cell.data.stages.values()} | {s.budget.tokens_of for s in cell.data.stages.values()}
    asked = [i.influence for s in cell.data.stages.values() for i in (s.leave_out, s.reweigh) if i is not None]
    names |= {condition for a in asked if a in attributions for condition in attributions[a].of}
    return {n for n in names if n is not None}
