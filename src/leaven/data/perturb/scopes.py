"""A program -> which name belongs to which scope: every binding with all the places that refer to it.

Python's own rules: functions, lambdas, comprehensions and classes open scopes; class scopes are invisible from the
functions in them; the first iterable of a comprehension, defaults, decorators and annotations belong outside; `:=`
binds outside the comprehension it stands in; `global` and `nonlocal` redirect. A keyword argument belongs to the
parameter it fills when the called function is known. One pass collects, a second resolves, so that use before
definition needs no care.
Not covered: which bindings may be renamed (rename.py).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

ScopeKind = Literal["module", "function", "class", "comprehension"]
BindingKind = Literal["variable", "parameter", "function", "class", "import"]
Function = ast.FunctionDef | ast.AsyncFunctionDef
_COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


@dataclass(slots=True, eq=False)
class Place:
    """Where a name stands in the tree: `node.field` (`[index]` of it for global and nonlocal), inside which f-string."""

    node: ast.AST
    field: str
    index: int | None = None
    fstring: ast.JoinedStr | None = None

    def put(self, name: str) -> None:
        """Write another name there."""
        if self.index is None:
            setattr(self.node, self.field, name)
        else:
            getattr(self.node, self.field)[self.index] = name


@dataclass(slots=True, eq=False)
class Binding:
    """A name in the scope that binds it: by which kinds of statement, its definitions, and every place it stands."""

    name: str
    scope: Scope
    kinds: set[BindingKind] = field(default_factory=set)
    definitions: list[ast.AST] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Scope:
    """One scope; `owner` is the node that opens it."""

    kind: ScopeKind
    owner: ast.AST
    parent: Scope | None = None
    names: dict[str, Binding] = field(default_factory=dict)
    outside: dict[str, str] = field(default_factory=dict)
    """Names declared global or nonlocal here."""
    star: bool = False
    """Whether `from x import *` puts unknown names here."""


@dataclass(slots=True)
class Names:
    """What a program's names refer to.

    `bindings` in order of appearance; `free` are names nothing in the program binds, with their places; `strays` are keyword
    arguments whose function is not known; `shadowed` are bindings that a class body may read although it binds the same name.
    """

    bindings: list[Binding] = field(default_factory=list)
    free: dict[str, list[Place]] = field(default_factory=dict)
    strays: set[str] = field(default_factory=set)
    shadowed: set[int] = field(default_factory=set)
    type_names: set[str] = field(default_factory=set)
    scopes: dict[int, Scope] = field(default_factory=dict)
    """By id of the node that opens them."""
    module: Scope = field(default_factory=lambda: Scope("module", ast.Module()))


def resolve_names(tree: ast.Module) -> Names:
    """Return every binding of a program with its places; raises RecursionError when it is nested too deeply."""
    collector = _Collector(tree)
    collector.visit_all(tree.body)
    return collector.resolved()


class _Collector:
    """Walks the tree once, noting bindings and uses by scope."""

    def __init__(self, tree: ast.Module) -> None:
        self.scope = Scope("module", tree)
        self.names = Names(module=self.scope, scopes={id(tree): self.scope})
        self.uses: list[tuple[Scope, str, Place]] = []
        self.reads: list[tuple[Scope, str]] = []
        self.calls: list[tuple[Scope, ast.Call]] = []
        self.fstring: ast.JoinedStr | None = None
        self.keyword_fstrings: dict[int, ast.JoinedStr | None] = {}

    # -- noting --------------------------------------------------------------------------------------------------------

    def bind(self, name: str, kind: BindingKind, place: Place | None, scope: Scope | None = None, node: ast.AST | None = None) -> None:
        """Note that `scope` binds a name, at a place that can be renamed (imports have none)."""
        scope = scope or self.scope
        binding = scope.names.setdefault(name, Binding(name, scope))
        binding.kinds.add(kind)
        if node is not None:
            binding.definitions.append(node)
        if place is not None:
            self.uses.append((scope, name, place))

    def here(self, node: ast.AST, name: str, index: int | None = None) -> Place:
        return Place(node, name, index, self.fstring)

    # -- walking -------------------------------------------------------------------------------------------------------

    def visit_all(self, nodes: list) -> None:
        for node in nodes:
            if isinstance(node, ast.AST):
                self.visit(node)

    def visit(self, node: ast.AST) -> None:
        method = getattr(self, f"on_{type(node).__name__}", None)
        if method is not None:
            method(node)
        elif isinstance(node, _COMPREHENSIONS):
            self.on_comprehension(node)
        else:
            self.children(node)

    def children(self, node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            self.visit(child)

    def within(self, kind: ScopeKind, owner: ast.AST) -> Scope:
        """Open a scope and return the one to come back to."""
        before, self.scope = self.scope, Scope(kind, owner, self.scope)
        self.names.scopes[id(owner)] = self.scope
        return before

    def on_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.reads.append((self.scope, node.id))
            self.uses.append((self.scope, node.id, self.here(node, "id")))
        else:
            self.bind(node.id, "variable", self.here(node, "id"))

    def on_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self.reads.append((self.scope, node.target.id))
        self.children(node)

    def on_FunctionDef(self, node: Function) -> None:
        self.visit_all(node.decorator_list)
        self.outer_parts(node.args)
        if node.returns is not None:
            self.visit(node.returns)
        self.bind(node.name, "function", self.here(node, "name"), node=node)
        self.type_parameters(node)
        self.body(node, node.body)

    on_AsyncFunctionDef = on_FunctionDef

    def on_Lambda(self, node: ast.Lambda) -> None:
        self.outer_parts(node.args)
        self.body(node, [node.body])

    def outer_parts(self, args: ast.arguments) -> None:
        """Visit what a function evaluates where it is defined: defaults and annotations."""
        self.visit_all([*args.defaults, *args.kw_defaults])
        self.visit_all([a.annotation for a in _arguments(args)])

    def body(self, node: Function | ast.Lambda, statements: list) -> None:
        before = self.within("function", node)
        for argument in _arguments(node.args):
            self.bind(argument.arg, "parameter", self.here(argument, "arg"))
        self.visit_all(statements)
        self.scope = before

    def on_ClassDef(self, node: ast.ClassDef) -> None:
        self.visit_all([*node.decorator_list, *node.bases, *(k.value for k in node.keywords)])
        self.names.strays |= {k.arg for k in node.keywords if k.arg}
        self.bind(node.name, "class", self.here(node, "name"), node=node)
        self.type_parameters(node)
        before = self.within("class", node)
        self.visit_all(node.body)
        self.scope = before

    def type_parameters(self, node: ast.AST) -> None:
        """Note PEP 695 parameters; their names stay, wherever they stand."""
        for parameter in getattr(node, "type_params", ()):
            self.names.type_names.add(parameter.name)
            self.children(parameter)

    def on_TypeAlias(self, node: ast.AST) -> None:
        self.type_parameters(node)
        self.names.type_names.add(node.name.id)  # type: ignore[attr-defined]
        self.children(node)

    def on_comprehension(self, node: ast.AST) -> None:
        generators = node.generators  # type: ignore[attr-defined]
        self.visit(generators[0].iter)
        before = self.within("comprehension", node)
        for number, generator in enumerate(generators):
            self.visit(generator.target)
            if number:
                self.visit(generator.iter)
            self.visit_all(generator.ifs)
        self.visit_all([getattr(node, part, None) for part in ("elt", "key", "value")])
        self.scope = before

    def on_NamedExpr(self, node: ast.NamedExpr) -> None:
        scope = self.scope
        while scope.kind == "comprehension" and scope.parent is not None:
            scope = scope.parent
        self.bind(node.target.id, "variable", self.here(node.target, "id"), scope)
        self.visit(node.value)

    def on_Global(self, node: ast.Global | ast.Nonlocal) -> None:
        for index, name in enumerate(node.names):
            self.scope.outside[name] = type(node).__name__.lower()
            self.uses.append((self.scope, name, self.here(node, "names", index)))

    on_Nonlocal = on_Global

    def on_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            if alias.name == "*":
                self.scope.star = True
            else:
                self.bind(alias.asname or alias.name.split(".")[0], "import", None)

    on_ImportFrom = on_Import

    def on_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self.bind(node.name, "variable", self.here(node, "name"))
        self.children(node)

    def on_MatchAs(self, node: ast.MatchAs) -> None:
        if node.name:
            self.bind(node.name, "variable", self.here(node, "name"))
        self.children(node)

    def on_MatchStar(self, node: ast.MatchStar) -> None:
        if node.name:
            self.bind(node.name, "variable", self.here(node, "name"))

    def on_MatchMapping(self, node: ast.MatchMapping) -> None:
        if node.rest:
            self.bind(node.rest, "variable", self.here(node, "rest"))
        self.children(node)

    def on_JoinedStr(self, node: ast.JoinedStr) -> None:
        before, self.fstring = self.fstring, self.fstring or node
        self.children(node)
        self.fstring = before

    on_TemplateStr = on_JoinedStr

    def on_Call(self, node: ast.Call) -> None:
        if node.keywords:
            self.calls.append((self.scope, node))
            self.keyword_fstrings[id(node)] = self.fstring
        self.children(node)

    # -- resolving -----------------------------------------------------------------------------------------------------

    def resolved(self) -> Names:
        """Return the names once every use is given to the binding it means."""
        for scope in list(self.names.scopes.values()):
            for name in scope.outside:
                if name in scope.names:  # bound here, but elsewhere: move the binding there
                    moved = scope.names.pop(name)
                    target = self.find(scope, name, declare=True)
                    if target is not None:
                        target.kinds |= moved.kinds
                        target.definitions += moved.definitions
        for scope, name, place in self.uses:
            binding = self.find(scope, name)
            if binding is None:
                self.names.free.setdefault(name, []).append(place)
            else:
                binding.places.append(place)
        for scope, call in self.calls:
            self.give_keywords(scope, call)
        self.names.bindings = [b for s in self.names.scopes.values() for b in s.names.values()]
        self.names.shadowed = set(self.read_in_classes())
        return self.names

    def find(self, scope: Scope, name: str, *, declare: bool = False) -> Binding | None:
        """Return the binding that `name` means in `scope`, None when nothing binds it."""
        if scope.outside.get(name) == "global":
            if declare and name not in self.names.module.names:
                self.names.module.names[name] = Binding(name, self.names.module)
            return self.names.module.names.get(name)
        start: Scope | None = scope.parent if name in scope.outside else scope
        at = start
        while at is not None:
            if at is not scope and at.outside.get(name) == "global":
                return self.names.module.names.get(name)
            if name in at.names and (at.kind != "class" or at is scope):
                return at.names[name]
            at = at.parent
        return None

    def read_in_classes(self) -> Iterator[int]:
        """Yield the ids of global bindings that a class body may mean by a name it binds itself (`x = x` reads the global)."""
        for scope, name in self.reads:
            if scope.kind == "class" and name in scope.names and name in self.names.module.names:
                yield id(self.names.module.names[name])

    def give_keywords(self, scope: Scope, call: ast.Call) -> None:
        """Give a call's keyword arguments to the parameters they fill; those of unknown functions are strays."""
        names = [k.arg for k in call.keywords if k.arg]
        binding = self.find(scope, call.func.id) if isinstance(call.func, ast.Name) else None
        if isinstance(call.func, ast.Name) and binding is None and call.func.id != "dict":
            return  # a builtin: its own keywords
        definition = _called(binding)
        if not isinstance(definition, Function):
            self.names.strays |= set(names)
            return
        takes = {a.arg for a in (*definition.args.args, *definition.args.kwonlyargs)}
        inner = self.names.scopes[id(definition)]
        for keyword in call.keywords:
            if keyword.arg in takes:
                inner.names[keyword.arg].places.append(Place(keyword, "arg", None, self.keyword_fstrings[id(call)]))
            elif keyword.arg:
                self.names.strays.add(keyword.arg)


def _called(binding: Binding | None) -> ast.AST | None:
    """Return the one function that calling a name calls: its own definition, or the `__init__` of its class."""
    if binding is None or len(binding.definitions) != 1 or len(binding.kinds) != 1:
        return None
    node = binding.definitions[0]
    if isinstance(node, ast.ClassDef):
        made = [n for n in node.body if isinstance(n, Function) and n.name in ("__init__", "__new__")]
        plain = len(made) == 1 and made[0].name == "__init__" and not node.decorator_list and not node.keywords
        return made[0] if plain else None
    return node


def _arguments(args: ast.arguments) -> list[ast.arg]:
    """Return the parameters of a function, starred ones included."""
    stars = [a for a in (args.vararg, args.kwarg) if a is not None]
    return [*args.posonlyargs, *args.args, *args.kwonlyargs, *stars]
