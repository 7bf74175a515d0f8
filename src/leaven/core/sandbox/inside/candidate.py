"""Programs -> answers: the loop of a candidate process, which holds programs and no expected value.

The judge (another process) asks over a socket: load program i, call this name with these plain values. Values go back
as plain data or as references to objects that stay here. Nothing this process says can make a test pass except by
being the value the test asks for. In restricted mode programs are those the allow-list accepts, each in fresh
builtins; otherwise there is one program and it may do whatever the cage lets it.
"""

from __future__ import annotations

import builtins
import os
import sys
from types import ModuleType
from typing import Any

import allow
import plaindata

REPLY_LIMIT = 64 << 20
REFUSED_EXIT, MEMORY_EXIT = 76, 77  # exit codes of a script, believed only with the text that goes with them


class OutputLimit(BaseException):
    """A restricted program printed more than it may."""


class Candidate:
    """Serve one judge until it hangs up."""

    def __init__(
        self, channel: plaindata.Channel, programs: list[dict], modules: allow.Modules | None, output_bytes: int
    ) -> None:
        self.channel = channel
        self.programs = programs
        self.modules = modules
        self.output_bytes = output_bytes
        self.space: dict[str, Any] = {}
        self.objects: list[Any] = []
        self.printed: list[str] = []
        self.printed_chars = 0
        self.over = False

    def serve(self) -> None:
        """Answer requests; returns when the judge closes the channel."""
        while True:
            try:
                nonce, verb, *rest = self.channel.receive()
            except EOFError:
                return
            self.answer(nonce, verb, rest)

    def answer(self, nonce: Any, verb: str, rest: list) -> None:
        """Do one request and send its reply: ["v", value, changed arguments] ("V" once something was printed) or
        ["x", ...]."""
        try:
            reply = self.load(*rest) if verb == "load" else getattr(self, "do_" + verb)(*rest)
        except BaseException as problem:
            reply = _describe(problem)
        if self.over:
            reply = ["x", "OutputLimit", ""]
        if self.modules is None:
            self._flush()
        elif self.printed and reply[0] == "v":
            reply[0] = "V"
        try:
            self.channel.send([nonce, *reply])
        except (MemoryError, RecursionError, ValueError) as problem:
            self.channel.send([nonce, *_describe(problem)])

    def load(self, index: int, wanted: list[str]) -> list:
        """Compile and run program `index`; reply with the values of the `wanted` names it defined."""
        program = self.programs[index]
        self.objects.clear()
        self.printed, self.printed_chars, self.over = [], 0, False
        code = compile(program["program"], "<program>", "exec", dont_inherit=True)
        self.space = {"__name__": "program"}
        if self.modules is not None:
            reason = allow.reason_against(code, self.modules)
            if reason:
                return ["refused", reason]
            self.space["__builtins__"] = allow.restricted_builtins(self.modules, self._write)
        else:
            module = ModuleType("program")
            sys.modules["program"] = module
            self.space = module.__dict__
        sys.modules["random"].seed(0)
        exec(code, self.space)
        found = {n: self.space[n] for n in wanted if n in self.space}
        return ["v", {n: {"M": v.__name__} if type(v) is ModuleType else self._encode(v) for n, v in found.items()}]

    def do_call(self, target: Any, args: Any, kwargs: Any) -> list:
        """Call; lists, dicts and sets among the arguments that changed are sent back so that in-place work is
        seen."""
        function = self._decode(target)
        args, kwargs = self._decode(args), self._decode(kwargs)
        before = [self._encode(a) if isinstance(a, list | dict | set) else None for a in args]
        value = self._encode(function(*args, **kwargs))
        changed = []
        for place, (form, arg) in enumerate(zip(before, args, strict=True)):
            if form is not None:
                after = self._encode(arg)
                if after != form:
                    changed.append([place, after])
        return ["v", value, changed]

    def do_get(self, target: Any, name: str) -> list:
        """Read an attribute."""
        return ["v", self._encode(getattr(self._decode(target), name))]

    def do_set(self, target: Any, name: str, value: Any) -> list:
        """Set an attribute."""
        setattr(self._decode(target), name, self._decode(value))
        return ["v", None]

    def do_item(self, target: Any, key: Any) -> list:
        """Read an item."""
        return ["v", self._encode(self._decode(target)[self._decode(key)])]

    def do_builtin(self, name: str, target: Any) -> list:
        """Apply len, iter, next, str or repr."""
        return ["v", self._encode(getattr(builtins, name)(self._decode(target)))]

    def do_printed(self) -> list:
        """Reply with the end of what a restricted program printed."""
        return ["v", "".join(self.printed)[-2000:]]

    def do_check(self, tests: list[str], entry_point: str) -> list:
        """Run the tests here, next to the program (strict mode off)."""
        for text in tests:
            exec(compile(text, "<tests>", "exec", dont_inherit=True), self.space)
        if entry_point and "check" in self.space and not any("\ncheck(" in "\n" + t for t in tests):
            self.space["check"](self.space[entry_point])
        return ["v", None]

    def _decode(self, form: Any) -> Any:
        return plaindata.decode(form, self._resolve)

    def _resolve(self, tag: str, key: Any) -> Any:
        if tag == "H":
            return self.objects[key]
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
        return {"H": [len(self.objects) - 1, type(value).__name__]}

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
    """Return ["x", type name, text, is a syntax error of the program itself]."""
    try:
        text = str(problem)[:500]
    except BaseException:
        text = ""
    own = isinstance(problem, SyntaxError) and problem.filename == "<program>"
    names = [c.__name__ for c in type(problem).__mro__ if getattr(builtins, c.__name__, None) is c]
    return [
        "x",
        type(problem).__name__,
        text.encode("utf-8", "replace").decode(),
        own,
        names[0] if names else "Exception",
    ]


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
            module.__dict__["__builtins__"] = allow.restricted_builtins(modules, sys.stdout.write) | {"input": input}
        exec(code, module.__dict__)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except MemoryError:
        os.write(2, b"MemoryError\n")
        return MEMORY_EXIT
    except BaseException as problem:
        os.write(2, ": ".join(_describe(problem)[1:3]).encode("utf-8", "replace") + b"\n")
        status = 1
    try:
        sys.stdout.flush()
    except Exception:
        status = status or 1
    return status & 255
