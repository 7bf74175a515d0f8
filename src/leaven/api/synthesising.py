"""`leaven synthesize`: a synthesis file (or one file of seeds and a teacher) -> records with thought, code and tests, and their funnel.

Reads the sources as a study does, then runs the step `engine.stages.synthesise` in the output folder: replies and verdicts there are
kept, so the same command goes on after a stop and does nothing anew when all is done. With `plan` nothing is asked and nothing written
but the rows read. Not covered: studies (name the records as a source), the steps themselves (data/synthesis.py).
"""

from __future__ import annotations

import fcntl
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leaven.errors import Interrupted, RefusedError, StudyError

if TYPE_CHECKING:
    from leaven.data.funnel import FunnelRow
    from leaven.spec.synthesis import Synthesis

SPEC_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class SynthesisResult:
    """What `synthesize` brings back.

    `reasons` are (source, stage, reason, count) of what left the funnel; `unanswered` says why requests have no reply (ask again with
    the same command); `now` counts what was answered and executed by this call; `previews` are rendered requests of a plan.
    """

    funnel: list[FunnelRow]
    reasons: list[tuple[str, str, str, int]]
    out: Path
    unanswered: dict[str, int] = field(default_factory=dict)
    split: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    now: dict[str, int] = field(default_factory=dict)
    previews: list[str] = field(default_factory=list)
    requests: int = 0
    requests_known: int = 0
    request_chars: int = 0
    planned: bool = False
    asks_server: bool = False

    @property
    def exit_code(self) -> int:
        """0, or 1 when requests to a server stayed without an answer: asking again may bring it."""
        return 1 if self.unanswered and self.asks_server else 0


def synthesize(
    spec: Path | str,
    out: Path | str = "synthesis",
    set: Sequence[str] = (),
    *,
    plan: bool = False,
    previews: int = 0,
    log: Callable[[str], None] | None = None,
) -> SynthesisResult:
    """Make training records from seeds with a teacher, or say what that would ask (`plan`).

    Args:
        spec: A synthesis file (YAML, spec/synthesis.py), or a file of seeds; then `set` must name the teacher.
        out: Folder to write; replies and verdicts already there are used.
        set: `dotted.path=value` overrides.
        plan: Filter the seeds and count the requests; ask and execute nothing.
        previews: With `plan`, show so many rendered requests.
        log: Receives lines of progress.

    Raises:
        StudyError: The synthesis file is wrong, or the key's environment variable is empty.
        DataError: A file is absent or unreadable, or no seed passes the filter.
        BackendError: The server cannot be used; what it answered is kept.
        Interrupted: Stopped by Ctrl-C; what was answered and judged is kept.
        RefusedError: Another process writes to `out`.
    """
    from leaven.core.step import Resources, StepContext
    from leaven.data.synthesis import Replies, prepare_files
    from leaven.data.teacher import identity_of

    typed, base = load_synthesis(Path(spec), tuple(set))
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    context = StepContext(runtime=Resources(), progress=_reporter(log))
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedError(f"{folder}: another `leaven synthesize` writes here; wait for it, or give another folder with -o") from None
        inputs = _inputs(typed, base, folder, context)
        if plan:
            prepared = prepare_files(typed, inputs, context)
            known = Replies(folder / "replies.jsonl", identity_of(typed.teacher, inputs.get("recorded"), prepared.seeds)).known
            left = [a for a in prepared.asks if a.key not in known]
            return _planned(typed, prepared, left, folder, previews)
        from leaven.engine.stages import synthesise

        try:
            synthesise(asdict(typed), inputs, folder, context)
        except KeyboardInterrupt:
            raise Interrupted("stopped; replies and verdicts so far are kept, run the same command to go on") from None
        return _result(folder)


def load_synthesis(path: Path, overrides: tuple[str, ...] = ()) -> tuple[Synthesis, Path]:
    """Return the checked synthesis and the folder its relative paths start from.

    Raises:
        StudyError: With file, line and path of every mistake.
    """
    from leaven.spec.load import load_spec
    from leaven.spec.synthesis import Synthesis

    if path.suffix.lower() in SPEC_SUFFIXES:
        if not path.is_file():
            raise StudyError(f"{path}: no such synthesis file; studies/synthesis/ has examples")
        typed, base = load_spec(Synthesis, path, None, overrides), path.parent
    else:
        raw = {"sources": {_name(path): {"file": str(path)}}, "teacher": {}}
        typed, base = load_spec(Synthesis, None, raw, overrides), Path()
    _check(typed)
    return typed, base


def _name(path: Path) -> str:
    return path.name.split(".")[0] or "seeds"


def _check(spec: Synthesis) -> None:
    """Raise StudyError for combinations and ranges that types cannot say."""
    teacher, problems = spec.teacher, []
    chosen = [n for n in ("server", "recorded", "reference") if getattr(teacher, n)]
    if len(chosen) != 1:
        problems.append(f"teacher: expected exactly one of server, recorded and reference, found {', '.join(chosen) or 'none'}")
    if teacher.server and not teacher.model:
        problems.append("teacher.model: expected the model name that the server knows, found none")
    if teacher.samples > 1 and teacher.temperature == 0 and teacher.server:
        problems.append("teacher.samples: more than one greedy reply is the same reply; set teacher.temperature above 0")
    if not spec.sources:
        problems.append("sources: expected at least one file of seeds, found none")
    positive = {"teacher.samples": teacher.samples, "prompt.asserts": spec.prompt.asserts, "asking.concurrency": spec.asking.concurrency,
                "asking.timeout_s": spec.asking.timeout_s, "asking.attempts": spec.asking.attempts,
                "asking.give_up_after": spec.asking.give_up_after, "rules.max_code_lines": spec.rules.max_code_lines,
                "rules.max_question_chars": spec.rules.max_question_chars}  # fmt: skip
    optional = {"teacher.max_tokens": teacher.max_tokens, "asking.limit": spec.asking.limit,
                **{f"sources.{n}.limit": s.limit for n, s in spec.sources.items()}}  # fmt: skip
    problems += [f"{n}: expected more than 0, found {v}" for n, v in {**positive, **optional}.items() if v is not None and v <= 0]
    least = {"teacher.temperature": teacher.temperature, "asking.requests_per_minute": spec.asking.requests_per_minute,
             "asking.backoff_s": spec.asking.backoff_s, "judging.workers": spec.judging.workers,
             "split.validation": spec.split.validation, "split.train": spec.split.train}  # fmt: skip
    problems += [f"{n}: expected 0 or more, found {v}" for n, v in least.items() if v is not None and v < 0]
    if not 0 < teacher.top_p <= 1:
        problems.append(f"teacher.top_p: expected a share above 0 and up to 1, found {teacher.top_p}")
    taken = {"messages", "stream", "n"} & set(teacher.extra)
    if taken:
        problems.append(f"teacher.extra: {', '.join(sorted(taken))} is set by leaven (several replies: teacher.samples)")
    if problems:
        raise StudyError("\n".join(problems))


def _inputs(spec: Synthesis, base: Path, folder: Path, context: Any) -> dict[str, Path]:
    """Load every source into `folder`/_sources and return the step's inputs."""
    from leaven.data.sources.files import load_file

    inputs: dict[str, Path] = {}
    for name, source in spec.sources.items():
        place = folder / "_sources" / name
        place.mkdir(parents=True, exist_ok=True)
        load_file({"name": name, "shape": source.shape, "fields": source.fields, "limit": source.limit, "licence": source.licence},
                  {"file": _found(source.file, spec, base)}, place, context)  # fmt: skip
        inputs[f"source:{name}"] = place
    if spec.teacher.recorded:
        inputs["recorded"] = _found(spec.teacher.recorded, spec, base)
    if spec.prompt.shots not in ("builtin", "none"):
        inputs["shots"] = _found(spec.prompt.shots, spec, base)
    return inputs


def _found(name: str, spec: Synthesis, base: Path) -> Path:
    """Return the path a `data:NAME` or relative name stands for."""
    return base / spec.paths.data / name.removeprefix("data:") if name.startswith("data:") else base / name


def _planned(spec: Synthesis, prepared: Any, left: Sequence[Any], folder: Path, previews: int) -> SynthesisResult:
    from leaven.data.funnel import funnel

    reasons = Counter((r.source, r.stage, r.reason) for r in prepared.rejected)
    rendered = ["\n\n".join(f"--- {m['role']}\n{m['content']}" for m in ask.messages) for ask in prepared.asks[:previews]]
    return SynthesisResult(
        funnel(prepared.counts()), [(*key, n) for key, n in sorted(reasons.items())], folder, previews=rendered,
        requests=len(prepared.asks), requests_known=len(prepared.asks) - len(left),
        request_chars=sum(len(m["content"]) for a in left for m in a.messages), planned=True,
    )  # fmt: skip


def _result(folder: Path) -> SynthesisResult:
    from leaven.data.funnel import COUNTED, FunnelRow

    report = json.loads((folder / "report.json").read_text("utf-8"))
    rows = [FunnelRow(row["source"], **{c: row[c] for c in COUNTED}) for row in report["funnel"]]
    reasons = [(r["source"], r["stage"], r["reason"], r["n"]) for r in report["reasons"]]
    now = json.loads((folder / "timings.json").read_text("utf-8"))
    return SynthesisResult(rows, reasons, folder, report["unanswered"], report["split"], report["tokens"], now,
                           asks_server=report["server"] is not None)  # fmt: skip


def result_text(result: SynthesisResult) -> str:
    """Return what the command prints: funnel, reasons, sizes and where the files are; for a plan what would be asked."""
    from leaven.data.funnel import funnel_text

    lines = [funnel_text(result.funnel), ""]
    for stage, title in (("row", "rows refused"), ("seed", "seeds refused"), ("reply", "replies refused"), ("execution", "not consistent")):
        counts: Counter[str] = Counter()
        for _, at, reason, n in result.reasons:
            counts += Counter({reason: n if at == stage else 0})  # adding drops zeros
        lines += [f"{title}:", *(f"  {n:>7,}  {reason}" for reason, n in counts.most_common())] if counts else []
    if result.planned:
        left = result.requests - result.requests_known
        lines += ["", f"requests: {result.requests:,}, of which {result.requests_known:,} are answered already; the other {left:,} hold "
                  f"{result.request_chars:,} characters (about {result.request_chars // 4:,} tokens)"]  # fmt: skip
        return "\n".join([*lines, *(f"\n{p}" for p in result.previews)])
    for why, n in result.unanswered.items():
        lines.append(f"without an answer: {n:,} x {why}")
    if result.exit_code:
        lines.append("run the same command to ask for these again")
    if any(result.tokens.values()):
        lines.append(f"tokens as the server counted them: {result.tokens['prompt']:,} in, {result.tokens['reply']:,} out")
    split = ", ".join(f"{n:,} {name}" for name, n in result.split.items() if n or name != "unused")
    lines += ["", f"answered now: {result.now['answered']:,}, executed now: {result.now['executed']:,}; consistent records: {split}",
              f"files in {result.out}: records.jsonl (all), train.jsonl, validation.jsonl, inconsistent.jsonl, rejected.jsonl"]  # fmt: skip
    return "\n".join(lines)


def fields_text() -> str:
    """Return every field of a synthesis file with its default and meaning, for --help."""
    from leaven.spec.load import schema_of
    from leaven.spec.synthesis import Synthesis

    schema = schema_of(Synthesis)

    def lines(node: Mapping[str, Any], prefix: str) -> Iterator[str]:
        for name, field_ in node["properties"].items():
            below = field_.get("additionalProperties", field_)
            reference = below.get("$ref", "") if isinstance(below, Mapping) else ""
            path = f"{prefix}{name}" + (".NAME" if below is not field_ and reference else "")
            if reference:
                yield from lines(schema["$defs"][reference.rsplit("/", 1)[-1]], f"{path}.")
            else:
                default = "required" if name in node.get("required", ()) else f"default {json.dumps(field_.get('default', {}))}"
                yield f"  {path} ({default})\n      {field_.get('description', '')}"

    return "Fields of a synthesis file:\n" + "\n".join(lines(schema, ""))


def _reporter(log: Callable[[str], None] | None) -> Callable[..., None]:
    """Return a progress callback that logs how far each phase is and how long it will take, every two seconds."""
    from leaven.engine.progress import seconds_text

    began: dict[str, tuple[float, float]] = {}
    last = [0.0]

    def report(done: float, total: float, note: str = "") -> None:
        now, phase = time.monotonic(), note.split(" (")[0]
        first = phase not in began
        start, at = began.setdefault(phase, (now, done))
        told = note.startswith("stopping") or (total and (first or now - last[0] > 2 or (done == total and now - last[0] > 0.1)))
        if log is None or not told:
            return
        last[0] = now
        left = f", about {seconds_text((now - start) * (total - done) / (done - at))} left" if total > done > at else ""
        log(f"{note}: {done:,.0f} of {total:,.0f}{left}")

    return report


def stderr_line(text: str) -> None:
    """Print one line of progress: in place on a terminal, as a line elsewhere; "" clears the line in place."""
    if sys.stderr.isatty():
        print(f"\r{text}\x1b[K", end="\n" if text.startswith("stopping") else "", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)
