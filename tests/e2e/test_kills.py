"""A real study that is killed again and again ends with the artifacts of one that ran in peace; Ctrl-C ends it with 130."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

Cli = Callable[..., subprocess.CompletedProcess[str]]


def started(folder: Path) -> subprocess.Popen[bytes]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("LEAVEN_")} | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "leaven.cli", "run", "study.yaml", "--log", "quiet"],
        cwd=folder,
        env=environ,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def digests(folder: Path) -> dict[str, str]:
    """Return node -> content digest of everything the study's run names."""
    found = {}
    for name, row in json.loads((folder / "runs/tiny/status.json").read_text())["nodes"].items():
        manifest = folder / ".leaven/artifacts" / row["key"][:2] / row["key"] / "_manifest.json"
        found[name] = json.loads(manifest.read_text())["digest"]
    return found


def kill_at_seeded_moments(folder: Path, kills: int, longest_s: float) -> int:
    """Start the study and kill its whole process group `kills` times; return how often it was still running."""
    rng = np.random.Generator(np.random.Philox(7))
    hits = 0
    for _ in range(kills):
        process = started(folder)
        time.sleep(float(rng.uniform(0.3, longest_s)))
        hits += process.poll() is None
        with contextlib.suppress(ProcessLookupError):  # it had finished
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return hits


def test_three_kills_change_nothing(finished: Path, tmp_path: Path, cli: Cli, study: str) -> None:
    (tmp_path / "study.yaml").write_text(study)
    assert kill_at_seeded_moments(tmp_path, 3, 4.0) > 0
    done = cli(tmp_path, "run", "study.yaml")
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path) == digests(finished)


@pytest.mark.slow
def test_twenty_kills_of_a_minute_long_study_change_nothing(tmp_path: Path, cli: Cli, study: str) -> None:
    long = (
        study.replace("steps: 6", "steps: 2500")
        .replace("seeds: [0, 1]", "seeds: [0, 1, 2, 3]")
        .replace("max_new_tokens: 40}", "max_new_tokens: 40}\nruntime: {checkpoint_seconds: 1.0}")
    )
    for name in ("calm", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.yaml").write_text(long)
    assert cli(tmp_path / "calm", "run", "study.yaml", timeout=1200).returncode == 0
    assert kill_at_seeded_moments(tmp_path / "killed", 20, 7.0) >= 15
    assert cli(tmp_path / "killed", "run", "study.yaml", timeout=1200).returncode == 0
    assert digests(tmp_path / "killed") == digests(tmp_path / "calm")


def test_ctrl_c_checkpoints_and_exits_130(tmp_path: Path, study: str, cli: Cli) -> None:
    (tmp_path / "study.yaml").write_text(study.replace("steps: 6", "steps: 4000"))
    process = started(tmp_path)
    deadline = time.monotonic() + 60
    while not list((tmp_path / ".leaven").glob("work/*/")) and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(4)
    os.kill(process.pid, signal.SIGINT)
    began = time.monotonic()
    assert process.wait(timeout=30) == 130 and time.monotonic() - began < 10
    assert "interrupted" in cli(tmp_path, "status", "runs/tiny").stdout
