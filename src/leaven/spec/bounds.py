"""The table of value ranges: a dotted path with `*` for names -> what its value must be, and how to say so.

Types are pydantic's business (load.py). Ranges that involve two fields (heads divide the width, min_lr <= lr) are
functions below the tables. Not covered: options of benchmarks and schedules, which their owners check.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from leaven.spec.data import Stage
from leaven.spec.lines import Problems
from leaven.spec.train import Model, Optimiser

LARGEST = 2**31 - 1
"""Largest whole number anywhere in a study: order tables and seeds are 32-bit."""
Bound = tuple[Callable[[Any], bool], str]


def at_least(low: float) -> Bound:
    """Return a bound from below."""
    return lambda v: v >= low, f"at least {low}"


POSITIVE: Bound = (lambda v: v > 0, "a number above 0")
SOME: Bound = (lambda v: len(v) > 0, "at least one value (or leave the line out)")
RATE: Bound = (lambda v: 0 < v <= 1, "above 0 and at most 1")
WORLD: dict[str, Bound] = {"n": at_least(1), "families": SOME, "difficulties": SOME, "difficulties.*": at_least(1)}
OPTIMISER: dict[str, Bound] = {
    "lr": POSITIVE,
    "eps": POSITIVE,
    "weight_decay": at_least(0),
    "clip": at_least(0),
    "min_lr": at_least(0),
    "warmup_steps": at_least(0),
    "betas.*": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "warmup_ratio": (lambda v: 0 <= v <= 1, "between 0 and 1"),
    "checkpoint_every": at_least(1),
    "checkpoints": at_least(1),
}
MODEL: dict[str, Bound] = {
    "width": at_least(8),
    "layers": at_least(1),
    "heads": at_least(1),
    "ffn": at_least(1),
    "max_tokens": at_least(8),
}
TOKENIZER: dict[str, Bound] = {"vocab_size": at_least(24), "sources": SOME}
DATA: dict[str, Bound] = {
    **{f"sources.*.world.{k}": v for k, v in WORLD.items()},
    "sources.*.limit": at_least(1),
    "sources.*.perturb.*.rate": RATE,
    "stages.*.batch": at_least(1),
    "stages.*.perturb.*.rate": RATE,
    "stages.*.max_tokens": at_least(2),
    "stages.*.mixture.*": (lambda v: v >= 0, "a weight of at least 0"),
    "stages.*.budget.epochs": (lambda v: 0 < v <= 1e6, "above 0 and at most 1000000"),
    **{f"stages.*.budget.{k}": at_least(1) for k in ("steps", "examples", "tokens", "learned_tokens")},
}
STUDY: dict[str, Bound] = {
    "seeds.*": at_least(0),
    "measure": SOME,
    "conditions": SOME,
    "contrasts.*.margin": POSITIVE,
    **{f"measure.*.world.{k}": v for k, v in WORLD.items()},
    **{f"probe.*.world.{k}": v for k, v in WORLD.items()},
    "probe.*.limit": at_least(1),
    **{f"attribute.*.queries.*.world.{k}": v for k, v in WORLD.items()},
    "attribute.*.queries.*.limit": at_least(1),
    "attribute.*.damping": POSITIVE,
    "attribute.*.refine": at_least(0),
    "attribute.*.keep": at_least(0),
    "attribute.*.retrain.*.n": at_least(2),
    "attribute.*.retrain.*.checkpoints": at_least(1),
    "attribute.*.retrain.*.counts.*": at_least(1),
    "attribute.*.retrain.*.controls": at_least(1),
    "attribute.*.retrain.*.fraction": (lambda v: 0 < v < 1, "above 0 and below 1"),
    "measure.*.perturb.*.rate": RATE,
    "measure.*.limit": at_least(1),
    "measure.*.n": at_least(1),
    "measure.*.temperature": at_least(0),
    "measure.*.top_p": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
    "measure.*.max_new_tokens": at_least(1),
    "measure.*.metrics": SOME,
    "runtime.workers": at_least(0),
    "runtime.threads": at_least(1),
    "runtime.micro_batch": at_least(0),
    "runtime.checkpoint_seconds": POSITIVE,
}


def check_bounds(value: Any, bounds: dict[str, Bound], problems: Problems, prefixes: tuple[str, ...] = ("",)) -> None:
    """Add a message for every value of a spec object that is outside its range; null values are fields left out."""
    for steps, found in _walk(value, ()):
        pattern = next((p for p in bounds if _fits(p.split("."), steps)), None)
        dotted = ".".join(steps)
        if pattern is not None and found is not None and not bounds[pattern][0](found):
            problems.at(dotted, f"expected {bounds[pattern][1]}, found {_shown(found)}", prefixes)
        elif type(found) is int and abs(found) > LARGEST:
            problems.at(dotted, f"expected a whole number of at most {LARGEST}, found {found}", prefixes)


def _fits(pattern: list[str], steps: tuple[str, ...]) -> bool:
    """Return whether a path matches a pattern, step by step."""
    return len(pattern) == len(steps) and all(p in ("*", s) for p, s in zip(pattern, steps, strict=True))


def _walk(value: Any, at: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield (path, value) of a value and of all below it, save free-form mappings (options, patches, the lock)."""
    if at:
        yield at, value
    if dataclasses.is_dataclass(value):
        below: Iterable[tuple[str, Any]] = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
    elif isinstance(value, dict):
        below = ((str(k), v) for k, v in value.items())
    elif isinstance(value, list | tuple):
        below = ((str(i), v) for i, v in enumerate(value))
    else:
        return
    for key, child in below:
        if key not in ("options", "lock") or not isinstance(child, dict):
            yield from _walk(child, (*at, key))


def _shown(value: Any) -> str:
    """Return a value as YAML shows it."""
    return "[]" if value in ((), []) else "{}" if value == {} else repr(value)


def check_optimiser(optimiser: Optimiser, problems: Problems, prefixes: tuple[str, ...]) -> None:
    """Add messages for one stage's optimiser settings."""
    check_bounds(optimiser, OPTIMISER, problems, prefixes)
    if optimiser.min_lr > optimiser.lr:
        problems.at("min_lr", f"expected at most lr ({optimiser.lr}), found {optimiser.min_lr}", prefixes)
    if optimiser.warmup_steps is not None and optimiser.warmup_ratio is not None:
        problems.at(
            "warmup_ratio",
            "expected warmup_steps or warmup_ratio, "
            f"found both ({optimiser.warmup_steps} and {optimiser.warmup_ratio}); "
            "set one of them to null",
            prefixes,
        )


def check_model(model: Model, problems: Problems, prefixes: tuple[str, ...]) -> None:
    """Add messages for the shape of a tiny model; a Hugging Face folder brings its own."""
    check_bounds(model, MODEL, problems, prefixes)
    if model.kind == "tiny" and model.heads >= 1 and (model.width % model.heads or model.width // model.heads % 2):
        problems.at(
            "width",
            f"expected a multiple of twice the number of heads ({model.heads}), so that every head has an even size; "
            f"found {model.width}",
            prefixes,
        )


def check_stage(name: str, stage: Stage, model: Model, problems: Problems, prefixes: tuple[str, ...]) -> None:
    """Add messages for a stage whose rows or slots are too many for its model or for a table."""
    if model.kind == "tiny" and stage.max_tokens > model.max_tokens:
        problems.at(
            f"stages.{name}.max_tokens",
            f"expected at most model.max_tokens ({model.max_tokens}), found {stage.max_tokens}; "
            "lower it here or raise it there",
            prefixes,
        )
    steps = stage.budget.steps
    if steps is not None and 0 < steps <= LARGEST < steps * stage.batch:
        problems.at(
            f"stages.{name}.budget.steps",
            f"expected at most {LARGEST} training slots (steps x batch), found {steps} x {stage.batch} = "
            f"{steps * stage.batch}",
            prefixes,
        )


# ---- names ----------------------------------------------------------------------------------------------------

OWN_NAMES = (
    "data",
    "tokens",
    "items",
    "tokenizer",
    "attribution",
    "analysis",
    "report",
    "logs",
    "tables",
    "figures",
    "report.html",
    "findings.json",
    "status.json",
    "events.jsonl",
    "plan.json",
    "study.lock.yaml",
)
"""What a run folder holds beside its conditions' folders."""
ALLOWED = (
    "letters, digits, `.`, `-`, `_`, `+`, `=` and inner spaces, at most 80 characters (200 bytes), "
    "not starting or ending with `.`"
)


def check_names(
    names: Mapping[str, str], problems: Problems, prefixes: tuple[str, ...] = ("",), own: tuple[str, ...] = ()
) -> None:
    """Add messages for names (by dotted path) that cannot be folders, are taken (`own`), or differ only in case."""
    seen: dict[str, str] = {}
    for dotted, name in names.items():
        folded = unicodedata.normalize("NFC", name).casefold()
        if not _is_name(name):
            problems.at(dotted, f"expected a name of {ALLOWED}; found {name[:90]!r}", prefixes)
        elif folded in own:
            problems.at(
                dotted,
                f"expected a name that the run folder does not use itself, found {name!r}; taken are {', '.join(own)}",
                prefixes,
            )
        elif folded in seen:
            problems.at(
                dotted, f"expected names that differ in more than case, found {seen[folded]!r} and {name!r}", prefixes
            )
        seen.setdefault(folded, name)


def _is_name(name: str) -> bool:
    """Return whether a name can be a folder's on every system."""
    fits = 0 < len(name) <= 80 and len(name.encode("utf-8", "replace")) <= 200 and name == name.strip(" .")
    return fits and all(c.isalnum() or c in ".-_+= " or unicodedata.category(c)[0] == "M" for c in name)
