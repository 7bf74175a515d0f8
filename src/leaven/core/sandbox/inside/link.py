"""A judge's end of the conversation with one candidate: questions, answers, and the stand-ins that tests hold.

A test calls stand-ins instead of the program's functions. What comes back is plain data, compared by the judge's own
`==`; what is not plain stays a `Reference`: it can be called, indexed, iterated and passed on, never compared or taken
for true. Answers the candidate already gave (tape.py) are replayed as long as the test asks exactly what was recorded.

Objects that stay with the candidate are named by where they came from: ("n", name) a name of the program, ("r", k) the
result of question k, ("o", i) something inside a result.
"""

from __future__ import annotations

import builtins
import marshal
import operator
from collections import deque
from types import FunctionType, ModuleType
from typing import Any

import allow
import plaindata

Address = tuple[str, Any]
RAISED, SKIPPED, ENDED = "x", "s", "e"  # forms of a recorded question's answer that is no value


class Lost(BaseException):
    """The candidate process is gone."""


class Forged(BaseException):
    """The candidate sent bytes that are no answer."""


class TooLarge(BaseException):
    """The candidate sent more than a reply may hold."""


class NotComparable(BaseException):
    """A test compared, or took for true, something that is not plain data."""


class Unsendable(BaseException):
    """A test passes the program an object that cannot cross as data."""


class Differs(BaseException):
    """A test asks something else than was recorded for it: it must run again without a recording."""


class Reference:
    """An object that stayed with the candidate; see the module docstring for what may be done with it."""

    __slots__ = ("_link", "_address", "_kind")

    def __init__(self, link: Link, address: Address, kind: str) -> None:
        object.__setattr__(self, "_link", link)
        object.__setattr__(self, "_address", address)
        object.__setattr__(self, "_kind", kind)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._link.call(self._address, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return self._link.value("get", self._address, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._link.value("set", self._address, name, self._link.encode(value))

    def __getitem__(self, key: Any) -> Any:
        return self._link.value("item", self._address, self._link.encode(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        self._link.value("get", self._address, "__setitem__")(key, value)

    def __delitem__(self, key: Any) -> None:
        self._link.value("get", self._address, "__delitem__")(key)

    def __enter__(self) -> Any:
        return self._link.value("get", self._address, "__enter__")()

    def __exit__(self, kind: Any, _: Any, trace: Any) -> bool:
        """Leave; the program swallows what the tests raise to see that, and nothing else: not a failed test."""
        known = kind if getattr(builtins, getattr(kind, "__name__", ""), None) is kind else kind and Exception
        swallows = self._link.value("get", self._address, "__exit__")(known, None, None) is True
        return swallows and kind is not None and not issubclass(kind, AssertionError) and _is_raised_here(trace)

    def __instancecheck__(self, value: Any) -> bool:
        return self._link.value("isinstance", self._address, self._link.encode(value)) is True

    def __len__(self) -> int:
        return int(self._link.value("builtin", self._address, "len"))

    def __iter__(self) -> Any:
        iterator = self._link.value("builtin", self._address, "iter")
        while True:
            try:
                yield self._link.value("builtin", iterator._address, "next")
            except StopIteration:
                return

    def __next__(self) -> Any:
        return self._link.value("builtin", self._address, "next")

    def __str__(self) -> str:
        return str(self._link.value("builtin", self._address, "str"))

    def __repr__(self) -> str:
        return str(self._link.value("builtin", self._address, "repr"))

    def _refuse(self, *_: Any) -> Any:
        raise NotComparable(f"returned an object of type {self._kind}, expected plain data")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __hash__ = __contains__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __int__ = __float__ = __index__ = _refuse


_RAISE = allow.operations("RAISE_VARARGS")


def _is_raised_here(trace: Any) -> bool:
    """Return whether an exception comes from a `raise` in the tests' own text."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not trace.tb_frame.f_code.co_filename.startswith("<tests "):
        return False
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] in _RAISE


_ON_PLAIN = """eq ne lt le gt ge bool hash contains len getitem iter reversed str repr format int float index abs round neg add radd sub
rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod pow rpow and rand or ror xor rxor trunc floor ceil""".split()


class Owned(Reference):
    """A list, dict or set of a class of the program: attributes are the program's, what it holds is read as plain data.

    So a method of such a class works, and no comparison, length or order it defines is believed. What was read holds until the
    tests ask the program for something else: it cannot change between two looks.
    """

    __slots__ = ("_read", "_asked")

    def __init__(self, link: Link, address: Address, kind: str, plain: Any) -> None:
        super().__init__(link, address, kind)
        object.__setattr__(self, "_read", plain)
        object.__setattr__(self, "_asked", link.asked)

    @property
    def __class__(self) -> Any:
        return type(self._plain())

    def _plain(self) -> Any:
        if self._asked != self._link.asked:
            object.__setattr__(self, "_read", self._link.value("plain", self._address))
            object.__setattr__(self, "_asked", self._link.asked)
        return self._read


_REFLECTED = {f"__r{n}__": getattr(operator, f"__{n}__") for n in "add sub mul truediv floordiv mod pow and or xor".split()}


def _on_plain(name: str) -> Any:
    def do(self: Owned, *values: Any) -> Any:
        plain = self._plain()
        if name == "__bool__":
            return bool(plain)
        if name in _REFLECTED:  # `[0] + owned`: what a list has no method for, the operator does
            return _REFLECTED[name](*values, plain)
        if not hasattr(plain, name):
            if values:
                return NotImplemented
            raise TypeError(f"a {type(plain).__name__} has no {name}")
        return getattr(plain, name)(*[v._plain() if type(v) is Owned else v for v in values])

    return do


for _name in _ON_PLAIN:
    setattr(Owned, f"__{_name}__", _on_plain(f"__{_name}__"))


def _ask_for(self: Any, name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    link, address = self.__dict__["_stays"]
    return link.value("get", address, name)


def _with_attributes(base: type) -> type:
    """Return a class for immutable data of a class of the program: plain data here, with the attributes it has there."""
    body = {"__getattr__": _ask_for, "__reduce_ex__": lambda self, _: (base, (base(self),)), "stays_with_its_program": True}
    return type(base.__name__, (base,), body)


_MORE = {base: _with_attributes(base) for base in (int, float, str, bytes, tuple, frozenset)}


class _Raised(type):
    """The class of stand-ins for the program's exception classes: they can be caught, not made."""

    def __call__(cls, *_: Any, **__: Any) -> Any:
        raise NotComparable("the tests make an exception of the program")


def _overwrite(target: Any, value: Any) -> None:
    if type(target) is not type(value):
        return
    if isinstance(target, list | bytearray):
        target[:] = value
    elif isinstance(target, dict | set):
        target.clear()
        target.update(value)
    elif isinstance(target, deque):
        target.clear()
        target.extend(value)
    elif type(target).__name__ == "ndarray" and target.shape == value.shape:
        target[...] = value


class Link:
    """One conversation with a candidate: numbered requests, callbacks answered while waiting.

    `live` tells whether questions may still be asked: false while later programs are already queued in the candidate.
    """

    def __init__(self, channel: plaindata.Channel) -> None:
        self.channel = channel
        self.count = 0
        self.live = True
        self.trouble: BaseException | None = None
        self.begin((), ())

    def begin(self, tape: tuple[bytes, ...] | list[bytes], results: tuple[Any, ...] | list[Any]) -> None:
        """Start the conversation about one program: `results` are its answers to the recorded questions `tape`."""
        self.tape, self.results = tape, results
        self.asked = 0  # questions so far: the number of the next result
        self.functions: list[Any] = []
        self.values: dict[int, Any] = {}
        self.exceptions: dict[str, Any] = {}
        self.trouble = None

    def give_up(self, problem: BaseException) -> BaseException:
        """Note what ended the conversation: the tests may catch it, and still it decides. Return the first such problem."""
        self.trouble = self.trouble or problem
        return self.trouble

    # -- messages -----------------------------------------------------------------------------------------------------

    def post(self, frame: bytes) -> None:
        """Send a request made by `request`."""
        try:
            self.channel.post(frame)
        except OSError:
            raise self.give_up(Lost()) from None

    def request(self, verb: str, *rest: Any) -> tuple[int, bytes]:
        """Return the number and the bytes of a new request."""
        self.count += 1
        return self.count, self.channel.frame((self.count, verb, *rest))

    def take(self, nonce: int) -> list:
        """Return the reply to request `nonce` without its number, answering callbacks meanwhile; an "x" reply is raised."""
        try:
            while True:
                reply = self.channel.receive()
                if type(reply) is not list or len(reply) < 2:
                    raise Forged("a message that is no answer")
                if reply[0] is None and reply[1] == "callback":
                    self._answer(reply)
                    continue
                if reply[0] != nonce or reply[1] not in ("v", RAISED, "refused"):
                    raise Forged("an answer to another question")
                break
        except (EOFError, OSError):
            raise self.give_up(Lost()) from None
        except OverflowError as problem:
            raise self.give_up(TooLarge(str(problem))) from None
        except (ValueError, IndexError, TypeError) as problem:
            raise self.give_up(Forged(str(problem))) from None
        except Forged as problem:
            raise self.give_up(problem) from None
        if reply[1] == RAISED:
            raise self.remote(reply[2:])
        return reply[1:]

    def _answer(self, reply: list) -> None:
        try:
            value = self.encode(self.functions[reply[2]](*self.decode(reply[3])))
            self.channel.send((None, "returned", value))
        except Exception as problem:
            self.channel.send((None, "raised", type(problem).__name__, str(problem)[:500]))

    def named(self, name: str, form: Any) -> Any:
        """Return the value or the stand-in of a name of the program."""
        if type(form) is dict and "E" in form:
            kind = self.exception(form["E"])
            # a program's own name for AssertionError or its bases must not catch what the tests assert
            return _Raised(kind.__name__, (kind,), {}) if issubclass(AssertionError, kind) else kind
        return self._given(("n", name), form)

    def _given(self, address: Address, form: Any) -> Any:
        """Return the value of a form, or what stands for it where it stays with the program."""
        if type(form) is dict and "H" in form:
            one = Reference(self, address, _kind_in(form["H"]))
            return _result_of(self, address) if one._kind == "coroutine" else one
        if type(form) is dict and "P" in form:
            if type(form["P"]) is not list or len(form["P"]) != 2:
                raise self.give_up(Forged("an object without its data"))
            plain = self.decode(form["P"][1])
            if type(plain) not in _MORE:
                return Owned(self, address, _kind_in(form["P"][0]), plain)
            made = _MORE[type(plain)](plain)
            made._stays = (self, address)
            return made
        return self.decode(form)

    def exception(self, names: Any) -> Any:
        """Return the class that stands for an exception class of the program: names of it and its bases, a builtin one last."""
        if type(names) is not list or not names or not all(type(n) is str for n in names):
            raise self.give_up(Forged("an exception without names"))
        if len(names) == 1:
            kind = getattr(builtins, names[0], Exception)
            return kind if isinstance(kind, type) and issubclass(kind, BaseException) else Exception
        if names[0] not in self.exceptions:
            self.exceptions[names[0]] = _Raised(names[0][:80], (self.exception(names[1:50]),), {})
        return self.exceptions[names[0]]

    # -- questions of the tests ---------------------------------------------------------------------------------------

    def call(self, target: Address, args: tuple, kwargs: dict) -> Any:
        """Call an object of the program; lists, dicts and sets among `args` that it changed are changed here too."""
        if plaindata.is_native(args) and plaindata.is_native(kwargs):
            verb, sent, named = "call", args, kwargs
        else:
            verb, sent, named = "callx", self.encode(args), self.encode(kwargs)
        number, (value, changed) = self._ask(verb, target, sent, named)
        for place, form in changed:
            _overwrite(kwargs[place] if type(place) is str else args[place], self.decode(form))
        return self.result(number, value)

    def value(self, verb: str, target: Address, *rest: Any) -> Any:
        """Ask another question and return the one value of the reply."""
        number, (form, _) = self._ask(verb, target, *rest)
        return self.result(number, form)

    def result(self, number: int, form: Any) -> Any:
        """Return the value of the form that answers question `number`."""
        self.values[number] = value = self._given(("r", number), form)
        return value

    def _ask(self, *question: Any) -> tuple[int, list]:
        """Return the number of a question and [value form, changed arguments]: from the recording where it has the
        question, else from the candidate."""
        if self.trouble is not None:
            raise self.trouble
        while self.asked < len(self.results) and self.results[self.asked] == SKIPPED:
            self.asked += 1
        number = self.asked
        self.asked += 1
        if number < len(self.results) and self.results[number] != ENDED:
            if not self._is_recorded(number, question):
                raise self.give_up(Differs())
            form = self.results[number]
            if type(form) is dict and RAISED in form:
                raise self.remote(form[RAISED])
            return number, self._pair(form)
        if not self.live:
            raise self.give_up(Differs())
        nonce, frame = self.request(question[0], number, *question[1:])
        self.post(frame)
        return number, self._pair(self.take(nonce)[1:])

    def _pair(self, reply: Any) -> list:
        if type(reply) is not list or len(reply) != 2 or type(reply[1]) is not list:
            raise self.give_up(Forged("an answer without its value"))
        return reply

    def _is_recorded(self, number: int, question: tuple) -> bool:
        recorded = self.tape[number]
        if recorded == marshal.dumps(question, 2):
            return True
        verb, target, *rest = marshal.loads(recorded)
        if verb != "callx" or question[0] != "call" or question[1] != target:
            return False  # what was recorded as the result of an earlier question may have turned out to be plain data
        args, kwargs = (plaindata.decode(form, self._earlier) for form in rest)
        return marshal.dumps((args, kwargs), 2) == marshal.dumps(question[2:], 2)

    def _earlier(self, tag: str, key: Any) -> Any:
        if tag == "H" and key[0] == "r" and key[1] in self.values:
            return self.values[key[1]]
        raise ValueError("no earlier result")

    def remote(self, described: Any) -> BaseException:
        """Return the exception a reply describes, of the nearest builtin class and the program's own, marked with the original name.

        An end of the process stays one (SystemExit is no Exception): `except Exception` in a test does not catch it.
        """
        name, text, own_syntax, base, args, own = [*(described if type(described) is list else []), *[""] * 6][:6]
        names = [*(own if type(own) is list else []), base]
        kind = self.exception(names if all(type(n) is str for n in names) else ["Exception"])
        try:
            problem = type.__call__(kind, *plaindata.decode(args)) if type(args) is list else type.__call__(kind, str(text))
            if str(problem) != text:
                problem = type.__call__(kind, str(text))
        except (TypeError, ValueError):
            problem = Exception(str(text)) if issubclass(kind, Exception) else BaseException(str(text))
        problem.remote = str(name)[:80]  # type: ignore[attr-defined]
        problem.own_syntax = bool(own_syntax)  # type: ignore[attr-defined]
        return problem

    # -- values -------------------------------------------------------------------------------------------------------

    def encode(self, value: Any) -> Any:
        """Plain form of a test's value; references go back as themselves, functions as callbacks."""
        try:
            return plaindata.encode(value, self._remember)
        except Unsendable as problem:
            raise self.give_up(problem) from None
        except plaindata.NotPlain as problem:  # nested too deeply: the program's doing, or it would not have been sent so far
            raise NotComparable(f"the tests pass on {problem}") from None

    def decode(self, form: Any) -> Any:
        """Value of a candidate's reply; anything malformed is Forged."""
        try:
            return plaindata.decode(form, self._resolve)
        except ValueError as problem:
            raise self.give_up(Forged(str(problem))) from None

    def _remember(self, value: Any) -> dict:
        if isinstance(value, Reference):
            return {"H": value._address}
        if type(value) in _MORE.values():
            return {"H": value._stays[1]}
        if type(value) is ModuleType:  # else a program could name a module to have its tests judged beside it
            raise NotComparable("the tests pass on a module")
        return remember_local(value, self.functions)

    def _resolve(self, tag: str, key: Any) -> Any:
        if tag != "O" or type(key) is not list or len(key) != 2 or type(key[0]) is not int:
            raise ValueError("malformed reference")
        return Reference(self, ("o", key[0]), str(key[1])[:80])


async def _result_of(link: Link, address: Address) -> Any:
    """Stand for a coroutine of the program, which runs there when it is awaited here."""
    return link.value("await", address)


def remember_local(value: Any, functions: list[Any]) -> dict:
    """Return the form of a builtin or a function of the tests; raises Unsendable for any other object."""
    name = getattr(value, "__name__", None)
    if type(name) is str and getattr(builtins, name, functions) is value:
        return {"N": name}
    if isinstance(value, FunctionType):
        functions.append(value)
        return {"F": len(functions) - 1}
    raise Unsendable(f"the tests pass an object of type {type(value).__name__}")


def _kind_in(body: Any) -> str:
    return body[:80] if type(body) is str else "unknown"
