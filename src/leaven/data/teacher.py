"""Seeds -> requests to a teacher, and the teachers that need no server: a recorded file, or the seeds' own reference.

A teacher is anything with `answer(asks, keep, ctx)`; lm/server.py has the one that asks a server, engine/stages.py composes it with
this. Every request has a key made of its content, so that an answer is never asked for twice.
Not covered: the text of requests and replies (dialogue.py), judging what was answered (consistency.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from leaven.core.hashing import digest, file_digest
from leaven.core.step import StepContext
from leaven.core.types import Example
from leaven.data.dialogue import prompt_text, reply_text
from leaven.data.seeds import Seed
from leaven.data.sources.rows import read_rows
from leaven.errors import DataError
from leaven.spec import synthesis as spec

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: sample number `sample` about one seed. `body` holds everything that decides the answer but the messages."""

    source: str
    seed: str
    sample: int
    question: str
    messages: tuple[Message, ...]
    body: Mapping[str, Any]
    key: str


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: the text, how it ended (stop, length, ...) and the tokens the server counted."""

    key: str
    source: str
    seed: str
    sample: int
    text: str
    finish: str = "stop"
    prompt_tokens: int = 0
    reply_tokens: int = 0


Keep = Callable[[Reply], None]


class Teacher(Protocol):
    """Anything that answers."""

    name: str

    def answer(self, asks: Sequence[Ask], keep: Keep, ctx: StepContext) -> dict[str, str]:
        """Hand every reply to `keep` the moment it is there; return the key of each ask without a reply -> why.

        Raises:
            BackendError: asking on is useless (wrong key, no such model, nobody there); what was kept stays.
            Interrupted: the context asked to stop; what was kept stays.
        """


def shot_messages(shots: Sequence[Example], *, raw: bool, show_code: bool = True, asserts: int = 10) -> tuple[Message, ...]:
    """Return the earlier turns that show how to answer; `raw` shots write the task themselves."""
    messages: list[Message] = []
    for shot in shots:
        asked = prompt_text("" if raw else shot.question, shot.code if raw else shot.answer or shot.code, show_code, asserts)
        reply = reply_text(shot.thought, shot.code, shot.tests, shot.question if raw else "")
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
    return tuple(messages)


def messages_of(seed: Seed, before: tuple[Message, ...] = (), *, show_code: bool = True, asserts: int = 10) -> tuple[Message, ...]:
    """Return the messages that ask about one seed, after those of the shots (`shot_messages`, made once for all seeds)."""
    return (*before, {"role": "user", "content": prompt_text(seed.question, seed.code, show_code, asserts)})


def asks_of(seed: Seed, messages: tuple[Message, ...], body: Mapping[str, Any], samples: int = 1) -> list[Ask]:
    """Return the requests about one seed; the key covers messages, body and sample number, never who is asked or how fast."""
    asks = []
    for sample in range(samples):
        varied = {**body, "seed": body["seed"] + sample} if "seed" in body else dict(body)
        key = digest({"messages": list(messages), "body": varied, "sample": sample})[:32]
        asks.append(Ask(seed.source, seed.id, sample, seed.question, messages, varied, key))
    return asks


def identity_of(teacher: spec.Teacher, recorded: Path | None, seeds: Mapping[tuple[str, str], Seed]) -> str:
    """Return who answers, as far as it decides what is answered beside the request: a changed file of replies is another teacher.

    A server is known by the model that requests name, not by its address, so that it may move.
    """
    if teacher.server is not None:
        return "server"
    if recorded is not None:
        return f"recorded {file_digest(recorded)[:12]}"
    return f"reference {digest([[s.thought, s.code, list(s.tests)] for s in seeds.values()])[:12]}"


# ---- teachers without a server -------------------------------------------------------------------------------


@dataclass(slots=True)
class Recorded:
    """A file of replies as a teacher: rows {source, id, reply} or {question, reply}, optionally sample, finish and key.

    A row whose key is that of the request is preferred to one with its source and id, and that to one with its question.
    """

    path: Path
    name: str = "recorded"
    _by: dict[tuple[str, ...], Reply] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in read_rows(self.path):
            value = row.value if isinstance(row.value, Mapping) else {}
            text = value.get("reply")
            places = _places(value)
            if row.problem or not isinstance(text, str) or not places:
                raise DataError(
                    f"{self.path}: {row.where}: expected a row {{source, id, reply}} or {{question, reply}}, found "
                    f"{row.problem or row.start!r}; a recorded teacher needs the text of every reply and the seed it belongs to"
                )
            reply = Reply("", "", "", 0, text, str(value.get("finish") or "stop"),
                          int(value.get("prompt_tokens") or 0), int(value.get("reply_tokens") or 0))  # fmt: skip
            self._by.update(dict.fromkeys(places, reply))

    def answer(self, asks: Sequence[Ask], keep: Keep, ctx: StepContext) -> dict[str, str]:
        """Hand over the recorded reply of each ask that has one."""
        missing = {}
        for ask in asks:
            places = (("key", ask.key), ("seed", ask.source, ask.seed, str(ask.sample)), ("seed", "", ask.seed, str(ask.sample)),
                      ("question", ask.question, str(ask.sample)))  # fmt: skip
            found = next((self._by[p] for p in places if p in self._by), None)
            if found is None:
                missing[ask.key] = "no recorded reply"
            else:
                keep(Reply(ask.key, ask.source, ask.seed, ask.sample, found.text, found.finish, found.prompt_tokens, found.reply_tokens))
        return missing


def _places(value: Mapping[str, Any]) -> list[tuple[str, ...]]:
    sample = str(value.get("sample") or 0)
    found: list[tuple[str, ...]] = [("key", str(value["key"]))] if value.get("key") else []
    if value.get("id") not in (None, ""):
        found.append(("seed", str(value.get("source") or ""), str(value["id"]), sample))
    if isinstance(value.get("question"), str):
        found.append(("question", value["question"].strip(), sample))
    return found


@dataclass(slots=True)
class Reference:
    """The seeds' own thought, code and tests as replies: what the funnel lets through when every answer is the reference."""

    seeds: Mapping[tuple[str, str], Seed]
    name: str = "reference"

    def answer(self, asks: Sequence[Ask], keep: Keep, ctx: StepContext) -> dict[str, str]:
        """Hand over one reply per seed that has tests."""
        missing = {}
        for ask in asks:
            seed = self.seeds[ask.source, ask.seed]
            if seed.tests and seed.code:
                keep(Reply(ask.key, ask.source, ask.seed, ask.sample, reply_text(seed.thought, seed.code, seed.tests)))
            else:
                missing[ask.key] = "the seed has no tests of its own" if seed.code else "the seed has no code of its own"
        return missing


def shots_from(path: Path) -> tuple[Example, ...]:
    """Return the few-shot examples of a file: rows {question, thought, code, tests}, optionally answer; records.jsonl has them.

    Raises:
        DataError: a row lacks one of them.
    """
    shots = []
    for row in read_rows(path):
        value = row.value if isinstance(row.value, Mapping) else {}
        tests = value.get("tests")
        tests = [tests] if isinstance(tests, str) else tests
        lacking = [n for n in ("question", "thought", "code") if not isinstance(value.get(n), str) or not value[n].strip()]
        if row.problem or lacking or not tests:
            raise DataError(
                f"{path}: {row.where}: expected a shot {{question, thought, code, tests}}, "
                f"{row.problem or 'lacking ' + ', '.join(lacking or ['tests'])}; take good rows of a records.jsonl"
            )
        shots.append(Example(id=f"shot-{len(shots) + 1}", source=path.name, question=value["question"], thought=value["thought"],
                             code=value["code"], answer=str(value.get("answer") or ""), tests=tuple(map(str, tests))))  # fmt: skip
    return tuple(shots)
