"""A loaded study -> the graph of steps that answers it, with every name checked against the registries.

Equal work is one node: conditions share sources, tokens, order tables and trained prefixes because nodes are merged when function,
spec and inputs are equal. Seeds and levels multiply only what depends on them.
Not covered: running (run.py), costs (cost.py), what the steps do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leaven.core.hashing import canonical, plain
from leaven.core.registry import load_plugin
from leaven.data.formats import FORMATS
from leaven.data.schedules import SCHEDULES
from leaven.data.sources.world.build import FAMILIES
from leaven.engine.answers import add_analysis_and_report
from leaven.engine.graph import FileInput, Node, input_digest
from leaven.errors import DataError, StudyError, did_you_mean
from leaven.evals.harness import check_options, limits_of, metrics_of, open_benchmark
from leaven.spec.data import Source, Stage, World
from leaven.spec.load import LoadedStudy, optimiser_of
from leaven.spec.measure import Measure
from leaven.spec.runtime import Runtime
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


@dataclass(slots=True)
class Plan:
    """The graph of a study and the references that later steps and people need."""

    loaded: LoadedStudy
    nodes: list[Node] = field(default_factory=list)
    runs: list[RunRef] = field(default_factory=list)
    sources: dict[str, dict[str, str]] = field(default_factory=dict)
    items: dict[str, str] = field(default_factory=dict)
    tokenizers: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

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
    """Adds nodes in data-flow order and merges equal ones."""

    def __init__(self, loaded: LoadedStudy, allow_missing: bool) -> None:
        self.loaded, self.study, self.allow_missing = loaded, loaded.study, allow_missing
        self.plan = Plan(loaded)
        self.by_content: dict[str, Node] = {}
        self.by_id: dict[str, Node] = {}
        self.digests: dict[str, FileInput] = {}
        self.folder = loaded.path.absolute().parent
        self.plugins = {
            f"plugin:{Path(p).name}": self._file_input(self.folder / p, f"plugins.{i}")
            for i, p in enumerate(self.study.plugins)
        }
        if len(self.plugins) < len(self.study.plugins):
            raise StudyError(
                f"{loaded.where('plugins')}: expected different file names, found {', '.join(self.study.plugins)}; rename one"
            )
        for item in self.plugins.values():
            load_plugin(Path(item.path))

    def build(self) -> Plan:
        """Return the finished plan."""
        self._check_names()
        for name, measure in self.study.measure.items():
            self.plan.items[name] = self._items(name, measure)
        for cell in self._cells_in_order():
            for seed in self.study.seeds:
                self._run(cell, seed)
        self.plan.nodes = list(self.by_id.values())
        add_analysis_and_report(self.plan, self.add)
        self.plan.nodes = list(self.by_id.values())
        return self.plan

    # ---- nodes ---------------------------------------------------------------------------------------------------------------

    def add(
        self,
        identity: str,
        function: str,
        spec: Mapping[str, Any],
        inputs: Mapping[str, str | FileInput],
        links: tuple[str, ...] = (),
    ) -> str:
        """Add a node, or return the id of an equal one (its links are joined)."""
        content = canonical(
            {
                "f": function,
                "s": dict(spec),
                "i": {k: v if isinstance(v, str) else v.sha256 for k, v in inputs.items()},
            },
            identity,
        )
        known = self.by_content.get(content)
        if known is not None:
            joined = dataclasses.replace(known, links=tuple(dict.fromkeys((*known.links, *links))))
            self.by_content[content] = self.by_id[known.id] = joined
            return known.id
        name, number = identity, 2
        while name in self.by_id:
            name, number = f"{identity}~{number}", number + 1
        node = Node(name, function, dict(spec), dict(inputs), links, threads=self.study.runtime.threads)
        self.by_content[content] = self.by_id[name] = node
        return name

    def _file_input(self, path: Path, where: str) -> FileInput:
        """Return a file or folder from outside with its digest (computed once)."""
        key = str(path)
        if key not in self.digests:
            try:
                self.digests[key] = FileInput(key, input_digest(path))
            except DataError as error:
                if not self.allow_missing:
                    raise DataError(f"{self.loaded.where(where)}: {error}; put it there or set runtime.paths") from None
                self.plan.missing.append(f"{self.loaded.where(where)}: {path}")
                self.digests[key] = FileInput(key, "absent")
            expected = (self.study.lock.get("files") or {}).get(path.name)
            if expected not in (None, self.digests[key].sha256):
                raise DataError(
                    f"{self.loaded.where(where)}: {path} is not the file this lock was written with (sha256 {expected[:12]}..., found "
                    f"{self.digests[key].sha256[:12]}...); bring the original, or delete `lock:` to use this one"
                )
        return self.digests[key]

    def _named_path(self, name: str, scheme: str, folder: str) -> Path:
        """Return where `data:NAME`, `model:NAME` or a path relative to the study file leads."""
        if name.startswith(f"{scheme}:"):
            return (self.folder / Path(folder).expanduser() / name.removeprefix(f"{scheme}:")).resolve()
        return (self.folder / Path(name).expanduser()).resolve()

    # ---- sources, tokens, items ------------------------------------------------------------------------------------------------

    def _world(self, identity: str, world: World) -> str:
        return self.add(
            identity, "leaven.data.sources.world.build:build_world", plain(world), self.plugins, (identity,)
        )

    def _source(self, name: str, cell: Cell) -> str:
        """Return the node of a source as a condition sees it."""
        source: Source = cell.data.sources[name]
        identity = f"data/{name}"
        if source.world is not None:
            node = self._world(identity, source.world)
        elif source.subset_of is not None:
            assert source.size_of is not None
            inputs = {"pool": self._source(source.subset_of, cell), "like": self._source(source.size_of, cell)}
            node = self.add(identity, "leaven.engine.stages:subset", {"seed": 0}, inputs, (identity,))
        else:
            assert source.file is not None
            path = self._named_path(source.file, "data", self.study.runtime.paths.data)
            spec = {
                "name": name,
                "shape": source.shape,
                "fields": source.fields,
                "limit": source.limit,
                "licence": source.licence,
                "domain": source.domain,
                "on_bad_row": "count",
            }
            node = self.add(
                identity,
                "leaven.data.sources.files:load_file",
                spec,
                {"file": self._file_input(path, f"data.sources.{name}.file"), **self.plugins},
                (identity,),
            )
        self.plan.sources.setdefault(cell.condition, {})[name] = node
        return node

    def _items(self, name: str, measure: Measure) -> str:
        """Return the node of a benchmark's items."""
        inputs: dict[str, str | FileInput] = dict(self.plugins)
        if measure.world is not None:
            inputs["examples"] = self._world(f"data/items-{name}", measure.world)
        elif measure.file is not None:
            inputs["file"] = self._file_input(
                self._named_path(measure.file, "data", self.study.runtime.paths.data), f"measure.{name}.file"
            )
        else:
            raise StudyError(
                f"{self.loaded.where(f'measure.{name}')}: expected `world` or `file` as the origin of items, found neither"
            )
        spec = {"benchmark": measure.benchmark, "name": name, "options": measure.options, "limit": measure.limit}
        return self.add(f"items/{name}", "leaven.evals.run:load_items", spec, inputs, (f"items/{name}",))

    def _tokenizer(self, cell: Cell) -> str | FileInput:
        """Return the tokenizer: a Hugging Face folder's own, else one trained on the sources of *all* conditions."""
        if cell.model.kind == "hf":
            return self._model_folder(cell)
        wanted: dict[str, tuple[str, set[str]]] = {}
        for other in self.loaded.cells:
            for stage in other.data.stages.values():
                for source in stage.mixture:
                    node = self._source(source, other)
                    wanted.setdefault(node, (node, set()))[1].add(format_of(stage, source))
        chosen = cell.tokenizer.sources
        used = {
            n: f for n, (_, f) in wanted.items() if chosen is None or n.removeprefix("data/").split("~")[0] in chosen
        }
        spec = {
            "kind": cell.tokenizer.kind,
            "vocab_size": cell.tokenizer.vocab_size,
            "formats": {n: sorted(f) for n, f in sorted(used.items())},
        }
        node = self.add(
            "tokenizer",
            "leaven.data.tokenizer:train_tokenizer",
            spec,
            {**{n: n for n in used}, **self.plugins},
            ("tokenizer",),
        )
        self.plan.tokenizers[canonical(cell.level)] = node
        return node

    def _model_folder(self, cell: Cell) -> FileInput:
        if cell.model.folder is None:
            raise StudyError(
                f"{self.loaded.where('model')}: kind hf needs `folder: model:NAME` or a path to a local Hugging Face folder"
            )
        return self._file_input(
            self._named_path(cell.model.folder, "model", self.study.runtime.paths.models), "model.folder"
        )

    # ---- runs ------------------------------------------------------------------------------------------------------------------

    def _cells_in_order(self) -> list[Cell]:
        """Return the cells so that a condition comes after the ones it extends or matches; raise StudyError for a cycle."""
        ordered: list[Cell] = []
        left = list(self.loaded.cells)
        while left:
            names = {c.condition for c in left}
            ready = [c for c in left if not (_needs(c) & names)]
            if not ready:
                raise StudyError(
                    f"{self.loaded.where('conditions')}: `extends` and `tokens_of` form a circle among {', '.join(sorted(names))}"
                )
            ordered += ready
            left = [c for c in left if c not in ready]
        return ordered

    def _run(self, cell: Cell, seed: int) -> None:
        """Add order, training and evaluation of one (condition, level, seed)."""
        level = canonical(cell.level)
        base = "/".join(filter(None, (cell.condition, cell.label, f"seed-{seed}")))
        tokenizer = self._tokenizer(cell)
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
        samples, verdicts = self._measure(cell, seed, base, previous)
        self.plan.runs.append(
            RunRef(
                id=base,
                condition=cell.condition,
                level=level,
                seed=seed,
                models=models,
                orders=orders,
                samples=samples,
                verdicts=verdicts,
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
                "examples": self._source(source, cell),
                "tokenizer": tokenizer,
                **self.plugins,
            }
            tokens[f"{source}|{form}"] = self.add(
                f"tokens/{source}/{form}",
                "leaven.data.tokenise:tokenise",
                {"source": source, "format": form},
                inputs,
                (f"tokens/{source}/{form}",),
            )
        budget = {k: v for k, v in plain(stage.budget).items() if v is not None}
        inputs = {**tokens, **self.plugins}
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
        }
        return self.add(
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
            inputs["init"] = self._model_folder(cell)
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
        return self.add(identity, "leaven.lm.loop:train", spec, inputs, (identity,))

    def _measure(self, cell: Cell, seed: int, base: str, model: str) -> tuple[dict[str, str], dict[str, str]]:
        """Return the samples and verdicts of every benchmark for one model."""
        samples: dict[str, str] = {}
        verdicts: dict[str, str] = {}
        for name, measure in self.study.measure.items():
            benchmark = open_benchmark(measure.benchmark, self.loaded.where(f"measure.{name}.benchmark"))
            spec = {
                "benchmark": measure.benchmark,
                "format": self._asked_format(cell, name, measure),
                "n": measure.n,
                "metrics": list(metrics_of(benchmark, measure.metrics, self.loaded.where(f"measure.{name}.metrics"))),
                "temperature": measure.temperature,
                "top_p": measure.top_p,
                "max_new_tokens": measure.max_new_tokens,
                "options": measure.options,
            }
            inputs: dict[str, str | FileInput] = {"items": self.plan.items[name], **self.plugins}
            samples[name] = self.add(
                f"{base}/samples-{name}",
                "leaven.evals.run:generate",
                {**spec, "seed": seed},
                {**inputs, "model": model},
                (f"{base}/samples-{name}",),
            )
            verdicts[name] = self.add(
                f"{base}/verdicts-{name}",
                "leaven.evals.run:judge",
                {**spec, "limits": measure.limits},
                {**inputs, "samples": samples[name]},
                (f"{base}/verdicts-{name}",),
            )
        return samples, verdicts

    def _asked_format(self, cell: Cell, name: str, measure: Measure) -> str:
        """Return the prompt format of a benchmark: its own, else the one format of the model's last stage."""
        if measure.format != "trained":
            return measure.format
        stage = list(cell.data.stages.values())[-1]
        formats = {format_of(stage, s) for s, weight in stage.mixture.items() if weight > 0}
        if len(formats) != 1:
            raise StudyError(
                f"{self.loaded.where(f'measure.{name}')}: condition {cell.condition!r} is trained in several formats "
                f"({', '.join(sorted(formats))}); say which to ask in with `format:`"
            )
        return formats.pop()

    # ---- names -----------------------------------------------------------------------------------------------------------------

    def _check_names(self) -> None:
        """Raise StudyError for formats, families, schedules and metrics that do not exist, all at once and with lines."""
        problems: list[str] = []

        def must(dotted: str, value: str, known: list[str], kind: str) -> None:
            if value not in known:
                problems.append(
                    f"{self.loaded.where(dotted)}: no {kind} is called {value!r}.{did_you_mean(value, known)} Known: {', '.join(known)}"
                )

        worlds = {f"measure.{n}.world.families": m.world for n, m in self.study.measure.items() if m.world}
        for cell in self.loaded.cells:
            worlds |= {f"data.sources.{n}.world.families": s.world for n, s in cell.data.sources.items() if s.world}
            for name, stage in cell.data.stages.items():
                own = f"conditions.{cell.condition}.data.stages.{name}"
                prefix = own if own in self.loaded.lines else f"data.stages.{name}"
                for value in [stage.format] if isinstance(stage.format, str) else stage.format.values():
                    at = f"{prefix}.format" if f"{prefix}.format" in self.loaded.lines else f"data.stages.{name}.format"
                    must(at, value, FORMATS.names(), "format")
                must(f"{prefix}.schedule.kind", stage.schedule.kind, SCHEDULES.names(), "schedule")
        for dotted, world in worlds.items():
            for family in world.families:
                must(dotted, family, list(FAMILIES), "task family")
        for name, measure in self.study.measure.items():
            if measure.format != "trained":
                must(f"measure.{name}.format", measure.format, FORMATS.names(), "format")
            benchmark = open_benchmark(measure.benchmark, self.loaded.where(f"measure.{name}.benchmark"))
            metrics = metrics_of(benchmark, measure.metrics, self.loaded.where(f"measure.{name}.metrics"))
            limits_of(measure.limits, self.loaded.where(f"measure.{name}.limits"))
            check_options(benchmark, measure.options, self.loaded.where(f"measure.{name}.options"))
            for index, contrast in enumerate(self.study.contrasts):
                if contrast.benchmark == name:
                    must(f"contrasts.{index}.metric", contrast.metric, list(metrics), f"metric of {name}")
        if problems:
            raise StudyError("\n".join(dict.fromkeys(problems)))


def format_of(stage: Stage, source: str) -> str:
    """Return the format in which a stage renders a source."""
    return stage.format if isinstance(stage.format, str) else stage.format.get(source, "auto")


def _needs(cell: Cell) -> set[str]:
    """Return the conditions that a cell's stages extend or match."""
    names = {s.extends for s in cell.data.stages.values()} | {s.budget.tokens_of for s in cell.data.stages.values()}
    return {n for n in names if n is not None}


def runtime_of(loaded: LoadedStudy) -> Runtime:
    """Return the study's runtime."""
    return loaded.study.runtime
