"""The nouns of the house as frozen dataclasses: Example, Segment, Item, Request, Sample, Verdict, Finding.

A training example is stored unformatted (question, thought, code, answer, tests); a response format turns it into an ordered
list of segments; the same segments drive the loss mask, the order of thought and code, perturbations, probes and influence.
Not covered: how any of them is stored (tables.py) or produced (data/, evals/).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["prompt", "thought", "code", "answer", "text", "template"]
Status = Literal[
    "pass",
    "fail",
    "error",
    "timeout_cpu",
    "timeout_wall",
    "memory",
    "output_limit",
    "crash",
    "no_answer",
    "not_measured",
    "harness_error",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A contiguous piece of a training text with one role in the loss.

    `learn` is the loss weight of its tokens (0 = context only); `part` nests a finer span inside one kind (signature, comment,
    step); `tags` carry labels such as behaviours. Template segments hold special tokens; no other kind may.
    """

    kind: Kind
    text: str
    learn: float = 0.0
    turn: int = 0
    role: str = ""
    part: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message of a conversation; `role` is system, user, assistant or tool."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One training example (or problem) before any format is applied.

    Exactly one of three shapes is filled: `question` with thought/code/answer; `turns` (a conversation); `text` (a raw document).
    `difficulty` is a structural number whose unit `difficulty_unit` names (operations, hops). `group` is the cluster that
    statistics treat as one unit (template or problem family instance); `id` is unique within `source`.
    """

    id: str
    source: str
    question: str = ""
    thought: str = ""
    code: str = ""
    answer: str = ""
    text: str = ""
    turns: tuple[Turn, ...] = ()
    tests: tuple[str, ...] = ()
    entry_point: str = ""
    domain: str = ""
    family: str = ""
    difficulty: int | None = None
    difficulty_unit: str = ""
    group: str = ""
    licence: str = ""
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One benchmark problem: an example whose gold (answer or tests) is used for judging, never for training.

    `seen` marks items that training may contain by construction; `cluster` is the unit of resampling (default: the item itself).
    """

    id: str
    benchmark: str
    example: Example
    cluster: str = ""
    seen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate:
    """Ask for `n` completions of `prompt` (segments with learn = 0, ending where the model must go on)."""

    prompt: tuple[Segment, ...]
    max_new_tokens: int = 256
    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Ask for the log-likelihood (nats) of `target` given `prompt`; `label` names the candidate in label scoring."""

    prompt: tuple[Segment, ...]
    target: tuple[Segment, ...]
    label: str = ""


Request = Generate | Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a model returned for one request: text of a Generate, or the log-likelihood of a Score.

    `logprob_nats` sums over the scored tokens, `n_tokens` counts them (generated ones for Generate); `finish` is stop or length.
    """

    item: str
    request: int
    index: int = 0
    text: str = ""
    finish: str = ""
    logprob_nats: float | None = None
    n_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One judged sample: `status` says how it ended, `score` in [0, 1] or a metric value, `raw` keeps the model's own text."""

    benchmark: str
    item: str
    index: int = 0
    metric: str = "accuracy"
    status: Status = "pass"
    score: float | None = None
    extracted: str = ""
    strategy: str = ""
    raw: str = ""
    detail: str = ""
    tier: str = ""
    cpu_s: float = 0.0
    wall_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One estimated quantity of a report with everything needed to judge it.

    `estimate`, `low`, `high` share `unit`; `seeds` and `n_items` say what it rests on; `decision` is favours, opposes,
    no_difference or inconclusive for contrasts; `runs` are the artifact paths it was computed from.
    """

    id: str
    kind: Literal["contrast", "score", "curve", "table", "note"]
    title: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    p: float | None = None
    p_holm: float | None = None
    mde: float | None = None
    n_items: int = 0
    n_clusters: int = 0
    seeds: tuple[int, ...] = ()
    decision: str = ""
    sentence: str = ""
    warnings: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)
