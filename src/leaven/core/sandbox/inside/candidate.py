"""Programs -> answers: the loop of a candidate process, which holds programs and no expected value.

The judge (another process) asks over a socket: load program i and answer this recording of calls (tape.py), then
perhaps single calls. Values go back as plain data or as references to objects that stay here. Nothing this process
says can make a test pass except by being the value the test asks for. In restricted mode programs are those the
allow-list accepts, each in fresh
builtins; otherwise there is one program and it may do whatever the cage lets it.
"""

from __future__ import annotations

import builtins
import gc
import os
import re
import sys
from collections import deque
from marshal import dumps, loads
from time import perf_counter, process_time
from types import FunctionType, ModuleType
from typing import Any

import allow
import plaindata

RPC_FD = 3  # where a child finds the socket to its judge
REPLY_LIMIT = 64 << 20
REFUSED_EXIT, MEMORY_EXIT = 76, 77  # exit codes of a script, believed only with the text that goes with them


PRINTS = re.compile("print|write|std|exec|eval|getattr|import_")  # else there is nothing to flush
_MUTABLE = frozenset((list, dict, set))
_PLAIN = frozenset((type(None), bool, int, float, str, list, tuple, dict, set))
_CHANGING = (list, dict, set, deque, bytearray)


class OutputLimit(BaseException):
    """A restricted program printed more than it may."""


class _Senseless(BaseException):
    """A recorded question is about something this program does not have."""


class Candidate:
    """Serve one judge until it hangs up."""

    def __init__(self, channel: plaindata.Channel) -> None:
        self.channel = channel
        self.prepare([], None, 0)
        self.may_print = self.seeded = False
        self.space: dict[str, Any] = {}
        self.objects: list[Any] = []
        self.results: dict[int, Any] = {}
        self.plain: set[int] = set()
        self.printed: list[str] = []
        self.printed_chars = 0
        self.over = False

    def prepare(self, programs: list[Any], modules: allow.Modules | None, output_bytes: int) -> None:
        """Say what will run, texts or code: with `modules`, only texts that the allow-list accepts."""
        self.programs, self.modules, self.output_bytes = programs, modules, output_bytes

    def end_after_one(self, rpc: int, lock: Any, output_bytes: int) -> None:
        """In a fresh child: lock it, answer the one request that waits in descriptor `rpc` with its program, end."""
        status = 98
        try:
            os.dup2(rpc, RPC_FD)
            lock.apply("", RPC_FD + 1)
            gc.enable()
            nonce, verb, (code, self.may_print, self.seeded), *rest = self.channel.receive()
            self.prepare([code], None, output_bytes)
            self.answer(nonce, verb, rest)
            status = 0
        finally:
            os._exit(status)

    def serve(self) -> None:
        """Answer requests; returns when the judge closes the channel."""
        while True:
            try:
                nonce, verb, *rest = self.channel.receive()
            except EOFError:
                return
            self.answer(nonce, verb, rest)

    def answer(self, nonce: Any, verb: str, rest: list) -> None:
        """Do one request and send its reply: [nonce, "v", ...] or [nonce, "x", exception]."""
        try:
            reply = getattr(self, "do_" + verb)(*rest)
        except BaseException as problem:
            reply = _describe(problem)
        if self.over:
            reply = ["x", "OutputLimit", ""]
        if allow.refusals:
            reply = ["refused", allow.refusals[0]]
        if self.may_print:
            self._flush()
        try:
            self.channel.send([nonce, *reply])
        except (MemoryError, RecursionError, ValueError, TypeError) as problem:
            self.channel.send([nonce, *_describe(problem)])

    def do_run(self, index: int, wanted: list[str], tape: list[bytes], kept: list[int]) -> list:
        """Load program `index` and answer the recorded questions; reply ["v", names, answers, printed, CPU s, wall s].

        An answer is [value, changed arguments], {"x": exception} (then no more are answered), "s" for a question about
        what turned out to be plain data, "e" where the recording makes no sense for this program.
        """
        cpu, wall = process_time(), perf_counter()
        refused = self._load(index)
        if refused:
            return ["refused", refused]
        space = self.space
        names = {n: self._named(space[n]) for n in wanted if n in space}
        answers: list[Any] = []
        for number, question in enumerate(tape):
            verb, target, *rest = loads(question)
            if target[0] == "r" and target[1] in self.plain:
                self.plain.add(number)
                answers.append("s")
                continue
            try:
                answers.append(getattr(self, "do_" + verb)(number, target, *rest)[1:])
            except _Senseless:
                answers.append("e")
                break
            except BaseException as problem:
                answers.append({"x": _describe(problem)[1:]})
                break
            if number in kept and number not in self.results:
                self.results[number] = self._decode(answers[-1][0])  # plain data goes in as a copy, as from the judge
        return ["v", names, answers, self._printed(), process_time() - cpu, perf_counter() - wall]

    def _load(self, index: int) -> str:
        """Compile and run program `index`; return why it may not run here, if so."""
        self.objects, self.results, self.plain = [], {}, set()
        self.printed, self.printed_chars, self.over = [], 0, False
        allow.refusals.clear()
        program = self.programs[index]
        code = compile(program, "<program>", "exec", dont_inherit=True) if type(program) is str else program
        if self.modules is not None:
            reason = allow.reason_against(code, self.modules)
            if reason:
                return reason
            self.space = {"__name__": "program", "__builtins__": allow.restricted_builtins(self.modules, code, self._write)}
        else:
            module = ModuleType("program")
            sys.modules["program"] = module
            self.space = module.__dict__
            if self.seeded or type(program) is str and "random" in program:
                sys.modules["random"].seed(0)
            self.may_print = self.may_print or type(program) is str and PRINTS.search(program) is not None
        exec(code, self.space)
        return ""

    def _form(self, value: Any) -> Any:
        """Return the form of a value with a name or number of its own."""
        if type(value) in _PLAIN:
            return self._encode(value)
        if type(value) is FunctionType:
            return {"H": "function"}
        form = self._encode(value)
        if type(form) is dict and "O" in form:
            return {"H": type(value).__name__}
        own = type(value).__module__ == "program"  # a class of the program on top of plain data: it may have more to it
        return {"P": [type(value).__name__, form]} if own else form

    def _named(self, value: Any) -> Any:
        if type(value) is ModuleType:
            return {"M": value.__name__}
        if isinstance(value, type) and issubclass(value, BaseException):
            return {"E": _lineage(value)}
        return self._form(value)

    def _answered(self, number: int, value: Any, changed: list) -> list:
        form = self._form(value)
        if type(form) is dict and ("H" in form or "P" in form):
            self.results[number] = value
        else:
            self.plain.add(number)
        return ["v", form, changed]

    def do_call(self, number: int, target: Any, args: tuple, kwargs: dict) -> list:
        """Call; lists, dicts and sets among the arguments that changed are sent back so that in-place work is seen."""
        function = self._object(target)
        if _MUTABLE.isdisjoint(map(type, args)) and (not kwargs or _MUTABLE.isdisjoint(map(type, kwargs.values()))):
            return self._answered(number, function(*args, **kwargs), [])
        before = dumps((args, kwargs), 2)
        value = function(*args, **kwargs)
        try:
            unchanged = dumps((args, kwargs), 2) == before
        except ValueError:
            unchanged = False
        if unchanged:
            return self._answered(number, value, [])
        old_args, old_kwargs = loads(before)
        old = dict(enumerate(old_args)) | old_kwargs
        now = [*enumerate(args), *kwargs.items()]
        changed = [[i, self._encode(a)] for i, a in now if type(a) in _MUTABLE and self._encode(a) != self._encode(old[i])]
        return self._answered(number, value, changed)

    def do_callx(self, number: int, target: Any, args: Any, kwargs: Any) -> list:
        """Call with arguments that are not all plain builtins."""
        function = self._object(target)
        args, kwargs = self._decode(args), self._decode(kwargs)
        given = [(place, arg) for place, arg in (*enumerate(args), *kwargs.items()) if type(arg) in _CHANGING or _is_array(arg)]
        before = [self._encode(arg) for _, arg in given]
        value = function(*args, **kwargs)
        changed = []
        for form, (place, arg) in zip(before, given, strict=True):
            after = self._encode(arg)
            if after != form:
                changed.append([place, after])
        return self._answered(number, value, changed)

    def do_get(self, number: int, target: Any, name: str) -> list:
        """Read an attribute."""
        return self._answered(number, getattr(self._object(target), name), [])

    def do_set(self, number: int, target: Any, name: str, value: Any) -> list:
        """Set an attribute."""
        setattr(self._object(target), name, self._decode(value))
        return self._answered(number, None, [])

    def do_item(self, number: int, target: Any, key: Any) -> list:
        """Read an item."""
        return self._answered(number, self._object(target)[self._decode(key)], [])

    def do_builtin(self, number: int, target: Any, name: str) -> list:
        """Apply len, iter, next, str or repr."""
        return self._answered(number, getattr(builtins, name)(self._object(target)), [])

    def do_plain(self, number: int, target: Any) -> list:
        """Give the plain data in an object of one of the program's own classes."""
        return ["v", self._encode(self._object(target)), []]

    def do_isinstance(self, number: int, target: Any, value: Any) -> list:
        """Say whether a value is of a class of the program."""
        return self._answered(number, isinstance(self._decode(value), self._object(target)), [])

    def do_await(self, number: int, target: Any) -> list:
        """Run a coroutine to its end."""
        coroutine = self._object(target)
        if "asyncio" in sys.modules:
            return self._answered(number, sys.modules["asyncio"].run(coroutine), [])
        try:
            coroutine.send(None)
        except StopIteration as end:
            return self._answered(number, end.value, [])
        raise RuntimeError("the program awaits something without asyncio")

    def _printed(self) -> str:
        return "".join(self.printed)[-2000:] if self.printed else ""

    def do_check(self, index: int, tests: list[str], entry_point: str) -> list:
        """Load program `index` and run the tests here, next to it (strict mode off); reply as for `do_run`."""
        cpu, wall = process_time(), perf_counter()
        refused = self._load(index)
        if refused:
            return ["refused", refused]
        for text in tests:
            exec(compile(text, "<tests>", "exec", dont_inherit=True), self.space)
        if entry_point and "check" in self.space and not any("\ncheck(" in "\n" + t for t in tests):
            self.space["check"](self.space[entry_point])
        return ["v", {}, [], self._printed(), process_time() - cpu, perf_counter() - wall]

    def _decode(self, form: Any) -> Any:
        return plaindata.decode(form, self._resolve)

    def _object(self, address: Any) -> Any:
        kind, key = address
        try:
            if kind == "n":
                return self.space[key]
            return self.results[key] if kind == "r" else self.objects[key]
        except KeyError:
            raise _Senseless from None

    def _resolve(self, tag: str, key: Any) -> Any:
        if tag == "H":
            return self._object(key)
        if tag == "F":
            return self._callback(key)
        if tag == "N":
            return getattr(builtins, key)
        raise ValueError(f"malformed value: unknown tag {tag!r}")

    def _callback(self, key: int) -> Any:
        def call_judge(*args: Any) -> Any:
            self.channel.send([None, "callback", key, self._encode(args)])
            while True:
                nonce, verb, *rest = self.channel.receive()
                if verb == "returned":
                    return self._decode(rest[0])
                if verb == "raised":
                    raise getattr(builtins, rest[0], RuntimeError)(rest[1])
                self.answer(nonce, verb, rest)

        return call_judge

    def _encode(self, value: Any) -> Any:
        return plaindata.encode(value, self._remember)

    def _remember(self, value: Any) -> dict:
        self.objects.append(value)
        return {"O": [len(self.objects) - 1, type(value).__name__]}

    def _write(self, text: str) -> None:
        self.printed_chars += len(text)
        if self.printed_chars > self.output_bytes:
            self.over = True
            raise OutputLimit
        self.printed.append(text)

    def _flush(self) -> None:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except Exception:
            return  # the program may have replaced or closed them; its output is its own affair


def _describe(problem: BaseException) -> list:
    """Return ["x", type name, text, is a syntax error of the program itself, nearest builtin type, arguments or None, own classes]."""
    try:
        text = str(problem)[:500]
    except BaseException:
        text = ""
    try:
        args = [plaindata.encode(one) for one in problem.args] if len(text) < 500 else None
    except BaseException:
        args = None
    own = isinstance(problem, SyntaxError) and problem.filename == "<program>"
    *own_classes, base = _lineage(type(problem))
    return [
        "x",
        type(problem).__name__,
        text.encode("utf-8", "replace").decode(),
        own,
        base,
        args,
        own_classes,
    ]


def _lineage(kind: type) -> list[str]:
    """Return the names of an exception class and its bases, up to the first builtin one."""
    names = []
    for one in kind.__mro__:
        names.append(one.__name__)
        if getattr(builtins, one.__name__, None) is one:
            return names
    return [*names, "Exception"]


def _is_array(value: Any) -> bool:
    return type(value).__name__ == "ndarray" and type(value).__module__ == "numpy"


def run_script(program: str, modules: allow.Modules | None) -> int:
    """Run a program as __main__ with its own stdin and stdout; return the exit code (1 and a last line for an
    exception).

    With `modules` (tier D) only what the allow-list accepts runs, reading through `input` and writing through
    `print`; exit code 76 and the reason otherwise.
    """
    module = ModuleType("__main__")
    sys.modules["__main__"] = module
    status = 0
    try:
        code = compile(program, "<program>", "exec", dont_inherit=True)
        if modules is not None:
            reason = allow.reason_against(code, modules, frozenset(("input",)))
            if reason:
                os.write(2, f"the program holds {reason}\n".encode("utf-8", "replace"))
                return REFUSED_EXIT
            module.__dict__["__builtins__"] = allow.restricted_builtins(modules, code, sys.stdout.write) | {"input": input}
        exec(code, module.__dict__)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except MemoryError:
        os.write(2, b"MemoryError\n")
        return MEMORY_EXIT
    except BaseException as problem:
        os.write(2, ": ".join(_describe(problem)[1:3]).encode("utf-8", "replace") + b"\n")
        status = 1
    if modules is None:
        _end_interpreter()
    for stream in (sys.stdout, sys.__stdout__):
        try:
            if not stream.closed:
                stream.flush()
        except Exception:
            status = status or 1
    return status & 255


def _end_interpreter() -> None:
    """Do what a program may count on at its end: wait for its threads, call what it registered."""
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        __import__("atexit")._run_exitfuncs()
    except BaseException as problem:  # as the interpreter itself: said, and without consequence
        os.write(2, ": ".join(_describe(problem)[1:3]).encode("utf-8", "replace") + b"\n")
