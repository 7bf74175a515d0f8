"""Python values <-> tagged JSON: the only language in which a candidate process answers its judge; and the channel they use.

JSON rather than pickle or marshal, because the bytes come from a hostile process. Plain are None, bool, int, float,
str, bytes, bytearray, complex, list, tuple, dict, set, frozenset, range, deque, Counter, OrderedDict, defaultdict, date,
time, datetime, timedelta, Fraction, Decimal and arrays of numbers; other subclasses of these are sent as their base, read
with the base's own methods, so an overridden __eq__ never arrives. Anything else becomes a reference if the sender gives
a `remember` callable, else NotPlain. Not covered: shared references and cycles (a cycle is NotPlain).
"""

from __future__ import annotations

import json
import marshal
import os
import re
import sys
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

_LEAVES = frozenset((type(None), bool, str, float))
_NATIVE_LEAVES = frozenset((type(None), bool, int, float, complex, str, bytes))
_NATIVE_LISTS = frozenset((list, tuple, set, frozenset))
_INT_LIMIT = 1 << 64
_STANDARD = {
    "datetime": ("datetime", "date", "time", "timedelta"),
    "fractions": ("Fraction",),
    "decimal": ("Decimal",),
    "collections": ("deque",),
}

_FACTORIES = (int, float, str, bool, list, dict, set, tuple)
_NUMBERS = re.compile("[<>|=][biufc][0-9]{1,2}")  # types of arrays that hold nothing but numbers

Remember = Callable[[Any], dict] | None
Resolve = Callable[[str, Any], Any] | None


class NotPlain(Exception):
    """A value that cannot cross the boundary as data."""


def to_json(message: Any) -> bytes:
    """Return a message as JSON text."""
    return _encode_json(message).encode("ascii")


def _json_encoder() -> Callable[[Any], str]:
    """Return a compact encoder; the C one is made once, which json.dumps does for every message."""
    make = json.encoder.c_make_encoder
    if make is None:
        return json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
    chunks = make(None, _no_json, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, True)
    return lambda message: "".join(chunks(message, 0))


def _no_json(value: Any) -> Any:
    raise TypeError(f"a {type(value).__name__} in a message")


_encode_json = _json_encoder()


def from_json(data: bytes) -> Any:
    """Return the message of a JSON text; raises ValueError for anything else."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("a message nested too deeply") from None


class Descriptor:
    """An inherited descriptor of a stream socket, used as one without the cost of a socket object."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def recv(self, size: int) -> bytes:
        """Return up to `size` bytes, none at the end."""
        return os.read(self.fd, size)

    def sendall(self, data: bytes) -> None:
        """Send all of `data`."""
        while data:
            data = data[os.write(self.fd, data) :]


class Channel:
    """Frames of length + message over a connected stream socket; `limit` bounds what is accepted (bytes).

    Messages of a trusted process travel as marshal (`trusted` names the side that is: "mine" what is sent, "theirs" what
    is received, "both"), those of a candidate only as JSON: reading marshal from a hostile process could crash the reader.
    """

    def __init__(self, sock: Any, limit: int, trusted: str = "", ahead: int = 16384) -> None:
        self.sock = sock
        self.ahead = ahead  # bytes read beyond what a message needs
        self.limit = limit
        self.have = b""
        self._dump = marshal.dumps if trusted in ("mine", "both") else to_json
        self._load = marshal.loads if trusted in ("theirs", "both") else from_json

    def frame(self, message: Any) -> bytes:
        """Return the bytes of one message, to be given to `post`."""
        data = self._dump(message)
        return len(data).to_bytes(4, "big") + data

    def post(self, frame: bytes) -> None:
        """Send the bytes of one message."""
        self.sock.sendall(frame)

    def send(self, message: Any) -> None:
        """Send one message."""
        data = self._dump(message)
        self.sock.sendall(len(data).to_bytes(4, "big") + data)

    def receive(self) -> Any:
        """Return the next message.

        Raises:
            EOFError: the other side is gone.
            OverflowError: the message is larger than `limit`.
            ValueError: the bytes are no message.
        """
        have = self.have
        while len(have) < 4:
            have += self._part(4 - len(have) + self.ahead)
        size = 4 + int.from_bytes(have[:4], "big")
        if size - 4 > self.limit:
            raise OverflowError(f"a message of {size - 4} bytes, limit {self.limit}")
        if len(have) < size:
            parts, count = [have], len(have)
            while count < size:
                parts.append(self._part(min(size - count + self.ahead, 1 << 20)))
                count += len(parts[-1])
            have = b"".join(parts)
        self.have = have[size:]
        return self._load(have[4:size])

    def _part(self, size: int) -> bytes:
        part = self.sock.recv(size)
        if not part:
            raise EOFError("the other side is gone")
        return part


def is_native(value: Any) -> bool:
    """Return whether marshal gives `value` back as it is: plain values of exact builtin types, through and through."""
    kind = type(value)
    if kind in _NATIVE_LEAVES:
        return True
    if kind in _NATIVE_LISTS:
        return _NATIVE_LEAVES.issuperset(map(type, value)) or all(map(is_native, value))
    if kind is dict:
        return all(map(is_native, value)) and all(map(is_native, value.values()))
    return False


def encode(value: Any, remember: Remember = None) -> Any:
    """Return the JSON form of `value`; `remember(value)` gives the form of what is not plain.

    Raises:
        NotPlain: not plain and no `remember`, or nested too deeply.
    """
    try:
        return _encode(value, remember)
    except RecursionError:
        raise NotPlain("a value nested too deeply or containing itself") from None


def _encode(value: Any, remember: Remember) -> Any:
    kind = type(value)
    if kind is int:
        return value if -_INT_LIMIT < value < _INT_LIMIT else {"I": hex(value)}
    if kind in _LEAVES:
        return value
    if kind is list:
        return value if _LEAVES.issuperset(map(type, value)) else [_encode(v, remember) for v in value]
    if kind is tuple:
        return {"T": [_encode(v, remember) for v in value]}
    if kind is dict:
        return {"D": [[_encode(k, remember), _encode(v, remember)] for k, v in value.items()]}
    if kind is Counter or kind is OrderedDict or kind is defaultdict:
        items = [[_encode(k, remember), _encode(v, remember)] for k, v in kind.items(value)]
        factory = value.default_factory if kind is defaultdict else None
        return {"X": [kind.__name__, [items, factory.__name__ if factory in _FACTORIES else ""]]}
    if remember is not None and getattr(kind, "stays_with_its_program", False):
        return remember(value)
    for base, convert in _BASES:
        if issubclass(kind, base):
            return convert(value, remember)
    for base in kind.__mro__:
        if base.__name__ in _STANDARD.get(base.__module__, ()) and _is_standard(base):
            return _encode_standard(base, value, remember)
        if base.__name__ == "generic" and base.__module__ == "numpy":  # a number as numpy gives it
            number = value.item()
            if type(number) in _NATIVE_LEAVES:
                return _encode(number, None)
        if kind is base and kind.__name__ == "ndarray" and kind.__module__ == "numpy" and _NUMBERS.fullmatch(str(value.dtype.str)):
            return {"X": ["ndarray", [str(value.dtype.str), list(value.shape), value.tobytes().hex()]]}
    if remember is not None:
        return remember(value)
    raise NotPlain(f"a value of type {kind.__name__}")


def _is_standard(base: type) -> bool:
    return getattr(sys.modules.get(base.__module__), base.__name__, None) is base


def _encode_standard(base: Any, value: Any, remember: Remember) -> dict:
    name = base.__name__
    if name == "deque":
        return {"X": [name, [[_encode(v, remember) for v in base.__iter__(value)], value.maxlen]]}
    if name == "timedelta":
        return {"X": [name, [value.days, value.seconds, value.microseconds]]}
    if name == "Fraction":
        return {"X": [name, [hex(value.numerator), hex(value.denominator)]]}
    return {"X": [name, base.__str__(value) if name == "Decimal" else base.isoformat(value)]}


_BASES: tuple[tuple[type, Callable[[Any, Remember], Any]], ...] = (
    (int, lambda v, r: _encode(int.__add__(v, 0), r)),
    (float, lambda v, r: float.__pos__(v)),
    (str, lambda v, r: "".join(str.__iter__(v))),
    (list, lambda v, r: [_encode(x, r) for x in list.__iter__(v)]),
    (tuple, lambda v, r: {"T": [_encode(x, r) for x in tuple.__iter__(v)]}),
    (dict, lambda v, r: {"D": [[_encode(k, r), _encode(x, r)] for k, x in dict.items(v)]}),
    (set, lambda v, r: {"S": [_encode(x, r) for x in set.__iter__(v)]}),
    (frozenset, lambda v, r: {"Z": [_encode(x, r) for x in frozenset.__iter__(v)]}),
    (bytes, lambda v, r: {"B": bytes.hex(v)}),
    (bytearray, lambda v, r: {"Y": bytearray.hex(v)}),
    (complex, lambda v, r: {"C": [v.real, v.imag]}),
    (range, lambda v, r: {"R": [_encode(x, None) for x in (v.start, v.stop, v.step)]}),
)


def decode(form: Any, resolve: Resolve = None) -> Any:
    """Return the value of a JSON form; `resolve(tag, id)` answers references. Raises ValueError for anything
    malformed."""
    try:
        return _decode(form, resolve)
    except (TypeError, KeyError, IndexError, AttributeError, RecursionError, ArithmeticError, ImportError) as problem:
        raise ValueError(f"malformed value: {type(problem).__name__}: {problem}") from None


def _decode(form: Any, resolve: Resolve) -> Any:
    if type(form) is list:
        return form if {dict, list}.isdisjoint(map(type, form)) else [_decode(x, resolve) for x in form]
    if type(form) is not dict:
        return form
    if len(form) != 1:
        raise ValueError("malformed value: expected one tag")
    ((tag, body),) = form.items()
    if tag == "T":
        return tuple([_decode(x, resolve) for x in body])
    if tag == "D":
        return {_decode(k, resolve): _decode(v, resolve) for k, v in body}
    if tag in _MAKERS:
        return _MAKERS[tag](body, resolve)
    if resolve is not None:
        return resolve(tag, body)
    raise ValueError(f"malformed value: unknown tag {tag!r}")


def _decode_standard(body: Any, resolve: Resolve) -> Any:
    name, data = body
    if name == "deque":
        import collections

        return collections.deque([_decode(x, resolve) for x in data[0]], data[1])
    if name in ("Counter", "OrderedDict", "defaultdict"):
        made: Any = Counter() if name == "Counter" else OrderedDict()
        if name == "defaultdict":
            made = defaultdict(next((f for f in _FACTORIES if f.__name__ == data[1]), None))
        for key, one in data[0]:
            made[_decode(key, resolve)] = _decode(one, resolve)
        return made
    if name == "ndarray":
        kind, shape, numbers = data
        if not _NUMBERS.fullmatch(kind):
            raise ValueError("malformed value: an array of something else than numbers")
        import numpy

        return numpy.frombuffer(bytes.fromhex(numbers), kind).reshape(shape).copy()
    if name in _STANDARD["datetime"]:
        import datetime

        return datetime.timedelta(*data) if name == "timedelta" else getattr(datetime, name).fromisoformat(data)
    if name == "Fraction":
        import fractions

        return fractions.Fraction(int(data[0], 16), int(data[1], 16))
    if name == "Decimal":
        import decimal

        return decimal.Decimal(data)
    raise ValueError(f"malformed value: unknown type {name!r}")


_MAKERS: dict[str, Callable[[Any, Resolve], Any]] = {
    "I": lambda b, r: int(b, 16),
    "S": lambda b, r: {_decode(x, r) for x in b},
    "Z": lambda b, r: frozenset([_decode(x, r) for x in b]),
    "B": lambda b, r: bytes.fromhex(b),
    "Y": lambda b, r: bytearray.fromhex(b),
    "C": lambda b, r: complex(float(b[0]), float(b[1])),
    "R": lambda b, r: range(*[_decode(x, None) for x in b]),
    "X": _decode_standard,
}
