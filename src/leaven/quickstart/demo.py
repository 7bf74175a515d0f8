"""`make demo`: runs the quickstart study and ends with its answer, a table, the report's path, and what it cost.

Prints wall-clock seconds, CPU seconds of the process tree and the tree's peak memory (sum of proportional set sizes where the
system tells them, else of resident sizes), sampled twice a second. Not covered: anything `leaven run` does itself.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path


def main() -> int:
    """Write the quickstart below ./quickstart unless it is there, run it, print its cost; return the exit code."""
    from leaven.api.new import new

    study = Path("quickstart/study.yaml")
    if not study.exists():
        new("quickstart")
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "leaven.cli", "run", str(study), *sys.argv[1:]])
    peak = Peak(process.pid)
    peak.start()
    try:
        code = process.wait()
    except KeyboardInterrupt:
        code = process.wait()
    peak.stop()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"cost: {time.monotonic() - began:.0f} s wall, {used.ru_utime + used.ru_stime:.0f} CPU-seconds, "
        f"{peak.bytes / 2**30:.2f} GiB peak memory of the process tree"
    )
    return code


class Peak(threading.Thread):
    """Samples the memory of a process and its descendants until stopped; `bytes` is the largest sum seen."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.bytes = pid, 0
        self._ended = threading.Event()

    def run(self) -> None:
        """Sample twice a second."""
        while not self._ended.wait(0.5):
            self.bytes = max(self.bytes, sum(_memory(pid) for pid in _tree(self.pid)))

    def stop(self) -> None:
        """End the sampling."""
        self._ended.set()
        self.join()


def _tree(root: int) -> list[int]:
    """Return a process and its descendants; asks /proc, else ps (macOS)."""
    parents: dict[int, int] = {}
    if Path("/proc/self/stat").exists():
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    parents[int(entry)] = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
                except (OSError, IndexError, ValueError):
                    continue  # it ended between listing and reading
    else:
        for line in subprocess.run(
            ["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=False
        ).stdout.splitlines():
            pid, parent = line.split()
            parents[int(pid)] = int(parent)
    found, frontier = [root], [root]
    while frontier:
        frontier = [p for p, parent in parents.items() if parent in frontier]
        found += frontier
    return found


def _memory(pid: int) -> int:
    """Return a process's proportional set size in bytes (resident size where that is all there is), 0 when it ended."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        found = (
            subprocess.run(
                ["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False
            ).stdout.strip()
            if not Path("/proc/self/stat").exists()
            else ""
        )
        return int(found) * 1024 if found else 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
