"""Steps of no meaning that the engine's tests run in real worker processes; a spec says how they behave."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

from leaven.core.step import step
from leaven.errors import BackendError, Interrupted


def _count(spec) -> None:
    """Leave a trace outside the store of every call, when the spec asks for it."""
    if spec.get("calls"):
        with open(spec["calls"], "a") as handle:
            handle.write(f"{spec.get('name', '')}\n")


@step(version=1)
def write(spec, inputs, out: Path, ctx) -> None:
    """Write spec["text"] followed by the text of all inputs."""
    _count(spec)
    parts = [spec["text"]]
    for name in sorted(inputs):
        path = inputs[name]
        parts.append((path / "text.txt").read_text() if path.is_dir() else path.read_text())
    time.sleep(spec.get("seconds", 0.0))
    (out / "text.txt").write_text("|".join(parts))


@step(version=1)
def length(spec, inputs, out: Path, ctx) -> None:
    """Write only how long the input is: other content, same length, same output."""
    _count(spec)
    (out / "text.txt").write_text(str(len((inputs["text"] / "text.txt").read_text())))


@step(version=1, deterministic=False)
def clock(spec, inputs, out: Path, ctx) -> None:
    """Write something else every time."""
    _count(spec)
    (out / "text.txt").write_text(str(time.time_ns()))


@step(version=1)
def slow(spec, inputs, out: Path, ctx) -> None:
    """Count to spec["ticks"] with a checkpoint at every tick; the content does not tell whether it was resumed."""
    _count(spec)
    state = out / "_resume" / "state.json"
    state.parent.mkdir(exist_ok=True)
    total, seed = spec["ticks"], sum(len((p / "text.txt").read_text()) for p in inputs.values() if p.is_dir())
    done, value = json.loads(state.read_text()) if state.exists() else (0, spec.get("seed", 0) + seed)
    while done < total:
        time.sleep(spec.get("tick_s", 0.05))
        done, value = done + 1, (value * 6364136223846793005 + 1442695040888963407) % 2**64
        part = state.with_suffix(".part")
        part.write_text(json.dumps([done, value]))
        os.replace(part, state)
        ctx.progress(done, total, "ticks")
        if ctx.stop():
            raise Interrupted(f"stopped at tick {done}")
    for i in range(spec.get("files", 1)):
        (out / f"part-{i:04d}.txt").write_text(f"{value} {i}\n" * spec.get("lines", 1))
    (out / "text.txt").write_text(str(value))


@step(version=1)
def stubborn(spec, inputs, out: Path, ctx) -> None:
    """Never look at the stop flag."""
    print("listening to nobody", flush=True)
    time.sleep(spec["seconds"])
    (out / "text.txt").write_text("at last")


@step(version=1)
def meet(spec, inputs, out: Path, ctx) -> None:
    """Say that this step is there, and wait until the other one is: possible only when both run at once."""
    place = Path(spec["place"])
    (place / spec["me"]).touch()
    deadline = time.monotonic() + 60
    while not (place / spec["other"]).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{spec['other']} never came")
        time.sleep(0.01)
    (out / "text.txt").write_text("met")


@step(version=1)
def noisy(spec, inputs, out: Path, ctx) -> None:
    """Print the environment on all channels, and write it too."""
    os.system("echo from the shell")
    print("environment:", dict(os.environ))
    print("a token", spec["shown"], file=sys.stderr)
    (out / "text.txt").write_text("\n".join(f"{k}={v}" for k, v in sorted(os.environ.items())))
    if spec.get("fail"):
        raise RuntimeError(f"the service said no to {spec['shown']}")


@step(version=1)
def fail(spec, inputs, out: Path, ctx) -> None:
    """End in the way spec["how"] names."""
    _count(spec)
    how = spec["how"]
    if how == "exception":
        raise ValueError("seven is not a colour")
    if how == "nan":
        raise BackendError("loss became NaN at step 12; lower the learning rate")
    if how == "disk":
        (out / "half.bin").write_bytes(b"x" * 1000)
        raise OSError(errno.ENOSPC, "No space left on device", str(out))
    if how == "exit":
        sys.exit(3)
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "memory":
        used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (used + 64 * 2**20, resource.RLIM_INFINITY))
        bytearray(512 * 2**20)
    if how == "hungry":
        bytearray(spec["bytes"])
    (out / "text.txt").write_text("survived")
