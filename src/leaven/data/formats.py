"""Examples -> segments: the response formats, with leaven's own role tokens.

A format is a pure function `format(example, shots=()) -> list[Segment]`. Formats that differ in the order of thought
and code are built from the same parts with the same markers, so that *only* the order differs: each segment is
tokenised on its own, hence both orders have the same multiset of tokens, and any extractor that looks for a fence
finds the code in either (Liu et al. 2025, section 4.2: Seed, C_w/o, C_follow = thought_code, C_precede =
code_thought, mixed). Markers of the response are learned (the model has to write them); the question, the role tokens
and all shots are context only. Thought is cut into lines (part "step"); code into signature, comment and body. Every
cut is lossless.
Not covered: text templates that others train with (templates.py), tokens (tokenise.py), chat templates of brought
models (chat_template.py).
"""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections.abc import Callable, Iterable
from dataclasses import replace

from leaven.core.registry import Registry
from leaven.core.rng import stream_seed
from leaven.core.types import Example, Kind, Segment, Turn
from leaven.data.behaviours import kept_pieces, tags_between
from leaven.errors import DataError

Format = Callable[..., list[Segment]]
FORMATS: Registry[Format] = Registry("format")

END = "<|end|>"
ROLE = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>", "tool": "<|tool|>"}
MARKERS = {"thought": ("## Reasoning\n", "\n"), "code": ("```python\n", "\n```\n"), "answer": ("#### ", "\n")}
"""What opens and closes each part of a response; identical in every order."""
FILLER = "..."
"""The one word of filler (Pfau et al. 2024 use dots as well)."""

_FENCE = re.compile(r"^(```[\w+#.-]*[ \t]*\n)(.*?)(^```[ \t]*$)", re.MULTILINE | re.DOTALL)


# ---- parts of a response -----------------------------------------------------------------------------------


def split_code(code: str) -> list[tuple[str, str]]:
    """Cut Python code into (part, text) pairs whose texts concatenate to `code`.

    Parts: `signature` (decorators and the head of a def or class), `comment` (`#` comments and docstrings, with the
    white space before them), `body` (the rest). Code that does not parse is one `body`.
    """
    return list(_split(code))


@functools.lru_cache(maxsize=4096)  # procedural sources repeat few programs many times
def _split(code: str) -> tuple[tuple[str, str], ...]:
    label = _code_labels(code)
    pieces: list[tuple[str, str]] = []
    start = 0
    for i in range(1, len(code) + 1):
        if i == len(code) or label[i] != label[start]:
            pieces.append((label[start], code[start:i]))
            start = i
    return tuple(pieces)


def _code_labels(code: str) -> list[str]:
    """Return one part name per character of `code`."""
    label = ["body"] * len(code)
    try:
        tree = ast.parse(code)
        tokens = list(tokenize.generate_tokens(io.StringIO(code).readline))
    except (SyntaxError, ValueError, tokenize.TokenError, RecursionError, MemoryError):
        return label
    lines = code.splitlines(keepends=True) if "\f" not in code and "\r" not in code else []
    if "".join(lines) != code or len(lines) != code.count("\n") + (not code.endswith("\n")):
        return label  # unusual line ends: positions of the parser and of the text would not agree
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))

    def paint(part: str, begin: int, end: int) -> None:
        label[begin:end] = [part] * (end - begin)

    def position(line: int, column_bytes: int) -> int:
        return starts[line - 1] + len(lines[line - 1].encode()[:column_bytes].decode())

    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if node.body[0].lineno > node.lineno:
                paint("signature", starts[first - 1], _head_end(tokens, node.lineno, starts))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(
            node, clean=False
        ):
            text = node.body[0]
            assert text.end_lineno is not None and text.end_col_offset is not None
            begin, end = position(text.lineno, text.col_offset), position(text.end_lineno, text.end_col_offset)
            paint("comment", *_with_surroundings(code, begin, end))
    for token in tokens:
        if token.type == tokenize.COMMENT:
            begin = starts[token.start[0] - 1] + token.start[1]
            paint("comment", *_with_surroundings(code, begin, begin + len(token.string)))
    return label


def _head_end(tokens: list[tokenize.TokenInfo], line: int, starts: list[int]) -> int:
    """Return the offset after the line that ends the head which starts on `line`."""
    return next(starts[t.start[0]] for t in tokens if t.start[0] >= line and t.type == tokenize.NEWLINE)


def _with_surroundings(code: str, begin: int, end: int) -> tuple[int, int]:
    """Widen a comment to the white space before it, and to its newline when it has the line for itself."""
    while begin > 0 and code[begin - 1] in " \t":
        begin -= 1
    alone = begin == 0 or code[begin - 1] == "\n"
    return begin, end + 1 if alone and code[end : end + 1] == "\n" else end


def _thought_segments(example: Example) -> list[Segment]:
    """Cut a thought into lines; those of a thought whose behaviours are known carry them as tags (the cuts stay the same)."""
    pieces, at, segments = kept_pieces(example), 0, []
    for line in example.thought.splitlines(keepends=True):
        tags = tags_between(pieces, example.thought, at, at + len(line))
        segments.append(Segment(kind="thought", text=line, learn=1.0, part="step", tags=tags))
        at += len(line)
    return segments


def _code_segments(text: str) -> list[Segment]:
    return [Segment(kind="code", text=piece, learn=1.0, part=part) for part, piece in split_code(text)]


def prose_segments(text: str, kind: Kind = "answer") -> list[Segment]:
    """Cut a free response at its code fences: what stands inside a closed fence is code, the rest keeps `kind`."""
    segments: list[Segment] = []
    at = 0
    for match in _FENCE.finditer(text):
        segments.append(Segment(kind=kind, text=text[at : match.end(1)], learn=1.0))
        segments.append(Segment(kind="code", text=match[2], learn=1.0))
        at = match.start(3)
    segments.append(Segment(kind=kind, text=text[at:], learn=1.0))
    return [s for s in segments if s.text]


def marked_part(example: Example, name: str, format_name: str) -> list[Segment]:
    """Return one marked part (thought, code or answer) of the response; raise DataError when the example lacks it."""
    text = getattr(example, name)
    if not text:
        raise DataError(
            f"source {example.source!r}, example {example.id!r}: format {format_name!r} needs the field {name!r}, "
            f"found none; choose a format that does without it or fill the field"
        )
    inner = _thought_segments(example) if name == "thought" else {"code": _code_segments, "answer": prose_segments}[name](text)
    opening, closing = MARKERS[name]
    return [
        Segment(kind="template", text=opening, learn=1.0, part=name),
        *inner,
        Segment(kind="template", text=closing, learn=1.0, part=name),
    ]


# ---- layout of a dialogue ----------------------------------------------------------------------------------


def dialogue_turn(role: str, number: int, content: list[Segment], learn: bool) -> list[Segment]:
    """Return one turn: role token (context), content, end token; content and end are learned together or not at all."""
    weight = 1.0 if learn else 0.0
    return [
        Segment(kind="template", text=ROLE[role], turn=number, role=role),
        *(replace(s, learn=s.learn * weight, turn=number, role=role) for s in content),
        Segment(kind="template", text=END, learn=weight, turn=number, role=role),
    ]


def question_turn(example: Example, number: int) -> list[Segment]:
    if not example.question:
        raise DataError(
            f"source {example.source!r}, example {example.id!r}: this format needs the field 'question', found none; "
            "use the format 'document' for raw text and 'chat' for conversations"
        )
    return dialogue_turn("user", number, [Segment(kind="prompt", text=example.question)], learn=False)


def _dialogue(
    example: Example, shots: Iterable[Example], response: Callable[[Example], list[Segment]]
) -> list[Segment]:
    """Return question and response of `example` after those of the shots, which are context only."""
    segments: list[Segment] = []
    number = 0
    for shot in shots:
        segments += question_turn(shot, number) + dialogue_turn("assistant", number + 1, response(shot), learn=False)
        number += 2
    last = dialogue_turn("assistant", number + 1, response(example), learn=True)
    return segments + question_turn(example, number) + last


def _from_parts(example: Example, shots: Iterable[Example], name: str, parts: tuple[str, ...]) -> list[Segment]:
    return _dialogue(example, shots, lambda e: [s for part in parts for s in marked_part(e, part, name)])


# ---- the formats -------------------------------------------------------------------------------------------


@FORMATS("code_only")
def code_only(example: Example, shots: tuple[Example, ...] = ()) -> list[Segment]:
    """Question -> fenced code (C_w/o)."""
    return _from_parts(example, shots, "code_only", ("code",))


@FORMATS("thought_code")
def thought_code(example: Example, shots: tuple[Example, ...] = ()) -> list[Segment]:
    """Question -> thought, then code (C_follow)."""
    return _from_parts(example, shots, "thought_code", ("thought", "code"))


@FORMATS("code_thought")
def code_thought(example: Example, shots: tuple[Example, ...] = ()) -> list[Segment]:
    """Question -> code, then the same thought as its explanation (C_precede)."""
    return _from_parts(example, shots, "code_thought", ("code", "thought"))


@FORMATS("filler_code")
def filler_code(example: Example, shots: tuple[Example, ...] = ()) -> list[Segment]:
    """Question -> as many words of filler as the thought has, then code: what the tokens of a thought buy by themselves.

    The filler's length is that of the example's own thought; where that could tell something about the answer, permute it
    first (data/perturb/filler.py).
    """

    def response(e: Example) -> list[Segment]:
        marked_part(e, "thought", "filler_code")  # an example without a thought is refused here, by name
        blank = replace(e, thought=filler_text(e.thought))
        return [s for part in ("thought", "code") for s in marked_part(blank, part, "filler_code")]

    return _dialogue(example, shots, response)


def filler_text(thought: str) -> str:
    """Return a text with the lines of `thought` and FILLER for every word of them; white space stays as it is."""
    return re.sub(r"\S+", FILLER, thought)


@FORMATS("mixed")
def mixed(example: Example, shots: tuple[Example, ...] = ()) -> list[Segment]:
    """thought_code for one half of the examples, code_thought for the other, chosen by source and id alone."""
    orders = (("thought", "code"), ("code", "thought"))

    def response(e: Example) -> list[Segment]:
        parts = orders[stream_seed(0, "format", "mixed", e.source, e.id) % 2]
        return [s for part in parts for s in marked_part(e, part, "mixed")]

    return _dialogue(example, shots, response)


@FORMATS("thought_answer")
def thought_answer(example: Example, shots: tuple[Example, ...] = ()) -> list[Segment]:
    """Question -> thought, then the answer after `####`."""
    return _from_parts(example, shots, "thought_answer", ("thought", "answer"))


@FORMATS("answer_thought")
def answer_thought(example: Example, shots: tuple[Example, ...] = ()) -> list[Segment]:
    """Question -> the answer after `####`, then the thought as its explanation."""
    return _from_parts(example, shots, "answer_thought", ("answer", "thought"))


@FORMATS("answer_only")
def answer_only(example: Example, shots: tuple[Example, ...] = ()) -> list[Segment]:
    """Question -> the answer as it stands, without markers."""
    return _dialogue(example, shots, lambda e: marked_part(e, "answer", "answer_only")[1:-1])


@FORMATS("seed")
def seed(example: Example, shots: tuple[Example, ...] = ()) -> list[Segment]:
    """Question -> the response the data set came with (the answer, else the bare code), without added markers."""

    def response(e: Example) -> list[Segment]:
        return marked_part(e, "answer" if e.answer or not e.code else "code", "seed")[1:-1]

    return _dialogue(example, shots, response)


@FORMATS("document")
def document(example: Example, shots: tuple[Example, ...] = ()) -> list[Segment]:
    """Raw text, all of it learned, closed by the end token."""
    if not example.text:
        raise DataError(
            f"source {example.source!r}, example {example.id!r}: format 'document' needs the field 'text', found none"
        )
    before = [s for shot in shots for s in document(shot)]
    return [
        *(replace(s, learn=0.0) for s in before),
        Segment(kind="text", text=example.text, learn=1.0),
        Segment(kind="template", text=END, learn=1.0),
    ]


@FORMATS("chat")
def chat(example: Example, shots: tuple[Example, ...] = ()) -> list[Segment]:
    """A conversation: every assistant turn is learned with its own end token; all other turns are context."""
    if not example.turns:
        raise DataError(
            f"source {example.source!r}, example {example.id!r}: format 'chat' needs the field 'turns', found none"
        )
    segments: list[Segment] = []
    number = 0
    for conversation, learn in (*((shot, False) for shot in shots), (example, True)):
        for turn in conversation.turns:
            speaks = turn.role == "assistant"
            content = (
                prose_segments(turn.content)
                if speaks
                else [Segment(kind="prompt", text=turn.content)]
                if turn.content
                else []
            )
            segments += dialogue_turn(turn.role, number, content, learn=speaks and learn)
            number += 1
    return segments


@FORMATS("auto")
def auto(example: Example, shots: tuple[Example, ...] = ()) -> list[Segment]:
    """chat, document, or the single-turn format that uses every field the example has."""
    return FORMATS.get(auto_name(example))(example, shots)


def auto_name(example: Example) -> str:
    """Return the name of the format that `auto` applies to an example."""
    if example.turns:
        return "chat"
    if example.text:
        return "document"
    if example.code:
        return "thought_code" if example.thought else "code_only"
    return "thought_answer" if example.thought and example.answer else "answer_only"


def natural_parts(example: Example) -> tuple[str, ...]:
    """Return the parts of an example's response in the order of `auto`: thought first, then code or answer."""
    name = auto_name(example)
    return ("answer",) if name in ("answer_only", "chat", "document") else tuple(name.removesuffix("_only").split("_"))


# ---- prompts -----------------------------------------------------------------------------------------------


def prompt_of(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """Return everything before the first learned segment: what the model sees at inference."""
    prompt: list[Segment] = []
    for segment in segments:
        if segment.learn > 0:
            break
        prompt.append(segment)
    return tuple(prompt)


def question_prompt(question: str, shots: Iterable[Example] = (), format_name: str = "auto") -> tuple[Segment, ...]:
    """Return the inference prompt of a bare question (no gold needed) after shots rendered in `format_name`."""
    shots = tuple(shots)
    # a stand-in for the unknown response, cut off again; with the fields of the shots, so that `auto` treats both alike
    like = shots[0] if shots else Example(id="", source="", thought="?", code="?", answer="?")
    asked = replace(like, question=question, text="", meta={})
    if asked.turns or format_name == "chat":
        asked = replace(asked, turns=(Turn(role="user", content=question), Turn(role="assistant", content="?")))
    return prompt_of(FORMATS.get(format_name)(asked, shots))


# the templates build on this module and register themselves with it
import leaven.data.templates  # noqa: E402, F401
