"""Name of a probe -> the step that measures it, its options and what it needs; plugins register their own.

Imports no torch, so that a plan can check names and options. A plugin's probe is a function `(spec, inputs, out, ctx)` under
`@probe("NAME", options={...})`; its dotted path means nothing to another process, so the step `measure_plugin` loads the
plugin files among its inputs and calls the function that `spec["kind"]` names.
Not covered: what the probes compute (one file each).

spec of every probe: {kind, format, limit, seed, options}. inputs: `model`, `base` (the model training started from; may be absent),
`examples` (a folder with examples.parquet or items.parquet), `samples` (a folder with samples.parquet, answers to these
examples; may be absent), `plugin:*`. Written: values.parquet (PROBE_VALUES), report.json, timings.parquet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leaven.core.registry import Registry, load_plugins
from leaven.core.step import StepContext, StepFunction, step
from leaven.errors import StudyError, did_you_mean


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a probe: its default, the values it may take (any of the default's type when empty), the least number."""

    default: Any
    choices: tuple[Any, ...] = ()
    least: float | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of probe: dotted path of its step, options, the inputs it cannot do without and those it uses when given."""

    step: str
    options: Mapping[str, Option] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()


BY = Option("kind", ("kind", "part"))
"""Label tokens by the kind of their segment (code) or by its part where it has one (code.signature)."""
MARKERS = Option("exclude", ("exclude", "include"))
"""Whether what opens and closes a part ("```python") counts as that part, or as `template`."""
WEIGHTS = Option("model", ("model", "base"))
"""Whose weights are looked at: those after training, or those it started from."""
PARTS = {"by": BY, "markers": MARKERS}

PROBES: dict[str, Kind] = {
    "perplexity": Kind("leaven.probes.perplexity.measure", PARTS),
    "divergence": Kind("leaven.probes.divergence.measure", PARTS, ("base",)),
    "loss": Kind("leaven.probes.loss.measure", PARTS),
    "attention": Kind(
        "leaven.probes.attention.measure",
        {**PARTS, "layers": Option("last", ("last", "all")), "grid": Option(32, least=2), "weights": WEIGHTS},
    ),
    "gradients": Kind(
        "leaven.probes.gradients.measure", {**PARTS, "reduce": Option("mean", ("mean", "sum")), "weights": WEIGHTS}
    ),
    "similarity": Kind("leaven.probes.similarity.measure", {"embedder": Option("hidden"), "weights": WEIGHTS}),
    "lengths": Kind("leaven.probes.lengths.measure", uses=("samples",)),
    "overlap": Kind("leaven.evals.overlap.measure", {"tokens": Option("words", ("words", "13a"))}, ("samples",)),
}
"""Built-in kinds. `overlap` compares generated answers with the examples' own (BLEU, CodeBLEU) and lies beside the benchmarks."""

PLUGINS: Registry[StepFunction] = Registry("probe")
PLUGIN_STEP = "leaven.probes.kinds.measure_plugin"


def probe(
    name: str, options: Mapping[str, Option] | None = None, needs: tuple[str, ...] = ()
) -> Callable[[StepFunction], StepFunction]:
    """Return a decorator that registers a plugin's probe.

    Raises:
        StudyError: the name is a built-in kind's.
    """
    if PROBES.get(name, Kind(PLUGIN_STEP)).step != PLUGIN_STEP:
        raise StudyError(f"probe {name!r}: leaven has a probe of this name; choose another")

    def register(function: StepFunction) -> StepFunction:
        PLUGINS(name)(function)
        PROBES[name] = Kind(PLUGIN_STEP, dict(options or {}), needs)
        return function

    return register


def find_kind(name: str, where: str = "probe") -> Kind:
    """Return the kind called `name`; raise StudyError with a suggestion when there is none."""
    if name not in PROBES:
        raise StudyError(
            f"{where}: no probe is called {name!r}.{did_you_mean(name, list(PROBES))} Known: {', '.join(sorted(PROBES))}"
        )
    return PROBES[name]


def check_options(name: str, options: Mapping[str, Any], where: str = "probe") -> dict[str, Any]:
    """Return the options of a probe with defaults filled in; raise StudyError for an unknown option or value."""
    known = find_kind(name, where).options
    for key, value in options.items():
        if key not in known:
            has = f"the options {', '.join(known)}" if known else "no options"
            raise StudyError(
                f"{where}.options: probe {name!r} has {has}, found {key!r}.{did_you_mean(key, list(known))}"
            )
        _check_value(known[key], value, f"{where}.options.{key}")
    return {key: options.get(key, option.default) for key, option in known.items()}


def needed_inputs(name: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the inputs beside model and examples that a probe cannot do without ("base", "samples")."""
    kind = find_kind(name)
    own = ("base",) if options.get("weights") == "base" and "base" not in kind.needs else ()
    return (*kind.needs, *own)


def _check_value(option: Option, value: Any, where: str) -> None:
    if option.choices and value not in option.choices:
        close = did_you_mean(str(value), [str(c) for c in option.choices])
        raise StudyError(f"{where}: expected one of {', '.join(map(str, option.choices))}, found {value!r}.{close}")
    wanted = (int, float) if isinstance(option.default, float) else type(option.default)
    if not isinstance(value, wanted) or isinstance(value, bool) != isinstance(option.default, bool):
        raise StudyError(f"{where}: expected a {type(option.default).__name__}, found {value!r}")
    if option.least is not None and value < option.least:
        raise StudyError(f"{where}: expected at least {option.least}, found {value!r}")


@step(version=1)
def measure_plugin(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Run the plugin's probe that `spec["kind"]` names; raise StudyError when no plugin registers it."""
    load_plugins(inputs)
    PLUGINS.get(str(spec["kind"]), "probe")(spec, inputs, out, ctx)
