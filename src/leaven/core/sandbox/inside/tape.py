"""Tests without a program -> the questions they will ask it, so that one message carries them all.

Asking call by call costs two process switches a call. So the tests run once beforehand with placeholders in place of
the program's names: whatever is compared with a placeholder agrees, and every call is written down (a tape). The
candidate answers the tape in one go. Where nothing but calls and comparisons met a placeholder, and all of those
comparisons hold for the real answers, the tests have passed: they would have taken the same way. In every other case
they run again with the answers (link.py); where that way leads to other questions, once more without a tape. So a
wrong guess costs time and never changes a verdict.

What a placeholder cannot see (`is`, isinstance, type, pattern matching) is looked for in the tests' code: such tests
always run again. Not covered: what a candidate does with a tape (candidate.py).
"""

from __future__ import annotations

import marshal
import sys
from types import CodeType
from typing import Any

import allow
import plaindata
from link import Address, Unsendable, remember_local

MOST_QUESTIONS, MOST_BYTES, MOST_TOUCHES = 2000, 1 << 20, 20000
_UNSEEN = frozenset(("isinstance", "issubclass", "type", "callable", "id", "hasattr"))
_MISSING = object()
_UNCHANGING = frozenset((type(None), bool, int, float, complex, str, bytes))


class Enough(BaseException):
    """A recording has become too long; what was recorded so far holds."""


class Placeholder:
    """Stands for a name of the program, the result of a question, or (no address) something computed from those."""

    __slots__ = ("_tape", "_address")

    def __init__(self, tape: Tape, address: Address | None) -> None:
        object.__setattr__(self, "_tape", tape)
        object.__setattr__(self, "_address", address)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._tape.call(self._address, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._tape.ask("get", self._address, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._tape.ask("set", self._address, name, value)

    def __eq__(self, other: Any) -> bool:
        return self._tape.agree(self, other, True)

    def __ne__(self, other: Any) -> bool:
        return not self._tape.agree(self, other, False)

    def __bool__(self) -> bool:
        return self._tape.agree(self, _MISSING, True)

    def __hash__(self) -> int:
        return self._tape.touch(id(self))

    def __iter__(self) -> Any:
        return self._tape.touch(iter(()))

    def __next__(self) -> Any:
        raise self._tape.touch(StopIteration)

    def _true(self, _: Any) -> bool:
        return self._tape.touch(True)

    def _zero(self) -> int:
        return self._tape.touch(0)

    def __float__(self) -> float:
        return self._tape.touch(0.0)

    def __str__(self) -> str:
        return self._tape.touch("")

    def __format__(self, _: str) -> str:
        return self._tape.touch("")

    def _computed(self, *_: Any) -> Any:
        return self._tape.touch(Placeholder(self._tape, None))

    def _same(self, *_: Any) -> Any:
        return self._tape.touch(self)

    __lt__ = __le__ = __gt__ = __ge__ = __contains__ = _true
    __len__ = __int__ = __index__ = _zero
    __repr__ = __str__
    __getitem__ = __abs__ = __neg__ = __pos__ = __invert__ = __round__ = __reversed__ = _computed
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _computed
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __and__ = __or__ = __xor__ = _computed
    __setitem__ = __delitem__ = _computed
    __copy__ = __deepcopy__ = _same


class Tape:
    """What a run with placeholders asked: `questions` (marshal, as link.py compares them), `kept` (results that later
    questions use) and `agreed` (comparisons taken for true)."""

    def __init__(self) -> None:
        self.questions: list[bytes] = []
        self.kept: set[int] = set()
        self.agreed: list[tuple[Placeholder, Any, bool, bytes]] = []
        self.plain = True  # nothing but calls and comparisons so far
        self._bytes = self._touches = 0

    # -- what placeholders report -------------------------------------------------------------------------------------

    def call(self, target: Address | None, args: tuple, kwargs: dict) -> Any:
        """Record a call."""
        if target is None:
            return self.touch(Placeholder(self, None))
        if plaindata.is_native(args) and plaindata.is_native(kwargs):
            return self._record(("call", target, args, kwargs), target)
        return self._record(("callx", target, self._encode(args), self._encode(kwargs)), target)

    def ask(self, verb: str, target: Address | None, *rest: Any) -> Any:
        """Record reading ("get") or writing ("set") an attribute."""
        if target is None:
            return self.touch(Placeholder(self, None))
        if verb == "set":
            rest = (rest[0], self._encode(rest[1]))
        return self._record((verb, target, *rest), target)

    def agree(self, one: Placeholder, other: Any, expected: bool) -> bool:
        """Take a comparison for `expected`, to be looked at when the answers are here."""
        self._count()
        if self.plain:
            before = b"" if type(other) is Placeholder and other._address is not None else _snapshot(other)
            if one._address is None or before is None:
                self.plain = False
            else:
                self.agreed.append((one, other, expected, before))
        return expected

    def touch(self, given: Any) -> Any:
        """Note that a placeholder was used for more than calls and comparisons."""
        self._count()
        self.plain = False
        return given

    def _count(self) -> None:
        self._touches += 1
        if self._touches > MOST_TOUCHES:
            raise Enough

    def _record(self, question: tuple, target: Address) -> Placeholder:
        data = marshal.dumps(question, 2)
        self._bytes += len(data)
        if len(self.questions) >= MOST_QUESTIONS or self._bytes > MOST_BYTES:
            raise Enough
        if target[0] == "r":
            self.kept.add(target[1])
        self.questions.append(data)
        return Placeholder(self, ("r", len(self.questions) - 1))

    def _encode(self, value: Any) -> Any:
        return plaindata.encode(value, self._remember)

    def _remember(self, value: Any) -> dict:
        if not isinstance(value, Placeholder):
            form = remember_local(value, [])
            if "F" in form:  # what a function of the tests remembers belongs to one run of them
                raise Unsendable("a function")
            return form
        if value._address is None:
            raise Unsendable("a value computed from a result")
        if value._address[0] == "r":
            self.kept.add(value._address[1])
        return {"H": value._address}

    # -- afterwards ---------------------------------------------------------------------------------------------------

    def holds(self, answers: list[Any], names: dict[str, Any]) -> bool:
        """Return whether every comparison taken for granted holds for the answers (a value for each question)."""

        def value_of(one: Any) -> Any:
            if not isinstance(one, Placeholder):
                return one
            kind, key = one._address  # type: ignore[misc]  # computed ones are never agreed upon
            return answers[key] if kind == "r" else names[key]

        try:
            for one, other, expected, before in self.agreed:
                if other is _MISSING:
                    agrees = bool(value_of(one))
                elif before and _snapshot(other) != before:
                    return False  # changed after it was compared
                else:
                    agrees = bool(value_of(one) == value_of(other))
                if agrees is not expected:
                    return False
        except BaseException:  # no such name, nothing that can be compared, recursion: the tests themselves will tell
            return False
        return True


def _snapshot(value: Any) -> bytes | None:
    """Return what tells whether a value was changed since, None where that cannot be told."""
    if value is _MISSING or type(value) in _UNCHANGING:
        return b""
    return marshal.dumps(value, 2) if plaindata.is_native(value) else None


def record(codes: list[CodeType], single: list[bool], names: set[str], run: Any) -> Tape | None:
    """Run tests with placeholders for `names` through `run(space, codes)`; None where that makes no sense.

    Args:
        codes: the compiled tests.
        single: for each, whether it is one line (then a failure in it says nothing about the next).
        names: what the program is expected to define.
        run: executes one compiled test, or at the end (None) the call of a check function, in the given namespace.
    """
    tape = Tape()
    if any(map(is_blind, codes)):
        tape.plain = False
    space: dict[str, Any] = {"__name__": "tests"}
    for name in names:
        if name in sys.stdlib_module_names or name in ("np", "numpy"):
            if name in sys.modules:
                space[name] = sys.modules[name]
        else:
            space[name] = Placeholder(tape, ("n", name))
    try:
        for code, alone in zip([*codes, None], [*single, False], strict=True):
            asked = len(tape.questions)
            try:
                run(space, code)
            except Exception:
                tape.plain = False
                if not alone or len(tape.questions) == asked:
                    break
    except BaseException:  # Enough, or a value that cannot cross
        tape.plain = False
    return tape if tape.questions else None


def is_blind(code: CodeType) -> bool:
    """Return whether a test may look at a placeholder in a way that the placeholder does not notice."""
    if not _UNSEEN.isdisjoint(code.co_names) or not _BLIND.isdisjoint(code.co_code[::2]):
        return True
    return any(is_blind(c) for c in code.co_consts if isinstance(c, CodeType))


_BLIND = allow.operations(
    "IS_OP",
    "MATCH_CLASS",
    "MATCH_MAPPING",
    "MATCH_SEQUENCE",
    *(f"POP_JUMP_{way}IF_{what}" for way in ("", "FORWARD_", "BACKWARD_") for what in ("NONE", "NOT_NONE")),
)
