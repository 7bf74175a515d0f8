"""One problem -> one raw document: prose (question, thought, answer) or a Python file (comments, code, asserts).

Both renderings state the same fact, keep its id and so pair: a text corpus and a code corpus that differ in form alone.
Not covered: response formats for instruction tuning (data/formats.py).
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from leaven.core.types import Example
from leaven.errors import StudyError

Rendering = Literal["default", "text", "code"]
RENDERINGS: tuple[Rendering, ...] = ("default", "text", "code")


def render(example: Example, rendering: Rendering) -> Example:
    """Return the example as a raw document (`text` filled, question, thought, code, tests and answer emptied).

    "default" returns it unchanged. Raises StudyError for another name.
    """
    if rendering == "default":
        return example
    if rendering not in RENDERINGS:
        raise StudyError(f"rendering: expected one of {', '.join(RENDERINGS)}, found {rendering!r}")
    text = _prose(example) if rendering == "text" else _module(example)
    return dataclasses.replace(example, text=text, question="", thought="", code="", answer="", tests=(),
                               entry_point="")


def _prose(example: Example) -> str:
    return f"Question: {example.question}\nReasoning:\n{example.thought}\nAnswer: {example.answer}\n"


def _module(example: Example) -> str:
    comments = "\n".join(f"# {line}".rstrip() for line in f"{example.question}\n\n{example.thought}".split("\n"))
    return f"{comments}\n\n\n{example.code}\n\n\n" + "\n".join(example.tests) + "\n"
