"""Model text -> the code or the answer in it, and by which rule it was found.

The same code is found whether no or five hundred lines of thought stand before or after it: rules look at fences and
at what parses, never at positions or line counts. Where the tests call one function, what only demonstrates it (calls,
asserts, imports nothing uses) is left out, so that an example in a thought cannot fail a right program. A failure to
find anything is `ok=False`, which is not the same as a wrong answer. Rules for answers follow zero-shot-CoT (Kojima et
al. 2022), GSM8K's "####" and \\boxed{}; numbers are normalised (1,000 = 1000.0).
Not covered: judging what was extracted (evals/judge.py), which Python statements a program needs (prune.py).
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from leaven.core.prune import parse, prune

AnswerKind = Literal["number", "choice", "text", "yes_no", "label", "boxed"]

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n`]*$", re.MULTILINE)
_NUMBER = re.compile(
    r"(?<![\w.])[-+\u2212]?(?:\$\s?)?(?:\d{1,3}(?:,\d{3})+|\d+)?"
    r"(?:\.\d+)?(?:[eE][-+]?\d+)?(?:\s?/\s?\d+(?![\d./]))?%?"
)
_MARKER = re.compile(
    r"(?:final\s+answer|the\s+(?:correct\s+)?answer|answer|therefore[^.\n]{0,60}?)\s*(?:\([^)\n]*\)\s*)?"
    r"(?:is|are|=|:)+\s*[:=]?\s*",
    re.IGNORECASE,
)
_PYTHON = ("python", "py", "python3", "py3", "")
_TAGS = {
    "cpp": ("cpp", "c++", "cc", "cxx"),
    "bash": ("bash", "sh", "shell", "zsh"),
    "js": ("js", "javascript", "node", "jsx"),
}
_CODE_START = re.compile(
    r"^(?:@|async def |def |class |from \w|import \w|if |for |while |try:|with |assert |raise |del |"
    r"[A-Za-z_][\w.]*\(|[A-Za-z_][\w.\[\], ]*\s*(?:[-+*/%|&^]|//|\*\*)?=[^=])"
)


_EFFORT = 1_000_000
LONGEST = 2_000_000
"""Characters of a text that is still parsed; of a longer one the last fenced block, or all of it, is the program."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """What was found (`value`, also called `code`), by which rule, and whether anything was found at all."""

    value: str
    strategy: str
    ok: bool

    @property
    def code(self) -> str:
        """The extracted program."""
        return self.value


def extract_code(
    text: str, entry_point: str = "", language: str = "python", needed: Collection[str] = ()
) -> Extraction:
    """Return the program in a model's text.

    Preference: the last fenced block that parses and defines `entry_point`; an unclosed or broken block cut back to
    what parses and defines it; the lines outside fences that do; then the same without the entry point. With an entry
    point, statements that neither it nor `needed` (other names the tests use) depends on are left out; the strategy
    then ends in "_pruned". For languages other than Python: the last block fenced with that language, else the last
    fenced block, else the whole text.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    blocks = _fenced(text)
    if language not in _PYTHON:
        return _other_language(text, blocks, language, entry_point)
    if len(text) > LONGEST:
        return Extraction(_clean(blocks[-1][1] if blocks else text), "too_long_to_parse", True)
    candidates = [b for b in blocks if b[0].lower() in _PYTHON] or blocks
    parsing = [(body, "fence") for _, body, closed in candidates if closed and _parses(body)]
    repaired = [
        (cut, "fence_repaired")
        for _, body, closed in candidates
        if not (closed and _parses(body)) and (cut := _longest_program(body))
    ]
    for pool in (parsing, repaired):
        defining = [p for p in pool if entry_point and defines(p[0], entry_point)]
        if defining:
            return _pruned(_clean(defining[-1][0]), f"{defining[-1][1]}_entry_point", entry_point, needed)
    bare = _longest_program(_without_fences(text))
    if entry_point and bare and defines(bare, entry_point):
        return _pruned(_clean(bare), "bare_entry_point", entry_point, needed)
    pool = [p for p in parsing + repaired if _has_statement(p[0])]
    if pool:
        holding = [p for p in pool if _has_definition(p[0])] or pool
        return Extraction(_clean(holding[-1][0]), holding[-1][1], True)
    if bare and _has_statement(bare):
        return Extraction(_clean(bare), "bare", True)
    return Extraction("", "none", False)


def extract_completion(text: str, prompt: str, entry_point: str, needed: Collection[str] = ()) -> Extraction:
    """Return the program in an answer to a prompt that is itself code: whole, or the prompt continued by the text.

    A text that defines the entry point is taken as in `extract_code`. Otherwise the prompt is continued: by the text
    when its first line is indented (up to where it stops being Python), or by a fenced block that is a bare body.
    """
    whole = extract_code(text, entry_point, needed=needed)
    if whole.ok and whole.strategy != "too_long_to_parse" and defines(whole.code, entry_point):
        return whole
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if len(text) > LONGEST:
        return whole
    alone = _dump(prompt, entry_point)
    for joined, strategy in _continuations(text, prompt):
        program = _longest_program(joined)
        found = _dump(program, entry_point) if program else ""
        if found and found != alone:
            return _pruned(_clean(program), strategy, entry_point, needed)
    return whole


def _continuations(text: str, prompt: str) -> Iterator[tuple[str, str]]:
    """Yield (prompt continued, strategy) for every way a text may continue a prompt that is code."""
    lines = [line for line in prompt.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    indent = last[: len(last) - len(last.lstrip())] + ("    " if last.rstrip().endswith(":") else "")
    start = prompt.rstrip(" \t")
    for _, body, _ in reversed(_fenced(text)):
        yield _line_end(start) + textwrap.indent(body, indent), "fence_continuation"
    first = next((line for line in text.splitlines() if line.strip()), "")
    if first[:1] in (" ", "\t"):
        yield _line_end(start) + text.lstrip("\n"), "continuation"
    if first and start != prompt:  # the prompt ends inside the line that the text goes on with
        yield prompt + text.lstrip(" \t"), "continuation"
    code_like = _CODE_START.match(first) or re.match(r"(return|yield|pass)\b", first)
    if code_like and parse(f"if 1:\n{indent or ' '}{text}"):  # leading blanks were stripped
        yield _line_end(start) + indent + text, "continuation"


def _line_end(text: str) -> str:
    return text if text.endswith("\n") or not text else text + "\n"


def _dump(code: str, name: str) -> str:
    """Return the syntax tree of the top-level definition of `name` as text, "" when there is none."""
    tree = parse(code)
    found = [n for n in tree.body if getattr(n, "name", "") == name.split(".")[0]] if tree else []
    return ast.dump(found[-1]) if found else ""


def _pruned(code: str, strategy: str, entry_point: str, needed: Collection[str]) -> Extraction:
    """Return the extraction of `code` without what only demonstrates it."""
    kept = prune(code, {entry_point.split(".")[0], *needed})
    return Extraction(kept, strategy if kept == code else f"{strategy}_pruned", True)


def _fenced(text: str) -> list[tuple[str, str, bool]]:
    """Return (language, body, closed) of every fenced block in order; a block that never closes runs to the end."""
    found, at = [], 0
    while (opening := _FENCE.search(text, at)) is not None:
        mark, language = opening.group(1), opening.group(2)
        closing = re.compile(rf"^[ \t]*{re.escape(mark[0])}{{{len(mark)},}}[ \t]*$", re.MULTILINE).search(
            text, opening.end()
        )
        body = text[opening.end() + 1 : closing.start() if closing else len(text)]
        found.append((language, textwrap.dedent(body), closing is not None))
        if closing is None:
            break
        at = closing.end()
    return found


def _without_fences(text: str) -> str:
    return _FENCE.sub("", text)


def _other_language(text: str, blocks: list[tuple[str, str, bool]], language: str, entry_point: str) -> Extraction:
    tags = _TAGS.get(language.lower(), (language.lower(),))
    named = [b for b in blocks if b[0].lower() in tags] or blocks
    holding = [b for b in named if entry_point and re.search(rf"\b{re.escape(entry_point)}\b", b[1])] or named
    if holding:
        return Extraction(holding[-1][1].strip("\n") + "\n", "fence" if holding[-1][2] else "fence_unclosed", True)
    return Extraction(text, "whole", bool(text.strip()))


def _parses(code: str) -> bool:
    tree = parse(code)
    return tree is not None and bool(tree.body)


def defines(code: str, name: str) -> bool:
    """Return whether `code` binds `name` at its top level (or as a method of a top-level class, for
    `Class.method`)."""
    tree = parse(code)
    if tree is None:
        return False
    for node in tree.body:
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and node.name == name.split(".")[0]
        ):
            return True
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return True
    return False


def _has_definition(code: str) -> bool:
    tree = parse(code)
    return tree is not None and any(
        isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for n in tree.body
    )


def _has_statement(code: str) -> bool:
    """Return whether something in `code` is more than a bare name or constant ("Hello" parses as Python)."""
    tree = parse(code)
    if tree is None:
        return False
    return any(
        not isinstance(n, ast.Expr) or isinstance(n.value, ast.Call | ast.Await | ast.ListComp) for n in tree.body
    )


def _clean(code: str) -> str:
    return code.strip("\n") + "\n"


def _longest_program(text: str) -> str:
    """Return the lines of `text` that are Python: the whole when it parses, else every top-level statement that does,
    joined.

    Prose between definitions is dropped; a statement cut off by the end of the text is cut back to what parses. The
    effort is bounded: a text made to be parsed again and again is given up where it is spent.
    """
    if _parses(text):
        return _clean(text) if _has_statement(text) else ""
    lines, parts, at = text.split("\n"), [], 0
    effort = [_EFFORT + 4 * len(text)]
    while at < len(lines) and effort[0] > 0:
        kept = _cut_back(_chunk(lines, at, effort), effort) if _CODE_START.match(lines[at]) else []
        if kept:
            parts.append("\n".join(kept))
        at += len(kept) or 1  # what a line of prose swallowed is looked at again
    return _clean("\n".join(parts)) if parts else ""


def _chunk(lines: list[str], start: int, effort: list[int]) -> list[str]:
    """Return a top-level statement: the code-like line at `start` and everything indented, blank, inside a bracket or
    a long text, or closing under it."""
    chunk: list[str] = []
    double = single = 0
    last = ""
    for at in range(start, len(lines)):
        line = lines[at]
        below = line[:1] in (" ", "\t", "") or line[:1] in ")]}#" or re.match(r"(else|elif|except|finally)\b", line)
        inside = double % 2 or single % 2 or last.endswith(("\\", ",", "(", "[", "{")) or (chunk and chunk[-1].startswith("@"))
        if (chunk and not below and not inside) or effort[0] <= 0:
            break
        chunk.append(line)
        effort[0] -= len(line) + 1
        double += line.count('"""')
        single += line.count("'''")
        last = line.rstrip() or last
    return chunk


def _cut_back(chunk: list[str], effort: list[int]) -> list[str]:
    """Return the longest prefix of the lines that parses, [] when none does; each error says how far to cut."""
    stop = len(chunk)
    while stop and effort[0] > 0:
        text = "\n".join(chunk[:stop])
        effort[0] -= len(text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                ast.parse(text)
            except SyntaxError as problem:
                stop = min(stop - 1, max(0, (problem.lineno or 1) - 1))
                continue
            except (ValueError, RecursionError, MemoryError):
                return []
        return chunk[:stop]
    return []


def extract_answer(text: str, kind: AnswerKind = "text", choices: Sequence[str] = ()) -> Extraction:
    """Return the answer a model's text ends in.

    Order of rules: the last \\boxed{...}; what follows the last "####"; what follows the last "answer is" / "answer:"
    marker; for numbers, choices, yes_no and labels the last such token of the text; for text the last non-empty line.

    Args:
        kind: number (normalised), choice (one of `choices` letters, default A-E), label (one of `choices`, any case),
            yes_no, boxed, text.
        choices: the labels or letters to look for.
    """
    for strategy, part in _places(text):
        if kind in ("boxed", "text") and part.strip():
            return Extraction(_tidy(part), strategy, True)
        if kind not in ("boxed", "text") and (value := _token(part, kind, choices, first=True)):
            return Extraction(value, strategy, True)
    if kind == "boxed":
        return Extraction("", "none", False)
    if kind == "text":
        lines = [line for line in text.splitlines() if line.strip()]
        return Extraction(_tidy(lines[-1]), "last_line", True) if lines else Extraction("", "none", False)
    value = _token(text, kind, choices, first=False)
    return Extraction(value, f"last_{kind}", True) if value else Extraction("", "none", False)


def _places(text: str) -> list[tuple[str, str]]:
    """Return (strategy, text that should hold the answer) in order of trust."""
    places = []
    if (boxed := _last_boxed(text)) is not None:
        places.append(("boxed", boxed))
    if "####" in text:
        places.append(("hashes", text.rsplit("####", 1)[1].strip().split("\n")[0]))
    markers = list(_MARKER.finditer(text))
    if markers:
        places.append(("marker", text[markers[-1].end() :].strip().split("\n")[0]))
    return places


def _last_boxed(text: str) -> str | None:
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    depth, begin = 0, text.index("{", start)
    for at in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[begin + 1 : at]
    return None


def _tidy(text: str) -> str:
    return text.strip().strip("*_`$ \t").rstrip(".").strip("\"'* \t")


def _token(text: str, kind: AnswerKind, choices: Sequence[str], *, first: bool) -> str:
    """Return the first or last number, choice, label or yes/no of `text`, "" when there is none."""
    if kind == "number":
        found = [m.group() for m in _NUMBER.finditer(text) if any(c.isdigit() for c in m.group())]
        values = [v for v in map(normalise_number, found) if v]
        return values[0 if first else -1] if values else ""
    if kind == "yes_no":
        words = re.findall(r"\b(yes|no)\b", text, re.IGNORECASE)
        return words[0 if first else -1].lower() if words else ""
    options = [str(c) for c in choices] or list("ABCDE")
    by_length = sorted(options, key=len, reverse=True)
    letters = kind == "choice" and all(len(o) == 1 for o in options)
    pattern = "|".join(map(re.escape, by_length))
    if letters:  # "A cat" is no choice: a capital on its own, in brackets, or before . : ) or the end
        loose, strict = (
            rf"(?<![\w'])({pattern})(?![\w'])",
            rf"\(({pattern})\)|(?<![\w'])({pattern})(?=\s*(?:[).:,*]|$))",
        )
        rule = loose if first else strict
        hits = [next(g for g in m.groups() if g) for m in re.finditer(rule, text, re.MULTILINE)]
    else:
        hits = [m.group(1) for m in re.finditer(rf"(?<!\w)({pattern})(?!\w)", text, re.IGNORECASE)]
    if not hits:
        return ""
    hit = hits[0 if first else -1]
    return next((o for o in options if o == hit), next(o for o in options if o.lower() == hit.lower()))


def normalise_number(text: str) -> str:
    """Return a number in one spelling ("1,000.0" -> "1000", "-.5" -> "-0.5", "3/4" -> "0.75", "50%" -> "50"), "" if
    it is none."""
    bare = (
        text.strip().replace(",", "").replace("$", "").replace("\u2212", "-").replace(" ", "").rstrip("%").rstrip(".")
    )
    try:
        if "/" in bare:
            top, bottom = bare.split("/")
            value = float(top) / float(bottom)
        elif re.fullmatch(r"[-+]?\d+", bare):
            return str(int(bare)) if len(bare) < 4000 else bare.lstrip("+")
        else:
            value = float(bare)
    except (ValueError, ZeroDivisionError):
        return ""
    if value != value or value in (float("inf"), float("-inf")):
        return ""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
