"""What the sandbox takes and gives: Job, Limits, Result. Plain data, no behaviour.

A job is a program with tests (assert texts, or a text that defines `check(candidate)`), or a program with stdin and
the stdout expected of it. Tests may use only names they define, builtins, and what the program defines.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from leaven.core.types import Status


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use. CPU seconds are the process's own clock; `processes` counts threads too."""

    cpu_s: float = 3.0
    wall_s: float = 15.0
    memory_bytes: int = 1 << 30
    output_bytes: int = 1 << 20
    processes: int = 16
    file_bytes: int = 16 << 20


@dataclass(frozen=True, slots=True)
class Job:
    """One program to run and judge.

    `tests` hold the expected values; `entry_point` is the function that a `check(candidate)` among them is called
    with. With `stdin` or `expected_stdout` and no tests the program runs as a script; its output is compared line by
    line, trailing blanks ignored. A job with neither passes when it ends without an exception.

    `language` is python, cpp, bash (also sh), java, php or js. In a language other than Python the program is a whole
    text with its tests in it: it is compiled where needed and run, and passes with exit code 0 and, where given, the
    expected stdout. `limits` bound the run; compiling has its own.
    """

    id: str
    program: str
    tests: tuple[str, ...] = ()
    entry_point: str = ""
    stdin: str | None = None
    expected_stdout: str | None = None
    limits: Limits = field(default_factory=Limits)
    language: str = "python"


@dataclass(frozen=True, slots=True)
class Result:
    """How a job ended: `status` and why (`detail`), CPU and wall seconds, the tier it ran on, the end of what it
    printed, whether it was decided in a process it shared with other programs."""

    id: str
    status: Status
    detail: str = ""
    cpu_s: float = 0.0
    wall_s: float = 0.0
    tier: str = ""
    stdout_tail: str = ""
    shared: bool = False
