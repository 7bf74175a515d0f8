"""Tests -> verdicts: the loop of a judge process, which holds expected values and no program.

Tests run here unchanged, with stand-ins (link.py) for the names they take from the program: an answer crosses as plain
data and is compared by this process's own `==`. What the tests will ask is found out beforehand (tape.py), sent in one
message, and while a candidate works on it the next tests are prepared. Tests the allow-list accepts run in this
long-lived process; others in a fork of it. Details go to the supervisor only: the worker that forks candidates never
learns an expected value.
"""

from __future__ import annotations

import _socket
import json
import os
import re
import resource
import sys
import time
from collections import OrderedDict, deque
from types import CodeType
from typing import Any

import allow
import candidate
import plaindata
import tape
from link import Differs, Forged, Link, Lost, NotComparable, TooLarge, Unsendable

Verdict = tuple[str, str, str, float, float]  # status, detail, what the program printed, its CPU and wall seconds

ENDS_CHILD = ("lost", "forged", "memory", "output_limit")  # the candidate is gone or not to be trusted with another program
# what a program raises in a shared child as it would by itself
_SAME_ANYWHERE = frozenset(
    "IndexError KeyError ZeroDivisionError ValueError TypeError NameError UnboundLocalError OverflowError".split()
)
_CALLS_CHECK = re.compile(r"^check\(", re.MULTILINE)
_OWN_CHECK = re.compile(r"^def check\(", re.MULTILINE)
_TICK_S = 0.05  # the worker is told this often that jobs go on
_QUEUED_BYTES = 1 << 16  # requests sent ahead; less than a socket holds, so that neither side waits for the other
_MEANT_MODULES = {n: n for n in "math cmath re copy json random itertools functools collections heapq unittest numpy".split()}
_MEANT_MODULES["np"] = "numpy"
_KEPT_TESTS, _KEPT_CHARS = 256, 200_000
_COMPILED_CHARS = 8000


class Tests:
    """The tests of one task, compiled, with the questions they will ask; kept for the next program of the task."""

    def __init__(self, texts: tuple[str, ...], entry_point: str, modules: allow.Modules) -> None:
        self.texts, self.entry_point = texts, entry_point
        self.problem = self.reason = ""
        self.codes: list[CodeType] = []
        self.tape: tape.Tape | None = None
        try:
            self.codes = [compile(t, f"<tests {n}>", "exec", dont_inherit=True) for n, t in enumerate(texts)]
        except (SyntaxError, ValueError, MemoryError, RecursionError) as problem:
            self.problem = f"the tests do not compile: {type(problem).__name__}: {problem}"
            return
        self.reason = next((r for c in self.codes if (r := allow.reason_against(c, modules))), "")
        self.calls_check = bool(entry_point) and any(map(_OWN_CHECK.search, texts)) and not any(map(_CALLS_CHECK.search, texts))
        names: set[str] = set()
        for code in self.codes:
            _names(code, names)
        self.names = {n for n in names if not n.startswith("__")} | ({entry_point} if entry_point else set())
        self.wanted = sorted(self.names)
        self.random = "random" in names
        self.recorded = False

    def record(self) -> None:
        """Find out what the tests will ask (once)."""
        if self.recorded:
            return
        self.recorded = True
        own = {n for n in self.names if n == self.entry_point or not hasattr(_BUILTINS, n)}
        if own:
            self.reseed()
            single = ["\n" not in text.strip() for text in self.texts]
            self.tape = tape.record(self.codes, single, own, lambda space, code: self.run_one(space, code))

    def reseed(self) -> None:
        """Give tests that draw random inputs the same ones every time."""
        if self.random and "random" in sys.modules:
            sys.modules["random"].seed(0)

    def run_one(self, space: dict[str, Any], code: CodeType | None) -> None:
        """Run one test text, or after the last (None) the check function where the tests define but never call it."""
        if code is not None:
            exec(code, space)
        elif self.calls_check:
            if self.entry_point not in space:
                raise NameError(f"the program does not define {self.entry_point!r}")
            space["check"](space[self.entry_point])


_BUILTINS = sys.modules["builtins"]


def _names(code: CodeType, into: set[str]) -> None:
    into.update(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _names(constant, into)


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
        self.kept: OrderedDict[tuple, Tests] = OrderedDict()
        self.words: list[list] = []  # not yet sent
        self.done = 0  # children done with, not yet sent
        self.ticked = self.told = 0.0

    def serve(self, receive_candidate: Any) -> None:
        """Judge batch after batch; `receive_candidate()` returns the next candidate's socket, None at the end."""
        while True:
            try:
                batch = self.supervisor.receive()
            except (EOFError, OSError):
                return
            self.words, self.told = [], time.monotonic()
            self.ticked = self.told
            if batch["mode"] == "quick":
                self.serve_quick(batch)
                continue
            jobs = list(enumerate(batch["jobs"]))
            for group in [jobs] if batch["mode"] == "shared" else [[one] for one in jobs]:
                sock = receive_candidate()
                if sock is None:
                    return
                run = _Batch(self, Link(plaindata.Channel(sock, self.reply_limit, "mine")), batch)
                run.run(group)
                self.say(batch, 1, at_once=True)  # the next may hold the judge up for good
                self.tell(b"l" if run.lost else b"e")
                sock.close()

    def serve_quick(self, batch: dict) -> None:
        """Judge programs that have a child each, from one message each: requests wait for the children in their sockets.

        What would need a second message is not judged here ("differs"). Children end by themselves after their answer.
        """
        runs: list[_Batch | None] = []
        theirs = []
        for index, (job, program) in enumerate(zip(batch["jobs"], batch["programs"], strict=True)):
            self.tick()
            tests = self.tests_of(job)
            if tests.problem or tests.reason:
                self.words.append([index, *(("error", tests.problem) if tests.problem else ("differs", "")), "", 0.0, 0.0])
                runs.append(None)
                continue
            mine, other = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
            run = _Batch(self, Link(plaindata.Channel(mine, self.reply_limit, "mine")), batch)
            number, frame = run.link.request("run", _compiled(program), 0, tests.wanted, *run.recording_of(tests))
            if len(frame) > _QUEUED_BYTES:
                self.words.append([index, "differs", "", "", 0.0, 0.0])
                runs.append(None)
                continue
            run.link.post(frame)
            run.link.live = False
            run.queue.append((index, tests, number, 0))
            runs.append(run)
            theirs.append(other)
        self.control.sendmsg(
            [bytes(0 if run is None else 1 for run in runs)],
            [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, b"".join(s.fileno().to_bytes(4, sys.byteorder) for s in theirs))] if theirs else [],
        )
        del theirs, other
        for place, run in enumerate(runs):
            if run is not None:
                index, tests, number, _ = run.queue.popleft()
                run.note(index, run.judge_reply(index, tests, number) or ("differs", "", "", 0.0, 0.0))
                run.link.channel.sock.close()
            self.say(batch, 1, at_once=place == len(runs) - 1)
        self.tell(b"e")

    def say(self, batch: dict, children: int, at_once: bool) -> None:
        """Send the words noted so far, unless more will follow soon; `children` more are done with."""
        self.done += children
        now = time.monotonic()
        if at_once or now - self.told > _TICK_S:
            self.supervisor.send([batch["n"], self.done, self.words])
            self.done, self.words, self.told = 0, [], now

    def tell(self, what: bytes) -> None:
        """Tell the worker that the batch is over ("e"), that its candidate vanished ("l") or that jobs go on ("t")."""
        self.control.sendall(what)

    def tick(self) -> None:
        """Let the worker's clocks for one job begin anew, not more often than it matters."""
        now = time.monotonic()
        if now - self.ticked > _TICK_S:
            self.ticked = now
            self.tell(b"t")

    def tests_of(self, job: tuple[list[str], str]) -> Tests:
        """Return the compiled tests of a job, from the last tasks' where they are the same."""
        key = (tuple(job[0]), job[1])
        tests = self.kept.get(key)
        if tests is not None:
            self.kept.move_to_end(key)
            return tests
        tests = Tests(key[0], key[1], self.modules)
        if sum(map(len, key[0])) < _KEPT_CHARS:
            self.kept[key] = tests
            if len(self.kept) > _KEPT_TESTS:
                self.kept.popitem(last=False)
        return tests


class _Batch:
    """The jobs of one candidate process: each gets a verdict, until the candidate is of no more use."""

    def __init__(self, judge: Judge, link: Link, batch: dict) -> None:
        self.judge, self.link, self.batch = judge, link, batch
        self.alone = batch["mode"] != "shared"
        self.lost = False
        self.queue: deque[tuple[int, Tests, int, int]] = deque()  # index, tests, request number, bytes
        self.queued = 0
        self.again: list[tuple[int, Tests]] = []  # to be run once more when nothing else is queued
        self.dead = False

    def run(self, jobs: list[tuple[int, tuple[list[str], str]]]) -> None:
        """Judge all jobs: requests are sent ahead where tests can be recorded."""
        for index, job in jobs:
            if self.dead:
                return
            self.judge.tick()
            tests = self.judge.tests_of(job)
            if tests.problem:
                self.note(index, ("error", tests.problem, "", 0.0, 0.0))
            elif tests.reason and self.judge.tier == "D" and not self.batch["unsafe"]:
                self.note(index, ("refused", f"the tests hold {tests.reason}", "", 0.0, 0.0))
            elif tests.reason or not self.batch["strict"]:
                self.drain()
                if not self.dead:
                    self.note(index, self.run_apart(index, tests) if tests.reason else self.ask_and_judge(index, tests))
            else:
                self.queue_up(index, tests)
        self.drain()
        for index, tests in self.again:
            if not self.dead:
                self.note(index, self.ask_and_judge(index, tests))

    def note(self, index: int, verdict: Verdict) -> None:
        """Keep a verdict; nothing more is asked of a candidate that is gone or lied."""
        status, detail, *rest = verdict
        self.judge.words.append([index, status, detail[:1000], *rest])
        self.lost = self.lost or status == "lost"
        self.dead = self.dead or status in ENDS_CHILD
        self.judge.tick()
        self.judge.say(self.batch, 0, at_once=False)

    # -- requests sent ahead ------------------------------------------------------------------------------------------

    def queue_up(self, index: int, tests: Tests) -> None:
        """Send the request of a job; take replies first when too much is under way."""
        recording = self.recording_of(tests)
        number, frame = self.link.request("run", index, tests.wanted, *recording)
        while self.queue and self.queued + len(frame) > _QUEUED_BYTES:
            self.finish_first()
        if self.dead:
            return
        try:
            self.link.post(frame)
        except Lost:
            self.drain()  # finds the job it was lost in
            if not self.dead:
                self.note(index, ("lost", "", "", 0.0, 0.0))
            return
        self.queue.append((index, tests, number, len(frame)))
        self.queued += len(frame)

    def recording_of(self, tests: Tests) -> tuple[list[bytes], list[int]]:
        """Return the questions to send along and which of their results are used again."""
        if not self.batch["recorded"]:
            return [], []
        tests.record()
        return (tests.tape.questions, sorted(tests.tape.kept)) if tests.tape is not None else ([], [])

    def drain(self) -> None:
        """Take all replies under way."""
        while self.queue and not self.dead:
            self.finish_first()

    def finish_first(self) -> None:
        """Take the oldest reply and judge it."""
        index, tests, number, size = self.queue.popleft()
        self.queued -= size
        self.link.live = not self.queue
        verdict = self.judge_reply(index, tests, number)
        if verdict is None:
            self.again.append((index, tests))
        else:
            self.note(index, verdict)

    def ask_and_judge(self, index: int, tests: Tests) -> Verdict:
        """Run one job with nothing else under way; without a recording where that led astray."""
        self.link.live = True
        try:
            if not self.batch["strict"]:
                number, frame = self.link.request("check", index, list(tests.texts), tests.entry_point)
            else:
                recorded = ([], []) if any(i == index for i, _ in self.again) else self.recording_of(tests)
                number, frame = self.link.request("run", index, tests.wanted, *recorded)
            self.link.post(frame)
        except Lost:
            return "lost", "", "", 0.0, 0.0
        verdict = self.judge_reply(index, tests, number)
        if verdict is not None:
            return verdict
        self.again.append((index, tests))
        return self.ask_and_judge(index, tests)

    # -- one job ------------------------------------------------------------------------------------------------------

    def judge_reply(self, index: int, tests: Tests, number: int) -> Verdict | None:
        """Judge the reply to request `number`; None where the job must be run without its recording."""
        place, printed, cpu_s, wall_s = [0], "", 0.0, 0.0
        self.link.trouble = None
        try:
            reply = self.link.take(number)
            if reply[0] == "refused":
                return "refused", f"the program holds {str(reply[1])[:200]}", "", 0.0, 0.0
            found, answers, printed, cpu_s, wall_s = _checked(reply[1:])
            if self.batch["strict"]:
                self.apply_tests(tests, found, answers, place)
            ended = self.link.trouble
        except BaseException as problem:
            ended = self.link.trouble or problem
        if ended is None:
            return "pass", "", printed, cpu_s, wall_s
        try:
            if isinstance(ended, Differs):
                if self.alone and self.batch["recorded"]:
                    return "differs", "", "", 0.0, 0.0  # what the program did meanwhile cannot be undone in its process
                return None
            return *classify(ended, place[0], tests.texts), printed, cpu_s, wall_s
        finally:
            ended = self.link.trouble = None  # its frames hold the conversation, a socket with it

    def apply_tests(self, tests: Tests, found: dict[str, Any], answers: list[Any], place: list[int]) -> None:
        """Pass when all that the recording took for granted holds; else run the tests with the answers."""
        link, recorded = self.link, tests.tape
        questions = recorded.questions if recorded is not None and answers else []
        if len(answers) > len(questions):
            raise Forged("more answers than questions")
        own = own_names(found, tests.names, tests.entry_point)
        link.begin(questions, answers)
        if questions and recorded.plain and len(answers) == len(questions) and all(map(_is_plain_answer, answers)):
            names = {n: link.decode(f) for n, f in own.items() if not _stays(f)}
            if recorded.holds([link.result(k, a[0]) for k, a in enumerate(answers)], names):
                return
            link.begin(questions, answers)
        self.run_tests(tests, own, place)

    def run_tests(self, tests: Tests, found: dict[str, Any], place: list[int]) -> None:
        """Execute every test text in one namespace, then the check function."""
        space: dict[str, Any] = {"__name__": "tests"}
        for name, form in found.items():
            if type(form) is dict and "M" in form:
                if form["M"] in sys.stdlib_module_names or form["M"] == "numpy":
                    space[name] = __import__(form["M"])
            else:
                space[name] = self.link.named(name, form)
        tests.reseed()
        for place[0], code in enumerate(tests.codes):
            tests.run_one(space, code)
        tests.run_one(space, None)

    def run_apart(self, index: int, tests: Tests) -> Verdict:
        """Run tests in a fork, so that the next job meets a clean judge."""
        read, write = os.pipe()
        child = os.fork()
        if not child:
            try:
                self.judge.supervisor.sock.close()
                self.judge.control.close()
                os.close(read)
                self.judge.tell = lambda what: None  # type: ignore[method-assign]
                cpu_s = int(self.batch["cpu_s"]) + 1
                resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
                verdict = json.dumps(self.ask_and_judge(index, tests)).encode()
                while verdict:
                    verdict = verdict[os.write(write, verdict) :]
            finally:
                os._exit(0)
        os.close(write)
        data = b"".join(iter(lambda: os.read(read, 1 << 16), b""))
        os.close(read)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        self.link.count += 1 << 20  # the fork used numbers of its own
        try:
            status, detail, printed, cpu_s, wall_s = json.loads(data)
        except ValueError:
            return "tests_died", f"the tests ended their own process ({code})", "", 0.0, 0.0
        return str(status), str(detail), str(printed), float(cpu_s), float(wall_s)


def _compiled(program: str) -> tuple[Any, bool, bool]:
    """Return a program's code (its text where it is long or does not compile), whether it may print, whether it draws random
    numbers.

    Compiled and never run here: a child that compiles copies a hundred pages for it. What could crash a compiler is long.
    """
    code: Any = program
    if len(program) <= _COMPILED_CHARS:
        try:
            code = compile(program, "<program>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            pass  # the child says what is wrong with it
    return code, candidate.PRINTS.search(program) is not None, "random" in program


def _checked(reply: list) -> tuple[dict[str, Any], list[Any], str, float, float]:
    """Return the parts of a reply to "run" or "check"; raises Forged for another shape."""
    try:
        found, answers, printed, cpu_s, wall_s = reply
        if type(found) is not dict or type(answers) is not list or type(printed) is not str:
            raise TypeError
        return found, answers, printed[-2000:], float(cpu_s), float(wall_s)
    except (ValueError, TypeError):
        raise Forged("an answer of another form") from None


def _is_plain_answer(answer: Any) -> bool:
    """Return whether an answer is a value, with no argument changed in place."""
    return type(answer) is list and len(answer) == 2 and answer[1] == [] and not (type(answer[0]) is dict and "P" in answer[0])


def _stays(form: Any) -> bool:
    return type(form) is dict and not {"H", "M", "P", "E"}.isdisjoint(form)


def own_names(found: dict[str, Any], wanted: set[str], entry_point: str) -> dict[str, Any]:
    """Return which of the program's names the tests may see: those asked for; builtins only where nothing else is
    used.

    A program that defines its own `set` must not decide what `set(answer) == set(expected)` means, but a task whose
    function is called `sum` must work: builtin names count when they are the entry point or when the program defines
    no other name in use. Where the program has a name such as `math`, the tests get the module of that name, whatever the
    program made of it: they use it to compare.
    """
    own = {n: f for n, f in found.items() if n in wanted and (n == entry_point or n not in _MEANT_MODULES)}
    plain = {n: f for n, f in own.items() if n == entry_point or not hasattr(_BUILTINS, n)}
    modules = {n: {"M": _MEANT_MODULES[n]} for n in wanted & _MEANT_MODULES.keys() if n in found and n != entry_point}
    return (plain or own) | modules


def classify(problem: BaseException, place: int, tests: tuple[str, ...]) -> tuple[str, str]:
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
    return "raised" if name in _SAME_ANYWHERE else "error", f"{where}: {name}: {_text(problem)}"


def _text(problem: BaseException) -> str:
    try:
        return str(problem)[:300]
    except BaseException:
        return ""


def _where(problem: BaseException, place: int, tests: tuple[str, ...]) -> str:
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
