"""A hundred thousand mixed programs: nothing is left behind, and a run that is interrupted and killed goes on where it stopped."""

# ruff: noqa: E501  (a program a line)
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

from leaven.core.sandbox import Job, Limits, execute

COUNT = int(os.environ.get("LEAVEN_SOAK_PROGRAMS", "100000"))
SHORT = {"cpu_s": 0.3, "wall_s": 1.0, "memory_bytes": 256 << 20}
# place in a thousand: program ({i} makes every one its own), verdict
ODD = {
    7: ("def f(x): return {i}\nwhile {i} >= 0: pass", "timeout_cpu", 9),
    57: ("import time\ntime.sleep(99 + {i})\ndef f(x): return 0", "timeout_wall", 9),
    107: ("a = [{i}]\nwhile True: a += a\ndef f(x): return 0", "memory", 9),
    157: ("print('x' * {i})\nwhile True: print('x' * 9999)", "output_limit", 5),
    207: ("import ctypes\nctypes.string_at({i} * 0)", "crash", 3),
    257: ("import os\nfor _ in range(9):\n try: os.fork()\n except OSError: pass\ni = {i}\nos._exit(0)", "error", 3),
    307: ("import os\nif os.fork() == 0:\n os.setsid()\n import time\n time.sleep(999)\ndef f(x): return x + {i}", "pass", 2),
    357: ("open('left{i}', 'w').write('x' * 100000)\ndef f(x): return x + {i}", "pass", 1),
    407: ("import threading, time\nfor _ in range(4): threading.Thread(target=time.sleep, args=(99,)).start()\ndef f(x): return x + {i}", "pass", 1),
    457: ("import os\nos._exit({i} % 3)", "error", 1),
    507: ("def f(x): return open('/etc/passwd').read() + '{i}'", "error", 1),
}


def program(i):
    """Return (text, verdict) of program `i`; the dear ones of ODD come once in their many thousands."""
    odd = ODD.get(i % 1000)
    if odd and i // 1000 % odd[2] == 0:
        return odd[0].replace("{i}", str(i)), odd[1]
    kind = i % 10
    if kind < 6:
        return f"def f(x):\n    total = {i}\n    for v in range(x):\n        total += v * 0\n    return total + x", "pass"
    if kind < 8:
        return f"def f(x):\n    return x + {i} + 1", "fail"
    if kind == 8:
        return f"def f(x):\n    return [x][{i + 1}]", "error"
    return f"def f(x:\n    return {i}", "error"


def rows():
    """Yield (id, program, test, verdict)."""
    for i in range(COUNT):
        text, verdict = program(i)
        yield str(i), text, f"assert f(3) == {i} + 3", verdict


def strays(pid):
    """Pids of workers that `pid` started and of what runs under a user or group of theirs, parents or not."""
    first = 0x40000000 + (pid % (1 << 20)) * 128
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            lines = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
            ids = [int(n) for name in ("Uid", "Gid") for n in lines[name].split()]
            if any(first <= n < first + 128 for n in ids) or int(lines["PPid"]) == pid and b"zygote.py" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except (OSError, KeyError):
            continue
    return found


def left_behind():
    """What a run could leave: folders of workers, shared memory, System V segments, descriptors of this process."""
    return (
        sorted(tempfile.tempdir and os.listdir(tempfile.tempdir) or []),
        sorted(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else [],
        len(os.listdir("/proc/self/fd")),
    )


def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_many_mixed_programs_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # others may use the usual one
    list(execute([Job("warm", "x = 1")], workers=2))
    before = left_behind()
    resident, begun = resident_mb(), time.monotonic()
    wrong, counts = [], Counter()
    expected = (verdict for *_, verdict in rows())
    for result, verdict in zip(execute((Job(i, text, (test,), limits=Limits(**SHORT)) for i, text, test, _ in rows()), workers=2), expected, strict=True):
        counts[result.status] += 1
        if result.status != verdict:
            wrong.append(f"{result.id}: {result.status} ({result.detail}), expected {verdict}")
    print(f"\n{COUNT} programs in {time.monotonic() - begun:.0f} s: {dict(counts)}; resident memory {resident:.0f} -> {resident_mb():.0f} MB")
    assert not wrong, "\n".join(wrong[:20])
    assert left_behind() == before and not strays(os.getpid())
    assert resident_mb() - resident < 64


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_long_run_survives_ctrl_c_and_a_kill(tmp_path):
    source, out = tmp_path / "programs.jsonl", tmp_path / "verdicts.jsonl"
    with source.open("w") as lines:
        for i, text, test, _ in rows():
            lines.write(json.dumps({"id": i, "program": text, "tests": test, "limits": SHORT}) + "\n")
    command = [sys.executable, "-m", "leaven.cli", "execute", str(source), "-o", str(out), "--workers", "2", "--cache", str(tmp_path / "cache.db")]
    begun, reached = time.monotonic(), []
    for share, how in ((0.2, signal.SIGINT), (0.5, signal.SIGKILL), (1, None)):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while how is not None and process.poll() is None and lines_in(out) < share * COUNT:
            time.sleep(0.2)
        if how is not None:
            assert process.poll() is None, "it ended before it was to be interrupted"
            process.send_signal(how)
        process.wait(timeout=3600)
        deadline = time.monotonic() + 20
        while strays(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not strays(process.pid)
        reached.append(lines_in(out))
    found = [json.loads(line) for line in out.read_text().splitlines()]
    print(f"\n{COUNT} programs in {time.monotonic() - begun:.0f} s with two interruptions, verdicts after each start: {reached}")
    assert process.returncode == 0 and reached[0] <= reached[1] < reached[2] == COUNT
    assert {row["id"]: row["verdict"] for row in found} == {i: verdict for i, _, _, verdict in rows()}


def lines_in(path):
    """Number of whole lines written so far."""
    if not path.exists():
        return 0
    with path.open("rb") as handle:
        return sum(part.count(b"\n") for part in iter(lambda: handle.read(1 << 20), b""))
