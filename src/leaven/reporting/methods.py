"""Resolved study facts -> the methods paragraphs of a report, in the past tense and ready for a paper.

Only what the facts state is said; a missing fact shortens a sentence and is never guessed. The rule is the one of
analysis/effect.py and analysis/rule.py.
Not covered: results (the answer sentence comes from analysis/).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leaven.reporting.facts import ReportData
from leaven.reporting.wording import amount, plural, seeds_text, value_text

RULE = (
    "An effect is the mean difference between two conditions on the same items, paired by seed. Its 95 % interval "
    "treats seeds and "
    "item clusters as random: the variance between seeds, between clusters and of single seed-cluster cells is "
    "estimated from the "
    "paired differences, and each part keeps its own t quantile (Cameron, Gelbach and Miller 2011; Graybill and "
    "Wang 1980). "
    "p values of the declared contrasts are adjusted by Holm. The declared rule: no difference, when the interval "
    "lies within the "
    "declared margin, and never without one; "
    "favours (opposes), "
    "when the interval excludes zero on the better (worse) side and the adjusted p is at most 0.05; inconclusive "
    "otherwise. The "
    "interval of one condition's score describes that score alone and is not used to compare conditions."
)

TRUNCATED = {
    "error": "refused rows of more than {n} tokens",
    "drop": "left out rows of more than {n} tokens",
    "right": "cut rows at {n} tokens",
    "keep_code": "cut the thought of rows of more than {n} tokens",
}


def methods(data: ReportData) -> tuple[str, ...]:
    """Return the methods as paragraphs: design, training data, model and training, measurement, statistics."""
    paragraphs = (_design(data), _stages(data), _training(data), _measures(data), RULE if data.contrasts else "")
    return tuple(p for p in paragraphs if p)


def _design(data: ReportData) -> str:
    names = _listed([c.name for c in data.conditions])
    text = (
        f"The study \u201c{data.study}\u201d compared {plural(len(data.conditions), 'condition')}: {names}. "
        if names
        else ""
    )
    described = " ".join(f"{c.name}: {c.description.rstrip('.')}." for c in data.conditions if c.description)
    text += f"{described} " if described else ""
    if data.seeds:
        text += f"Every condition was trained with {plural(len(data.seeds), 'seed')} ({seeds_text(data.seeds)}). "
    if data.differences:
        paths = _listed([path for path, _ in data.differences[:8]])
        more = len(data.differences) - 8
        text += (
            f"Conditions differed in {paths}"
            + (f" and {plural(more, 'more setting')}" if more > 0 else "")
            + " and in nothing else."
        )
    return text.strip()


def _stages(data: ReportData) -> str:
    stages = data.facts.get("stages") or {}
    if isinstance(stages, (list, tuple)):
        stages = {str(s.get("name", i + 1)): s for i, s in enumerate(stages) if isinstance(s, Mapping)}
    return " ".join(_stage(str(name), stage) for name, stage in stages.items() if isinstance(stage, Mapping))


def _stage(name: str, stage: Mapping[str, Any]) -> str:
    mixture = stage.get("mixture")
    parts = []
    if isinstance(mixture, Mapping) and mixture:
        total = sum(float(w) for w in mixture.values()) or 1.0
        shares = _listed([f"{source} {100 * float(w) / total:.4g} %" for source, w in mixture.items()])
        if len(mixture) > 1 and len(set(mixture.values())) == 1:
            shares = f"{_listed(list(map(str, mixture)))} in equal shares"
        parts.append(
            f"mixed {shares} by {str(stage.get('unit', 'examples')).replace('_', ' ')}"
            if len(mixture) > 1
            else f"trained on {next(iter(mixture))}"
        )
    budget = stage.get("budget")
    if isinstance(budget, Mapping):
        spent = [
            _counted(v, k.replace("_", " ").removesuffix("s"))
            if isinstance(v, (int, float))
            else f"{v} {k.replace('_', ' ')}"
            for k, v in budget.items()
            if v is not None
        ]
        parts.append(f"ran for {_listed(spent)}" if spent else "")
    if stage.get("batch"):
        parts.append(f"took {_counted(stage['batch'], 'example')} per optimiser step")
    if stage.get("max_tokens"):
        parts.append(
            TRUNCATED.get(str(stage.get("truncate", "error")), "held rows of up to {n} tokens").format(
                n=stage["max_tokens"]
            )
        )
    parts = [p for p in parts if p]
    return f"Unless a condition says otherwise, stage {name} {_listed(parts)}." if parts else ""


def _training(data: ReportData) -> str:
    model, train = data.facts.get("model") or {}, data.facts.get("train") or {}
    parts = []
    if model.get("kind") == "hf" or model.get("folder"):
        parts.append(f"Models started from {model.get('folder')}.")
    elif model.get("width"):
        size = f", {amount(model['parameters'])} parameters" if model.get("parameters") else ""
        parts.append(
            f"Models were trained from scratch: Llama architecture, width {model['width']}, "
            f"{_counted(model.get('layers'), 'layer')}, {_counted(model.get('heads'), 'head')}{size}."
        )
    if train.get("lr"):
        betas = train.get("betas")
        warm = f", {plural(train['warmup_steps'], 'warm-up step')}" if train.get("warmup_steps") else ""
        parts.append(
            f"They were trained with AdamW: learning rate {value_text(train['lr'])} "
            f"({train.get('schedule', 'constant')}{warm})"
            + (f", betas {betas[0]:g} and {betas[1]:g}" if betas else "")
            + f", weight decay {value_text(train.get('weight_decay', 0.0))}, gradient norm clipped at "
            f"{value_text(train.get('clip', 0.0))}, {train.get('dtype', 'fp32')} arithmetic. The loss of a step is the "
            "weighted mean over its learned tokens."
        )
    return " ".join(parts)


def _measures(data: ReportData) -> str:
    parts = []
    for row in data.benchmarks:
        name = str(row.get("name") or row.get("benchmark") or "")
        sampling = "greedy decoding" if not row.get("temperature") else f"temperature {row['temperature']:g}"
        n = row.get("n") or 1
        details = [f"{plural(n, 'sample')} per item", sampling]
        if row.get("max_new_tokens"):
            details.append(f"at most {row['max_new_tokens']} new tokens")
        metrics = row.get("metrics")
        judged = f" for {_listed([str(m).replace('_', ' ') for m in metrics])}" if metrics else ""
        kind = str(row.get("benchmark") or "")
        parts.append(
            f"Benchmark {name}{f' ({kind})' if kind and kind != name else ''} was scored{judged}: {', '.join(details)}."
        )
    return " ".join(parts)


def _counted(n: Any, noun: str) -> str:
    """Return "1 layer", "4 layers", "1.5 epochs"; what is no number keeps the plural."""
    return f"{amount(n) if isinstance(n, (int, float)) else value_text(n)} {noun}{'' if n == 1 else 's'}"


def _listed(words: list[str]) -> str:
    words = [w for w in words if w]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + f" and {words[-1]}" if words else ""
