"""One problem -> the same problem with a shorter or longer thought that is just as true; everything else stays.

    brief   every second step, counted back from the last one: the way is there, half of its stations are skipped
    full    as generated: one line per step
    long    families with a `detail` say before each step what the operation does by itself; the others go through the
            steps once more, as a check

A line says what holds after its step of the way, so it stays true when other lines go (its "it" and "so far" mean the
state at that point, which a brief thought need not write). A last line "The answer is ..." is no step and always kept.
Id, question, code, tests and answer are equal in all three, so that conditions pair.
Not covered: thoughts of read files, and filler of a thought's length (data/formats.py).
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from leaven.core.types import Example
from leaven.data.sources.world.family import Family
from leaven.errors import StudyError

Length = Literal["brief", "full", "long"]
LENGTHS: tuple[Length, ...] = ("brief", "full", "long")
AGAIN = "Once more, to check:"
"""The line between the two passes of a long thought whose family has no `detail`."""


def with_thought(example: Example, family: Family, length: Length) -> Example:
    """Return the example with its thought in the given length; raise StudyError for another name."""
    if length not in LENGTHS:
        raise StudyError(f"thought: expected one of {', '.join(LENGTHS)}, found {length!r}")
    if length == "full":
        return example
    lines = example.thought.split("\n")
    answer = lines[-1:] if lines[-1].startswith("The answer is ") else []
    steps = lines[: len(lines) - len(answer)]
    chosen = steps[1 - len(steps) % 2 :: 2] if length == "brief" else _long(steps, family)
    return dataclasses.replace(example, thought="\n".join([*chosen, *answer]))


def _long(steps: list[str], family: Family) -> list[str]:
    if family.detail is None:
        return [*steps, AGAIN, *steps]
    return [line for step in steps for line in (family.detail(step), step)]
