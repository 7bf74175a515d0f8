"""A typed study and its cells -> messages for names that point nowhere, wrong values, comparisons without meaning.

Everything is checked on the resolved cells, so that what a condition or a level changes is judged as it will run;
messages point at the line of the patch that made it so. Not covered: names of formats, families and
benchmarks (known above this layer; engine/plan checks them).
"""

from __future__ import annotations

import dataclasses
import json

from leaven.spec.attribute import check_attribution
from leaven.spec.bounds import (
    DATA,
    OWN_NAMES,
    STUDY,
    TOKENIZER,
    check_bounds,
    check_model,
    check_names,
    check_optimiser,
    check_stage,
)
from leaven.spec.data import Data
from leaven.spec.lines import Problems
from leaven.spec.study import Cell, Study
from leaven.spec.train import Optimiser


def prefixes_of(condition: str, section: str) -> tuple[str, ...]:
    """Return where a section's fields may be written: the condition's patch, `vary`, the section itself."""
    return f"conditions.{condition}.{section}.", f"vary.{section}.", f"{section}."


def stage_prefixes(condition: str, stage: str) -> tuple[str, ...]:
    """Return where a stage's optimiser settings may be written: for the stage (patch, section), then for all stages."""
    return f"conditions.{condition}.train.stages.{stage}.", f"train.stages.{stage}.", *prefixes_of(condition, "train")


def check_study(study: Study, cells: list[Cell], problems: Problems) -> None:
    """Add a message for every mistake that types alone do not show."""
    check_names({"study": study.study}, problems)
    check_names({f"conditions.{n}": n for n in study.conditions}, problems, own=OWN_NAMES)
    check_names({f"measure.{n}": n for n in study.measure}, problems)
    check_names({f"probe.{n}": n for n in study.probe}, problems)
    check_names({f"attribute.{n}": n for n in study.attribute}, problems)
    for name, asked in study.attribute.items():
        for part in ("queries", "retrain"):
            check_names({f"attribute.{name}.{part}.{n}": n for n in getattr(asked, part)}, problems)
    check_bounds(
        {
            "seeds": study.seeds,
            "measure": study.measure,
            "probe": study.probe,
            "attribute": study.attribute,
            "contrasts": study.contrasts,
            "runtime": study.runtime,
        },
        STUDY,
        problems,
    )
    if not study.seeds or len(set(study.seeds)) != len(study.seeds):
        problems.at("seeds", f"expected one or more different seeds, found {list(study.seeds)}")
    check_attribution(study.attribute, list(study.measure), list(study.conditions), list(study.data.sources), problems)
    _check_plugins(study, problems)
    _check_contrasts(study, problems)
    for cell in cells:
        _check_cell(cell, study, problems)
    _check_across(study, cells, problems)


def _check_plugins(study: Study, problems: Problems) -> None:
    """Add messages for plugin files that are not there."""
    for index, name in enumerate(study.plugins):
        path = problems.path.absolute().parent / name
        if path.suffix != ".py" or not path.is_file():
            problems.at(
                f"plugins.{index}",
                f"expected a Python file (.py) beside the study file or at a path relative to it, found {name!r}"
                f"{'' if path.exists() else ', which does not exist'}",
            )


def _check_contrasts(study: Study, problems: Problems) -> None:
    """Add messages for contrasts that compare nothing, or whose names point nowhere."""
    conditions = list(study.conditions)
    if len(conditions) < 2:
        problems.at(
            "conditions", f"expected at least two conditions to compare, found {', '.join(conditions) or 'none'}"
        )
    for index, contrast in enumerate(study.contrasts):
        at = f"contrasts.{index}"
        problems.must(f"{at}.treatment", contrast.treatment, conditions, "a condition")
        problems.must(f"{at}.control", contrast.control, conditions, "a condition")
        problems.must(f"{at}.benchmark", contrast.benchmark, study.measure, "a benchmark under measure")
        if not contrast.name.strip():
            problems.at(f"{at}.name", f"expected a short name, found {contrast.name!r}")
        if contrast.treatment == contrast.control:
            problems.at(
                f"{at}.control", f"expected another condition than the treatment, found {contrast.control!r} for both"
            )
        low, high = contrast.where.min_difficulty, contrast.where.max_difficulty
        if low is not None and high is not None and low > high:
            problems.at(
                f"{at}.where.min_difficulty", f"expected at most max_difficulty ({high}), found {low}; no item is both"
            )
    primary = sum(c.primary for c in study.contrasts)
    if primary != 1:
        problems.at("contrasts", f"expected exactly one contrast with `primary: true`, found {primary}")
    if len({c.name for c in study.contrasts}) != len(study.contrasts):
        problems.at("contrasts", "expected a different name for every contrast")
    for name, measure in study.measure.items():
        if measure.world is not None and measure.file is not None:
            problems.at(f"measure.{name}", "expected `world` or `file`, found both")
    for name, probe in study.probe.items():
        origins = [k for k in ("world", "file", "of") if getattr(probe, k) is not None]
        if len(origins) != 1:
            found = ", ".join(origins) or "none"
            problems.at(f"probe.{name}", f"expected exactly one of world, file and of as the origin of its examples, found {found}")
        if probe.of is not None:
            problems.must(f"probe.{name}.of", probe.of, study.measure, "a benchmark under measure")


def _check_cell(cell: Cell, study: Study, problems: Problems) -> None:
    """Add messages for the sections of one condition at one level."""
    data, model, train = (prefixes_of(cell.condition, s) for s in ("data", "model", "train"))
    check_bounds(cell.data, DATA, problems, data)
    check_names({f"sources.{n}": n for n in cell.data.sources}, problems, data)
    check_names({f"stages.{n}": n for n in cell.data.stages}, problems, data)
    check_model(cell.model, problems, model)
    check_bounds(cell.tokenizer, TOKENIZER, problems, prefixes_of(cell.condition, "tokenizer"))
    own = {f.name: getattr(cell.train, f.name) for f in dataclasses.fields(Optimiser)}
    check_optimiser(Optimiser(**own), problems, train)
    for name, settings in cell.train.stages.items():
        check_optimiser(Optimiser(**{**own, **settings}), problems, stage_prefixes(cell.condition, name))
    for name, measure in study.measure.items():
        if measure.at == "all" and (cell.train.checkpoints or 0) < 2:
            problems.at(
                f"measure.{name}.at",
                "`all` measures the models that `train.checkpoints: N` keeps; expected an N of at least 2, found "
                f"{cell.train.checkpoints}",
            )
        generates = measure.metrics != ("bits_per_byte",)
        if cell.model.kind == "tiny" and generates and measure.max_new_tokens >= cell.model.max_tokens:
            problems.at(
                f"measure.{name}.max_new_tokens",
                f"expected fewer than model.max_tokens ({cell.model.max_tokens}), because the question needs "
                f"room too; found {measure.max_new_tokens}",
            )
    _check_sources(cell.data, problems, data)
    _check_stages(cell, list(study.conditions), problems, data)


def _check_sources(data: Data, problems: Problems, prefixes: tuple[str, ...]) -> None:
    """Add messages for one condition's sources."""
    for name, source in data.sources.items():
        at = f"sources.{name}"
        origins = [k for k in ("world", "file", "subset_of") if getattr(source, k) is not None]
        if len(origins) != 1:
            problems.at(
                at, f"expected exactly one of world, file and subset_of, found {', '.join(origins) or 'none'}", prefixes
            )
        if source.subset_of is not None:
            problems.must(f"{at}.subset_of", source.subset_of, data.sources, "a source", prefixes)
            problems.must(f"{at}.size_of", source.size_of, data.sources, "a source", prefixes)
        elif source.size_of is not None:
            problems.at(
                f"{at}.size_of",
                "expected `subset_of` beside it: the source from which that many rows are drawn",
                prefixes,
            )
        if source.world is not None and source.world.split == "test":
            problems.at(f"{at}.world.split", "expected train, found test: test problems are for measuring", prefixes)
        if name in _drawn_from(data, name):
            problems.at(at, f"{name!r} is drawn from itself by way of subset_of and size_of", prefixes)


def _drawn_from(data: Data, name: str) -> set[str]:
    """Return the sources that a source's rows or their number depend on."""
    found: set[str] = set()
    left = [name]
    while left:
        source = data.sources.get(left.pop())
        new = {s for s in (source.subset_of, source.size_of) if s is not None} - found if source is not None else set()
        found |= new
        left += sorted(new)
    return found


def _check_stages(cell: Cell, conditions: list[str], problems: Problems, prefixes: tuple[str, ...]) -> None:
    """Add messages for one condition's stages."""
    sources = cell.data.sources
    for name, stage in cell.data.stages.items():
        at = f"stages.{name}"
        budgets = [f.name for f in dataclasses.fields(stage.budget) if getattr(stage.budget, f.name) is not None]
        if len(budgets) != 1:
            problems.at(
                f"{at}.budget",
                "expected exactly one of steps, examples, tokens, learned_tokens, epochs, tokens_of; "
                f"found {', '.join(budgets) or 'none'}",
                prefixes,
            )
        for source in stage.mixture:
            problems.must(f"{at}.mixture.{source}", source, sources, "a source", prefixes)
        if not sum(stage.mixture.values()) > 0:
            problems.at(f"{at}.mixture", "expected at least one source with a positive weight", prefixes)
        for source in stage.format if isinstance(stage.format, dict) else ():
            problems.must(f"{at}.format.{source}", source, sources, "a source", prefixes)
        for field, other in (("extends", stage.extends), ("budget.tokens_of", stage.budget.tokens_of)):
            if other is not None:
                problems.must(
                    f"{at}.{field}",
                    other,
                    [c for c in conditions if c != cell.condition],
                    "another condition",
                    prefixes,
                )
        check_stage(name, stage, cell.model, problems, prefixes)
    if not cell.data.stages:
        problems.at("stages", "expected at least one stage, found none", prefixes)


def _check_across(study: Study, cells: list[Cell], problems: Problems) -> None:
    """Add messages for what only all conditions together show: unused names, equal conditions, shared folders."""
    stages = {n for c in cells for n in c.data.stages}
    sources = {n: None for c in cells for n in c.data.sources}
    used = {s for c in cells for stage in c.data.stages.values() for s in stage.mixture}
    used |= {
        s
        for c in cells
        for source in c.data.sources.values()
        for s in (source.subset_of, source.size_of)
        if s is not None
    }
    own_stages = {(c.condition, n) for c in cells for n in c.data.stages}
    for cell in cells:
        prefixes = prefixes_of(cell.condition, "data")
        for name in (
            set(cell.data.sources) - used if used <= set(sources) else ()
        ):  # a name that points nowhere is said already
            problems.at(f"sources.{name}", f"no mixture uses the source {name!r}; remove it or use it", prefixes)
        for name in cell.train.stages:
            problems.must(f"stages.{name}", name, sorted(stages), "a stage", prefixes_of(cell.condition, "train"))
        for name in cell.tokenizer.sources or ():
            problems.must("sources", name, sources, "a source", prefixes_of(cell.condition, "tokenizer"))
        for name, stage in cell.data.stages.items():
            for other in {stage.extends, stage.budget.tokens_of} - {None}:
                if other in study.conditions and (other, name) not in own_stages:
                    problems.at(
                        f"stages.{name}",
                        f"expected condition {other!r} to have a stage {name!r} too, because this one refers to it",
                        prefixes,
                    )
    _check_equal(cells, problems)


def _check_equal(cells: list[Cell], problems: Problems) -> None:
    """Add messages for conditions that train the same, and for levels that would share a folder."""
    trained: dict[str, Cell] = {}
    folders: dict[str, Cell] = {}
    for cell in cells:
        text = json.dumps(
            [cell.level, *(dataclasses.asdict(s) for s in (cell.data, cell.model, cell.tokenizer, cell.train))],
            sort_keys=True,
        )
        same = trained.setdefault(text, cell)
        if same.condition != cell.condition:
            problems.at(
                f"conditions.{cell.condition}",
                f"expected conditions that differ, but {same.condition!r} and {cell.condition!r} train on the same "
                "data with the same settings; change or remove one",
            )
        folder = f"{cell.condition}/{cell.label}".casefold()
        if folders.setdefault(folder, cell).level != cell.level:
            problems.at("vary", f"expected levels with different names, found {cell.label!r} twice")
