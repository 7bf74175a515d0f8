"""Examples -> seeds worth asking a teacher about, each other one with the reason why it is not.

The rules follow Liu et al. 2025, section 3.1 (questions "with educational value and worth reasoning", then a parse of the Python in
the answer); the paper names no thresholds, so those of `spec.synthesis.Rules` are leaven's own. Rules look at the question and at
the syntax tree of the reference code; no code is run here. Raw code is cut into one seed per top-level definition that no other
definition of its file uses, together with everything of the file that it needs.
Not covered: near duplicates (dedupe.py), overlap with benchmarks, what the teacher makes of a seed (teacher.py).
"""

from __future__ import annotations

import ast
import builtins
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from leaven.core.types import Example
from leaven.data.dedupe import exact_key
from leaven.data.labels import language_of
from leaven.spec.synthesis import Rules

PURE_MODULES = frozenset(
    "abc array base64 binascii bisect calendar cmath collections contextlib copy csv dataclasses datetime decimal difflib enum "
    "fractions functools hashlib heapq html io itertools json keyword math numbers operator queue re statistics string struct "
    "textwrap types typing unicodedata __future__".split()
)
"""Standard modules whose functions depend on their arguments alone (clocks inside datetime are refused by name)."""

_OUTSIDE = frozenset({"input", "open", "exec", "eval", "compile", "breakpoint", "exit", "quit"})
_CLOCKS = frozenset({"now", "today", "utcnow"})
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n`]*\n(.*?)(?:^[ \t]*\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_PYTHON = ("", "python", "py", "python3", "py3")
_PLACEHOLDER = re.compile(r"(?i)#.*\b(?:your code|todo|fill in|implement (?:this|here|me)|rest of)|\bpass\s*#")
_Def = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_Loops = ast.For | ast.While | ast.AsyncFor | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_Branches = ast.If | ast.IfExp | ast.BoolOp | ast.Try | ast.Match


@dataclass(frozen=True, slots=True)
class Seed:
    """A seed that passed: the question ("" for raw code), the reference code ("" for bare questions), and where it came from.

    `answer` is the response of the data set as it stood (what the condition `seed` trains on); thought and tests are those the
    data set has, if any; `prelude` runs before any solution.
    """

    id: str
    source: str
    question: str
    code: str
    answer: str = ""
    thought: str = ""
    tests: tuple[str, ...] = ()
    entry_point: str = ""
    group: str = ""
    licence: str = ""
    prelude: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """What left the funnel: at which stage (row, seed, reply, execution), why, and the particulars."""

    id: str
    source: str
    stage: str
    reason: str
    detail: str = ""


class _No(Exception):
    """A rule refused a seed: (reason, detail)."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


# ---- code in text ----------------------------------------------------------------------------------------------


def fences(text: str) -> list[tuple[str, str]]:
    """Return (language tag in lower case, body) of every fenced block; one that never closes runs to the end."""
    return [(m[2].lower(), m[3]) for m in _FENCE.finditer(text.replace("\r\n", "\n"))]


def python_of(text: str) -> str:
    """Return the Python in an answer: its fenced Python, the longest block that parses first, or the whole bare text.

    Raises _No when there is none, when it is another language, or when it does not parse.
    """
    blocks = fences(text)
    python = [body for tag, body in blocks if tag in _PYTHON]
    if blocks and not python:
        raise _No("not Python", f"fenced as {blocks[0][0]}")
    candidates = sorted(python, key=lambda b: -b.count("\n")) if python else [text]
    if not any(c.strip() for c in candidates):
        raise _No("no code in the answer")
    for candidate in candidates:
        if parsed(candidate) is not None:
            return candidate.strip("\n") + "\n"
    language = language_of(candidates[0])
    if language not in ("python", ""):
        raise _No("not Python", f"looks like {language}")
    if not python and language == "":
        raise _No("no code in the answer")
    raise _No("code does not parse", _syntax_error(candidates[0]))


def parsed(code: str) -> ast.Module | None:
    """Return the syntax tree of Python code, or None when it has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's code
        try:
            return ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def _syntax_error(code: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return f"{type(error).__name__}: {error}"[:200]
    return ""


# ---- rules: each raises _No(reason, detail) or passes -------------------------------------------------------------


def _question_length(question: str, rules: Rules) -> None:
    words = len(question.split())
    if words < rules.min_question_words:
        raise _No("question too short", f"{words} words, at least {rules.min_question_words}")
    if len(question) > rules.max_question_chars:
        raise _No("question too long", f"{len(question)} characters, at most {rules.max_question_chars}")


def _has_definition(tree: ast.Module, code: str, rules: Rules) -> None:
    if not any(isinstance(n, _Def) for n in ast.walk(tree)):
        raise _No("no function or class")


def _not_too_long(tree: ast.Module, code: str, rules: Rules) -> None:
    lines = sum(1 for line in code.splitlines() if line.strip())
    if lines > rules.max_code_lines:
        raise _No("code too long", f"{lines} lines, at most {rules.max_code_lines}")


def _complete(tree: ast.Module, code: str, rules: Rules) -> None:
    if match := _PLACEHOLDER.search(code):
        raise _No("placeholder instead of code", match[0].strip()[:80])
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.decorator_list:
            body = [s for s in node.body if not _is_text(s)]
            if not body or all(isinstance(s, ast.Pass) or _is_ellipsis(s) for s in body):
                raise _No("placeholder instead of code", f"{node.name} has no body")


def _self_contained(tree: ast.Module, code: str, rules: Rules) -> None:
    allowed = PURE_MODULES | set(rules.modules)
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or "."] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            if name.split(".")[0] not in allowed:
                raise _No("imports a module that reaches outside, draws at random or is not standard", name)
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Name) and called.id in _OUTSIDE and called.id not in allowed:
            raise _No("reads input or files, or runs text", called.id)
        if isinstance(called, ast.Attribute) and called.attr in _CLOCKS:
            raise _No("depends on the clock", called.attr)


def _worth_reasoning(tree: ast.Module, code: str, rules: Rules) -> None:
    statements = sum(1 for n in ast.walk(tree) if isinstance(n, ast.stmt) and not isinstance(n, _Def) and not _is_text(n))
    if statements < rules.min_statements:
        raise _No("trivial: too few statements", f"{statements}, at least {rules.min_statements}")
    if not any(isinstance(n, _Loops | _Branches) for n in ast.walk(tree)) and not _recursive(tree):
        raise _No("trivial: no branch, loop or recursion")


def _assertable(tree: ast.Module, code: str, rules: Rules) -> None:
    values = [n.value for n in ast.walk(tree) if isinstance(n, ast.Return | ast.Yield | ast.YieldFrom) and n.value is not None]
    if not values or (all(isinstance(v, ast.Constant) for v in values) and len({ast.dump(v) for v in values}) == 1):
        raise _No("nothing to assert: no function returns a value that varies")


CODE_RULES: tuple[Callable[[ast.Module, str, Rules], None], ...] = (
    _has_definition,
    _not_too_long,
    _complete,
    _self_contained,
    _worth_reasoning,
    _assertable,
)
"""Rules on reference code, in the order in which they are asked; the first that refuses gives the reason."""


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_ellipsis(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.value.value is ...


def _recursive(tree: ast.Module) -> bool:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = (n.func for n in ast.walk(node) if isinstance(n, ast.Call))
            if any(getattr(f, "id", getattr(f, "attr", None)) == node.name for f in inside):
                return True
    return False


# ---- examples -> seeds -------------------------------------------------------------------------------------------


def filter_seeds(examples: Iterable[Example], rows: str, rules: Rules, prelude: str = "") -> Iterator[Seed | Rejected]:
    """Yield one Seed or Rejected per candidate, in order; a repeated question with the same code is refused.

    Args:
        examples: Rows of one source.
        rows: task (question and code), question (no reference code) or code (raw Python, several candidates per row).
        rules: Thresholds.
        prelude: Program text for every seed of the source.
    """
    seen: set[bytes] = set()
    for example in examples:
        for candidate in _candidates(example, rows, prelude):
            if isinstance(candidate, Rejected):
                yield candidate
                continue
            try:
                if rows != "code":
                    _question_length(candidate.question, rules)
                if rows != "question":
                    _check_code(candidate.code, rules)
                key = exact_key(f"{candidate.question}\x00{candidate.code}")
                if key in seen:
                    raise _No("the same question and code came before")
            except _No as no:
                yield Rejected(candidate.id, candidate.source, "seed", no.reason, no.detail)
                continue
            seen.add(key)
            yield candidate


def _check_code(code: str, rules: Rules) -> None:
    tree = parsed(code)
    if tree is None:
        raise _No("code does not parse", _syntax_error(code))
    for rule in CODE_RULES:
        rule(tree, code, rules)


def _candidates(example: Example, rows: str, prelude: str) -> Iterator[Seed | Rejected]:
    """Yield what one row offers: one candidate, or one per definition of raw code."""
    question, answer = _asked_and_answered(example)
    facts = {"source": example.source, "licence": example.licence, "prelude": prelude, "thought": example.thought}
    try:
        if rows == "code":
            text = example.text or example.code or answer
            for name, code in snippets(text):
                yield Seed(f"{example.id}:{name}", question="", code=code, group=example.group or example.id, **facts)
            return
        code = "" if rows == "question" else (example.code.strip("\n") + "\n" if example.code.strip() else python_of(answer))
    except _No as no:
        yield Rejected(example.id, example.source, "seed", no.reason, no.detail)
        return
    response = answer or (f"```python\n{code}```" if code else "")
    yield Seed(example.id, question=question, code=code, answer=response, tests=example.tests, entry_point=example.entry_point,
               group=example.group or example.id, **facts)  # fmt: skip


def _asked_and_answered(example: Example) -> tuple[str, str]:
    """Return question and answer of a row; of a conversation its first question and the first reply."""
    if example.turns:
        asked = next((t.content for t in example.turns if t.role == "user"), "")
        return asked.strip(), next((t.content for t in example.turns if t.role == "assistant"), "")
    return example.question.strip(), example.answer


# ---- raw code -> snippets ------------------------------------------------------------------------------------------


def snippets(text: str) -> list[tuple[str, str]]:
    """Return (name, code) of every top-level definition that no other one uses, with all it needs from its file.

    Raises _No when the text does not parse or defines nothing.
    """
    tree = parsed(text)
    if tree is None:
        raise _No("code does not parse", _syntax_error(text))
    binds = {name: node for node in tree.body if not _is_main(node) for name in _bound(node)}
    uses = {name: _loaded(node) & (set(binds) - {name}) for name, node in binds.items()}
    definitions = [n.name for n in tree.body if isinstance(n, _Def) and not n.name.startswith("test")]
    if not definitions:
        raise _No("no function or class")
    helpers = {used for name in definitions for used in uses[name] if name not in uses.get(used, ())}
    found = []
    for name in [d for d in definitions if d not in helpers]:
        needed, queue = {name}, [name]
        while queue:
            for used in uses[queue.pop()] - needed:
                needed.add(used)
                queue.append(used)
        nodes = [node for node in tree.body if any(binds.get(n) is node for n in needed)]
        found.append((name, "\n\n".join(_source(text, node) for node in nodes) + "\n"))
    return found


def _source(text: str, node: ast.stmt) -> str:
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    return "\n".join(lines_of(text)[first - 1 : node.end_lineno])


def lines_of(code: str) -> list[str]:
    """Return the lines as the parser counts them (str.splitlines also ends lines at form feeds and other separators)."""
    return code.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _is_main(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "__name__" in _loaded(node)


def _bound(node: ast.stmt) -> set[str]:
    """Return the names a top-level statement binds."""
    if isinstance(node, _Def):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(a.asname or a.name).split(".")[0] for a in node.names}
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _loaded(node: ast.AST) -> set[str]:
    """Return the names a statement reads, builtins left out."""
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return names - set(dir(builtins)) if "__name__" not in names else names
