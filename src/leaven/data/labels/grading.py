"""Mathematics problems + a teacher -> AoPS grades 1-10: the requests, the file of replies, and the grades read from it.

A teacher is asked to grade each problem by the standard of Art of Problem Solving and to answer `[[grade]]`, as the data
set behind Bespoke-Stratos was labelled (NovaSky SkyThought; the words of our prompt are our own). Replies lie in a JSONL
file that only grows, looked up by the content of the request: what was graded once is never asked for again. A file
recorded elsewhere ({source, id, reply} or {question, reply}) is read the same way. Several replies to one problem are
averaged; replies without a grade count as none.
Not covered: servers (lm/server.py), the step in a study (engine/grading.py).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leaven.core.hashing import digest
from leaven.core.step import StepContext
from leaven.core.types import Example
from leaven.data.labels.scales import FAILED, parse_grade
from leaven.data.sources.rows import read_rows
from leaven.data.synthesis import Replies
from leaven.data.teacher import Ask, Teacher
from leaven.errors import DataError

GRADES = "grades.jsonl"

PROMPT = """\
Grade how difficult the following mathematics problem is, from 1 to 10, by the standard of Art of Problem Solving (AoPS).

What the numbers mean:
1: for beginners; one step, as in elementary school or the first problems of AMC 8
2: several simple steps, as in the later problems of AMC 8 or the first of AMC 10
3: a less obvious idea, as in the middle of AMC 10 and AMC 12
4: as in the late problems of AMC 10 and AMC 12, or the first of AIME
5: as in the middle of AIME, or easy proofs
6: as in the last problems of AIME, or the first problems of national olympiads
7: as in national olympiads, several ideas together
8: as in the harder problems of national olympiads, or the easier ones of the IMO
9: as in the hard problems of the IMO
10: among the hardest problems ever posed in a competition

Halves are allowed. Think briefly, then end your reply with the grade in double square brackets, such as [[3]] or [[4.5]].

Problem:
{problem}"""


def question_of(example: Example) -> str:
    """Return what is to be graded: the question, else the first thing a user says."""
    return (example.question or next((t.content for t in example.turns if t.role == "user"), "")).strip()


def grade_asks(examples: Sequence[Example], body: Mapping[str, Any]) -> list[Ask]:
    """Return one request per example that asks something; its key covers the messages and the body."""
    asks = []
    for example in examples:
        if question := question_of(example):
            messages = ({"role": "user", "content": PROMPT.format(problem=question)},)
            key = digest({"messages": list(messages), "body": dict(body), "sample": 0})[:32]
            asks.append(Ask(example.source, example.id, 0, question, messages, dict(body), key))
    return asks


def grade(
    examples: Sequence[Example], teacher: Teacher, identity: str, body: Mapping[str, Any], path: Path, ctx: StepContext
) -> dict[str, str]:
    """Have a teacher grade every example, adding its replies to the file `path`; return key -> why a request has no reply.

    Args:
        examples: of any source; those without a question are left out.
        teacher: who answers.
        identity: names the teacher in the file, which may hold replies of others.
        body: fields of the request beside its messages (model, temperature, max_tokens).
        path: JSONL; replies that it already holds are not asked for again.
        ctx: the stop flag.

    Raises:
        BackendError: asking on is useless; replies so far were kept.
        Interrupted: stopped; replies so far were kept.
    """
    replies = Replies(path, identity)
    todo: dict[str, Ask] = {}
    for one in grade_asks(examples, body):
        if one.key not in replies.known:
            todo.setdefault(one.key, one)  # equal questions are asked once
    return teacher.answer(list(todo.values()), replies.keep, ctx) if todo else {}


def graded(path: Path, examples: Sequence[Example]) -> dict[str, tuple[float | None, str]]:
    """Return example id -> (grade, "") or (None, why the replies give none), for examples that the file has replies to.

    Args:
        path: a file of rows {source, id, reply} or {question, reply}, or a folder that holds it as grades.jsonl.
        examples: of one source; a row's id is compared within the row's source, where it names one.

    Raises:
        DataError: a row is no reply, or none belongs to any example.
    """
    path = path / GRADES if path.is_dir() else path
    by_id = {str(int(e.id)): e for e in examples if e.id.isdigit()} | {e.id: e for e in examples}
    by_question: dict[str, list[str]] = defaultdict(list)
    for example in examples:
        by_question[question_of(example)].append(example.id)
    sources = {e.source for e in examples}
    found: dict[str, list[float]] = defaultdict(list)
    for row in read_rows(path):
        value = row.value if isinstance(row.value, Mapping) else {}
        named, asked = value.get("id"), value.get("question")
        if row.problem or not isinstance(value.get("reply"), str) or named in (None, "") and not isinstance(asked, str):
            raise DataError(
                f"{path}: {row.where}: expected a reply {{source, id, reply}} or {{question, reply}}, found {row.problem or row.start!r}"
            )
        grade_ = parse_grade(value["reply"])
        if not isinstance(asked, str):
            owner = by_id.get(str(named)) if value.get("source") in (None, "", *sources) else None
            asked = owner and question_of(owner)
        for owner_id in by_question.get(asked.strip(), ()) if asked else ():  # equal questions are asked once
            found[owner_id].append(grade_)
    if examples and not found:
        raise DataError(
            f"{path}: none of its replies belongs to any of the {len(examples)} examples, the first of which is source "
            f"{examples[0].source!r}, id {examples[0].id!r}; rows name theirs by source and id, or by question"
        )
    return {name: _mean(grades) for name, grades in found.items()}


def _mean(grades: Sequence[float]) -> tuple[float | None, str]:
    given = [g for g in grades if g != FAILED]
    return (math.fsum(given) / len(given), "") if given else (None, "no grade in the reply")
