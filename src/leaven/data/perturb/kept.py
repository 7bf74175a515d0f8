"""A program, its tests and its doctests -> which names must stay because something outside the program's text could use them.

Builtins and imports keep their names, and so does what tests, doctests or text that is code use by name (`__all__`, getattr,
timeit): names at module level, keywords everywhere. Parameters stay where calls are not all in sight: keywords given to
unknown functions, keys of dictionaries that could be splatted, unknown decorators, methods that a foreign base class calls,
and the entry point of a program whose tests are not at hand. Rather one name too many than a program that breaks.
Not covered: programs that look names up as they run, which rename.py skips.
"""

from __future__ import annotations

import ast
import builtins
import re
from dataclasses import dataclass, field

from leaven.core.types import Example
from leaven.data.perturb.operation import Skip
from leaven.data.perturb.program import parse
from leaven.data.perturb.scopes import Function, Names

_DECORATORS = frozenset(
    """property staticmethod classmethod abstractmethod cache lru_cache cached_property contextmanager wraps final override
    setter getter deleter total_ordering no_type_check""".split()
)
"""Decorators that pass arguments on as they are."""
_BASES = frozenset("ABC Generic Protocol Enum IntEnum StrEnum Flag IntFlag".split())
"""Imported base classes that call no method of theirs by keyword."""


@dataclass(slots=True)
class Kept:
    """What stays: names at module level, names of parameters, names anywhere; by id, the definitions that keep all their
    parameters and those that keep their own name."""

    module: set[str] = field(default_factory=set)
    parameters: set[str] = field(default_factory=set)
    everywhere: set[str] = field(default_factory=set)
    functions: set[int] = field(default_factory=set)
    definitions: set[int] = field(default_factory=set)


def kept_names(tree: ast.Module, names: Names, example: Example, *, entry_point: bool) -> Kept:
    """Return which names something outside a program's own text could use; `entry_point`: whether its name may go."""
    kept = Kept(parameters=set(names.strays), everywhere=set(names.type_names) | {"_"})
    kept.module |= {n for n in names.module.names if hasattr(builtins, n)}
    if names.module.star:
        kept.module |= names.module.names.keys()
    for text in example.tests:
        _keep_used(text, kept)
    if example.entry_point and not entry_point:
        kept.module.add(example.entry_point.split(".")[0])
    if example.entry_point and not example.tests:  # unknown tests may call it with keywords
        called = example.entry_point.split(".")[-1]
        kept.functions |= {id(n) for n in ast.walk(tree) if isinstance(n, Function) and n.name == called}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            _keep_in_text(node.value, kept)
        elif isinstance(node, ast.Dict):
            kept.parameters |= {k.value for k in node.keys if isinstance(k, ast.Constant) and isinstance(k.value, str)}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "__main__":
            kept.module.add(node.attr)
        elif isinstance(node, Function) and (node.name.startswith("test_") or not all(map(_passes_on, node.decorator_list))):
            kept.functions.add(id(node))  # a decorator may register a name or pass arguments by name, as pytest does
            kept.definitions.add(id(node))
        elif isinstance(node, ast.ClassDef):
            if not _own_class(node, names):
                kept.functions |= {id(n) for n in node.body if isinstance(n, Function)}
            if not all(map(_passes_on, node.decorator_list)):
                kept.definitions.add(id(node))  # dataclasses print it
    if any(isinstance(n, ast.Attribute) and n.attr in ("__name__", "__qualname__") for n in ast.walk(tree)):
        kept.definitions |= {id(n) for n in ast.walk(tree) if isinstance(n, Function | ast.ClassDef)}
    return kept


def _keep_used(text: str, kept: Kept) -> None:
    """Keep the names and keywords that a test, a doctest or another piece of code uses."""
    try:
        nodes = list(ast.walk(parse(text)))
    except Skip:
        words = set(re.findall(r"[A-Za-z_]\w*", text))
        kept.module |= words
        kept.parameters |= words
        return
    for node in nodes:
        if isinstance(node, ast.Name):
            kept.module.add(node.id)
        elif isinstance(node, ast.Attribute):
            kept.module.add(node.attr)
        elif isinstance(node, ast.keyword) and node.arg:
            kept.parameters.add(node.arg)
        elif isinstance(node, ast.ImportFrom):
            kept.module |= {a.name for a in node.names}


def _keep_in_text(text: str, kept: Kept) -> None:
    """Keep what a string constant could be used to look up: code, a name, or the doctests of a docstring."""
    if ">>>" in text:
        import doctest

        try:
            found = doctest.DocTestParser().get_examples(text)
        except ValueError:
            return  # not doctests after all
        for one in found:
            _keep_used(one.source, kept)
            said = f"{one.want}\n{one.exc_msg or ''}"
            kept.module |= set(re.findall(r"[A-Za-z_]\w*", said))
            kept.parameters |= set(re.findall(r"'(\w+)'", said))  # unexpected keyword argument 'x'
    elif len(text) <= 1000 and re.match(r"\s*[A-Za-z_]", text):
        try:
            parse(text)
        except Skip:
            return  # prose
        _keep_used(text, kept)


def _passes_on(decorator: ast.expr) -> bool:
    """Return whether a decorator is known to pass arguments on as they are."""
    inner = decorator.func if isinstance(decorator, ast.Call) else decorator
    return (getattr(inner, "attr", None) or getattr(inner, "id", "")) in _DECORATORS


def _own_class(node: ast.ClassDef, names: Names, depth: int = 0) -> bool:
    """Return whether the methods of a class are only called by the program itself and by builtin types."""
    if any(k.arg != "metaclass" or getattr(k.value, "attr", getattr(k.value, "id", "")) != "ABCMeta" for k in node.keywords):
        return False
    for base in node.bases:
        inner = base.value if isinstance(base, ast.Subscript) else base
        name = getattr(inner, "attr", None) or getattr(inner, "id", "")
        own = names.module.names.get(name)
        classes = [d for d in own.definitions if isinstance(d, ast.ClassDef)] if own is not None else []
        if classes and own is not None and own.kinds == {"class"}:
            if depth > 20 or not all(_own_class(c, names, depth + 1) for c in classes if c is not node):
                return False
        elif name not in _BASES and not (isinstance(inner, ast.Name) and name in names.free and hasattr(builtins, name)):
            return False
    return True
