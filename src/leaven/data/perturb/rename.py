"""Code -> the same program under meaningless names: the identifier attack (Liu et al. 2025, Fig. 8 right).

Every variable and parameter (on request functions and classes too) gets a random word of consonants, one per binding, so
that scopes need no thought afterwards; keyword arguments follow the parameters they fill. What the program does must stay:
names that something outside could use are kept (kept.py), programs that look names up as they run (exec, eval, locals,
globals, vars) are skipped, the edited text must parse to exactly the renamed tree, and execution (passes.py) is the last proof.
Not covered: names in comments, docstrings and thoughts, which stay.
"""

from __future__ import annotations

import ast
import builtins
import functools
import keyword
import random
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from leaven.core.rng import python_rng
from leaven.core.types import Example
from leaven.data.perturb.kept import Kept, kept_names
from leaven.data.perturb.operation import PERTURBATIONS, Change, Expect, Option, Skip
from leaven.data.perturb.program import Edit, Program, parse, rewrite
from leaven.data.perturb.scopes import Binding, Function, Names, Place, resolve_names

KINDS = ("variables", "parameters", "functions", "classes")
_KIND_OF = {"variable": "variables", "parameter": "parameters", "function": "functions", "class": "classes"}
_REFLECTION = {"exec", "eval", "locals", "globals", "vars"}
_REFLECTIVE_ATTRIBUTES = frozenset(
    """f_locals f_globals _getframe currentframe co_varnames __code__ __annotations__ __kwdefaults__ __globals__
    signature getfullargspec getcallargs get_type_hints""".split()
)
_CONSONANTS = "bcdfghjklmnpqrstvwxz"


@PERTURBATIONS("rename_identifiers")
class RenameIdentifiers:
    """Give meaningless names to the variables of the code.

    Options:
        kinds: what is renamed (KINDS); by default variables and parameters.
        names: how many different meaningless words a study draws from; a small number keeps a word vocabulary closed.
        entry_point: also rename the entry point, in code and tests (the question keeps its wording).
    """

    options: Mapping[str, Option] = {
        "kinds": Option(KINDS[:2], KINDS),
        "names": Option(200, least=1),
        "entry_point": Option(False),
    }
    rate_of = "examples"
    on = "code"

    def expects(self, options: Mapping[str, Any]) -> Expect:
        return "same"

    def apply(self, example: Example, random: random.Random, options: Mapping[str, Any]) -> Change:
        program = Program(example.code)
        names = resolve_names(program.tree)
        _refuse_reflection(program.tree, names)
        kept = kept_names(program.tree, names, example, entry_point=options["entry_point"])
        wanted, left = _wanted(names, kept, options["kinds"], example.entry_point if options["entry_point"] else "")
        words = _fresh_words(program, example.tests, len(wanted), options["names"], random)
        renamed = {id(b): word for b, word in zip(wanted, words, strict=True)}
        code = _renamed(program, wanted, renamed)
        note = f"kept {'some' if wanted else 'all'} names: {', '.join(sorted(left)[:12])}" if left else ""
        if options["entry_point"] and (entry := next((b for b in wanted if _is_entry(b, example.entry_point)), None)):
            return Change(_with_entry(replace(example, code=code), renamed[id(entry)]), len(wanted), len(wanted) + len(left), note)
        return Change(replace(example, code=code), len(wanted), len(wanted) + len(left), note)


def _refuse_reflection(tree: ast.Module, names: Names) -> None:
    """Raise Skip when a program looks names up while it runs."""
    found = _REFLECTION & names.free.keys()
    if found:
        raise Skip(f"looks names up as it runs: {sorted(found)[0]}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in _REFLECTIVE_ATTRIBUTES:
            raise Skip(f"looks names up as it runs: {node.attr}")
        if isinstance(node, ast.ImportFrom) and (found := _REFLECTIVE_ATTRIBUTES & {a.name for a in node.names}):
            raise Skip(f"looks names up as it runs: {sorted(found)[0]}")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dir" and not node.args:
            raise Skip("looks names up as it runs: dir")


def _wanted(names: Names, kept: Kept, kinds: Collection[str], entry_point: str) -> tuple[list[Binding], set[str]]:
    """Return the bindings to rename, and the names of those that the kinds ask for but that must stay."""
    wanted, left = [], set()
    debug = {id(b) for b in names.bindings if any(p.fstring and _is_debug(p) for p in b.places)}
    for binding in names.bindings:
        if not binding.places or binding.scope.kind == "class" or "import" in binding.kinds:
            continue
        asked = binding.kinds - {"variable"} if "parameter" in binding.kinds else binding.kinds
        if not all(_KIND_OF[k] in kinds for k in asked) and not _is_entry(binding, entry_point):
            continue
        stays = (
            binding.name in kept.everywhere
            or binding.name.startswith("__")
            or id(binding) in names.shadowed
            or id(binding) in debug
            or (binding.scope.kind == "module" and binding.name in kept.module and not _is_entry(binding, entry_point))
            or bool(kept.definitions & {id(d) for d in binding.definitions})
            or ("parameter" in binding.kinds and (binding.name in kept.parameters or id(binding.scope.owner) in kept.functions))
        )
        if stays:
            left.add(binding.name)
        else:
            wanted.append(binding)
    return wanted, left


def _is_entry(binding: Binding, entry_point: str) -> bool:
    return bool(entry_point) and binding.scope.kind == "module" and binding.name == entry_point


def _is_debug(place: Place) -> bool:
    """Return whether a name stands in an f"{expression=}", which prints it."""
    assert place.fstring is not None
    for before, after in zip(place.fstring.values, place.fstring.values[1:], strict=False):
        printed = isinstance(before, ast.Constant) and str(before.value).rstrip().endswith("=")
        formatted = isinstance(after, ast.FormattedValue) and (after.conversion != -1 or after.format_spec is not None)
        if printed and formatted and any(n is place.node for n in ast.walk(after)):
            return True
    return False


# ---- new names -----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8)
def meaningless_words(count: int) -> tuple[str, ...]:
    """Return `count` different words of 4 to 7 consonants; a longer list begins with the shorter ones."""
    stream = python_rng(0, "perturb", "names")
    words: dict[str, None] = {}
    while len(words) < count:
        word = "".join(stream.choices(_CONSONANTS, k=stream.randint(4, 7)))
        if not keyword.iskeyword(word) and not hasattr(builtins, word):
            words[word] = None
    return tuple(words)


def _fresh_words(program: Program, tests: Sequence[str], count: int, pool: int, random: random.Random) -> list[str]:
    """Return `count` words that stand nowhere in the program or its tests, out of a pool that grows when it must."""
    taken = set(re.findall(r"\w+", program.code)) | {w for t in tests for w in re.findall(r"\w+", t)}
    size = pool
    while len(free := [w for w in meaningless_words(size) if w not in taken]) < count:
        size *= 2
    return random.sample(free, count)


def _with_entry(example: Example, name: str) -> Example:
    """Return the example with another entry point, in its tests too."""
    pattern = re.compile(rf"(?<![\w.]){re.escape(example.entry_point)}(?!\w)")
    return replace(example, entry_point=name, tests=tuple(pattern.sub(name, t) for t in example.tests))


# ---- writing them --------------------------------------------------------------------------------------------------


def _renamed(program: Program, wanted: Sequence[Binding], renamed: Mapping[int, str]) -> str:
    """Return the program under its new names; the text parses to exactly the renamed tree."""
    places = [(p, b.name, renamed[id(b)]) for b in wanted for p in b.places]
    spans = {id(p): _span(program, p, name) for p, name, _ in places}
    for place, _, new in places:
        place.put(new)
    expected = ast.dump(program.tree)
    doubtful = {id(p.fstring) for p, _, _ in places if p.fstring is not None and spans[id(p)] is None}
    every = {id(p.fstring) for p, _, _ in places if p.fstring is not None}
    for rewritten in [doubtful] if doubtful == every else [doubtful, every]:
        code = rewrite(program.code, _edits(program, places, spans, rewritten))
        try:
            if ast.dump(parse(code)) == expected:
                return code
        except Skip:
            continue  # an f-string edited at a position that only looked right
    raise Skip("names cannot be located in this layout")


def _edits(
    program: Program,
    places: Sequence[tuple[Place, str, str]],
    spans: Mapping[int, tuple[int, int] | None],
    rewritten: Collection[int],
) -> Iterator[Edit]:
    """Yield one edit per place, and one per f-string that is written anew (before Python 3.12 positions in it mislead)."""
    strings: dict[int, ast.JoinedStr] = {}
    edits: set[Edit] = set()
    for place, _, new in places:
        if place.fstring is not None and id(place.fstring) in rewritten:
            strings[id(place.fstring)] = place.fstring
            continue
        span = spans[id(place)]
        if span is None:
            raise Skip("names cannot be located in this layout")
        edits.add((*span, new))
    for string in strings.values():
        try:
            edits.add((*program.span(string), ast.unparse(string)))
        except ValueError:
            raise Skip("names cannot be located in this layout: an f-string with nested quotes") from None
    yield from edits


def _span(program: Program, place: Place, name: str) -> tuple[int, int] | None:
    """Return where a name stands in the text, None when the tree's position does not hold it."""
    node = place.node
    if isinstance(node, ast.Name | ast.arg | ast.keyword):
        try:
            first = program.span(node)[0]
        except IndexError:
            return None
        last = first + len(name)
        exact = program.code[first:last] == name and not program.code[last : last + 1].isidentifier()
        return (first, last) if exact else None
    begin, end = program.span(node)
    inside = [(t.string, first, last) for t, first, last in program.words_between(begin, end)]
    if isinstance(node, Function | ast.ClassDef):
        at = next((n for n, (text, _, _) in enumerate(inside) if text in ("def", "class")), len(inside))
        found = inside[at + 1 : at + 2]
    elif isinstance(node, ast.Global | ast.Nonlocal):
        found = [w for w in inside[1:] if w[0] == name]
    elif isinstance(node, ast.ExceptHandler):
        at = next((n for n, (text, _, _) in enumerate(inside) if text == ":" and inside[n - 2][0] == "as"), 0)
        found = inside[at - 1 : at] if at else []
    else:  # captures of a match statement: the name comes last
        found = [w for w in inside if w[0] == name][-1:]
    return (found[0][1], found[0][2]) if found and found[0][0] == name else None
