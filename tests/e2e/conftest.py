"""A study of 20 steps that trains four tiny models in seconds, and the command line as a person calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

STUDY = """\
leaven: 1
study: tiny
question: Does reasoning first help?
data:
  sources:
    easy: {world: {families: [list_program], difficulties: [1, 2], n: 72}}
  stages:
    sft: {mixture: {easy: 1}, format: code_only, batch: 8, budget: {steps: 6}, max_tokens: 96, repeat: repeat}
conditions:
  a: {description: program only}
  b: {data: {stages: {sft: {format: thought_code}}}}
tokenizer: {kind: word, vocab_size: 256}
model: {width: 32, layers: 1, heads: 2, max_tokens: 96}
train: {lr: 1.0e-3}
seeds: [0, 1]
measure:
  programs: {benchmark: program, world: {families: [list_program], difficulties: [1, 2, 3], n: 90, split: test}, max_new_tokens: 40}
contrasts:
  - {name: thought first, treatment: b, control: a, benchmark: programs, where: {seen: false}, primary: true}
"""

Cli = Callable[..., subprocess.CompletedProcess[str]]


def call(folder: Path, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run `leaven ARGUMENTS` in a folder."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("LEAVEN_")} | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "leaven.cli", *arguments],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the tiny study has run once."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "study.yaml").write_text(STUDY)
    done = call(folder, "run", "study.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "first.txt").write_text(done.stdout)
    return folder


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Return the function that calls the command line: `cli(folder, *arguments)`."""
    return call


@pytest.fixture(scope="session")
def study() -> str:
    """Return the text of the tiny study."""
    return STUDY
