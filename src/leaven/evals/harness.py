"""The benchmark contract, and items x model -> samples -> verdicts.

A benchmark says how file rows become items, what to ask for an item, and how to judge what came back; executing programs and
scoring bits per byte are done here in bulk. Generation and judging are separate so that either can be repeated alone.
Not covered: where rows come from (run.py), running models (lm/), running programs (core/sandbox).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from leaven.core.registry import Registry
from leaven.core.sandbox import Job, Limits, Result, execute
from leaven.core.step import StepContext
from leaven.core.types import Example, Generate, Item, Request, Sample, Score, Segment, Verdict
from leaven.data.formats import FORMATS, MARKERS, prompt_of, question_prompt
from leaven.errors import StudyError, did_you_mean
from leaven.evals.derived import DERIVED, derived_verdicts, is_derived

if TYPE_CHECKING:
    from leaven.lm.backend import Backend


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a benchmark is asked: the prompt format, the metrics, sampling, and the benchmark's own options."""

    format: str = "auto"
    begin: str = ""
    """Part (thought, code, answer) whose opening marker the model finds already written; "" lets it choose."""
    perturb: tuple[Mapping[str, Any], ...] = ()
    """Perturbations of the programs found in answers, made before they run (data/perturb)."""
    metrics: tuple[str, ...] = ("accuracy",)
    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    limits: Limits = field(default_factory=Limits)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """A verdict that waits for a program: the harness runs `job` and fills in status, score and detail.

    `more` are further runs of the same program (other inputs), made while all before passed; the last one decides.
    `accepts(stdout, expected)` may rescue an output that differs from the expected one as text (2.0 for 2).
    """

    job: Job
    verdict: Verdict
    more: tuple[Job, ...] = ()
    accepts: Callable[[str, str], bool] | None = None


class Benchmark(Protocol):
    """The contract. Implementations are small classes registered with `@BENCHMARKS("name")` and built without arguments."""

    metrics: tuple[str, ...]

    def items(self, rows: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> Iterator[Item]:
        """Yield one item per usable row of a file or of the embedded world."""
        ...

    def requests(self, item: Item, setting: Setting) -> list[Request]:
        """Return what to ask the model for one item."""
        ...

    def judge(self, item: Item, outputs: Sequence[Sample], setting: Setting) -> list[Verdict | Execution]:
        """Return one verdict (or a program to run) per sample."""
        ...


BENCHMARKS: Registry[Any] = Registry("benchmark")
WHOLE_OUTPUT = 2000
"""Characters of stdout the sandbox hands back: a shorter output is known to be whole."""


def open_benchmark(name: str, where: str = "") -> Benchmark:
    """Return the benchmark registered under `name`, importing the built-in ones first."""
    import leaven.evals.benchmarks  # noqa: F401  (registers the built-in benchmarks)

    found = BENCHMARKS.get(name, where)()
    lacking = [m for m in ("items", "requests", "judge") if not callable(getattr(found, m, None))]
    if lacking or not getattr(found, "metrics", ()):
        raise StudyError(
            f"{where or 'benchmark'}: benchmark {name!r} lacks {', '.join(lacking) or 'metrics'}; "
            "it needs the methods items, requests and judge and a tuple `metrics` (docs/extend.md)"
        )
    return found


def check_options(benchmark: Benchmark, options: Mapping[str, Any], where: str = "") -> None:
    """Raise StudyError for an option that the benchmark does not have (its attribute `options` names them; none by default)."""
    known = tuple(getattr(benchmark, "options", ()))
    for option in options:
        if option not in known:
            raise StudyError(
                f"{where}.{option}: this benchmark has {'the options ' + ', '.join(known) if known else 'no options'}, found "
                f"{option!r}.{did_you_mean(option, known)}"
            )


def metrics_of(benchmark: Benchmark, asked: Sequence[str] | None, where: str = "") -> tuple[str, ...]:
    """Return the metrics to compute: those asked for (and the benchmark's first where others are derived from it), else its own.

    Raises:
        StudyError: For a metric that the benchmark does not have.
    """
    known = (*benchmark.metrics, "bits_per_byte", *DERIVED)
    for metric in asked or ():
        if metric not in known and not is_derived(metric):
            raise StudyError(f"{where}: expected a metric of {', '.join(dict.fromkeys(known))} or pass@k, found {metric!r}")
    if not asked:
        return benchmark.metrics
    needed = () if benchmark.metrics[0] in asked or not any(map(is_derived, asked)) else benchmark.metrics[:1]
    return (*needed, *asked)


def limits_of(declared: Mapping[str, float], where: str = "", defaults: Limits | None = None) -> Limits:
    """Return sandbox limits with the declared ones in place of the defaults (a benchmark's own are its `limits`).

    Raises:
        StudyError: For a name that is no limit, or a value that is not positive.
    """
    known = [f.name for f in dataclasses.fields(Limits)]
    for name, value in declared.items():
        if name not in known:
            raise StudyError(
                f"{where}: expected a limit of {', '.join(known)}, found {name!r}.{did_you_mean(name, known)}"
            )
        if value <= 0:
            raise StudyError(f"{where}.{name}: expected a positive number, found {value}")
    changed = {n: float(v) if n.endswith("_s") else int(v) for n, v in declared.items()}
    return dataclasses.replace(defaults or Limits(), **changed)  # type: ignore[arg-type]


def prompt_segments(example: Example, format_name: str) -> tuple[Segment, ...]:
    """Return what a model sees at inference in a format: everything before the first learned segment (no gold needed)."""
    if not (example.answer or example.code or example.text or example.turns):
        return question_prompt(example.question, format_name=format_name)
    return prompt_of(FORMATS.get(format_name)(example))


def generate_request(item: Item, setting: Setting) -> Generate:
    """Return the usual request: the item's prompt in the setting's format."""
    return Generate(
        prompt=prompt_segments(item.example, setting.format),
        n=setting.n,
        temperature=setting.temperature,
        top_p=setting.top_p,
        max_new_tokens=setting.max_new_tokens,
    )


def gold_request(item: Item, setting: Setting) -> Score:
    """Return the request whose log-likelihood gives bits per byte: the gold text after the prompt, end token excluded.

    Markers between two parts of a gold (thought, code) count with their bytes; those before the first and after the last do not.

    Raises:
        StudyError: When the format yields no gold text for this item.
    """
    segments = FORMATS.get(setting.format)(item.example)
    gold = [i for i, s in enumerate(segments) if s.learn > 0 and s.kind != "template"]
    if not gold:
        raise StudyError(
            f"bits_per_byte: item {item.id} of {item.benchmark} has no gold text in format {setting.format!r}"
        )
    return Score(prompt=tuple(segments[: gold[0]]), target=tuple(segments[gold[0] : gold[-1] + 1]), label="gold")


def gold_bytes(request: Score) -> int:
    """Return the UTF-8 length of the scored text of a gold request."""
    return sum(len(s.text.encode()) for s in request.target)


def requests_of(benchmark: Benchmark, item: Item, setting: Setting) -> list[Request]:
    """Return a benchmark's requests for an item, plus the gold request when bits per byte is asked for (always last)."""
    own = benchmark.requests(item, setting) if set(setting.metrics) - {"bits_per_byte"} else []
    if setting.begin:
        own = [_begun(r, setting.begin) if isinstance(r, Generate) else r for r in own]
    return own + ([gold_request(item, setting)] if "bits_per_byte" in setting.metrics else [])


def _begun(request: Generate, part: str) -> Generate:
    """Return a request whose response has already opened `part`: an order other than the trained one can be asked for."""
    turn = request.prompt[-1].turn if request.prompt else 0
    opening = Segment(kind="template", text=MARKERS[part][0], turn=turn, role="assistant", part=part)
    return dataclasses.replace(request, prompt=(*request.prompt, opening))


def answer(backend: Backend, asked: Sequence[tuple[str, int, Request]], seed: int) -> list[Sample]:
    """Return a model's samples for (item, request number, request) triples, in their order."""
    generated = [(i, n, r) for i, n, r in asked if isinstance(r, Generate)]
    scored = [(i, n, r) for i, n, r in asked if isinstance(r, Score)]
    found: dict[tuple[str, int], list[Sample]] = {}
    for (item, number, r), samples in zip(generated, backend.generate([r for _, _, r in generated], seed), strict=True):
        opened = _opening(r)
        found[item, number] = [dataclasses.replace(s, item=item, request=number, text=opened + s.text) for s in samples]
    for (item, number, _), sample in zip(scored, backend.score([r for _, _, r in scored]), strict=True):
        found[item, number] = [dataclasses.replace(sample, item=item, request=number)]
    return [s for item, number, _ in asked for s in found[item, number]]


def _opening(request: Generate) -> str:
    """Return the marker that stands at the end of a prompt because `begin` put it there: it is part of the response."""
    last = request.prompt[-1] if request.prompt else None
    opened = last is not None and last.kind == "template" and last.part in MARKERS and last.text == MARKERS[last.part][0]
    return last.text if opened and last is not None else ""


def judge_all(
    benchmark: Benchmark,
    items: Sequence[Item],
    samples: Mapping[str, Sequence[Sample]],
    setting: Setting,
    ctx: StepContext,
) -> Iterator[Verdict]:
    """Yield every verdict in item order, then those of derived metrics; programs are executed in bulk in the sandbox.

    Args:
        benchmark: Who judges.
        items: The items, in order.
        samples: Item id -> its samples, ordered by (request, index).
        setting: How the items were asked.
        ctx: Gives the sandbox tier, workers, progress and the stop flag.
    """
    pending: list[Verdict | Execution] = []
    for item in items:
        pending += _judged(benchmark, item, samples.get(item.id, ()), setting)
    if setting.perturb:
        pending = [_perturbed(p, setting) if isinstance(p, Execution) else p for p in pending]
    runs: dict[int, list[Result]] = {n: [] for n, p in enumerate(pending) if isinstance(p, Execution)}
    wave = [(n, pending[n].job) for n in runs]  # type: ignore[union-attr]
    while wave:  # first runs of all programs, then second runs of those that passed
        results = execute(
            [job for _, job in wave],
            workers=ctx.runtime.threads,
            tier=ctx.runtime.sandbox_tier,
            stop=ctx.stop,
            progress=lambda done, total: ctx.progress(done, total, "programs"),
        )
        again = []
        for (n, job), result in zip(wave, results, strict=True):
            one = pending[n]
            assert isinstance(one, Execution)
            runs[n].append(_accepted(one, job, result))
            if runs[n][-1].status == "pass" and len(runs[n]) <= len(one.more):
                again.append((n, one.more[len(runs[n]) - 1]))
        wave = again
    verdicts = [one if isinstance(one, Verdict) else _executed(one, runs[n]) for n, one in enumerate(pending)]
    yield from verdicts
    yield from derived_verdicts(items, samples, verdicts, setting.metrics, setting.n, benchmark.metrics[0])


def _executed(one: Execution, runs: Sequence[Result]) -> Verdict:
    """Return the verdict of a program after its runs, of which the last is the first that did not pass."""
    last = runs[-1]
    where = f"run {len(runs)} of {1 + len(one.more)}: " if one.more and last.status != "pass" else ""
    return dataclasses.replace(
        one.verdict,
        status=last.status,
        score=None if last.status in ("harness_error", "not_measured") else float(last.status == "pass"),
        detail=where + last.detail,
        tier=last.tier,
        cpu_s=sum(r.cpu_s for r in runs),
        wall_s=sum(r.wall_s for r in runs),
    )


def _accepted(one: Execution, job: Job, result: Result) -> Result:
    """Return the result, a pass where only the text of a whole (not cut) output differs and the benchmark accepts it."""
    differs = result.status == "fail" and job.expected_stdout is not None and len(result.stdout_tail) < WHOLE_OUTPUT
    if one.accepts and differs and one.accepts(result.stdout_tail, job.expected_stdout or ""):
        return dataclasses.replace(result, status="pass", detail="")
    return result


def _perturbed(one: Execution, setting: Setting) -> Execution:
    """Return an execution of the changed program; the verdict's strategy says what happened to it."""
    from leaven.data.perturb import perturb_code

    job = one.job
    if job.language != "python":
        raise StudyError(
            f"perturb: expected programs in Python, found {job.language} (item {job.id}); measure this benchmark without "
            f"{', '.join(p['name'] for p in setting.perturb)}"
        )
    code, outcome, reason = perturb_code(job.program, setting.perturb, 0, job.id, job.entry_point)
    more = tuple(dataclasses.replace(j, program=code) for j in one.more)
    said = f"{one.verdict.strategy}; {'+'.join(p['name'] for p in setting.perturb)}: {outcome}{f' ({reason})' if reason else ''}"
    verdict = dataclasses.replace(one.verdict, strategy=said)
    return dataclasses.replace(one, job=dataclasses.replace(job, program=code), more=more, verdict=verdict)


def _judged(benchmark: Benchmark, item: Item, outputs: Sequence[Sample], setting: Setting) -> list[Verdict | Execution]:
    """Return one item's verdicts: the benchmark's own, then bits per byte from the gold request (the last one)."""
    own = list(outputs)
    verdicts: list[Verdict | Execution] = []
    if "bits_per_byte" in setting.metrics:
        request = gold_request(item, setting)
        scored, own = own[-1], own[:-1]
        if scored.logprob_nats is None:
            raise StudyError(
                f"bits_per_byte: item {item.id} of {item.benchmark} has no gold score in its samples; "
                "generate it again with this metric"
            )
        bits = -scored.logprob_nats / math.log(2)
        verdicts.append(
            Verdict(
                benchmark=item.benchmark,
                item=item.id,
                metric="bits_per_byte",
                score=bits / max(1, gold_bytes(request)),
                detail=f"{bits:.3f} bits over {gold_bytes(request)} bytes",
            )
        )
    if set(setting.metrics) - {"bits_per_byte"}:
        verdicts += _own_verdicts(benchmark, item, own, setting)
    return verdicts


def _own_verdicts(benchmark: Benchmark, item: Item, own: list[Sample], setting: Setting) -> list[Verdict | Execution]:
    """Return what a benchmark's `judge` says; raise StudyError when it breaks the contract."""
    found = benchmark.judge(item, own, setting)
    name = type(benchmark).__name__
    if not isinstance(found, list) or not all(isinstance(v, Verdict | Execution) for v in found):
        raise StudyError(
            f"benchmark {item.benchmark}: {name}.judge must return a list of Verdict or Execution, found {type(found).__name__}"
        )
    for metric in {(v if isinstance(v, Verdict) else v.verdict).metric for v in found} - set(benchmark.metrics):
        raise StudyError(
            f"benchmark {item.benchmark}: {name}.judge gave the metric {metric!r}, `metrics` names "
            f"{', '.join(benchmark.metrics)}.{did_you_mean(metric, tuple(benchmark.metrics))}"
        )
    return found
