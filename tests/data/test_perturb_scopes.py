"""Renaming keeps what a program does, whatever the scopes: random programs that tangle few names in every way Python has."""

from __future__ import annotations

import warnings
from random import Random

import pytest

from leaven.data.perturb import perturb_code

NAMES = ("a", "b", "c", "d", "max")  # one of them is a builtin too


EVERYTHING = [{"name": "rename_identifiers", "options": {"kinds": ["variables", "parameters", "functions", "classes"]}}]


def check(seeds: range) -> int:
    """Rename the programs of these seeds; return how many were renamed, all of which do what they did before."""
    changed = 0
    for seed in seeds:
        code = tangled(seed)
        before = behaviour(code)
        if before is None:
            continue  # a nonlocal without its binding, or the like
        new, outcome, reason = perturb_code(code, EVERYTHING, 0, str(seed))
        assert outcome != "skipped", reason
        assert behaviour(new) == before, f"seed {seed}\n{code}\n-----\n{new}"
        changed += outcome == "changed"
    return changed


def test_tangled_programs_do_what_they_did() -> None:
    assert check(range(250)) > 100


@pytest.mark.slow
def test_many_tangled_programs_do_what_they_did() -> None:
    assert check(range(250, 12000)) > 5000


def tangled(seed: int) -> str:
    """Return a program that reports values through the free name `log` and never stops on an exception; it may not compile."""
    return "\n".join(_block(Random(seed), 0, "module", 6)) + "\n"


def behaviour(code: str) -> list[str] | None:
    """Return what a program logs, None when it does not compile."""
    logged: list[str] = []

    def log(value: object) -> object:
        plain = isinstance(value, int | str | list | dict | tuple) and not callable(value)
        logged.append(repr(value) if plain and "<" not in repr(value) else type(value).__name__)
        return value

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = compile(code, "program", "exec")
        except SyntaxError:
            return None
    exec(program, {"log": log, "__name__": "program"})
    return logged


def _block(random: Random, depth: int, place: str, size: int) -> list[str]:
    lines: list[str] = []
    for _ in range(random.randint(1, size)):
        lines += _guarded(random, _statement(random, depth, place))
    return lines


def _guarded(random: Random, lines: list[str]) -> list[str]:
    if lines[0].startswith(("global", "nonlocal")):
        return lines
    return ["try:", *_indented(lines), f"except Exception as {random.choice([*NAMES, 'problem'])}:", "    log('caught')"]


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _statement(random: Random, depth: int, place: str) -> list[str]:
    def name() -> str:
        return random.choice(NAMES)

    def value() -> str:
        return _expression(random, 0)

    simple = [
        lambda: [f"{name()} = {value()}"],
        lambda: [f"{name()} = {value()}"],
        lambda: [f"{name()} += 1"],
        lambda: [f"{name()}: int = {value()}"],
        lambda: [f"log({value()})"],
        lambda: [f"log({value()})"],
        lambda: [f"{name()}, *{name()} = [1, 2, 3]"],
        lambda: [f"del {name()}"],
        lambda: [f"import math as {name()}"],
        lambda: [f"log({name()}({name()}={value()}))"],
        lambda: [f"log({name()}({value()}, {name()}={value()}))"],
        lambda: [f"{name()} = lambda {name()}, *{name()}x: {value()}"],
    ]
    if depth > 2:
        return random.choice(simple)()
    nested = [
        lambda: [f"for {name()} in range(2):", *_indented(_block(random, depth + 1, place, 2))],
        lambda: [f"if {value()}:", *_indented(_block(random, depth + 1, place, 2))],
        lambda: ["match [1, {'k': 2}]:", f"    case [1, {{'k': {name()}, **{name()}x}}]:",
                 *_indented(_indented(_block(random, depth + 1, place, 2)))],
        lambda: ["match [1, 2, 3]:", f"    case [1, *{name()}] as {name()}x:", *_indented(_indented(_block(random, depth + 1, place, 2)))],
        lambda: _function(random, depth, place),
        lambda: _function(random, depth, place),
        lambda: _class(random, depth),
    ]  # fmt: skip
    return random.choice(simple + nested * 2)()


def _function(random: Random, depth: int, place: str) -> list[str]:
    name = random.choice(NAMES)
    parameters = random.sample(NAMES, random.randint(0, 3))
    head = [p if random.random() < 0.5 else f"{p}={_expression(random, 0)}" for p in parameters]
    head.sort(key=lambda p: "=" in p)
    stars = random.choice([[], ["*rest"], ["**more"], ["*rest", "**more"]])
    free = [n for n in NAMES if n not in parameters]
    declared = random.choice([[], [], [f"global {random.choice(free)}"], [f"nonlocal {random.choice(free)}"]]) if free else []
    if place == "module" and depth == 0 and declared and declared[0].startswith("nonlocal"):
        declared = []
    body = [*declared, *_block(random, depth + 1, "function", 3), f"return {_expression(random, 0)}"]
    call = f"log({name}({', '.join(f'{p}=1' if random.random() < 0.5 else '2' for p in parameters)}))"
    return [f"def {name}({', '.join(head + stars)}):", *_indented(body), call]


def _class(random: Random, depth: int) -> list[str]:
    name, attribute = random.choice(NAMES), random.choice(NAMES)
    body = [f"{attribute} = {_expression(random, 0)}", *_block(random, depth + 1, "class", 2)]
    method = [f"def method(self, {random.choice(NAMES)}=0):", f"    return {_expression(random, 0)}"]
    return [f"class {name}:", *_indented([*body, *method]), f"log({name}().method())", f"log({name}.{attribute})"]


def _expression(random: Random, depth: int) -> str:
    name = random.choice(NAMES)
    if depth > 1:
        return random.choice([name, name, str(random.randint(0, 3))])
    inner = _expression(random, depth + 1)
    return random.choice(
        [
            name,
            name,
            str(random.randint(0, 3)),
            f"({inner} if {inner} else {name})",
            f"[{_expression(random, depth + 1)} for {name} in range(2) if {inner} != 7]",
            f"{{{name}: {inner} for {name} in range(2)}}",
            f"sum({name} for {name} in [1, 2])",
            f"({name} := {inner})",
            f"[({random.choice(NAMES)}x := {name}) for {name} in range(2)]",
            f"(lambda {name}={inner}: {_expression(random, depth + 1)})()",
            f'f"{{{inner}}} {{{name}!r:>{{3}}}}"',
            f'f"{{{name}=}}"',
            f"(lambda *{name}, **more: {name})({inner}, {random.choice(NAMES)}=1)",
        ]
    )
