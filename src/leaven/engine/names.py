"""A loaded study -> refusal of every name that no registry knows (formats, families, schedules, perturbations, benchmarks, probes,
attribution methods) and of labels and interventions that do not fit.

Not covered: types, ranges and names within the file (spec/check.py).
"""

from __future__ import annotations

from leaven.attribution.known import check_known
from leaven.data.formats import FORMATS
from leaven.data.labels.settings import check_label
from leaven.data.perturb import check_operations
from leaven.data.reweigh import SECTIONS, check_intervention
from leaven.data.schedules import SCHEDULES
from leaven.data.sources.world.build import FAMILIES
from leaven.errors import StudyError, did_you_mean
from leaven.evals.harness import check_options, limits_of, metrics_of, open_benchmark
from leaven.evals.passk import check_k
from leaven.probes.kinds import check_options as check_probe
from leaven.probes.kinds import find_kind
from leaven.spec.load import LoadedStudy


def check_names(loaded: LoadedStudy) -> None:
    """Raise StudyError for formats, families, schedules and metrics that do not exist, all at once and with lines."""
    problems: list[str] = []

    def must(dotted: str, value: str, known: list[str], kind: str) -> None:
        if value not in known:
            problems.append(
                f"{loaded.where(dotted)}: no {kind} is called {value!r}.{did_you_mean(value, known)} Known: {', '.join(known)}"
            )

    worlds = {f"measure.{n}.world.families": m.world for n, m in loaded.study.measure.items() if m.world}
    worlds |= {f"probe.{n}.world.families": p.world for n, p in loaded.study.probe.items() if p.world}
    for cell in loaded.cells:
        worlds |= {f"data.sources.{n}.world.families": s.world for n, s in cell.data.sources.items() if s.world}
        for name, stage in cell.data.stages.items():
            own = f"conditions.{cell.condition}.data.stages.{name}"
            prefix = own if own in loaded.lines else f"data.stages.{name}"
            for value in [stage.format] if isinstance(stage.format, str) else stage.format.values():
                at = f"{prefix}.format" if f"{prefix}.format" in loaded.lines else f"data.stages.{name}.format"
                must(at, value, FORMATS.names(), "format")
            must(f"{prefix}.schedule.kind", stage.schedule.kind, SCHEDULES.names(), "schedule")
            at = f"{prefix}.perturb" if f"{prefix}.perturb" in loaded.lines else f"data.stages.{name}.perturb"
            check_operations(stage.perturb, loaded.where(at))
            for section in SECTIONS:
                at = f"{prefix}.{section}" if f"{prefix}.{section}" in loaded.lines else f"data.stages.{name}.{section}"
                check_intervention(stage, section, loaded.where(at))
        for name, source in cell.data.sources.items():
            own = f"conditions.{cell.condition}.data.sources.{name}.perturb"
            check_operations(source.perturb, loaded.where(own if own in loaded.lines else f"data.sources.{name}.perturb"))
            own = f"conditions.{cell.condition}.data.sources.{name}.label"
            check_label(source, loaded.where(own if own in loaded.lines else f"data.sources.{name}.label"))
    for dotted, world in worlds.items():
        for family in world.families:
            must(dotted, family, list(FAMILIES), "task family")
    for name, measure in loaded.study.measure.items():
        if measure.format != "trained":
            must(f"measure.{name}.format", measure.format, FORMATS.names(), "format")
        benchmark = open_benchmark(measure.benchmark, loaded.where(f"measure.{name}.benchmark"))
        metrics = metrics_of(benchmark, measure.metrics, loaded.where(f"measure.{name}.metrics"))
        check_k(metrics, measure.n, measure.temperature, loaded.where(f"measure.{name}.metrics"))
        limits_of(measure.limits, loaded.where(f"measure.{name}.limits"))
        check_options(benchmark, measure.options, loaded.where(f"measure.{name}.options"))
        scored = measure.perturb_what == "generated"
        check_operations(measure.perturb, loaded.where(f"measure.{name}.perturb"), scored=scored)
        for index, contrast in enumerate(loaded.study.contrasts):
            if contrast.benchmark == name:
                must(f"contrasts.{index}.metric", contrast.metric, list(metrics), f"metric of {name}")
    for name, probe in loaded.study.probe.items():
        if probe.format != "trained":
            must(f"probe.{name}.format", probe.format, FORMATS.names(), "format")
        find_kind(probe.kind, loaded.where(f"probe.{name}.kind"))
        check_probe(probe.kind, probe.options, loaded.where(f"probe.{name}"))
    for name, asked in loaded.study.attribute.items():
        check_known(asked.baselines, loaded.where(f"attribute.{name}.baselines"))
        for query, target in asked.queries.items():
            if target.format != "trained":
                must(f"attribute.{name}.queries.{query}.format", target.format, FORMATS.names(), "format")
            for family in target.world.families if target.world else ():
                must(f"attribute.{name}.queries.{query}.world.families", family, list(FAMILIES), "task family")
    if problems:
        raise StudyError("\n".join(dict.fromkeys(problems)))
