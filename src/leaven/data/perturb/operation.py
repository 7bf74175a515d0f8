"""What a perturbation is: a named, seeded change of an example's code or thought, and what execution must say about it.

A perturbation is a small class registered with `@PERTURBATIONS("name")` and built without arguments. `apply` returns a
`Change`, or raises `Skip` with the reason why this example stays as it is. `expects` says what the proof demands of the
tests afterwards: the same verdict as before, a failure, or nothing (it is recorded). Options are declared, so that a
misspelt one is refused before anything runs.
Not covered: drawing examples at a rate and proving changes (passes.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Literal, Protocol

from leaven.core.registry import Registry
from leaven.core.types import Example
from leaven.errors import StudyError, did_you_mean

Expect = Literal["same", "fails", "anything", "unexecuted"]
"""same: the verdict stays; fails: a test must fail; anything: recorded; unexecuted: no code changes."""


class Skip(Exception):
    """This example cannot be changed this way; the text says why ("reason" or "reason: detail", counted by reason)."""


@dataclass(frozen=True, slots=True)
class Change:
    """A changed example; `edits` places of the `sites` that could have been were changed (0 edits: nothing to do)."""

    example: Example
    edits: int
    sites: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its default (whose type is the type expected) and, for texts and lists of texts, what is allowed."""

    default: Any
    allowed: tuple[str, ...] = ()
    least: int = 0


class Perturbation(Protocol):
    """The contract; `rate_of` says what a study's `rate` is a share of.

    With rate_of = tokens, `apply` finds the rate among its options under "rate". A class with `on = "code"` changes nothing but
    `example.code`; it is then also given the code that instruction data keeps in answers and turns (places.py).
    """

    options: ClassVar[Mapping[str, Option]]
    rate_of: ClassVar[Literal["examples", "tokens"]]

    def expects(self, options: Mapping[str, Any]) -> Expect:
        """Say what the verdict must be after the change."""
        ...

    def apply(self, example: Example, random: Random, options: Mapping[str, Any]) -> Change:
        """Change one example; where `expects` is "fails" it is asked again, with the same stream, until a test fails.

        Raises:
            Skip: the example cannot be changed this way.
        """
        ...


class WholeSource(Protocol):
    """A perturbation that needs the other examples too (`apply_all` instead of `apply`)."""

    options: ClassVar[Mapping[str, Option]]
    rate_of: ClassVar[Literal["examples", "tokens"]]

    def expects(self, options: Mapping[str, Any]) -> Expect:
        """Say what the verdict must be after the change."""
        ...

    def apply_all(self, examples: Sequence[Example], seed: int, options: Mapping[str, Any]) -> list[Change | Skip]:
        """Change every example of a source, in its order."""
        ...


PERTURBATIONS: Registry[Any] = Registry("perturbation")


@dataclass(frozen=True, slots=True)
class Operation:
    """One entry of a study's `perturb` list, checked and completed with defaults; `label` tells equal names apart."""

    name: str
    rate: float
    options: Mapping[str, Any]
    label: str

    def plain(self) -> dict[str, Any]:
        """Return the operation as plain data, the same for every spelling of it."""
        return {"name": self.name, "rate": self.rate, "options": dict(self.options)}


def check_operations(operations: Sequence[Any], where: str = "perturb", *, scored: bool = False) -> list[Operation]:
    """Return the operations of a study file, completed with defaults.

    Args:
        operations: names, or {name, rate, options} as mappings or as objects with these attributes.
        where: The place in the study file that errors name.
        scored: Whether they change programs of a model before scoring, where no proof and no other examples are at hand.

    Raises:
        StudyError: unknown name or option, a value that does not fit, a rate outside 0..1, or an operation that
            cannot be applied to scored programs.
    """
    if isinstance(operations, str | Mapping) or not isinstance(operations, Sequence):
        raise StudyError(f"{where}: expected a list of perturbations, found {operations!r}; write [{operations}]")
    checked: list[Operation] = []
    for number, given in enumerate(operations):
        place = f"{where}.{number}"
        name, rate, options = _fields(given, place)
        kind = PERTURBATIONS.get(name, place)
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
            raise StudyError(f"{place}.rate: expected a share between 0 and 1, found {rate!r}")
        values = _values(kind, name, options, f"{place}.options")
        if scored and (hasattr(kind, "apply_all") or kind().expects(values) in ("fails", "unexecuted")):
            raise StudyError(
                f"{place}: {name!r} cannot change programs before they are scored, because it needs tests, a thought or "
                f"other examples; use it on training data (data.stages.NAME.perturb)"
            )
        repeats = sum(o.name == name for o in checked)
        checked.append(Operation(name, float(rate), values, f"{name}#{repeats + 1}" if repeats else name))
    return checked


def _fields(given: Any, place: str) -> tuple[str, Any, Mapping[str, Any]]:
    """Return name, rate and options of one entry, however it is spelt."""
    if isinstance(given, str):
        return given, 1.0, {}
    if not isinstance(given, Mapping):
        given = {k: getattr(given, k) for k in ("name", "rate", "options") if hasattr(given, k)}
    for key in given:
        if key not in ("name", "rate", "options"):
            raise StudyError(
                f"{place}: a perturbation has name, rate and options, found {key!r}.{did_you_mean(str(key), ('name', 'rate', 'options'))}"
            )
    name, options = given.get("name"), given.get("options") or {}
    if not isinstance(name, str) or not isinstance(options, Mapping):
        raise StudyError(f"{place}: expected a name or {{name, rate, options: {{...}}}}, found {given!r}")
    return name, given.get("rate", 1.0), options


def _values(kind: Any, name: str, given: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return all options of a perturbation, defaults filled in, checked against their declaration."""
    declared: Mapping[str, Option] = kind.options
    for key in given:
        if key not in declared:
            known = f"Known: {', '.join(sorted(declared))}" if declared else f"{name} has none"
            raise StudyError(f"{place}: {name!r} has no option {key!r}.{did_you_mean(str(key), list(declared))} {known}")
    return {key: _value(option, given.get(key, option.default), f"{place}.{key}") for key, option in declared.items()}


def _value(option: Option, value: Any, place: str) -> Any:
    """Return one option's value in canonical form."""
    several = isinstance(option.default, tuple)
    parts = [value] if isinstance(value, str) and several else value
    if several:
        if not isinstance(parts, list | tuple) or not parts or not all(isinstance(p, str) for p in parts):
            raise StudyError(f"{place}: expected one or more of {', '.join(option.allowed)}, found {value!r}")
        for part in parts:
            _check_allowed(option, part, place)
        return [p for p in option.allowed if p in parts] if option.allowed else list(parts)
    if isinstance(option.default, bool) or isinstance(value, bool):
        if type(value) is not type(option.default):
            raise StudyError(f"{place}: expected {_words(option)}, found {value!r}")
        return value
    if not isinstance(value, type(option.default)) or (isinstance(value, int) and value < option.least):
        raise StudyError(f"{place}: expected {_words(option)}, found {value!r}")
    if isinstance(value, str):
        _check_allowed(option, value, place)
    return value


def _words(option: Option) -> str:
    if isinstance(option.default, bool):
        return "true or false"
    if isinstance(option.default, int):
        return f"a whole number of at least {option.least}"
    return f"one of {', '.join(option.allowed)}" if option.allowed else "a text"


def _check_allowed(option: Option, value: str, place: str) -> None:
    if option.allowed and value not in option.allowed:
        raise StudyError(f"{place}: expected one of {', '.join(option.allowed)}, found {value!r}.{did_you_mean(value, option.allowed)}")
    if not option.allowed and not value.split():
        raise StudyError(f"{place}: expected a text, found {value!r}")
