"""Seeds + a teacher -> records {question, thought, code, tests, verdicts, consistent, provenance}, their funnel and their split.

The steps of Liu et al. 2025, section 3.1: filter, ask with few-shot examples, parse, run the code against the teacher's own tests,
split. Both consistent and inconsistent records are kept, tagged and in files of their own, so that a study can train on either at the
same size (its figure 7). Replies and verdicts lie in files that only grow and are looked up by content: what was answered or judged
once is never asked for or run again, whatever stopped the run. Everything else is written anew, in the order of the seeds.
Not covered: reading source files (sources/), servers (lm/server.py), training on the records (a study file names them as a source).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from leaven.core.rng import stream_seed
from leaven.core.step import StepContext
from leaven.core.tables import FUNNEL, read_examples, write_examples, write_table
from leaven.core.types import Example
from leaven.data.consistency import Consistency, Program, Verdicts, append_log, check_sandbox, judge, limits_from, read_log
from leaven.data.dialogue import Answered, Malformed, parse_reply
from leaven.data.funnel import FunnelRow, funnel
from leaven.data.seeds import Rejected, Seed, filter_seeds
from leaven.data.shots import SHOTS
from leaven.data.teacher import Ask, Reply, Teacher, asks_of, messages_of, shot_messages, shots_from
from leaven.errors import DataError, StudyError
from leaven.spec.synthesis import Synthesis

PAPER_VALIDATION = 1093 / 52293


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is known before anything is asked: seeds, refusals, requests, and how many candidates each source had."""

    seeds: dict[tuple[str, str], Seed]
    rejected: list[Rejected]
    asks: list[Ask]
    totals: dict[str, int]

    def counts(self) -> dict[str, dict[str, int]]:
        """Return source -> the first columns of the funnel."""
        kept, asked = Counter(s for s, _ in self.seeds), Counter({(a.source, a.seed): 1 for a in self.asks})
        per_source = Counter(source for source, _ in asked)
        return {s: {"total": n, "filtered": kept[s], "asked": per_source[s]} for s, n in self.totals.items()}


@dataclass(slots=True)
class Record:
    """One seed with the teacher's well-formed reply and, once judged, its verdict and split."""

    seed: Seed
    reply: Reply
    answered: Answered
    verdict: Consistency | None = None
    split: str = ""

    @property
    def program(self) -> Program:
        """What is executed."""
        return Program(self.answered.code, self.answered.tests, self.answered.entry_point, self.seed.prelude)

    @property
    def tag(self) -> str:
        """consistent, inconsistent or unjudged."""
        known = self.verdict.consistent if self.verdict else None
        return "unjudged" if known is None else "consistent" if known else "inconsistent"


@dataclass(frozen=True, slots=True)
class Synthesised:
    """What a synthesis brought: the funnel, refusals, why requests stayed unanswered, sizes of the split, tokens the server counted,
    and how many requests were answered and programs executed now rather than found."""

    funnel: list[FunnelRow]
    rejected: list[Rejected]
    unanswered: dict[str, int]
    split: dict[str, int]
    tokens: dict[str, int]
    now: dict[str, int]


class Replies:
    """One teacher's replies by the key of their request, in a JSONL file that only grows and may hold those of other teachers."""

    def __init__(self, path: Path, teacher: str) -> None:
        self.path, self.teacher = path, teacher
        self.known: dict[str, Reply] = {}
        for row in (r for r in read_log(path) if r["teacher"] == teacher):
            self.known[row["key"]] = Reply(row["key"], row["source"], row["id"], row["sample"], row["reply"], row["finish"],
                                           row["prompt_tokens"], row["reply_tokens"])  # fmt: skip

    def keep(self, reply: Reply) -> None:
        """Write a reply the moment it is there; half surrogate pairs, which no file holds, become question marks."""
        reply = replace(reply, text=reply.text.encode("utf-8", "replace").decode())
        row = {"key": reply.key, "teacher": self.teacher, "source": reply.source, "id": reply.seed, "sample": reply.sample}
        row |= {"reply": reply.text, "finish": reply.finish, "prompt_tokens": reply.prompt_tokens, "reply_tokens": reply.reply_tokens}
        append_log(self.path, row)
        self.known[reply.key] = reply


# ---- before asking ---------------------------------------------------------------------------------------------


def prepare_files(spec: Synthesis, inputs: Mapping[str, Path], ctx: StepContext) -> Prepared:
    """Prepare from folders of loaded sources ("source:NAME": examples.parquet, report.json) and the file of shots ("shots")."""
    shots = {"builtin": lambda: SHOTS, "none": tuple}.get(spec.prompt.shots, lambda: shots_from(inputs["shots"]))()
    examples = {name: read_examples(inputs[f"source:{name}"] / "examples.parquet") for name in spec.sources}
    reports = {name: json.loads((inputs[f"source:{name}"] / "report.json").read_text("utf-8")) for name in spec.sources}
    return prepare(examples, spec, shots, {name: report["bad_rows"] for name, report in reports.items()}, ctx)


def prepare(
    examples: Mapping[str, Iterable[Example]],
    spec: Synthesis,
    shots: Sequence[Example],
    refused_rows: Mapping[str, Mapping[str, int]] | None = None,
    ctx: StepContext | None = None,
) -> Prepared:
    """Filter the seeds of every source and make the requests.

    Args:
        examples: Source name -> its rows.
        spec: The synthesis.
        shots: Few-shot examples.
        refused_rows: Source -> reason -> rows that could not be read as examples; they count as candidates.
        ctx: Progress and the stop flag, between sources.

    Raises:
        DataError: no seed is left in any source.
    """
    seeds: dict[tuple[str, str], Seed] = {}
    rejected: list[Rejected] = []
    totals: dict[str, int] = {}
    for done, (name, rows) in enumerate(examples.items()):
        if ctx is not None:
            ctx.check_stop()
            ctx.progress(done, len(examples), f"filtering {name}")
        bad = [Rejected("", name, "row", reason) for reason, n in (refused_rows or {}).get(name, {}).items() for _ in range(n)]
        found = [*bad, *filter_seeds(rows, spec.sources[name].rows, spec.rules, spec.sources[name].prelude)]
        totals[name] = len(found)
        seeds.update({(s.source, s.id): s for s in found if isinstance(s, Seed)})
        rejected += [s for s in found if isinstance(s, Rejected)]
    if not seeds:
        top = "; ".join(f"{reason}: {n}" for reason, n in Counter(r.reason for r in rejected).most_common(3))
        found_none = f"found none of {sum(totals.values())} ({top})"
        raise DataError(f"seeds: expected at least one that passes the filter, {found_none}; loosen `rules`")
    body = body_of(spec)
    show, asserts = spec.prompt.code == "with", spec.prompt.asserts
    before = {raw: shot_messages(shots, raw=raw, show_code=show, asserts=asserts) for raw in (False, True)}
    asks = []
    for seed in drawn(seeds.values(), spec.asking.limit):
        messages = messages_of(seed, before[not seed.question], show_code=show, asserts=asserts)
        asks += asks_of(seed, messages, body, spec.teacher.samples)
    return Prepared(seeds, rejected, asks, totals)


def body_of(spec: Synthesis) -> dict[str, Any]:
    """Return the fields of the request body beside its messages; a field is left out where the server's default is meant."""
    teacher = spec.teacher
    body: dict[str, Any] = {"model": teacher.model, "temperature": teacher.temperature}
    if teacher.max_tokens is not None:
        body["max_tokens"] = teacher.max_tokens
    if teacher.top_p < 1:
        body["top_p"] = teacher.top_p
    if teacher.temperature > 0:
        body["seed"] = teacher.seed
    return {**body, **teacher.extra}


def drawn(seeds: Iterable[Seed], limit: int | None) -> list[Seed]:
    """Return at most `limit` seeds per source in their order; the draw of a larger limit contains that of a smaller one."""
    listed = list(seeds)
    if limit is None:
        return listed
    by_source: dict[str, list[Seed]] = {}
    for seed in listed:
        by_source.setdefault(seed.source, []).append(seed)
    chosen = {
        (s.source, s.id)
        for same in by_source.values()
        for s in sorted(same, key=lambda s: stream_seed(0, "synthesis-limit", s.source, s.id))[:limit]
    }
    return [s for s in listed if (s.source, s.id) in chosen]


# ---- the whole way -----------------------------------------------------------------------------------------------


def synthesise(prepared: Prepared, spec: Synthesis, teacher: Teacher, identity: str, out: Path, ctx: StepContext) -> Synthesised:
    """Ask, parse, execute, split and write everything into `out`; `identity` says whose replies may be used again (identity_of).

    Raises:
        BackendError, Interrupted: see Teacher.answer; the same call goes on where it stopped.
        StudyError: the split asks for more records than there are.
        DataError: a teacher that is no server has no reply to any request.
    """
    verdicts = Verdicts(out / "verdicts.jsonl", limits_from(spec.judging.limits))
    check_sandbox(spec.judging.tier)  # before anything is paid for
    replies = Replies(out / "replies.jsonl", identity)
    todo = list({ask.key: ask for ask in prepared.asks if ask.key not in replies.known}.values())  # equal requests are asked once
    unanswered = teacher.answer(todo, replies.keep, ctx) if todo else {}
    ctx.check_stop()
    records, malformed, answered = _parsed(prepared, replies, spec)
    if not answered and spec.teacher.server is None:
        first = prepared.asks[0]
        raise DataError(
            f"teacher ({teacher.name}): expected replies to the {len(prepared.asks)} requests, found none ({unanswered[first.key]}); "
            f"the first seed is source {first.source!r}, id {first.seed!r}: recorded rows name theirs by source and id, or by question"
        )
    found, executed = judge([r.program for r in records], verdicts, workers=spec.judging.workers, tier=spec.judging.tier,
                            stop=ctx.stop, progress=ctx.progress)  # fmt: skip
    for record, verdict in zip(records, found, strict=True):
        record.verdict = verdict
    records, malformed = _one_per_seed(records, malformed, prepared)
    split = split_records(records, spec.split.validation, spec.split.train, spec.split.seed)
    rejected = [*prepared.rejected, *malformed, *_failed(records)]
    counts = prepared.counts()
    for source, column in [*((s, "answered") for s, _ in answered), *((r.seed.source, c) for r in records for c in ("parsed", r.tag))]:
        counts[source][column] = counts[source].get(column, 0) + 1
    used = [replies.known[ask.key] for ask in prepared.asks if ask.key in replies.known]
    tokens = {"prompt": sum(r.prompt_tokens for r in used), "reply": sum(r.reply_tokens for r in used)}
    now = {"answered": len(todo) - len(unanswered), "executed": executed}
    result = Synthesised(funnel(counts), rejected, dict(Counter(unanswered.values()).most_common()), split, tokens, now)
    _write(out, records, result, spec, teacher.name)
    return result


def _parsed(prepared: Prepared, replies: Replies, spec: Synthesis) -> tuple[list[Record], list[Rejected], set[tuple[str, str]]]:
    """Return the well-formed replies as records, the others with their reasons, and which seeds have any reply."""
    wanted = spec.judging.min_asserts if spec.judging.min_asserts is not None else spec.prompt.asserts
    records, malformed, answered = [], [], set()
    for ask in prepared.asks:
        reply = replies.known.get(ask.key)
        if reply is None:
            continue
        seed = prepared.seeds[ask.source, ask.seed]
        answered.add((ask.source, ask.seed))
        try:
            parts = parse_reply(reply.text, finish=reply.finish, wants_task=not seed.question, min_asserts=wanted,
                                needs_thought=not spec.teacher.reference)  # fmt: skip
        except Malformed as error:
            malformed.append(Rejected(seed.id, seed.source, "reply", error.reason, error.detail))
            continue
        records.append(Record(seed, reply, parts))
    return records, malformed, answered


def _one_per_seed(records: list[Record], malformed: list[Rejected], prepared: Prepared) -> tuple[list[Record], list[Rejected]]:
    """Keep one record per seed (the first consistent sample, else the first), and one refusal per seed that has none."""
    best: dict[tuple[str, str], Record] = {}
    rank = {"consistent": 0, "inconsistent": 1, "unjudged": 2}
    for record in records:
        key = (record.seed.source, record.seed.id)
        if key not in best or rank[record.tag] < rank[best[key].tag]:
            best[key] = record
    firsts = {(r.source, r.id): r for r in reversed(malformed) if (r.source, r.id) not in best}
    ordered = [best[key] for key in prepared.seeds if key in best]
    return ordered, [firsts[key] for key in prepared.seeds if key in firsts]


def _failed(records: Sequence[Record]) -> list[Rejected]:
    return [
        Rejected(r.seed.id, r.seed.source, "execution", r.verdict.status, r.verdict.detail)
        for r in records
        if r.verdict is not None and r.tag != "consistent"
    ]


def split_records(records: Sequence[Record], validation: int | None, train: int | None, seed: int) -> dict[str, int]:
    """Tag the consistent records train, validation or unused, with exact sizes; return the sizes.

    Records are ranked by a hash of (seed, source, id): the draw does not depend on their order, and a record that is added moves few
    others. The smallest go to validation, the next to training.

    Raises:
        StudyError: more records are asked for than there are.
    """
    ranked = sorted((r for r in records if r.tag == "consistent"),
                    key=lambda r: (stream_seed(seed, "synthesis-split", r.seed.source, r.seed.id), r.seed.source, r.seed.id))  # fmt: skip
    held = round(len(ranked) * PAPER_VALIDATION) if validation is None else validation
    trained = len(ranked) - held if train is None else train
    if held < 0 or trained < 0 or held + trained > len(ranked):
        raise StudyError(
            f"split: expected at most {len(ranked)} records (the consistent ones), found {max(held, 0)} for validation and "
            f"{max(trained, 0)} for training; lower them, or leave one of them null"
        )
    for i, record in enumerate(ranked):
        record.split = "validation" if i < held else "train" if i < held + trained else "unused"
    return {"train": trained, "validation": held, "unused": len(ranked) - held - trained}


# ---- files -------------------------------------------------------------------------------------------------------


def record_row(record: Record, spec: Synthesis, teacher: str) -> dict[str, Any]:
    """Return a record as a row of records.jsonl; `leaven run` reads such a file as a source (shape `problem`)."""
    seed, verdict, parts = record.seed, record.verdict, record.answered
    return {
        "id": seed.id,
        "source": seed.source,
        "question": seed.question or parts.task,
        "thought": parts.thought,
        "code": parts.code,
        "answer": seed.answer,
        "tests": list(parts.tests),
        "entry_point": parts.entry_point,
        "consistent": verdict.consistent if verdict else None,
        "status": verdict.status if verdict else "",
        "verdicts": list(verdict.tests) if verdict else [],
        "split": record.split,
        "licence": seed.licence,
        "group": seed.group,
        "provenance": {
            "teacher": teacher,
            "model": spec.teacher.model,
            "prompt": "raw_code" if not seed.question else f"{spec.prompt.code}_code",
            "sample": record.reply.sample,
            "finish": record.reply.finish,
            "reply_key": record.reply.key,
            "tier": verdict.tier if verdict else "",
            "detail": verdict.detail if verdict else "",
            **({"prelude": seed.prelude} if seed.prelude else {}),
        },
    }


def example_of(row: Mapping[str, Any]) -> Example:
    """Return the Example of a record: the same fields; verdicts, tag, split and provenance lie in `meta`."""
    kept = ("id", "source", "question", "thought", "code", "answer", "entry_point", "licence", "group")
    meta = {name: row[name] for name in ("consistent", "status", "verdicts", "split", "provenance")}
    return Example(**{name: row[name] for name in kept}, tests=tuple(row["tests"]), domain="code", meta=meta)


def _write(out: Path, records: Sequence[Record], result: Synthesised, spec: Synthesis, teacher: str) -> None:
    rows = [record_row(r, spec, teacher) for r in records]
    write_examples(out / "examples.parquet", map(example_of, rows))
    _write_jsonl(out / "records.jsonl", rows)
    for name in ("train", "validation"):
        _write_jsonl(out / f"{name}.jsonl", (row for row in rows if row["split"] == name))
    _write_jsonl(out / "inconsistent.jsonl", (row for row in rows if row["consistent"] is False))
    _write_jsonl(out / "rejected.jsonl", map(asdict, result.rejected))
    write_table(out / "funnel.parquet", (r.row() for r in result.funnel), FUNNEL)
    reasons = Counter((r.source, r.stage, r.reason) for r in result.rejected)
    report = {
        "teacher": teacher,
        "server": spec.teacher.server,
        "model": spec.teacher.model,
        "funnel": [r.row() for r in result.funnel],
        "reasons": [{"source": s, "stage": st, "reason": r, "n": n} for (s, st, r), n in sorted(reasons.items())],
        "unanswered": result.unanswered,
        "split": result.split,
        "tokens": result.tokens,
    }
    _replace(out / "timings.json", json.dumps(result.now) + "\n")  # what depends on what was there before: no part of the content
    _replace(out / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def _write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    _replace(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _replace(path: Path, text: str) -> None:
    """Write a whole file under a temporary name first, so that a kill leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(text.encode("utf-8", "replace"))
    os.replace(part, path)
