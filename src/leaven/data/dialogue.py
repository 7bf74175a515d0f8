"""What a teacher is asked and what it answers, as text: the request of appendix B, and a reply -> its parts or why it is malformed.

The prompt is that of Liu et al. 2025, appendix B: a teaching assistant answers with the parts [Analysis], [Solution] and [Test],
the last holding ten assert statements. Variants: the reference code is shown or not (their "synthesis order"), or there is only
raw code and the teacher also writes the [Task] (their "data source"; the wording of that part is ours, the paper gives none).
Not covered: who is asked (teacher.py, lm/server.py), whether the code passes the tests (consistency.py).
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from leaven.data.seeds import fences, lines_of, parsed

PARTS = ("task", "analysis", "solution", "test")
_NUMBERS = dict(enumerate("zero one two three four five six seven eight nine ten eleven twelve".split()))
_HEADER = re.compile(
    r"^[ \t]*(?:#{1,6}[ \t]*)?(?:\*\*|__)?\[(task|analysis|solution|tests?)\](?:\*\*|__)?[ \t]*:?[ \t]*(.*)$",
    re.IGNORECASE | re.MULTILINE,
)
_BUILTINS = frozenset(dir(builtins))
_THINKING = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Answered:
    """The parts of a well-formed reply; `task` is empty unless the teacher had to write the question."""

    task: str
    thought: str
    code: str
    tests: tuple[str, ...]
    entry_point: str


class Malformed(Exception):
    """A reply that is not what was asked for: (reason, detail)."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


# ---- requests ----------------------------------------------------------------------------------------------


def prompt_text(question: str, code: str, show_code: bool = True, asserts: int = 10) -> str:
    """Return the request of appendix B; without a question it asks for one, without code it shows none."""
    show_code = (show_code or not question) and bool(code)
    about = "a Python programming task from a given code snippet" if show_code else "a Python programming task"
    shown = f"[Task]\n{question}\n\n" if question else ""
    shown += f"[Code Snippet]\n```python\n{code.strip(chr(10))}\n```\n\n" if show_code else ""
    invent = "[Task]\n{Write a self-contained Python programming task that the code snippet solves; name the function or class}\n\n"
    return (
        f"You are a teaching assistant helping to create {about}. You will respond best to the Python programming task, "
        "including the reasoning process, reference solutions, and test code.\n\n"
        f"{shown}The response must have these parts:\n\n"
        f"{'' if question else invent}"
        "[Analysis]\n{Analyze the task and reason about the given task step by step}\n\n"
        "[Solution]\n{Write a high-quality reference solution in a self-contained script that solves the task}\n\n"
        f"[Test]\n{{Provide {_NUMBERS.get(asserts, asserts)} assert statements to check the correctness of your solution}}"
    )


def reply_text(thought: str, code: str, tests: Iterable[str], task: str = "") -> str:
    """Return a reply in the shape that is asked for."""
    tested = "\n".join(t.strip("\n") for t in tests)
    return (
        (f"[Task]\n{task.strip()}\n\n" if task else "")
        + f"[Analysis]\n{thought.strip()}\n\n[Solution]\n```python\n{code.strip(chr(10))}\n```\n\n[Test]\n```python\n{tested}\n```\n"
    )


# ---- replies -----------------------------------------------------------------------------------------------


def parse_reply(
    text: str, *, finish: str = "stop", wants_task: bool = False, min_asserts: int = 10, needs_thought: bool = True
) -> Answered:
    """Return the parts of a reply.

    Text before the first part is ignored, as is a leading <think> block; parts must come once each and in order.

    Raises:
        Malformed: with the reason: empty, cut at the token limit, a missing, repeated or misplaced part, code or tests that do not
            parse, no definition, too few asserts about it.
    """
    parts = _parts(_THINKING.sub("", text), finish, ("task", *PARTS[1:]) if wants_task else PARTS[1:])
    if needs_thought and not parts["analysis"]:
        raise Malformed("[Analysis] is empty")
    if wants_task and not parts["task"]:
        raise Malformed("[Task] is empty")
    code = _code(parts["solution"], "[Solution]")
    names = _definitions(code)
    if not names:
        raise Malformed("[Solution] defines no function or class")
    tests, asserts = split_tests(_code(parts["test"], "[Test]"), names)
    if not asserts:
        raise Malformed("no assert statement about the solution")
    if asserts < min_asserts:
        raise Malformed(f"fewer than {min_asserts} assert statements about the solution", f"{asserts}")
    return Answered(parts.get("task", ""), parts["analysis"], code, tests, _entry_point(names, tests))


def _parts(text: str, finish: str, wanted: tuple[str, ...]) -> dict[str, str]:
    """Return part -> its text, or raise Malformed."""
    if not text.strip():
        raise Malformed("empty reply", f"finish: {finish}")
    if finish == "length":
        raise Malformed("cut at the token limit")
    text = text.replace("\r\n", "\n")
    headers = [m for m in _HEADER.finditer(text) if not _inside_fence(text, m.start())]
    names = [_name(m) for m in headers]
    for name in wanted:
        if name not in names:
            raise Malformed(f"no [{name.capitalize()}] part")
    names_wanted = [n for n in names if n in wanted]
    if len(set(names_wanted)) != len(names_wanted):
        raise Malformed("a part occurs twice", ", ".join(names))
    if names_wanted != list(wanted):
        raise Malformed("parts out of order", ", ".join(names))
    ends = [m.start() for m in headers[1:]] + [len(text)]
    return {_name(m): f"{m[2]}\n{text[m.end() : end]}".strip() for m, end in zip(headers, ends, strict=True)}


def _name(header: re.Match[str]) -> str:
    return header[1].lower().removesuffix("s") if header[1].lower().startswith("test") else header[1].lower()


def _inside_fence(text: str, at: int) -> bool:
    return len(re.findall(r"^[ \t]*(?:```|~~~)", text[:at], re.MULTILINE)) % 2 == 1


def _code(part: str, name: str) -> str:
    """Return the Python of a part: the longest fenced block that parses, or the whole part when nothing is fenced."""
    blocks = [body for tag, body in fences(part) if tag in ("", "python", "py", "python3")]
    if not (blocks or [part])[0].strip():
        raise Malformed(f"no code in {name}")
    for block in sorted(blocks or [part], key=lambda b: -b.count("\n")):
        if parsed(block) is not None:
            return block.strip("\n") + "\n"
    raise Malformed(f"{name} does not parse")


def _definitions(code: str) -> list[str]:
    """Return the names that the top level of a solution defines."""
    tree = parsed(code)
    return [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)] if tree else []


def _entry_point(names: list[str], tests: Sequence[str]) -> str:
    """Return the definition that most tests mention, the later one of equals."""
    counts = {n: sum(bool(re.search(rf"\b{n}\b", t)) for t in tests) for n in names}
    return max(reversed(names), key=lambda n: counts[n])


def split_tests(text: str, names: Iterable[str]) -> tuple[tuple[str, ...], int]:
    """Cut test code into tests of one assert each (with the statements before it) and count those about `names`.

    The body of `if __name__ == "__main__"` is unwrapped, and a test function that nothing calls is called, since else its asserts
    would never run. An assert counts when it mentions one of `names`, or something that went through one. Asserts in loops count once.
    """
    tree = parsed(text)
    if tree is None:
        raise Malformed("[Test] does not parse")
    try:
        return _cut(tree, text, set(names))
    except (RecursionError, ValueError) as error:  # ast.unparse: sums of thousands of terms, numbers of thousands of digits
        raise Malformed("[Test] is too deep or large to take apart", f"{type(error).__name__}: {error}"[:200]) from None


def _cut(tree: ast.Module, text: str, about: set[str]) -> tuple[tuple[str, ...], int]:
    body = [s for n in tree.body for s in (n.body if _is_main(n) else [n])]
    called = {n.func.id for s in body for n in ast.walk(s) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    tests: list[str] = []
    waiting: list[str] = []
    asserts = 0
    for node in body:
        waiting.append(ast.unparse(node) if _was_nested(tree, node) else _segment(text, node))
        if isinstance(node, ast.FunctionDef) and node.name not in called and node.name.startswith("test") and not node.args.args:
            waiting.append(f"{node.name}()")
        n = _asserts_about(node, about)
        if n:
            asserts += n
            tests.append("\n".join(waiting))
            waiting = []
    if waiting and tests:
        tests[-1] = "\n".join([tests[-1], *waiting])
    return tuple(tests), asserts


def _is_main(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def _was_nested(tree: ast.Module, node: ast.stmt) -> bool:
    return not any(node is top for top in tree.body)


def _segment(text: str, node: ast.stmt) -> str:
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    lines = lines_of(text)[first - 1 : node.end_lineno]
    starts = not lines[0][: node.col_offset].strip() or lines[0].lstrip().startswith("@")
    ends = (node.end_col_offset or 0) >= len(lines[-1].split("#")[0].rstrip())
    return "\n".join(lines) if starts and ends else ast.unparse(node)  # several statements on one line are taken apart


def _asserts_about(node: ast.stmt, about: set[str]) -> int:
    """Count the asserts in a statement that mention a name in `about`.

    What a statement computes from such a name, or hands to it, is added: `given = [2, 1]`, `sort(given)`, `assert given == [1, 2]` tests
    `sort`. So are the parameters of a function (a `check(candidate)` is called with the solution) and a function that uses the solution.
    """
    if isinstance(node, ast.FunctionDef):
        about.update(a.arg for a in node.args.args)
    names = _names(node)
    if names & about:
        about.update(names - _BUILTINS)
        about.update([node.name] if isinstance(node, ast.FunctionDef) else [])
    return sum(bool(_names(inner) & about) for inner in ast.walk(node) if isinstance(inner, ast.Assert))


def _names(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
