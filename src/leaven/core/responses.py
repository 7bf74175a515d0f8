"""A model's answer -> its thought, code and answer: the inverse of a response format, for any order of the parts.

Code is what extract.py finds, so that probes, overlaps and verdicts speak of the same program. The answer is what stands on the
line after "####". The thought is all other prose: text outside fences without the headings and markers that formats write.
Not covered: conversations of several turns, thought inside code comments.
"""

from __future__ import annotations

import re

from leaven.core.extract import extract_code

_FENCED = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n]*\n.*?(?:^[ \t]*\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_ANSWER = re.compile(r"^####[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6}[ \t]*(?:reasoning|thought|analysis|explanation|solution|code)[ \t]*:?[ \t]*$", re.IGNORECASE | re.MULTILINE)
_MARKER = re.compile(r"<\|(?:begin|end)_of_(?:thought|solution)\|>|</?think(?:ing)?>|\[/?(?:Analysis|Solution)\]")


def response_parts(text: str, entry_point: str = "") -> dict[str, str]:
    """Return {"thought", "code", "answer"}; what is not there is "".

    Args:
        text: what the model wrote.
        entry_point: the function the code must define, where the problem names one.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    found = extract_code(text, entry_point)
    answers = _ANSWER.findall(text)
    prose = _FENCED.sub("\n", text)
    if found.ok and found.strategy.startswith("bare"):
        prose = _without_lines(prose, found.code)
    for pattern in (_ANSWER, _HEADING, _MARKER):
        prose = pattern.sub("", prose)
    lines = [line for line in prose.split("\n") if line.strip()]
    thought = "".join(f"{line.rstrip()}\n" for line in lines)
    return {"thought": thought, "code": found.code if found.ok else "", "answer": answers[-1] if answers else ""}


def _without_lines(prose: str, code: str) -> str:
    """Return the prose without the lines of a program that stood in it without a fence, each taken once in order."""
    wanted = [line for line in code.split("\n") if line.strip()]
    kept = []
    for line in prose.split("\n"):
        if wanted and line.rstrip() == wanted[0].rstrip():
            wanted.pop(0)
        else:
            kept.append(line)
    return "\n".join(kept)
