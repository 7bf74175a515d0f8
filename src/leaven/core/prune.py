"""Python program -> the same without what only demonstrates it, and the imports it forgot.

Answers of models end in example calls, asserts and prints, and thoughts hold lines that happen to be Python; executing
them can fail a right program (a wrong example, a missing module, a read from stdin). Kept are the statements that the
asked-for names need, found by names alone; the text of kept statements is not changed. Programs that look names up by
text (eval, globals ...) keep every definition.
Not covered: finding the program in a text (extract.py), other languages.
"""

from __future__ import annotations

import ast
import builtins
import symtable
import warnings
from collections.abc import Collection, Iterator, Mapping

_BY_TEXT = frozenset(("eval", "exec", "globals", "locals", "vars", "getattr", "__import__"))
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def parse(code: str) -> ast.Module | None:
    """Return the syntax tree of `code`, None when it is no Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def prune(code: str, needed: Collection[str]) -> str:
    """Return `code` without the top-level statements that no name of `needed` depends on.

    The code comes back unchanged when it does not parse, binds none of the names, puts two statements on one line, or
    needs all it has.
    """
    tree = parse(code)
    if tree is None:
        return code
    statements = tree.body
    starts = [min([s.lineno, *(d.lineno for d in getattr(s, "decorator_list", []))]) for s in statements]
    ends = [s.end_lineno or s.lineno for s in statements]
    if any(start <= end for start, end in zip(starts[1:], ends, strict=False)):
        return code
    bound = [set(_bound(s)) for s in statements]
    if not set(needed) & set().union(*bound):
        return code
    lines = code.split("\n")
    texts = ["\n".join(lines[start - 1 : end]) for start, end in zip(starts, ends, strict=True)]
    try:
        keep = _kept(statements, texts, bound, set(needed))
    except (SyntaxError, ValueError):  # parses, but is no program (`return` outside a function): whoever runs it says so
        return code
    if all(keep):
        return code
    parts, after = [], 0
    for end, kept in zip(ends, keep, strict=True):
        if kept:
            parts += lines[after:end]  # with the comments and blank lines before it
        after = end
    return "\n".join(parts).strip("\n") + "\n"


def imports_for(code: str, library: Mapping[str, str]) -> str:
    """Return import lines for the names that `code` reads and never binds.

    Args:
        code: A program; one that is no Python needs nothing.
        library: Name -> the import statement that brings it.
    """
    tree = parse(code)
    if tree is None:
        return ""
    lines = code.split("\n")
    bound, loaded = set(dir(builtins)), set()
    for statement in tree.body:
        bound |= set(_bound(statement))
        first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))])
        try:
            loaded |= set(_loaded(statement, "\n".join(lines[first - 1 : statement.end_lineno])))
        except (SyntaxError, ValueError):
            return ""
    wanted = dict.fromkeys(library[name] for name in sorted(loaded - bound) if name in library)
    return "".join(f"{line}\n" for line in wanted)


def _kept(statements: list[ast.stmt], texts: list[str], bound: list[set[str]], needed: set[str]) -> list[bool]:
    """Return for each statement whether the needed names depend on it."""
    loaded = [set(_loaded(s, t)) for s, t in zip(statements, texts, strict=True)]
    changed = [set(_changed(s)) for s in statements]
    all_definitions = any(_BY_TEXT & names for names in loaded)
    modules = {n for s, names in zip(statements, bound, strict=True) if isinstance(s, ast.Import) for n in names}
    own = {s.name for s in statements if isinstance(s, _DEFINITIONS)}
    keep = [_always(s) or (all_definitions and isinstance(s, _DEFINITIONS)) for s in statements]
    reached = set(needed)
    for names, kept in zip(loaded, keep, strict=True):
        reached |= names if kept else set()
    grew = True
    while grew:
        grew = False
        for i, statement in enumerate(statements):
            if keep[i] or isinstance(statement, ast.Assert):
                continue
            sets_up = isinstance(statement, ast.Expr) and changed[i] & modules and not loaded[i] & own
            if bound[i] & reached or changed[i] & reached or sets_up:
                keep[i] = grew = True
                reached |= loaded[i]
    return keep


def _always(statement: ast.stmt) -> bool:
    """Return whether a statement stays whatever is needed: texts, and imports of names nobody can list."""
    if isinstance(statement, ast.ImportFrom):
        return statement.module == "__future__" or any(a.name == "*" for a in statement.names)
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _own_nodes(statement: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a statement that run in its own scope: bodies of functions and classes are left out."""
    yield statement
    if isinstance(statement, (*_DEFINITIONS, ast.Lambda)):
        return
    for child in ast.iter_child_nodes(statement):
        yield from _own_nodes(child)


def _bound(statement: ast.stmt) -> Iterator[str]:
    """Yield the module names a statement binds."""
    for node in _own_nodes(statement):
        if isinstance(node, _DEFINITIONS):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            yield node.id
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((a.asname or a.name).split(".")[0] for a in node.names)


def _loaded(statement: ast.stmt, text: str) -> Iterator[str]:
    """Yield the module names a statement reads, functions' own locals left out; names in text annotations count."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            yield node.value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd escapes are the program's own affair
        tables = [symtable.symtable(text, "<statement>", "exec")]
    while tables:
        table = tables.pop()
        outer = table.get_type() == "module"
        yield from (s.get_name() for s in table.get_symbols() if (s.is_referenced() if outer else s.is_global()))
        tables += table.get_children()


def _changed(statement: ast.stmt) -> Iterator[str]:
    """Yield the roots of what a statement changes in place: `memo[0] = 1`, `memo.update(...)`, `a.b += 1`."""
    for node in _own_nodes(statement):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            target: ast.AST = node.func.value
        elif isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            target = node.value
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
            continue
        else:
            continue
        while isinstance(target, ast.Attribute | ast.Subscript):
            target = target.value
        if isinstance(target, ast.Name):
            yield target.id
