"""A study file (YAML 1.2) plus `--set` values -> a checked LoadedStudy, or one error listing every mistake and line.

Unknown keys and wrong types are refused with file:line, dotted path and a suggestion; check.py and bounds.py judge
names and values. Patches merge by name down to the fields of a source or a stage; below that a value is replaced whole.
pydantic lives only here.
Not covered: names of formats, families and benchmarks (known above this layer; engine/plan checks them with `where`).
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.tokens import TagToken

from leaven.core.hashing import canonical
from leaven.errors import StudyError, did_you_mean
from leaven.spec.check import check_study, prefixes_of, stage_prefixes
from leaven.spec.data import Budget, Data
from leaven.spec.explain import explained, location_of, shown
from leaven.spec.lines import CREATED, SET, Problems, where
from leaven.spec.study import Cell, Condition, Study
from leaven.spec.train import Model, Optimiser, TokenizerSpec, Train

MAX_DEPTH = 30
SECTIONS: dict[str, Any] = {"data": Data, "model": Model, "tokenizer": TokenizerSpec, "train": Train}


@dataclass(frozen=True, slots=True)
class LoadedStudy:
    """A checked study with its resolved cells and the means to point at a line of its file."""

    study: Study
    cells: tuple[Cell, ...]
    path: Path
    raw: Mapping[str, Any]
    lines: Mapping[str, int]

    def where(self, dotted: str) -> str:
        """Return `study.yaml:14 dotted.path` for the closest line known."""
        return where(self.path, self.lines, dotted)


def load_study(path: Path, overrides: tuple[str, ...] = ()) -> LoadedStudy:
    """Read and check a study file.

    Args:
        path: The YAML file.
        overrides: `dotted.path=value` texts of --set, applied in order; values are YAML.

    Raises:
        StudyError: Listing every mistake as `file:line path: expected ..., found ...`.
    """
    raw, lines = read_yaml(path)
    for text in overrides:
        _apply_override(raw, lines, text)
    problems = Problems(path, lines)
    study = _validate(Study, raw, problems)
    cells = _resolve_cells(study, raw, problems) if study is not None else []
    if not problems and study is not None:
        check_study(study, cells, problems)
    if problems or study is None:
        raise StudyError(problems.text())
    return LoadedStudy(study, tuple(cells), path, raw, lines)


def load_spec(kind: Any, path: Path | None, raw: dict[str, Any] | None = None, overrides: tuple[str, ...] = ()) -> Any:
    """Read and check another kind of file than a study (a synthesis), or plain data without a file.

    Raises:
        StudyError: Listing every mistake as `file:line path: expected ..., found ...`.
    """
    tree, lines = (raw or {}, {}) if path is None else read_yaml(path)
    for text in overrides:
        _apply_override(tree, lines, text)
    problems = Problems(path or Path("command line"), lines)
    value = _validate(kind, tree, problems)
    if problems or value is None:
        raise StudyError(problems.text())
    return value


def schema_of(kind: Any) -> dict[str, Any]:
    """Return the JSON Schema of a spec type, with its fields' defaults and descriptions."""
    return TypeAdapter(kind).json_schema()


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of study files (`leaven schema`)."""
    schema = TypeAdapter(Study).json_schema()
    inherited = TypeAdapter(Optimiser).json_schema()["properties"]
    for name, field in schema["$defs"]["Train"][
        "properties"
    ].items():  # pydantic reads docstrings of a class's own fields only
        if "description" not in field and name in inherited:
            field["description"] = inherited[name].get("description", "")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "leaven study"}


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Return a YAML file as plain data and the line (from 1) of every dotted path; raise StudyError with it."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StudyError(f"{path}: no such study file; `leaven new quickstart` writes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    tree = _parse(text, str(path))
    if not isinstance(tree, dict):
        raise StudyError(
            f"{path}:1 expected a mapping with the keys leaven, study, question, data ..., found {shown(tree)}"
        )
    lines: dict[str, int] = {}
    plain = _plain(tree, "", lines, path)
    return plain, lines


def write_yaml(path: Path, tree: Mapping[str, Any], comment: str) -> None:
    """Write plain data as a YAML 1.2 file under one comment line."""
    text = StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.width = 120
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    writer.dump(dict(tree), text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# {comment}\n{text.getvalue()}", encoding="utf-8")


def _parse(text: str, label: str) -> Any:
    """Return ruamel's tree of one YAML text; raise StudyError `label:line` for all that is not plain YAML 1.2."""
    reader = YAML(typ="rt", pure=True)
    try:
        for token in reader.scan(text):
            if isinstance(token, TagToken):
                raise StudyError(
                    f"{label}:{token.start_mark.line + 1} YAML: expected a plain value, found the tag "
                    f"{''.join(t or '' for t in token.value)}; remove it"
                )
        return YAML(typ="rt", pure=True).load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        message = " ".join((error.problem or error.context or "not YAML").split())
        raise StudyError(f"{label}:{line} YAML: {message}") from error
    except (YAMLError, ValueError) as error:
        raise StudyError(f"{label}: YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise StudyError(f"{label}: YAML: nested too deeply; a study has at most a dozen levels") from error


def _line(node: Any, key: Any) -> int:
    """Return the line (from 1) of a key or item; that of the whole node for keys that a merge (`<<`) brought in."""
    position = (node.lc.data or {}).get(key)
    return int(position[0] if position else node.lc.line or 0) + 1


def _plain(node: Any, at: str, lines: dict[str, int], path: Path | str, depth: int = 0) -> Any:
    """Convert ruamel's nodes to plain data, recording the line of every key and item."""
    place = f"{path}:{lines.get(at, 1)} {at}".rstrip() if isinstance(path, Path) else f"{path} {at}"
    if depth > MAX_DEPTH:
        raise StudyError(f"{place}: nested too deeply; a study has at most a dozen levels")
    if isinstance(node, dict):
        result = {}
        for key, value in node.items():
            line = _line(node, key)
            if not isinstance(key, str):
                raise StudyError(f"{path}:{line} {at}: expected a text key, found {key!r}; put it in quotes")
            below = f"{at}.{key}" if at else str(key)
            lines[below] = line
            result[str(key)] = _plain(value, below, lines, path, depth + 1)
        return result
    if isinstance(node, list):
        items = []
        for i, value in enumerate(node):
            below = f"{at}.{i}"
            lines[below] = _line(node, i)
            items.append(_plain(value, below, lines, path, depth + 1))
        return items
    if isinstance(node, float) and not math.isfinite(node):
        raise StudyError(
            f"{place}: expected a finite number, found {float(node)}; write a number, or null where a field allows it"
        )
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    if node is None:
        return None
    raise StudyError(
        f"{place}: expected text or a number, found {str(node)!r} ({type(node).__name__}); put it in quotes"
    )


def _apply_override(raw: dict[str, Any], lines: dict[str, int], text: str) -> None:
    """Set one `dotted.path=value` in the raw tree and mark its lines as such."""
    dotted, sep, value = text.partition("=")
    if not sep or not all(dotted.split(".")):
        raise StudyError(f"--set {text}: expected path=value, for example --set train.lr=1e-3")
    below: dict[str, int] = {}
    parsed = _plain(_parse(value, f"--set {dotted}"), dotted, below, "--set") if value else ""
    for known in [k for k in lines if k.startswith(f"{dotted}.")]:
        del lines[known]
    node: Any = raw
    keys, done = dotted.split("."), 0
    while done < len(keys):
        reached = ".".join(keys[:done]) or "the study"
        if isinstance(node, list):
            key: Any = keys[done]
            if not key.isdigit() or int(key) >= len(node):
                raise StudyError(f"--set {text}: expected an index below {len(node)} at {reached}, found {key!r}")
            key, done = int(key), done + 1
        elif isinstance(node, dict):
            taken = next((n for n in range(len(keys), done, -1) if ".".join(keys[done:n]) in node), done + 1)
            key, done = ".".join(keys[done:taken]), taken  # names may hold dots: the longest one that exists
        else:
            raise StudyError(f"--set {text}: {reached} is {shown(node)}, so nothing can be set below it")
        if done == len(keys):
            node[key] = parsed
        elif isinstance(node, dict) and node.get(key) is None:
            node[key] = {}
            lines[".".join(keys[:done])] = CREATED
        node = node[key]
    lines.update(dict.fromkeys([dotted, *below], SET))


def _validate(kind: Any, value: Any, problems: Problems, prefixes: tuple[str, ...] = ("",)) -> Any:
    """Validate plain data against a spec type; add messages to `problems` and return None when it does not fit.

    `prefixes` are tried in turn to find the line an error belongs to (a condition's patch before its section).
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            location = location_of(kind, item["loc"])
            problems.at(".".join(location), explained(kind, item, location), prefixes)
        return None


def _merged(section: str, base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` patched: in `data` by name down to a source's or stage's fields, elsewhere field by field."""
    result = copy.deepcopy(dict(base))
    for key, value in patch.items():
        if section == "data" and key in ("sources", "stages") and isinstance(value, dict):
            group = result.setdefault(key, {})
            for name, fields in value.items():
                group[name] = {**group.get(name, {}), **fields} if isinstance(fields, dict) else fields
        else:
            result[key] = value
    return result


def _levels(study: Study, problems: Problems) -> list[dict[str, Any]]:
    """Return the cross product of `vary` as {dotted path: value}."""
    known = [f"{s}.{f.name}" for s in ("model", "tokenizer", "train") for f in dataclasses.fields(SECTIONS[s])]
    for stage in study.data.stages:
        budgets = [f"budget.{f.name}" for f in dataclasses.fields(Budget) if f.name != "tokens_of"]
        known += [f"data.stages.{stage}.{field}" for field in ("batch", *budgets)]
    for dotted, values in study.vary.items():
        if dotted not in known:
            problems.at(
                f"vary.{dotted}",
                f"expected a field of model, tokenizer or train, or a stage's batch or budget, found {dotted!r}."
                f"{did_you_mean(dotted, known)} (the rest of data is what conditions patch; seeds are under `seeds`)",
            )
        texts = [json.dumps(float(v) if type(v) is int else v, sort_keys=True) for v in values]
        if len(set(texts)) != len(texts) or not texts:
            problems.at(f"vary.{dotted}", f"expected one or more different values, found {shown(values)}")
    return [dict(zip(study.vary, combo, strict=True)) for combo in itertools.product(*study.vary.values())]


def _resolve_cells(study: Study, raw: Mapping[str, Any], problems: Problems) -> list[Cell]:
    """Apply every condition's patch and every level of `vary`; add problems with the line of the patch."""
    cells: list[Cell] = []
    levels = _levels(study, problems)
    if problems:
        return cells
    for name, condition in study.conditions.items():
        for section in ("train", "model"):
            if getattr(condition, section) and study.compares == "data":
                problems.at(
                    f"conditions.{name}.{section}",
                    "conditions may differ in `data` only; say "
                    "`compares: training` at the top of the study if that is what it compares",
                )
        if _unknown_names(name, condition, raw, problems):
            continue
        for level in levels:
            sections = {s: _merged(s, raw.get(s) or {}, getattr(condition, s, {})) for s in SECTIONS}
            for dotted, value in level.items():
                _set_level(sections, dotted.split("."), value)
            resolved = {s: _validate(kind, sections[s], problems, prefixes_of(name, s)) for s, kind in SECTIONS.items()}
            if resolved["train"] is not None:
                for stage, settings in resolved["train"].stages.items():
                    _validate(Optimiser, _optimiser(resolved["train"], settings), problems, stage_prefixes(name, stage))
            if all(v is not None for v in resolved.values()):
                cells.append(Cell(condition=name, level=level, **resolved))
    return cells


def _set_level(sections: dict[str, dict[str, Any]], path: list[str], value: Any) -> None:
    """Set one varied field; a stage's varied budget takes the place of the one it had, since a stage has exactly one."""
    if path[0] != "data":
        sections[path[0]][path[1]] = value
        return
    stage = sections["data"]["stages"].get(".".join(path[2 : path.index("budget")] if "budget" in path else path[2:-1]))
    if stage is not None:  # a condition's own stages may be others
        stage.update({"budget": {path[-1]: value}} if "budget" in path[3:] else {path[-1]: value})


def _unknown_names(name: str, condition: Condition, raw: Mapping[str, Any], problems: Problems) -> bool:
    """Add a message for every source or stage of a patch that neither exists nor is complete; return whether any."""
    before = len(problems)
    for group, kind in (("stages", "stage"), ("sources", "source")):
        known = list(raw["data"].get(group) or {})
        patch = condition.data.get(group)
        for key, fields in patch.items() if isinstance(patch, dict) else ():
            complete = isinstance(fields, dict) and (
                {"mixture", "budget"} <= set(fields)
                if kind == "stage"
                else {"world", "file", "subset_of"} & set(fields)
            )
            if key not in known and not complete:
                needs = "`mixture` and `budget`" if kind == "stage" else "`world`, `file` or `subset_of`"
                problems.at(
                    f"conditions.{name}.data.{group}.{key}",
                    f"no {kind} is called {key!r} in `data.{group}`.{did_you_mean(key, known)} "
                    f"Known: {', '.join(known)} (a condition may add a {kind}, but then with {needs})",
                )
    return len(problems) > before


def _optimiser(train: Train, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the optimiser fields of the section under a stage's own settings."""
    return {**{f.name: getattr(train, f.name) for f in dataclasses.fields(Optimiser)}, **settings}


def optimiser_of(train: Train, stage: str) -> Optimiser:
    """Return the optimiser settings of one stage: the section's, then the stage's own (of checked types)."""
    merged = canonical(_optimiser(train, train.stages.get(stage, {})), f"train.stages.{stage}")
    optimiser: Optimiser = TypeAdapter(Optimiser).validate_json(merged, strict=True)
    return optimiser
