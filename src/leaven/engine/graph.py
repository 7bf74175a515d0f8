"""Steps as plain data -> a checked graph: what runs, from what, under which readable name, and where its links go.

A node names its function by dotted path and its inputs by node id or file digest, so a graph can be printed, stored and
sent to another process; nothing here imports the module a step lives in (`step_facts` reads the decorator as text). Not
covered: which nodes exist (plan.py), what is already built (store.py), running them (run.py).
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leaven.core.hashing import file_digest, tree_digest
from leaven.errors import DataError, StepError, StudyError


@dataclass(frozen=True, slots=True)
class FileInput:
    """A file or folder from outside the store; `sha256` is `input_digest(path)` and alone enters keys."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Node:
    """One step of a graph.

    `id` is unique and readable ("thought_code/seed-3/model"); `function` is "pkg.module:function"; `inputs` maps the
    names the step reads to node ids or files; `links` are paths under the run folder that shall lead to the artifact;
    `threads` and `memory_bytes` are what the step needs at once (0 bytes = unknown) and never enter its key.
    """

    id: str
    function: str
    spec: Mapping[str, Any]
    inputs: Mapping[str, str | FileInput] = field(default_factory=dict)
    links: tuple[str, ...] = ()
    threads: int = 1
    memory_bytes: int = 0

    def parents(self) -> list[str]:
        """Return the node ids this node reads, in the order of their input names."""
        return [source for _, source in sorted(self.inputs.items()) if isinstance(source, str)]


def input_digest(path: Path) -> str:
    """Return the digest that `FileInput.sha256` holds: of a file's bytes (rows for Parquet) or of a folder's content.

    Raises DataError when there is nothing at `path`.
    """
    if path.is_dir():
        return tree_digest(path)
    if not path.is_file():
        raise DataError(f"expected a file or folder at {path}, found none")
    return file_digest(path)


@dataclass(frozen=True, slots=True)
class StepFacts:
    """What the `@step` decorator says: `version` enters the key; readers of a deterministic step see its content."""

    version: int
    deterministic: bool = True


@functools.cache
def step_facts(function: str) -> StepFacts:
    """Read `@step(version=..., deterministic=...)` of "pkg.module:function" from its source; nothing is imported.

    Raises StepError when the module, the function or the decorator is missing, or when its arguments are not literals.
    """
    module_name, _, name = function.partition(":")
    try:
        found = importlib.util.find_spec(module_name)
    except (ImportError, ValueError) as error:
        raise StepError(f"{function}: module {module_name!r} cannot be found: {error}") from error
    if not name or found is None or found.origin is None:
        raise StepError(f"{function}: expected 'package.module:function' with an importable module, found none")
    tree = ast.parse(Path(found.origin).read_text(encoding="utf-8"), filename=found.origin)
    for item in tree.body:
        if isinstance(item, ast.FunctionDef) and item.name == name:
            return _decorator_facts(item, function, found.origin)
    raise StepError(f"{function}: {found.origin} defines no function {name!r} at its top level")


def _decorator_facts(item: ast.FunctionDef, function: str, origin: str) -> StepFacts:
    """Return the literal keyword arguments of the `@step(...)` call above `item`."""
    for mark in item.decorator_list:
        target = mark.func if isinstance(mark, ast.Call) else mark
        if getattr(target, "id", getattr(target, "attr", "")) != "step" or not isinstance(mark, ast.Call):
            continue
        try:
            values = {k.arg or "**": ast.literal_eval(k.value) for k in mark.keywords}
            return StepFacts(**values)
        except (ValueError, TypeError) as error:
            raise StepError(f"{function}: {origin}:{mark.lineno} expected @step(version=<number>) with literal values, "
                            f"found {ast.unparse(mark)!r}") from error
    raise StepError(f"{function}: {origin}:{item.lineno} is not marked with @step(version=<number>)")


def in_order(nodes: Iterable[Node]) -> list[Node]:
    """Return the nodes so that each follows what it reads, otherwise in the given order.

    Raises StudyError for a duplicate id, an unknown input, a cycle, or links that are equal or nested.
    """
    by_id: dict[str, Node] = {}
    for node in nodes:
        if not node.id or Path(node.id).is_absolute() or ".." in Path(node.id).parts:  # logs/<id>.log
            raise StudyError(f"expected a step name like 'condition/seed-1/model', found {node.id!r}")
        if node.id in by_id:
            raise StudyError(f"two steps are called {node.id!r}; every step needs its own name")
        by_id[node.id] = node
    _check_links(by_id.values())
    ordered: dict[str, Node] = {}
    for start in by_id.values():
        _visit(start, by_id, ordered)
    return list(ordered.values())


def _visit(start: Node, by_id: Mapping[str, Node], ordered: dict[str, Node]) -> None:
    """Append `start` and what it needs to `ordered`, depth first and without recursion (graphs may be deep)."""
    stack: list[tuple[Node, list[str]]] = [(start, start.parents())]
    open_ids = {start.id}
    while stack:
        node, left = stack[-1]
        if node.id in ordered or not left:
            ordered.setdefault(node.id, node)
            open_ids.discard(node.id)
            stack.pop()
            continue
        parent = left.pop(0)
        if parent not in by_id:
            raise StudyError(f"step {node.id!r} reads {parent!r}, but no step has that name")
        if parent in open_ids:
            raise StudyError(f"step {node.id!r} reads {parent!r}, which itself waits for {node.id!r}: a cycle")
        if parent not in ordered:
            open_ids.add(parent)
            stack.append((by_id[parent], by_id[parent].parents()))


def _check_links(nodes: Iterable[Node]) -> None:
    """Raise StudyError when two nodes want one link or one link lies inside another (inside the store, that is)."""
    owner: dict[tuple[str, ...], str] = {}
    for node in nodes:
        for link in node.links:
            parts = Path(link).parts
            if Path(link).is_absolute() or ".." in parts or not parts:
                raise StudyError(f"step {node.id!r}: expected a link below the run folder, found {link!r}")
            if owner.setdefault(parts, node.id) != node.id:
                raise StudyError(f"link {link!r} is claimed by {owner[parts]!r} and {node.id!r}")
    for parts, who in owner.items():
        for n in range(1, len(parts)):
            if parts[:n] in owner:
                inner, outer = "/".join(parts), "/".join(parts[:n])
                raise StudyError(f"link {inner!r} of {who!r} lies inside link {outer!r} of {owner[parts[:n]]!r}")


def descendants(nodes: Sequence[Node], roots: Iterable[str]) -> set[str]:
    """Return the ids of all nodes that read, directly or not, from `roots`; `nodes` must be in order."""
    reached = set(roots)
    for node in nodes:
        if any(parent in reached for parent in node.parents()):
            reached.add(node.id)
    return reached - set(roots)
