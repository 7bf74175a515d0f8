"""Thought lengths: the same problems, only the thought differs, and whatever it states is true."""

from __future__ import annotations

import dataclasses

import pytest

from leaven.core.step import StepContext
from leaven.core.tables import read_examples
from leaven.data.sources.world.build import FAMILIES, build_world, generate
from leaven.data.sources.world.families.list_formulas import PLACES
from leaven.data.sources.world.solvers import SOLVERS
from leaven.data.sources.world.thoughts import AGAIN, LENGTHS, with_thought
from leaven.errors import StudyError


def in_lengths(name, difficulties=None, n=30):
    """Yield (brief, full, long) of the same problems."""
    for example in generate(name, difficulties, n, 0, "train"):
        yield tuple(with_thought(example, FAMILIES[name], length) for length in LENGTHS)


@pytest.mark.parametrize("name", FAMILIES)
def test_only_the_thought_differs_and_it_grows(name):
    for brief, full, long in in_lengths(name):
        rest = {str(dataclasses.replace(e, thought="")) for e in (brief, full, long)}
        assert len(rest) == 1 and full.code and full.tests and full.answer
        assert len(brief.thought) <= len(full.thought) < len(long.thought)
        assert full.difficulty == 1 or len(brief.thought) < len(full.thought)
        assert len({e.thought.split("\n")[-1] for e in (brief, full, long)}) == 1  # all end where the full one ends


@pytest.mark.parametrize("name", FAMILIES)
def test_brief_keeps_every_second_step_and_the_last(name):
    for brief, full, _ in in_lengths(name):
        steps, kept = (e.thought.split("\n") for e in (full, brief))
        if steps[-1].startswith("The answer is"):
            assert kept.pop() == steps.pop()
        assert kept == list(reversed(steps[::-1][::2]))


def state(example, steps: int) -> list[int]:
    """Return where the item of every place comes from after the first steps, by the independent solver."""
    if example.family == "list_program":
        head, _, names = example.question.partition(":\n")
        question = f"{head}:\n" + "\n".join(names.split()[:steps])
        return [int(c) for c in SOLVERS["list_program"](question) if c.isdigit()]
    head, _, rest = example.question.partition(": ")
    moves = ", ".join(rest.split("; ")[0].split(", ")[:steps])
    asked = [f"{head}: {moves}; return 2 times the {place} plus the {PLACES[0]}." for place in PLACES]
    return [int(SOLVERS["list_formula"](question)[6]) for question in asked]


def alone(example, step: int) -> list[int]:
    """Return what one operation of the problem does by itself, by the independent solver."""
    if example.family == "list_program":
        head, _, names = example.question.partition(":\n")
        return state(dataclasses.replace(example, question=f"{head}:\n{names.split()[step]}"), 1)
    head, _, rest = example.question.partition(": ")
    moves, _, formula = rest.partition("; ")
    return state(dataclasses.replace(example, question=f"{head}: {moves.split(', ')[step]}; {formula}"), 1)


def operation(example, step: int) -> str:
    _, _, rest = example.question.partition(":")
    return (rest.split() if example.family == "list_program" else rest.split(";")[0].strip().split(", "))[step]


def digits(text: str) -> list[int]:
    return [int(c) for c in text if c.isdigit()]


@pytest.mark.parametrize("name", ["list_program", "list_formula"])
def test_every_line_of_a_list_thought_is_true(name):
    for brief, full, long in in_lengths(name, [1, 2, 3, 4, 5, 6], 60):
        n = full.difficulty
        after = {k: f"{operation(full, k)}{' : ' if name == 'list_program' else ': '}" for k in range(n)}
        for example, told in ((full, range(n)), (brief, range(1 - n % 2, n, 2))):
            lines = example.thought.split("\n")
            assert len(lines) == len(told)
            for line, k in zip(lines, told, strict=True):
                assert line.startswith(after[k]) and digits(line) == state(full, k + 1)
        lines = long.thought.split("\n")
        assert len(lines) == 2 * n
        for k, (takes, line) in enumerate(zip(lines[::2], lines[1::2], strict=True)):
            assert takes.startswith(f"{operation(full, k)} takes ") and digits(takes) == alone(full, k)
            assert line.startswith(after[k]) and digits(line) == state(full, k + 1)


@pytest.mark.parametrize("name", [n for n, f in FAMILIES.items() if f.detail is None])
def test_other_long_thoughts_say_nothing_that_the_full_one_does_not(name):
    for _, full, long in in_lengths(name):
        assert set(long.thought.split("\n")) == {*full.thought.split("\n"), AGAIN}
        assert long.thought.count("The answer is") == 1


def test_the_step_renders_the_length_asked_for_in_every_rendering(tmp_path):
    made = {}
    for rendering in ("default", "text", "code"):
        for length in LENGTHS:
            out = tmp_path / f"{rendering}-{length}"
            out.mkdir()
            spec = {"families": ["list_program", "clock"], "difficulties": [3, 4], "n": 12, "seed": 0, "split": "test"}
            build_world(spec | {"rendering": rendering, "thought": length}, {}, out, StepContext())
            made[rendering, length] = list(read_examples(out / "examples.parquet"))
    for length in LENGTHS:
        for plain, prose, code in zip(*(made[r, length] for r in ("default", "text", "code")), strict=True):
            assert plain.id == prose.id == code.id and plain.thought in prose.text
            assert all(line in code.text for line in plain.thought.split("\n"))
            exec(compile(code.text, "rendered", "exec"), {})
    assert len({e.thought for e in made["default", "brief"]} & {e.thought for e in made["default", "long"]}) == 0


def test_an_unknown_length_is_refused_with_what_exists():
    with pytest.raises(StudyError, match="thought: expected one of brief, full, long, found 'short'"):
        with_thought(next(generate("clock", None, 1, 0, "train")), FAMILIES["clock"], "short")
