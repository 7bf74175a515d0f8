"""A file and a process that no hostile program may touch, shared by the suites."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """Yield names in braces -> a guard file, its folder, the number of a canary process; at the end nothing has touched them."""
    folder = tmp_path_factory.mktemp("guarded")
    folder.chmod(0o755)
    path = folder / "guard"
    path.write_text("untouched")
    path.chmod(0o666)
    before = path.stat()
    canary = subprocess.Popen([sys.executable, "-S", "-c", "import time\nwhile True: time.sleep(60)"])
    cores = os.sched_getaffinity(canary.pid) if hasattr(os, "sched_getaffinity") else None
    yield {"{guard}": str(path), "{canary}": str(canary.pid), "{folder}": str(folder)}
    assert canary.poll() is None, "the canary process was ended"
    assert cores is None or os.sched_getaffinity(canary.pid) == cores
    canary.kill()
    canary.wait()
    assert path.read_text() == "untouched"
    assert (path.stat().st_mtime_ns, path.stat().st_mode, path.stat().st_nlink) == (before.st_mtime_ns, before.st_mode, 1)
    assert [p.name for p in folder.iterdir()] == ["guard"]
