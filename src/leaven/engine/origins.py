"""A study's sources, items, probes' examples, tokenizers and outside files -> nodes, each once.

Equal work is one node: conditions share it because nodes are merged when function, spec and inputs are equal.
Not covered: what is trained and measured on them (plan.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from leaven.core.hashing import canonical, plain
from leaven.core.registry import load_plugin
from leaven.data.labels import SCALES
from leaven.data.perturb.operation import check_operations
from leaven.engine.graph import FileInput, Node, input_digest
from leaven.errors import DataError, StudyError
from leaven.spec.attribute import Target
from leaven.spec.data import Label, Perturbation, Source, Stage, World
from leaven.spec.load import LoadedStudy
from leaven.spec.measure import Measure, Probe
from leaven.spec.study import Cell

FUNNEL = "funnel.parquet"
"""What `leaven synthesize` leaves beside its records; the report shows it."""


def format_of(stage: Stage, source: str) -> str:
    """Return the format in which a stage renders a source."""
    return stage.format if isinstance(stage.format, str) else stage.format.get(source, "auto")


def operations(perturb: tuple[str | Perturbation, ...]) -> list[dict[str, Any]]:
    """Return declared perturbations as steps read them, the same for every spelling: [{name, rate, options}]."""
    return [o.plain() for o in check_operations(perturb)]


def named_path(study: Path, name: str, scheme: str, folder: str) -> Path:
    """Return where `data:NAME`, `model:NAME` or a path relative to the study's folder leads."""
    if name.startswith(f"{scheme}:"):
        return (study / Path(folder).expanduser() / name.removeprefix(f"{scheme}:")).resolve()
    return (study / Path(name).expanduser()).resolve()


class Origins:
    """Adds nodes and merges equal ones; everything a study reads from outside passes through here."""

    def __init__(self, loaded: LoadedStudy, allow_missing: bool) -> None:
        self.loaded, self.study, self.allow_missing = loaded, loaded.study, allow_missing
        self.by_content: dict[str, Node] = {}
        self.by_id: dict[str, Node] = {}
        self.digests: dict[str, FileInput] = {}
        self.missing: list[str] = []
        self.sources: dict[str, dict[str, str]] = {}
        self.perturbed: dict[str, dict[str, str]] = {}
        self.funnels: dict[str, FileInput] = {}
        self.tokenizers: dict[str, str] = {}
        self.folder = loaded.path.absolute().parent
        self.plugins = {
            f"plugin:{Path(p).name}": self.file_input(self.folder / p, f"plugins.{i}")
            for i, p in enumerate(self.study.plugins)
        }
        if len(self.plugins) < len(self.study.plugins):
            raise StudyError(
                f"{loaded.where('plugins')}: expected different file names, found {', '.join(self.study.plugins)}; rename one"
            )
        for item in self.plugins.values():
            load_plugin(Path(item.path))

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
            if identity in self.by_id and known.id != identity:  # another node has this name, and its link
                links = tuple(link for link in links if link != identity)
            joined = dataclasses.replace(known, links=tuple(dict.fromkeys((*known.links, *links))))
            self.by_content[content] = self.by_id[known.id] = joined
            return known.id
        name, number = identity, 2
        while name in self.by_id:
            name, number = f"{identity}~{number}", number + 1
        links = tuple(name if link == identity else link for link in links)
        node = Node(name, function, dict(spec), dict(inputs), links, threads=self.study.runtime.threads)
        self.by_content[content] = self.by_id[name] = node
        return name

    def file_input(self, path: Path, where: str) -> FileInput:
        """Return a file or folder from outside with its digest (computed once)."""
        key = str(path)
        if key not in self.digests:
            try:
                self.digests[key] = FileInput(key, input_digest(path))
            except DataError as error:
                if not self.allow_missing:
                    raise DataError(f"{self.loaded.where(where)}: {error}; put it there or set runtime.paths") from None
                self.missing.append(f"{self.loaded.where(where)}: {path}")
                self.digests[key] = FileInput(key, "absent")
            expected = (self.study.lock.get("files") or {}).get(path.name)
            if expected not in (None, self.digests[key].sha256):
                raise DataError(
                    f"{self.loaded.where(where)}: {path} is not the file this lock was written with (sha256 {expected[:12]}..., found "
                    f"{self.digests[key].sha256[:12]}...); bring the original, or delete `lock:` to use this one"
                )
        return self.digests[key]

    # ---- sources, tokens, items ------------------------------------------------------------------------------------------------

    def world(self, identity: str, world: World) -> str:
        return self.add(
            identity, "leaven.data.sources.world.build:build_world", plain(world), self.plugins, (identity,)
        )

    def source(self, name: str, cell: Cell) -> str:
        """Return the node of a source as a condition sees it."""
        source: Source = cell.data.sources[name]
        identity = f"data/{name}"
        if source.world is not None:
            node = self.world(identity, source.world)
        elif source.subset_of is not None:
            assert source.size_of is not None
            inputs = {"pool": self.source(source.subset_of, cell), "like": self.source(source.size_of, cell)}
            node = self.add(identity, "leaven.engine.stages:subset", {"seed": 0}, inputs, (identity,))
        else:
            assert source.file is not None
            path = named_path(self.folder, source.file, "data", self.study.runtime.paths.data)
            if (path.parent / FUNNEL).is_file():
                self.funnels[name] = self.file_input(path.parent / FUNNEL, f"data.sources.{name}.file")
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
                {"file": self.file_input(path, f"data.sources.{name}.file"), **self.plugins},
                (identity,),
            )
        node = node if source.label is None else self._labelled(name, source, source.label, node)
        return self._changed(name, source.perturb, cell, node) if source.perturb else node

    def _labelled(self, name: str, source: Source, label: Label, examples: str) -> str:
        """Return the node of a source's examples with their labels."""
        where = f"data.sources.{name}.label"
        inputs: dict[str, str | FileInput] = {"examples": examples}
        if source.file is not None and label.difficulty in SCALES and not (label.grades or label.grader):
            path = named_path(self.folder, source.file, "data", self.study.runtime.paths.data)
            inputs["file"] = self.file_input(path, f"data.sources.{name}.file")
        for field in ("grades", "verdicts"):
            if (given := getattr(label, field)) is not None:
                path = named_path(self.folder, given, "data", self.study.runtime.paths.data)
                inputs[field] = self.file_input(path, f"{where}.{field}")
        if label.grader is not None:
            identity = f"data/{name}+grades"
            asked = {"examples": examples}
            inputs["grades"] = self.add(identity, "leaven.engine.grading:grade", plain(label.grader), asked, (identity,))
        spec = {k: v for k, v in plain(label).items() if k not in ("grades", "grader", "verdicts")}
        identity = f"data/{name}+label"
        return self.add(
            identity, "leaven.data.labels.attach:attach", {"source": name, "limit": source.limit, **spec}, inputs, (identity,)
        )

    def interventions(
        self, stage: Stage, name: str, cell: Cell, scores: Callable[[str, str], str]
    ) -> tuple[dict[str, Any], dict[str, str | FileInput]]:
        """Return what a stage's `leave_out` and `reweigh` add to the spec and the inputs of its order; nothing without them.

        `scores(attribution, place in the study file)` returns the node of the study's own influence.
        """
        asked = {k: v for k in ("leave_out", "reweigh") if (v := getattr(stage, k)) is not None}
        if not asked:
            return {}, {}
        inputs: dict[str, str | FileInput] = {f"examples:{s}": self.trained(stage, s, cell) for s in stage.mixture}
        spec: dict[str, Any] = {}
        files = {("leave_out", "influence"): "influence", ("leave_out", "ids"): "left_out", ("reweigh", "influence"): "influence"}
        for section, value in asked.items():
            spec[section] = {k: v for k, v in plain(value).items() if (section, k) not in files}
            for given in (k for s, k in files if s == section and getattr(value, k) is not None):
                named, at = getattr(value, given), f"data.stages.{name}.{section}.{given}"
                item: str | FileInput
                if given == "influence" and named in self.study.attribute:
                    item = scores(named, self.loaded.where(at))
                else:
                    item = self.file_input(named_path(self.folder, named, "data", self.study.runtime.paths.data), at)
                if inputs.setdefault(files[section, given], item) != item:
                    raise StudyError(
                        f"{self.loaded.where(f'data.stages.{name}')}: expected one influence table for leave_out and reweigh, found two"
                    )
        return spec, inputs

    def trained(self, stage: Stage, name: str, cell: Cell) -> str:
        """Return the node of a source as a stage trains on it: after the stage's perturbations."""
        node = self.source(name, cell)
        if stage.perturb:
            node = self._changed(name, stage.perturb, cell, node)
        self.sources.setdefault(cell.condition, {})[name] = node
        return node

    def _changed(self, name: str, perturb: tuple[str | Perturbation, ...], cell: Cell, examples: str) -> str:
        """Return the node of a source's examples after perturbations."""
        spec = {"operations": operations(perturb), "seed": 0}
        identity = f"data/{'+'.join([name, *(o['name'] for o in spec['operations'])])}"
        node = self.add(identity, "leaven.data.perturb:perturb", spec, {"examples": examples, **self.plugins}, (identity,))
        self.perturbed.setdefault(cell.condition, {})[name] = node
        return node

    def items(self, name: str, measure: Measure) -> str:
        """Return the node of a benchmark's items."""
        inputs: dict[str, str | FileInput] = dict(self.plugins)
        if measure.world is not None:
            inputs["examples"] = self.world(f"data/items-{name}", measure.world)
        elif measure.file is not None:
            inputs["file"] = self.file_input(
                named_path(self.folder, measure.file, "data", self.study.runtime.paths.data), f"measure.{name}.file"
            )
        else:
            raise StudyError(
                f"{self.loaded.where(f'measure.{name}')}: expected `world` or `file` as the origin of items, found neither"
            )
        spec = {
            "benchmark": measure.benchmark,
            "name": name,
            "options": measure.options,
            "limit": measure.limit,
            "perturb": operations(measure.perturb) if measure.perturb_what == "gold" else [],
        }
        return self.add(f"items/{name}", "leaven.evals.run:load_items", spec, inputs, (f"items/{name}",))

    def examples(self, dotted: str, identity: str, asked: Probe | Target) -> str:
        """Return the node of the held-out examples of a probe or a target, which stands at `dotted` in the study file."""
        if asked.of is not None:
            return self.items(asked.of, self.study.measure[asked.of])
        if asked.world is not None:
            return self.world(identity, asked.world)
        assert asked.file is not None
        path = named_path(self.folder, asked.file, "data", self.study.runtime.paths.data)
        name = dotted.rpartition(".")[2]
        spec = {"name": name, "shape": "auto", "fields": None, "limit": None, "licence": "", "domain": "", "on_bad_row": "count"}
        inputs = {"file": self.file_input(path, f"{dotted}.file"), **self.plugins}
        return self.add(identity, "leaven.data.sources.files:load_file", spec, inputs, (identity,))

    def tokenizer(self, cell: Cell) -> str | FileInput:
        """Return the tokenizer: a Hugging Face folder's own, else one trained on the sources of *all* conditions."""
        if cell.model.kind == "hf":
            return self.model_folder(cell)
        wanted: dict[str, tuple[set[str], set[str]]] = {}
        for other in self.loaded.cells:
            for stage in other.data.stages.values():
                for source in stage.mixture:
                    node = self.trained(stage, source, other)
                    names, formats = wanted.setdefault(node, (set(), set()))
                    names.add(source)
                    formats.add(format_of(stage, source))
        chosen = cell.tokenizer.sources
        used = {n: f for n, (names, f) in wanted.items() if chosen is None or names & set(chosen)}
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
        self.tokenizers[canonical(cell.level)] = node
        return node

    def model_folder(self, cell: Cell) -> FileInput:
        if cell.model.folder is None:
            raise StudyError(
                f"{self.loaded.where('model')}: kind hf needs `folder: model:NAME` or a path to a local Hugging Face folder"
            )
        return self.file_input(
            named_path(self.folder, cell.model.folder, "model", self.study.runtime.paths.models), "model.folder"
        )
