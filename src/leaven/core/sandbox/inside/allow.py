"""Program text -> code object and the reason, if any, why it may not share a process with other programs.

The check reads names and constants of the compiled code, not the source: 3 microseconds instead of 84 for a syntax
tree, and no syntax escapes it. Refused are names that reach frames, code, files or the interpreter; dunder names
except those that classes commonly define; modules outside the list; attribute stores that could change a shared
class. Programs get copies of modules (`Modules`), so `math.sqrt = None` spoils nothing but the program's own copy.
What it cannot see: memory-safety bugs of the interpreter reachable from pure code.
"""

from __future__ import annotations

import builtins
import re
import sys
from types import CodeType, ModuleType
from typing import Any

WARM = tuple(
    "math re typing collections collections.abc itertools functools heapq string operator copy random bisect json".split()
)
# array and cmath load when a program asks: a shared library more in the worker costs every child
ALLOWED = frozenset(WARM) | {"array", "cmath", "datetime", "__future__"}
_HIDDEN = {  # public names that evaluate text, set attributes by computed name, lead to `type`, or touch files
    "typing": {
        "Type",
        "get_origin",
        "get_type_hints",
        "NamedTuple",
        "TypedDict",
        "ForwardRef",
        "no_type_check",
        "no_type_check_decorator",
        "runtime_checkable",
        "evaluate_forward_ref",
        "overload",
        "get_overloads",
        "clear_overloads",
    },
    "functools": {
        "update_wrapper",
        "wraps",
        "singledispatch",
        "singledispatchmethod",
        "WRAPPER_ASSIGNMENTS",
        "WRAPPER_UPDATES",
    },
    "operator": {"attrgetter", "methodcaller"},
    "string": {"Formatter", "Template"},
    "re": {"template", "purge", "Scanner"},
    "json": {"dump", "load", "JSONDecoder", "JSONEncoder"},
    "random": {"SystemRandom"},
    "copy": {"Error", "error", "dispatch_table"},
    "collections": {"UserDict", "UserList", "UserString", "ChainMap"},
}
_NAMES = frozenset(
    """
exec eval open input globals locals vars dir getattr setattr delattr id help exit quit breakpoint memoryview
copyright credits license gi_frame gi_code gi_yieldfrom cr_frame cr_code cr_origin cr_await ag_frame ag_code
ag_await tb_frame tb_next tb_lasti f_back f_globals f_locals f_builtins f_code f_trace f_lineno mro register
with_traceback func_globals func_code func_closure _evaluate cr_running modules
""".split()
)
_DUNDERS = frozenset(
    """
__init__ __name__ __repr__ __str__ __len__ __lt__ __le__ __gt__ __ge__ __eq__ __ne__ __hash__ __add__ __sub__
__mul__ __truediv__ __floordiv__ __mod__ __pow__ __neg__ __iadd__ __radd__ __rmul__ __rsub__ __abs__ __bool__
__int__ __float__ __getitem__ __setitem__ __delitem__ __iter__ __next__ __contains__ __call__ __enter__ __exit__
__reversed__ __index__ __and__ __or__ __xor__ __invert__ __post_init__ __module__ __qualname__ __annotations__
__doc__ __build_class__ __classcell__ __slots__ __main__ __all__ __author__ __version__
""".split()
)
_COMPILER_MADE = frozenset(
    (
        "__module__",
        "__qualname__",
        "__annotations__",
        "__doc__",
        "__classcell__",
        "__static_attributes__",
        "__firstlineno__",
        "__type_params__",
        "__conditional_annotations__",
        "__annotate__",
        "__classdict__",
        "__annotate_func__",
        "__annotations_cache__",
    )
)
_HIDDEN_BUILTINS = (
    "exec",
    "eval",
    "compile",
    "open",
    "input",
    "globals",
    "locals",
    "vars",
    "dir",
    "getattr",
    "setattr",
    "delattr",
    "id",
    "help",
    "exit",
    "quit",
    "breakpoint",
    "memoryview",
    "copyright",
    "credits",
    "license",
    "__loader__",
    "__spec__",
    "__debug__",
)


def operations(*names: str) -> frozenset[int]:
    """Return the numbers of bytecode operations of this interpreter (those it has)."""
    missing = "_opcode" not in sys.modules
    if missing:
        sys.modules["_opcode"] = None  # type: ignore[assignment]  # a shared library that nobody needs
    try:
        from opcode import opmap
    except ImportError:  # newer versions do need it
        sys.modules.pop("_opcode", None)
        from opcode import opmap
    finally:
        if missing and sys.modules.get("_opcode") is None:
            sys.modules.pop("_opcode", None)
    return frozenset(opmap[n] for n in names if n in opmap)


_STORES = operations("STORE_ATTR", "DELETE_ATTR")
_READS_ATTRIBUTES = operations("MATCH_CLASS")  # by names that are constants
_LOADS = operations("LOAD_METHOD", "LOAD_ATTR")
_FILLERS = operations("CACHE", "EXTENDED_ARG", "PRECALL")
_CONSTANT = operations("LOAD_CONST")
_FORMATS = frozenset(("format", "format_map"))
_FIELD_WITH_ATTRIBUTE = re.compile(r"\{[^{}:!]*[.\[]")
(_EXTENDED_ARG,) = operations("EXTENDED_ARG")
_MOST_FINE = 50000


class Refused(ImportError):
    """A restricted program asked for a module outside the list."""


refusals: list[str] = []  # what the running program was refused; it may have caught the exception


def _refuse(what: str) -> Refused:
    refusals.append(what)
    return Refused(what)


class _OneArgument(type):
    """The class of `Type`: what it is asked, it asks of `type`."""

    def __call__(cls, *values: Any, **more: Any) -> Any:
        if len(values) != 1 or more:
            raise _refuse("a class made by calling `type`")
        kind = type(values[0])
        return cls if issubclass(kind, type) else kind

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, type)

    def __subclasscheck__(cls, kind: Any) -> bool:
        return issubclass(kind, type)

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is type

    __hash__ = type.__hash__

    def __setattr__(cls, name: str, value: Any) -> None:
        raise _refuse("an attribute store on `type`")

    def __delattr__(cls, name: str) -> None:
        raise _refuse("an attribute store on `type`")

    def __repr__(cls) -> str:
        return repr(type)


class Type(metaclass=_OneArgument):
    """Stands for `type`: tells what something is and makes no classes, whose computed names (`__reduce__`) the name check
    cannot see."""

    def __init_subclass__(cls, **more: Any) -> None:
        raise _refuse("a metaclass")


for _name, _value in (("__name__", "type"), ("__qualname__", "type"), ("__module__", "builtins")):
    type.__setattr__(Type, _name, _value)


class Modules:
    """The allowed modules as copies holding only their safe public names, and what the name check needs.

    Programs that store no attribute at all cannot change a module object and share the copies in `common`.
    """

    def __init__(self) -> None:
        self._safe: dict[str, dict[str, Any]] = {}
        self.fine: set[str] = set()  # names met before that say nothing
        self.refused = set(_NAMES) | {m for m in sys.stdlib_module_names if m not in ALLOWED}
        self.shared: set[str] = set()
        for name in WARM:
            self._load(name)
        self.common: dict[str, ModuleType] = {}
        for name in WARM:
            self.common[name] = self.copy_of(name)
        self.builtins = {n: v for n, v in vars(builtins).items() if n not in _HIDDEN_BUILTINS} | {"type": Type}

    def _load(self, name: str) -> dict[str, Any]:
        module = __import__(name, fromlist=["*"])
        listed = getattr(module, "__all__", None) or [n for n in dir(module) if not n.startswith("_")]
        hidden = _HIDDEN.get(name, set())
        safe = {n: getattr(module, n) for n in listed if n not in hidden and hasattr(module, n)}
        safe = {n: v for n, v in safe.items() if not isinstance(v, ModuleType)}
        self._safe[name] = safe
        self.fine.clear()
        # underscore names of the real modules and their classes, and whatever was hidden, cannot be asked for by name
        outside = {n for n in dir(module) if n not in safe and (n.startswith("_") or n in hidden)} - {"_"}
        self.refused |= {n for n in outside if not (n.startswith("__") and n.endswith("__"))}
        for value in safe.values():
            if isinstance(value, type):
                self.refused |= {n for n in dir(value) if n.startswith("_") and not n.startswith("__")}
            self.shared |= _attributes(value)
        return safe

    def copy_of(self, name: str) -> ModuleType:
        """Return a fresh module with the safe public names of `name`; raises Refused for any other module."""
        if name not in ALLOWED:
            raise Refused(f"an import of {name!r}")
        if name == "__future__":
            return __import__(name)
        copy = ModuleType(name)
        copy.__dict__.update(self._safe.get(name) or self._load(name))
        if name == "collections":
            copy.abc = self.copy_of("collections.abc")
        return copy


def _attributes(value: Any) -> set[str]:
    """Return the names whose stores could change an object of a module, its class, or what an alias of `typing` stands for."""
    kinds = [value] if isinstance(value, type) else [type(value)]
    if isinstance(origin := getattr(value, "__origin__", None), type):
        kinds.append(origin)
    found = set(getattr(value, "__dict__", ()))
    for kind in kinds:
        found.update(*(vars(base) for base in kind.__mro__))
    return found


def restricted_builtins(modules: Modules, code: CodeType, write: Any) -> dict[str, Any]:
    """Return fresh builtins for one program, without the refused names; `write(text)` receives what it prints."""
    table = dict(modules.builtins)
    imported = {} if _stores_attributes(code) else modules.common
    seeded = False

    def import_module(
        name: str, _globals: Any = None, _locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> ModuleType:
        nonlocal seeded
        if level:
            raise ImportError("a relative import has nothing to be relative to")
        top = name if fromlist or name not in ("collections.abc",) else "collections"
        if top not in imported:
            imported[top] = modules.copy_of(top)
        if top == "random" and not seeded:
            seeded = True
            imported[top].seed(0)
        return imported[top]

    def print_text(
        *values: Any, sep: str | None = None, end: str | None = None, file: Any = None, flush: bool = False
    ) -> None:
        write((" " if sep is None else sep).join(map(str, values)) + ("\n" if end is None else end))

    table["__import__"] = import_module
    table["print"] = print_text
    return table


def reason_against(code: CodeType, modules: Modules, permitted: frozenset[str] = frozenset()) -> str:
    """Return why `code` may not share a process, or "" when it may; `permitted` names are let through."""
    todo, imports, stored, hashes, typed, fine = [code], False, False, False, False, modules.fine
    while todo:
        one = todo.pop()
        names = one.co_names
        if not _READS_ATTRIBUTES.isdisjoint(one.co_code[::2]):
            return "a class pattern, which can read any attribute"
        if not _FORMATS.isdisjoint(names) and _formats_unknown_text(one):
            return "a format text that may read any attribute"
        if not fine.issuperset(names):
            bad = modules.refused.intersection(names) - permitted
            if bad:
                return f"the name {sorted(bad)[0]!r}"
            for name in names:
                if name.startswith("__") and name.endswith("__") and name not in _DUNDERS and name not in _COMPILER_MADE:
                    return f"the name {name!r}"
                if "." in name and name not in ALLOWED:
                    return f"an import of {name!r}"
                imports = imports or name in ALLOWED
                stored = stored or name in modules.shared
                hashes, typed = hashes or name == "__hash__", typed or name == "typing"
                if name not in ALLOWED and name not in modules.shared and name not in permitted:
                    fine.add(name)
        for constant in one.co_consts:
            if isinstance(constant, CodeType):
                todo.append(constant)
            elif type(constant) in (str, tuple) and _is_bad_constant(constant):
                return "a text constant that names an internal attribute"
    if len(fine) > _MOST_FINE:
        fine.clear()
    if hashes and typed:  # `typing` keeps what it was asked for: an own hash may meet another program's key there
        return "a class with a hash of its own beside typing"
    if imports and stored and _stores_shared(code, modules.shared):
        return "an attribute store that could change a shared object"
    return ""


def _formats_unknown_text(code: CodeType) -> bool:
    """Return whether `format` is asked of anything but a constant text, or of one whose fields have attributes or items."""
    steps, high, before = code.co_code, 0, None
    for at in range(0, len(steps), 2):
        operation, argument = steps[at], high << 8 | steps[at + 1]
        high = argument if operation == _EXTENDED_ARG else 0
        if operation in _FILLERS:
            continue
        if operation in _LOADS:
            shift = 1 if sys.version_info >= (3, 12) else 0  # newer versions keep a flag in the lowest bit
            if code.co_names[argument >> shift] in _FORMATS and (type(before) is not str or _FIELD_WITH_ATTRIBUTE.search(before)):
                return True
        before = code.co_consts[argument] if operation in _CONSTANT else None
    return False


def _is_bad_constant(constant: Any) -> bool:
    if type(constant) is tuple:
        return any(type(c) in (str, tuple) and _is_bad_constant(c) for c in constant)
    return "__" in constant and (
        "{" in constant
        or (constant.startswith("__") and constant.endswith("__") and constant not in _DUNDERS and len(constant) > 4)
    )


def _stores_attributes(code: CodeType) -> bool:
    """Return whether any part of `code` stores or deletes an attribute."""
    if not _STORES.isdisjoint(code.co_code[::2]):
        return True
    return any(_stores_attributes(c) for c in code.co_consts if isinstance(c, CodeType))


def _stores_shared(code: CodeType, shared: set[str]) -> bool:
    """Return whether `code` stores or deletes an attribute whose name a shared object has."""
    steps, high = code.co_code, 0
    if not shared.isdisjoint(code.co_names) and not _STORES.isdisjoint(steps[::2]):
        for at in range(0, len(steps), 2):
            argument = high << 8 | steps[at + 1]
            high = argument if steps[at] == _EXTENDED_ARG else 0
            if steps[at] in _STORES and code.co_names[argument] in shared:
                return True
    return any(_stores_shared(c, shared) for c in code.co_consts if isinstance(c, CodeType))
