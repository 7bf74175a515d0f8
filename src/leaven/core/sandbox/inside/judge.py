"""Tests -> verdicts: the loop of a judge process, which holds expected values and no program.

Tests run here unchanged. The names they take from the program are stand-ins: a call crosses to the candidate as plain
data and comes back as plain data, so an answer is compared by this process's own `==`. What is not plain stays a
`Reference`: it can be called, indexed, iterated and passed on, never compared or taken for true. Tests the allow-list
accepts run in this long-lived process; others in a fork of it. Details go to the supervisor only: the worker that
forks candidates never learns an expected value.
"""

from __future__ import annotations

import builtins
import json
import os
import re
import resource
import sys
from types import CodeType, FunctionType
from typing import Any

import allow
import plaindata

Verdict = tuple[str, str, str]  # status, detail, what the program printed

_CALLS_CHECK = re.compile(r"^check\(", re.MULTILINE)
_OWN_CHECK = re.compile(r"^def check\(", re.MULTILINE)


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


class Reference:
    """An object that stayed with the candidate; see the module docstring for what may be done with it."""

    __slots__ = ("_link", "_form", "_kind")

    def __init__(self, link: Link, form: dict, kind: str) -> None:
        object.__setattr__(self, "_link", link)
        object.__setattr__(self, "_form", form)
        object.__setattr__(self, "_kind", kind)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        link = self._link
        value, changed = link.ask("call", self._form, link.encode(args), link.encode(kwargs))
        for place, form in changed:
            _overwrite(args[place], link.decode(form))
        return link.decode(value)

    def __getattr__(self, name: str) -> Any:
        return self._link.value("get", self._form, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._link.value("set", self._form, name, self._link.encode(value))

    def __getitem__(self, key: Any) -> Any:
        return self._link.value("item", self._form, self._link.encode(key))

    def __len__(self) -> int:
        return int(self._link.value("builtin", "len", self._form))

    def __iter__(self) -> Any:
        iterator = self._link.value("builtin", "iter", self._form)
        while True:
            try:
                yield self._link.value("builtin", "next", iterator._form)
            except StopIteration:
                return

    def __next__(self) -> Any:
        return self._link.value("builtin", "next", self._form)

    def __str__(self) -> str:
        return str(self._link.value("builtin", "str", self._form))

    def __repr__(self) -> str:
        return str(self._link.value("builtin", "repr", self._form))

    def _refuse(self, *_: Any) -> Any:
        raise NotComparable(f"returned an object of type {self._kind}, expected plain data")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __hash__ = __contains__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __int__ = __float__ = __index__ = _refuse


def _overwrite(target: Any, value: Any) -> None:
    if isinstance(target, list) and isinstance(value, list):
        target[:] = value
    elif isinstance(target, dict | set) and type(value) in (dict, set):
        target.clear()
        target.update(value)


class Link:
    """One conversation with a candidate: nonced requests, callbacks answered while waiting."""

    def __init__(self, channel: plaindata.Channel) -> None:
        self.channel = channel
        self.count = 0
        self.printed = False
        self.functions: list[Any] = []

    def ask(self, verb: str, *rest: Any) -> list:
        """Send a request; return the reply after its "v", raising what the candidate raised."""
        self.count += 1
        nonce = self.count
        try:
            self.channel.send([nonce, verb, *rest])
            while True:
                reply = self.channel.receive()
                if type(reply) is not list or len(reply) < 2:
                    raise Forged("a message that is no answer")
                if reply[0] is None and reply[1] == "callback":
                    self._answer(reply)
                    continue
                if reply[0] != nonce or reply[1] not in ("v", "V", "x", "refused"):
                    raise Forged("an answer to another question")
                break
        except (EOFError, OSError):
            raise Lost from None
        except OverflowError as problem:
            raise TooLarge(str(problem)) from None
        except (ValueError, IndexError, TypeError) as problem:
            raise Forged(str(problem)) from None
        self.printed = self.printed or reply[1] == "V"
        if reply[1] == "x":
            raise _remote(reply)
        return reply[1:] if reply[1] == "refused" else reply[2:]

    def value(self, verb: str, *rest: Any) -> Any:
        """Ask and decode the one value of the reply."""
        return self.decode(self.ask(verb, *rest)[0])

    def _answer(self, reply: list) -> None:
        try:
            value = self.encode(self.functions[reply[2]](*self.decode(reply[3])))
            self.channel.send([None, "returned", value])
        except Exception as problem:
            self.channel.send([None, "raised", type(problem).__name__, str(problem)[:500]])

    def encode(self, value: Any) -> Any:
        """Plain form of a test's value; references go back as themselves, functions as callbacks."""
        try:
            return plaindata.encode(value, self._remember)
        except plaindata.NotPlain as problem:
            raise Unsendable(str(problem)) from None

    def decode(self, form: Any) -> Any:
        """Value of a candidate's reply; anything malformed is Forged."""
        try:
            return plaindata.decode(form, self._resolve)
        except ValueError as problem:
            raise Forged(str(problem)) from None

    def _remember(self, value: Any) -> dict:
        if isinstance(value, Reference):
            return value._form
        name = getattr(value, "__name__", None)
        if type(name) is str and getattr(builtins, name, self) is value:
            return {"N": name}
        if isinstance(value, FunctionType):
            self.functions.append(value)
            return {"F": len(self.functions) - 1}
        raise Unsendable(f"the tests pass an object of type {type(value).__name__}")

    def _resolve(self, tag: str, key: Any) -> Any:
        if tag != "H" or type(key) is not list or len(key) != 2:
            raise ValueError("malformed reference")
        return Reference(self, {"H": key[0]}, str(key[1])[:80])


def _remote(reply: list) -> BaseException:
    """Return the exception a reply describes, as the nearest builtin Exception, marked with the original name."""
    name, text, own_syntax, base = [*reply[2:6], *[""] * 4][:4]
    kind = getattr(builtins, str(base), Exception)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        kind = Exception
    try:
        problem = kind(str(text))
    except TypeError:
        problem = Exception(str(text))
    problem.remote = str(name)[:80]  # type: ignore[attr-defined]
    problem.own_syntax = bool(own_syntax)  # type: ignore[attr-defined]
    return problem


def _names(code: CodeType, into: set[str]) -> set[str]:
    into.update(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _names(constant, into)
    return into


class Judge:
    """Serve one worker: `control` tells of candidates, `supervisor` brings the tests and takes the verdicts."""

    def __init__(
        self, control: Any, supervisor: plaindata.Channel, modules: allow.Modules, tier: str, reply_limit: int
    ) -> None:
        self.control = control
        self.supervisor = supervisor
        self.modules = modules
        self.tier = tier
        self.reply_limit = reply_limit

    def serve(self, receive_candidate: Any) -> None:
        """Judge batch after batch; `receive_candidate()` returns the next candidate's socket, None at the end."""
        while (sock := receive_candidate()) is not None:
            batch = self.supervisor.receive()
            link = Link(plaindata.Channel(sock, self.reply_limit))
            for index, job in enumerate(batch["jobs"]):
                status = self.judge(link, index, job, batch)
                if status in ("lost", "forged", "memory", "output_limit"):
                    break  # the candidate is gone or not to be trusted with another program
            self.tell("e", len(batch["jobs"]))
            sock.close()

    def tell(self, what: str, index: int) -> None:
        """Tell the worker that job `index` was judged ("j"), its candidate vanished ("l") or the batch is over ("e");
        no more."""
        self.control.sendall(what.encode() + index.to_bytes(4, "big"))

    def judge(self, link: Link, index: int, job: dict, batch: dict) -> str:
        """Judge one job and report it; return its status."""
        status, detail, printed = self.verdict(link, index, job, batch)
        self.supervisor.send([batch["n"], index, status, detail[:1000], printed])
        self.tell("l" if status == "lost" else "j", index)
        return status

    def verdict(self, link: Link, index: int, job: dict, batch: dict) -> Verdict:
        """Return the verdict on one job, in this process or, for tests that may do anything, in a fork of it."""
        try:
            codes = [compile(t, f"<tests {n}>", "exec", dont_inherit=True) for n, t in enumerate(job["tests"])]
        except (SyntaxError, ValueError, MemoryError, RecursionError) as problem:
            return "error", f"the tests do not compile: {type(problem).__name__}: {problem}", ""
        reason = next((r for c in codes if (r := allow.reason_against(c, self.modules))), "")
        if not reason:
            return self.run(link, index, job, codes, batch)
        if self.tier == "D" and not batch["unsafe"]:
            return "refused", f"the tests hold {reason}", ""
        return self.run_apart(link, index, job, codes, batch)

    def run_apart(self, link: Link, index: int, job: dict, codes: list[CodeType], batch: dict) -> Verdict:
        """Run tests in a fork, so that the next job meets a clean judge."""
        read, write = os.pipe()
        child = os.fork()
        if not child:
            try:
                self.supervisor.sock.close()
                self.control.close()
                os.close(read)
                cpu_s = int(batch["cpu_s"]) + 1
                resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
                verdict = json.dumps(self.run(link, index, job, codes, batch)).encode()
                while verdict:
                    verdict = verdict[os.write(write, verdict) :]
            finally:
                os._exit(0)
        os.close(write)
        data = b"".join(iter(lambda: os.read(read, 1 << 16), b""))
        os.close(read)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        link.count += 1 << 20  # the fork used nonces of its own
        try:
            status, detail, printed = json.loads(data)
        except ValueError:
            return "tests_died", f"the tests ended their own process ({code})", ""
        return str(status), str(detail), str(printed)

    def run(self, link: Link, index: int, job: dict, codes: list[CodeType], batch: dict) -> Verdict:
        """Load the program in the candidate, run the tests here."""
        place = [0]
        link.printed = False
        try:
            wanted: set[str] = set()
            for code in codes:
                _names(code, wanted)
            wanted.add(job["entry_point"])
            loaded = link.ask("load", index, sorted(n for n in wanted if n and not n.startswith("__")))
            if loaded[0] == "refused":
                return "refused", f"the program holds {loaded[1]}", ""
            if batch["strict"]:
                self.run_tests(link, job, codes, own_names(loaded[0], wanted, job["entry_point"]), place)
            else:
                link.ask("check", job["tests"], job["entry_point"])
            status, detail = "pass", ""
        except BaseException as problem:
            status, detail = classify(problem, place[0], job["tests"])
        printed = ""
        if link.printed and status in ("pass", "fail", "error"):
            try:
                printed = str(link.ask("printed")[0])[-2000:]
            except (Exception, Lost, Forged, TooLarge) as problem:
                if status == "pass":
                    status, detail = classify(problem, place[0], job["tests"])
        return status, detail, printed

    def run_tests(
        self, link: Link, job: dict, codes: list[CodeType], found: dict[str, Any], place: list[int]
    ) -> None:
        """Execute every test text in one namespace; call `check(entry_point)` where the tests define it but never
        call it."""
        space: dict[str, Any] = {"__name__": "tests"}
        for name, form in found.items():
            if type(form) is dict and "M" in form:
                if form["M"] in sys.stdlib_module_names:
                    space[name] = __import__(form["M"])
            else:
                space[name] = link.decode(form)
        for place[0], code in enumerate(codes):
            exec(code, space)
        texts = job["tests"]
        if job["entry_point"] and any(map(_OWN_CHECK.search, texts)) and not any(map(_CALLS_CHECK.search, texts)):
            if job["entry_point"] not in space:
                raise NameError(f"the program does not define {job['entry_point']!r}")
            space["check"](space[job["entry_point"]])


def own_names(found: Any, wanted: set[str], entry_point: str) -> dict[str, Any]:
    """Return which of the program's names the tests may see: those asked for; builtins only where nothing else is
    used.

    A program that defines its own `set` must not decide what `set(answer) == set(expected)` means, but a task whose
    function is called `sum` must work: builtin names count when they are the entry point or when the program defines
    no other name in use.
    """
    if type(found) is not dict:
        raise Forged("no table of names")
    plain = {n: f for n, f in found.items() if n in wanted and (n == entry_point or not hasattr(builtins, n))}
    return plain or {n: f for n, f in found.items() if n in wanted}


def classify(problem: BaseException, place: int, tests: list[str]) -> tuple[str, str]:
    """Return (status, detail) for whatever ended a job's tests."""
    if isinstance(problem, Lost):
        return "lost", ""
    if isinstance(problem, Forged):
        return "forged", f"the program interfered with its answers: {problem}"
    if isinstance(problem, TooLarge):
        return "output_limit", f"the program returned {problem}"
    if isinstance(problem, Unsendable):
        return "unsendable", str(problem)
    where = _where(problem, place, tests)
    if isinstance(problem, NotComparable):
        return "fail", f"{where}: {problem}"
    name = getattr(problem, "remote", None) or type(problem).__name__
    if name == "Refused":
        return "refused", f"the program holds {_text(problem)}"
    if name == "OutputLimit":
        return "output_limit", "printed more than allowed"
    if isinstance(problem, MemoryError):
        return "memory", f"{where}: MemoryError"
    if isinstance(problem, AssertionError):
        return "fail", f"{where}: AssertionError: {_text(problem)}".removesuffix(": ")
    if getattr(problem, "own_syntax", False):
        return "syntax", f"{name}: {_text(problem)}"
    return "error", f"{where}: {name}: {_text(problem)}"


def _text(problem: BaseException) -> str:
    try:
        return str(problem)[:300]
    except BaseException:
        return ""


def _where(problem: BaseException, place: int, tests: list[str]) -> str:
    """Return "test 2 of 3: <the line>" for the innermost test line of the traceback."""
    line, step = "", problem.__traceback__
    while step is not None:
        name = step.tb_frame.f_code.co_filename
        if name.startswith("<tests "):
            place = int(name[7:-1])
            lines = tests[place].splitlines()
            line = lines[step.tb_lineno - 1].strip()[:200] if 0 < step.tb_lineno <= len(lines) else ""
        step = step.tb_next
    return f"test {place + 1} of {len(tests)}" + (f": {line}" if line else " (while loading the program)")
