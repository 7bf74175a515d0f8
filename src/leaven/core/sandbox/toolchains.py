"""A program in another language -> what compiles and runs it here, whether that works in the sandbox, and its verdict.

A foreign program is a whole text: it passes when it ends with exit code 0 and, where stdout is expected, prints it. A
toolchain that is not installed, or does not run a first program inside the sandbox, makes its jobs `not_measured` with the
reason, never failed; the same holds when it vanishes in the middle of a run. Not covered: what happens inside the
child (inside/foreign.py), Python (worker.py).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leaven.core.sandbox.jobs import Job, Limits
from leaven.errors import RefusedError, did_you_mean

if TYPE_CHECKING:
    from leaven.core.sandbox.worker import Outcome, Worker

COMPILE = {"cpu_s": 60.0, "wall_s": 180.0, "memory_bytes": 3 << 30}
_NO_ADDRESS_LIMIT = 1 << 46
_OWN_THREADS = 48  # a virtual machine starts this many threads of its own at most
_JAVA_MEMORY = "-XX:+UseSerialGC -XX:-UsePerfData -XX:TieredStopAtLevel=1 -XX:CICompilerCount=1 -Xss8m".split()


@dataclass(frozen=True, slots=True)
class Toolchain:
    """How one language is compiled and run.

    `commands` are found on the PATH; `{name}` in `compile` and `run` stands for the absolute path of a command, `{source}` and
    `{main}` for the source file and its stem, `{memory_mb}` for the memory limit. `reserves` marks virtual machines
    that reserve far more addresses than they use: their resident memory is watched instead of their address space.
    """

    commands: tuple[str, ...]
    source: str
    run: tuple[str, ...]
    hello: str
    compile: tuple[str, ...] = ()
    reserves: bool = False


TOOLCHAINS = {
    "cpp": Toolchain(
        ("g++",),
        "program.cpp",
        ("./program",),
        '#include <iostream>\nint main() { std::cout << "hello" << std::endl; }\n',
        ("{g++}", "-std=c++17", "-fdiagnostics-color=never", "-o", "program", "{source}"),
    ),
    "bash": Toolchain(("bash",), "program.sh", ("{bash}", "{source}"), "echo hello\n"),
    "java": Toolchain(
        ("javac", "java"),
        "Main.java",
        ("{java}", "-ea", "-Xmx{memory_mb}m", *_JAVA_MEMORY, "-cp", ".:{jars}", "{main}"),
        'public class Main { public static void main(String[] a) { System.out.println("hello"); } }\n',
        ("{javac}", "-J-Xmx1024m", *(f"-J{o}" for o in _JAVA_MEMORY), "-encoding", "UTF-8", "-nowarn", "-cp", ".:{jars}", "{source}"),
        reserves=True,
    ),
    "php": Toolchain(
        ("php",),
        "program.php",
        ("{php}", "-d", "memory_limit={memory_mb}M", "-d", "zend.assertions=1", "-d", "display_errors=stderr", "{source}"),
        '<?php echo "hello\\n";\n',
    ),
    "js": Toolchain(
        ("node",),
        "program.js",
        ("{node}", "--max-old-space-size={memory_mb}", "{source}"),
        'console.log("hello");\n',
        reserves=True,
    ),
}
_ALIASES = {
    "c++": "cpp",
    "cc": "cpp",
    "sh": "bash",
    "shell": "bash",
    "javascript": "js",
    "node": "js",
    "py": "python",
    "python3": "python",
    "": "python",
}
_FAILED_TEST = re.compile(r"Assertion `|AssertionError|Assertion failed|AssertionError \[ERR_ASSERTION\]|assert\(\)")
_OUT_OF_MEMORY = re.compile(
    r"std::bad_alloc|OutOfMemoryError|heap out of memory|Allowed memory size|cannot allocate \d+ bytes|Cannot allocate memory"
    r"|insufficient memory|virtual memory exhausted"
)
_PUBLIC_CLASS = re.compile(r"^\s*public\s+(?:final\s+|abstract\s+)*(?:class|record|enum)\s+([A-Za-z_$][\w$]*)", re.MULTILINE)
_MAIN_CLASS = re.compile(r"\bclass\s+([A-Za-z_$][\w$]*)[^{]*\{(?:(?!\bclass\b).)*?\bstatic\s+void\s+main\b", re.DOTALL)
_probed: dict[tuple[str, str], str] = {}  # (language, tier) -> "" where a first program ran, else why not
_probing = threading.Lock()


def language_of(name: str, where: str = "") -> str:
    """Return the usual name of a language: python, cpp, bash, java, php or js.

    Raises:
        RefusedError: for a language the sandbox does not run.
    """
    known = ("python", *TOOLCHAINS)
    found = _ALIASES.get(name.lower(), name.lower())
    if found not in known:
        text = f"{where}: expected a language of {', '.join(known)}, found {name!r}.{did_you_mean(name, known)}"
        raise RefusedError(text.removeprefix(": "))
    return found


def toolchains(tier: str = "auto") -> dict[str, str]:
    """Return language -> "" where a first program compiles and runs in the sandbox, else the reason it does not (seconds, once)."""
    from leaven.core.sandbox.tiers import start_worker
    from leaven.core.sandbox.worker import Worker

    first = start_worker(tier)
    first.close()
    worker = Worker(first.tier, "foreign")
    try:
        return {"python": "", **{language: unmeasurable(worker, language) for language in TOOLCHAINS}}
    finally:
        worker.close()


def unmeasurable(worker: Worker, language: str) -> str:
    """Return why programs of `language` cannot be run by this worker, "" where they can: a first program is tried once."""
    key = (language, worker.tier)
    with _probing:
        if key not in _probed:
            _probed[key] = missing(language) or _try(worker, language)
    return _probed[key]


def _try(worker: Worker, language: str) -> str:
    job = Job("hello", TOOLCHAINS[language].hello, language=language, expected_stdout="hello", limits=Limits(cpu_s=20, wall_s=60))
    ((_, outcome),) = worker.run([job], "foreign", unsafe=True)
    status, detail = verdict(job, outcome, lambda found, expected: found.split() == expected.split())
    if status == "pass":
        return ""
    return f"the {language} toolchain does not run a first program in sandbox tier {worker.tier}: {status} ({detail})"


def missing(language: str) -> str:
    """Return which part of a toolchain is not here now, "" when all are."""
    for command in TOOLCHAINS[language].commands:
        if _path_of(command) is None:
            return f"{language} needs the command {command}, which is not on this machine's PATH"
    for path in _parts(language):
        if not os.path.exists(path):
            return f"{language} needs {path}, which was on this machine and is gone"
    return ""


def _path_of(command: str) -> str | None:
    return shutil.which(command, path=f"{os.environ.get('PATH', '')}:/usr/local/bin:/usr/bin:/bin")


@cache
def _real(command: str) -> str:
    return os.path.realpath(_path_of(command) or command)


@cache
def _parts(language: str) -> tuple[str, ...]:
    """Return the files a toolchain consists of, as first seen in this process: what must still be there later."""
    parts = [_real(c) for c in TOOLCHAINS[language].commands]
    if language == "cpp":
        for name in ("cc1plus", "as", "ld"):
            found = subprocess.run([parts[0], f"-print-prog-name={name}"], capture_output=True, text=True, check=False).stdout.strip()
            path = found if os.path.isabs(found) else shutil.which(found)
            parts += [path] if path else []
    return tuple(parts)


@cache
def readable_folders() -> tuple[str, ...]:
    """Return the folders, beyond the interpreter and the system libraries, that toolchains read: headers, virtual machines."""
    folders = ["/usr/include", "/usr/libexec", "/usr/share/java", "/usr/share/php", "/etc/php"]
    folders += map(str, Path("/etc").glob("java-*-openjdk"))
    for toolchain in TOOLCHAINS.values():
        for command in toolchain.commands:
            if _path_of(command) is None:
                continue
            root = os.path.dirname(os.path.dirname(_real(command)))
            if root == "/usr/local":
                folders += [f"{root}/bin", f"{root}/lib", f"{root}/include", f"{root}/libexec"]
            elif not root.startswith(("/usr", "/bin", "/lib")) and root.count("/") > 1:
                folders.append(root)
    return tuple(dict.fromkeys(f for f in folders if os.path.isdir(f)))


def plan(job: Job) -> dict[str, Any]:
    """Return what the worker needs to compile and run a foreign job: files, commands, environment and the limits of both steps."""
    toolchain = TOOLCHAINS[job.language]
    source = _source_name(job, toolchain)
    holes = {c: _real(c) for c in toolchain.commands} | {
        "source": source,
        "main": source.rsplit(".", 1)[0],
        "memory_mb": str(max(16, job.limits.memory_bytes >> 20)),
        "jars": ":".join(sorted(map(str, Path("/usr/share/java").glob("javatuples*.jar")))),
    }
    home = os.path.dirname(os.path.dirname(holes.get("java", "")))
    libraries = f"{home}/lib:{home}/lib/server:{home}/lib/jli" if home else ""
    return {
        "source": source,
        "compile": [_filled(part, holes) for part in toolchain.compile],
        "run": [_filled(part, holes) for part in toolchain.run],
        "environment": {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "OPENSSL_CONF": "/dev/null"}
        | ({"LD_LIBRARY_PATH": libraries, "JAVA_HOME": home} if libraries else {}),
        "compile_limits": COMPILE,
        "address_bytes": _NO_ADDRESS_LIMIT if toolchain.reserves else job.limits.memory_bytes,
        "compile_address_bytes": _NO_ADDRESS_LIMIT if toolchain.reserves else COMPILE["memory_bytes"],
        "processes": job.limits.processes + (_OWN_THREADS if toolchain.reserves else 8),
    }


def _filled(part: str, holes: dict[str, str]) -> str:
    for name, value in holes.items():
        part = part.replace("{" + name + "}", value)
    return part


def _source_name(job: Job, toolchain: Toolchain) -> str:
    """Return the file name; a Java file is called after its public class, else after the one that holds main."""
    if job.language != "java":
        return toolchain.source
    found = _PUBLIC_CLASS.search(job.program) or _MAIN_CLASS.search(job.program)
    return f"{found.group(1)[:80]}.java" if found else toolchain.source


def verdict(job: Job, outcome: Outcome, same_output: Callable[[str, str], bool]) -> tuple[str, str]:
    """Return (status, detail) of a foreign job from how its last step ended; `missing` decides whether a toolchain vanished."""
    step, limits = outcome.step, job.limits
    compiling = step == "compile"
    used = {"cpu_s": limits.cpu_s, "wall_s": limits.wall_s} if not compiling else COMPILE
    doing = "compiling used" if compiling else "used"
    texts = {
        "timeout_cpu": f"{doing} {outcome.cpu_s:.2f} s of CPU, limit {used['cpu_s']} s",
        "timeout_wall": f"{'compiling ' if compiling else ''}ran {outcome.wall_s:.2f} s, limit {used['wall_s']} s",
        "output_limit": f"printed more than {limits.output_bytes} bytes",
        "memory": f"{'compiling ' if compiling else ''}used more memory than {limits.memory_bytes} bytes",
        "processes": f"started more than {limits.processes} processes",
    }
    if outcome.ended in texts:
        return ("error" if outcome.ended == "processes" else outcome.ended), texts[outcome.ended]
    code = os.waitstatus_to_exitcode(outcome.wait_status)
    if step == "gone" or (code and (step in ("compile", "uncompiled"))):
        if gone := missing(job.language):
            return "not_measured", gone
    if step == "gone":
        return "harness_error", f"the {job.language} toolchain could not be started: {outcome.errors.strip()[-300:]}"
    lines = [line for line in outcome.errors.splitlines() if line.strip()]
    if step in ("compile", "uncompiled"):
        if _OUT_OF_MEMORY.search(outcome.errors):
            return "memory", "compiling ran out of memory"
        first = next((line for line in lines if "error" in line), lines[0] if lines else f"exit code {code}")
        return "error", f"does not compile: {first.strip()[:300]}"
    return _of_run(job, outcome, code, lines, same_output)


def _of_run(job: Job, outcome: Outcome, code: int, lines: list[str], same_output: Callable[[str, str], bool]) -> tuple[str, str]:
    last = lines[-1][:300] if lines else ""
    if code:
        for status, pattern in (("memory", _OUT_OF_MEMORY), ("fail", _FAILED_TEST)):
            if line := next((one for one in lines if pattern.search(one)), ""):
                return status, line.strip()[:300]
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
            if name in ("SIGXCPU", "SIGKILL") and outcome.cpu_s >= 0.9 * job.limits.cpu_s:
                return "timeout_cpu", f"used {outcome.cpu_s:.2f} s of CPU, limit {job.limits.cpu_s} s"
            return "crash", f"ended by {name}" + (f": {last}" if last else "")
        if job.language == "bash" and code == 1 and not lines:
            return "fail", "a test failed (exit code 1)"
        return "error", f"exit code {code}" + (f": {last}" if last else "")
    if job.expected_stdout is not None and not same_output(outcome.printed, job.expected_stdout):
        return "fail", "the output differs from the expected one"
    return "pass", ""
