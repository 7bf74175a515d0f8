"""A study file (YAML 1.2) plus `--set` values -> a checked LoadedStudy, or one error that lists every mistake with its line.

Unknown keys, wrong types and impossible references are refused with file:line, dotted path and a suggestion. Patches merge by
name down to the fields of a source or a stage; below that a value is replaced whole. pydantic lives only here.
Not covered: names of formats, families and benchmarks (known above this layer; engine/plan checks them with `where`).
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from leaven.core.hashing import canonical
from leaven.errors import StudyError, did_you_mean
from leaven.spec.data import Data
from leaven.spec.study import Cell, Study
from leaven.spec.train import Model, Optimiser, TokenizerSpec, Train

SECTIONS: dict[str, Any] = {"data": Data, "model": Model, "tokenizer": TokenizerSpec, "train": Train}
KINDS = {"int_type": "a whole number", "int_from_float": "a whole number", "float_type": "a number", "string_type": "text",
         "bool_type": "true or false", "dict_type": "a mapping", "list_type": "a list", "tuple_type": "a list",
         "dataclass_type": "a mapping", "dataclass_exact_type": "a mapping"}


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
        return _where(self.path, self.lines, dotted)


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
    problems: list[str] = []
    study = _validate(Study, raw, path, lines, problems)
    if study is None or problems:
        raise StudyError("\n".join(problems))
    cells = _resolve_cells(study, raw, path, lines, problems)
    if not problems:
        problems += _reference_problems(study, cells, path, lines)
    if problems:
        raise StudyError("\n".join(problems))
    return LoadedStudy(study, tuple(cells), path, raw, lines)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of study files (`leaven schema`)."""
    schema = TypeAdapter(Study).json_schema()
    inherited = TypeAdapter(Optimiser).json_schema()["properties"]
    for name, field in schema["$defs"]["Train"]["properties"].items():  # pydantic reads docstrings of a class's own fields only
        if "description" not in field and name in inherited:
            field["description"] = inherited[name].get("description", "")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "leaven study"}


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Return a YAML file as plain data and the line (from 1) of every dotted path; raise StudyError with the position."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StudyError(f"{path}: no such study file; `leaven new quickstart` writes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    try:
        tree = YAML(typ="rt", pure=True).load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise StudyError(f"{path}:{line} YAML: {error.problem or error.context}".replace("\n", " ")) from error
    except YAMLError as error:
        raise StudyError(f"{path}: YAML: {error}") from error
    if not isinstance(tree, dict):
        raise StudyError(f"{path}:1 expected a mapping with the keys leaven, study, question, data ..., found {_shown(tree)}")
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


def _plain(node: Any, at: str, lines: dict[str, int], path: Path) -> Any:
    """Convert ruamel's nodes to plain data, recording the line of every key and item."""
    if isinstance(node, dict):
        result = {}
        for key, value in node.items():
            if not isinstance(key, str):
                raise StudyError(f"{path}:{node.lc.key(key)[0] + 1} {at}: expected a text key, found {key!r}; put it in quotes")
            below = f"{at}.{key}" if at else key
            lines[below] = node.lc.key(key)[0] + 1
            result[key] = _plain(value, below, lines, path)
        return result
    if isinstance(node, list):
        items = []
        for i, value in enumerate(node):
            below = f"{at}.{i}"
            lines[below] = node.lc.item(i)[0] + 1
            items.append(_plain(value, below, lines, path))
        return items
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    if node is None:
        return None
    raise StudyError(f"{path}:{lines.get(at, 1)} {at}: expected text or a number, found {node!r}; put it in quotes")


def _apply_override(raw: dict[str, Any], lines: dict[str, int], text: str) -> None:
    """Set one `dotted.path=value` in the raw tree."""
    dotted, sep, value = text.partition("=")
    if not sep or not dotted:
        raise StudyError(f"--set {text}: expected path=value, for example --set train.lr=1e-3")
    try:
        parsed = YAML(typ="safe", pure=True).load(value) if value else ""
    except YAMLError as error:
        raise StudyError(f"--set {text}: the value is not YAML: {error}") from error
    node: Any = raw
    keys = dotted.split(".")
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(node, list):
            if not key.isdigit() or int(key) >= len(node):
                raise StudyError(f"--set {text}: expected an index below {len(node)} at {'.'.join(keys[:depth])}, found {key!r}")
            if last:
                node[int(key)] = parsed
            node = node[int(key)]
        elif isinstance(node, dict):
            if last:
                node[key] = parsed
            elif not isinstance(node.get(key), dict | list):
                node[key] = {}
            node = node[key]
    lines[dotted] = 0


def _where(path: Path, lines: Mapping[str, int], dotted: str) -> str:
    """Return where a dotted path stands: its own line or that of its closest parent; --set values have line 0."""
    probe = dotted
    while probe and probe not in lines:
        probe = probe.rpartition(".")[0]
    line = lines.get(probe, 1)
    return f"--set {dotted}" if line == 0 else f"{path}:{line} {dotted}"


def _validate(kind: Any, value: Any, path: Path, lines: Mapping[str, int], problems: list[str], prefixes: tuple[str, ...] = ("",)) -> Any:
    """Validate plain data against a spec type; append messages to `problems` and return None when it does not fit.

    `prefixes` are tried in turn to find the line an error belongs to (a condition's patch before the section it patches).
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        seen: set[str] = set()
        for item in error.errors(include_url=False):
            location = _location(kind, item["loc"])
            dotted = _first_known(".".join(map(str, location)), lines, prefixes)
            message = _explain(kind, item, location)
            text = f"{_where(path, lines, dotted)}: {message}"
            if text not in seen:
                seen.add(text)
                problems.append(text)
        return None


def _first_known(dotted: str, lines: Mapping[str, int], prefixes: tuple[str, ...]) -> str:
    """Return `prefix + dotted` for the first prefix under which the path (or its parent key) has a line."""
    for prefix in prefixes:
        full = prefix + dotted
        if full in lines:
            return full
    return prefixes[-1] + dotted


def _location(kind: Any, loc: tuple[Any, ...]) -> list[str]:
    """Drop the union-branch labels that pydantic adds to a location."""
    steps: list[str] = []
    current: Any = kind
    for part in loc:
        following = _child(current, part)
        if following is None and isinstance(part, str) and (part in {"str", "int", "float", "none"} or "[" in part or part[:1].isupper()):
            continue
        steps.append(str(part))
        current = following
    return steps


def _child(kind: Any, part: Any) -> Any:
    """Return the type of field, key or index `part` of a spec type, or None when it has none."""
    for option in _options(kind):
        origin, args = typing.get_origin(option), typing.get_args(option)
        if dataclasses.is_dataclass(option):
            hints = typing.get_type_hints(option)
            names = {f.name for f in dataclasses.fields(option)}
            if part in names:
                return hints[part]
        elif origin is dict and isinstance(part, str):
            return args[1]
        elif origin in (list, tuple) and isinstance(part, int):
            return args[0]
    return None


def _options(kind: Any) -> list[Any]:
    """Return the members of a union, or the type itself."""
    args = typing.get_args(kind)
    return [a for a in args if a is not type(None)] if typing.get_origin(kind) in (typing.Union, type(int | str)) else [kind]


def _known_keys(kind: Any, location: list[str]) -> list[str]:
    """Return the field names allowed beside the last element of a location."""
    current: Any = kind
    for part in location[:-1]:
        current = _child(current, int(part) if part.isdigit() else part)
        if current is None:
            return []
    return [f.name for o in _options(current) if dataclasses.is_dataclass(o) for f in dataclasses.fields(o)]


def _shown(value: Any) -> str:
    """Return a short text of a value found in a study file."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _explain(kind: Any, item: Any, location: list[str]) -> str:
    """Say what was expected and found for one pydantic error."""
    name = item["type"]
    if name in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _known_keys(kind, location)
        return f"unknown key {location[-1]!r}.{did_you_mean(location[-1], known)} Known keys: {', '.join(known)}"
    if name in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"required key {location[-1]!r} is missing; add it"
    if name == "literal_error":
        allowed = item["ctx"]["expected"]
        options = [t.strip().strip("'") for t in allowed.replace(" or ", ", ").split(",")]
        return f"expected one of {allowed}, found {_shown(item['input'])}.{did_you_mean(str(item['input']), options)}"
    if name in KINDS:
        return f"expected {KINDS[name]}, found {_shown(item['input'])}"
    return f"{item['msg']}, found {_shown(item['input'])}"


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


def _levels(study: Study, path: Path, lines: Mapping[str, int], problems: list[str]) -> list[dict[str, Any]]:
    """Return the cross product of `vary` as {dotted path: value}."""
    for dotted, values in study.vary.items():
        section, _, rest = dotted.partition(".")
        known = [f"{s}.{f.name}" for s in ("model", "tokenizer", "train") for f in dataclasses.fields(SECTIONS[s])]
        if dotted not in known:
            problems.append(f"{_where(path, lines, f'vary.{dotted}')}: expected a field of model, tokenizer or train, found "
                            f"{dotted!r}.{did_you_mean(dotted, known)} (data is what conditions patch; seeds are under `seeds`)")
        if not values:
            problems.append(f"{_where(path, lines, f'vary.{dotted}')}: expected at least one value, found none")
    return [dict(zip(study.vary, combo, strict=True)) for combo in itertools.product(*study.vary.values())]


def _resolve_cells(study: Study, raw: Mapping[str, Any], path: Path, lines: Mapping[str, int], problems: list[str]) -> list[Cell]:
    """Apply every condition's patch and every level of `vary`; append problems with the line of the patch."""
    cells: list[Cell] = []
    levels = _levels(study, path, lines, problems)
    if problems:
        return cells
    for name, condition in study.conditions.items():
        for section in ("train", "model"):
            if getattr(condition, section) and study.compares == "data":
                problems.append(f"{_where(path, lines, f'conditions.{name}.{section}')}: conditions may differ in `data` only; say "
                                "`compares: training` at the top of the study if that is what it compares")
        for level in levels:
            sections = {s: _merged(s, raw.get(s) or {}, getattr(condition, s, {})) for s in SECTIONS}
            for dotted, value in level.items():
                section, _, field = dotted.partition(".")
                sections[section][field] = value
            resolved = {}
            for section, kind in SECTIONS.items():
                prefixes = (f"conditions.{name}.{section}.", f"vary.{section}.", f"{section}.")
                resolved[section] = _validate(kind, sections[section], path, lines, problems, prefixes)
            if all(v is not None for v in resolved.values()):
                cells.append(Cell(condition=name, level=level, **resolved))
    problems[:] = list(dict.fromkeys(problems))
    return cells


def _reference_problems(study: Study, cells: list[Cell], path: Path, lines: Mapping[str, int]) -> list[str]:
    """Return messages for names that point nowhere and for choices that contradict each other."""
    found: list[str] = []

    def at(dotted: str, message: str) -> None:
        found.append(f"{_where(path, lines, dotted)}: {message}")

    def must(dotted: str, value: str, known: list[str], kind: str) -> None:
        if value not in known:
            at(dotted, f"expected the name of a {kind}, found {value!r}.{did_you_mean(value, known)} Known: {', '.join(known)}")

    conditions = list(study.conditions)
    if not study.seeds or len(set(study.seeds)) != len(study.seeds):
        at("seeds", f"expected one or more different seeds, found {list(study.seeds)}")
    for index, contrast in enumerate(study.contrasts):
        must(f"contrasts.{index}.treatment", contrast.treatment, conditions, "condition")
        must(f"contrasts.{index}.control", contrast.control, conditions, "condition")
        if contrast.margin is not None and contrast.margin <= 0:
            at(f"contrasts.{index}.margin", f"expected a positive difference in score units, found {contrast.margin}")
        must(f"contrasts.{index}.benchmark", contrast.benchmark, list(study.measure), "benchmark under measure")
    if sum(c.primary for c in study.contrasts) != 1:
        at("contrasts", f"expected exactly one contrast with `primary: true`, found {sum(c.primary for c in study.contrasts)}")
    if len({c.name for c in study.contrasts}) != len(study.contrasts):
        at("contrasts", "expected a different name for every contrast")
    for name, measure in study.measure.items():
        if measure.world is not None and measure.file is not None:
            at(f"measure.{name}", "expected `world` or `file`, found both")
    stage_names = {n for c in cells for n in c.data.stages}
    for name in study.train.stages:
        must(f"train.stages.{name}", name, sorted(stage_names), "stage")
        known = [f.name for f in dataclasses.fields(Optimiser)]
        for key in study.train.stages[name]:
            if key not in known:
                at(f"train.stages.{name}.{key}", f"unknown key {key!r}.{did_you_mean(key, known)} Known keys: {', '.join(known)}")
    for cell in cells:
        found += _data_problems(cell, conditions, path, lines)
    return list(dict.fromkeys(found))


def _data_problems(cell: Cell, conditions: list[str], path: Path, lines: Mapping[str, int]) -> list[str]:
    """Return messages for one cell's sources and stages."""
    found: list[str] = []
    prefixes = (f"conditions.{cell.condition}.data.", "data.")

    def at(dotted: str, message: str) -> None:
        found.append(f"{_where(path, lines, _first_known(dotted, lines, prefixes))}: {message}")

    sources = list(cell.data.sources)
    for name, source in cell.data.sources.items():
        origins = [k for k in ("world", "file", "subset_of") if getattr(source, k) is not None]
        if len(origins) != 1:
            at(f"sources.{name}", f"expected exactly one of world, file and subset_of, found {origins or 'none'}")
        if source.subset_of is not None and source.subset_of not in sources:
            at(f"sources.{name}.subset_of", f"expected the name of a source, found {source.subset_of!r}."
               f"{did_you_mean(source.subset_of, sources)}")
        if source.subset_of is not None and source.size_of not in sources:
            at(f"sources.{name}.size_of", f"expected the name of a source whose size is matched, found {source.size_of!r}")
    for name, stage in cell.data.stages.items():
        budgets = [f.name for f in dataclasses.fields(stage.budget) if getattr(stage.budget, f.name) is not None]
        if len(budgets) != 1:
            at(f"stages.{name}.budget", f"expected exactly one of steps, examples, tokens, learned_tokens, epochs, tokens_of; found {budgets or 'none'}")
        for source, weight in stage.mixture.items():
            if source not in sources:
                at(f"stages.{name}.mixture.{source}", f"expected the name of a source, found {source!r}.{did_you_mean(source, sources)} "
                   f"Known: {', '.join(sources)}")
            if weight < 0:
                at(f"stages.{name}.mixture.{source}", f"expected a weight of at least 0, found {weight}")
        if not sum(stage.mixture.values()) > 0:
            at(f"stages.{name}.mixture", "expected at least one source with a positive weight")
        for field in ("extends", "tokens_of"):
            other = stage.extends if field == "extends" else stage.budget.tokens_of
            if other is not None and (other not in conditions or other == cell.condition):
                at(f"stages.{name}.{'extends' if field == 'extends' else 'budget.tokens_of'}",
                   f"expected the name of another condition, found {other!r}.{did_you_mean(other, conditions)}")
    if not cell.data.stages:
        at("stages", "expected at least one stage, found none")
    return found


def optimiser_of(train: Train, stage: str) -> Optimiser:
    """Return the optimiser settings of one stage: the section's, then the stage's own.

    Raises:
        StudyError: When an override has the wrong type.
    """
    base = {f.name: getattr(train, f.name) for f in dataclasses.fields(Optimiser)}
    merged = {**base, **train.stages.get(stage, {})}
    try:
        return TypeAdapter(Optimiser).validate_json(canonical(merged, f"train.stages.{stage}"), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise StudyError(f"train.stages.{stage}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
