"""A graph run as a process: killed at seeded moments, interrupted by Ctrl-C, started twice; artifacts show none."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leaven.core.hashing import tree_digest
from leaven.engine.provenance import keys_of
from leaven.engine.status import read_status
from leaven.engine.store import Store

DRIVER = Path(__file__).parent / "driver.py"


class Study:
    """A toy graph on disk with its store and run folder."""

    def __init__(self, folder: Path, graph: list[dict], *, store: Path | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.store, self.run_dir, self.graph = store or folder / "store", folder / "run", graph
        self.file = folder / "graph.json"
        self.file.write_text(json.dumps(graph))
        self.log = folder / "out.txt"

    def start(self) -> subprocess.Popen:
        """Start the run in a process group of its own."""
        command = [sys.executable, str(DRIVER), str(self.store), str(self.run_dir), str(self.file)]
        return subprocess.Popen(command, stdout=self.log.open("ab"), stderr=subprocess.STDOUT, start_new_session=True)

    def finish(self) -> dict[str, str]:
        """Run to the end and return the content digest behind every link."""
        assert self.start().wait(timeout=300) == 0, self.log.read_text()
        return {link: tree_digest((self.run_dir / link).resolve()) for row in self.graph for link in row["links"]}

    def sound(self) -> None:
        """Fail when the store holds anything but complete artifacts."""
        store = Store(self.store)
        for key in store.keys():
            assert store.lookup(key) is not None and store.damage(key, deep=True) == "", key

    def publishing(self) -> bool:
        """Return whether a step has returned but is not published yet."""
        return any((p / "text.txt").exists() for p in (self.store / "work").glob("*") if not p.name.startswith("trash"))


def slow(name: str, seconds: float, *, inputs=None, files: int = 1, calls: Path | None = None, seed: int = 0) -> dict:
    spec = {"ticks": int(seconds / 0.05), "files": files, "seed": seed, "name": name, "calls": str(calls or "")}
    return {"id": name, "function": "toy_steps:slow", "spec": spec, "inputs": inputs or {}, "links": [f"links/{name}"]}


def study_graph(seconds: float, files: int) -> list[dict]:
    """Nine steps: shared data, three pairs of model and evaluation, a report step with many files, and its reader."""
    models = [slow(f"seed-{s}/model", seconds, inputs={"data": "data"}, seed=s) for s in range(3)]
    evals = [slow(f"seed-{s}/eval", seconds, inputs={"model": f"seed-{s}/model"}, seed=10 + s) for s in range(3)]
    every = {f"e{s}": f"seed-{s}/eval" for s in range(3)}
    return [slow("data", seconds, files=files), *models, *evals, slow("tables", seconds, inputs=every, files=files),
            slow("report", seconds, inputs={"tables": "tables"})]


def kill_group(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def kill_in_publish(study: Study) -> bool:
    """Start the study and kill it between the end of a step and its publication; False when it ended before."""
    process, end = study.start(), time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        if study.publishing():
            kill_group(process)
            return True
        time.sleep(0.001)
    return False


def kill_after(study: Study, seconds: float) -> bool:
    """Start the study and kill it after `seconds`; False when it ended before."""
    process = study.start()
    try:
        process.wait(timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        kill_group(process)
        return True


def undisturbed(tmp_path: Path, graph: list[dict]) -> dict[str, str]:
    """Return the digests of the same graph, run in another store, when nothing happens."""
    return Study(tmp_path / "calm", graph).finish()


def test_killed_three_times_ends_the_same(tmp_path):
    graph = study_graph(0.9, files=300)
    study = Study(tmp_path / "killed", graph)
    assert kill_in_publish(study)
    study.sound()
    assert read_status(study.run_dir)["state"] == "killed"
    for moment in random.Random(7).sample([1.2, 1.6, 2.0, 2.4], 2):
        assert kill_after(study, moment)
        study.sound()
    assert study.finish() == undisturbed(tmp_path, graph)
    study.sound()
    assert not list((study.store / "work").iterdir()) and read_status(study.run_dir)["state"] == "done"


@pytest.mark.slow
def test_killed_twenty_times_ends_the_same(tmp_path):
    graph = study_graph(10.0, files=1500)
    study, draw, kills = Study(tmp_path / "killed", graph), random.Random(20), 0
    assert kill_in_publish(study)
    for _ in range(19):
        kills += kill_after(study, draw.uniform(0.4, 4.0))
        study.sound()
    assert kills == 19
    assert study.finish() == undisturbed(tmp_path, graph)
    study.sound()


def wait_for(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_ctrl_c_checkpoints_and_resumes(tmp_path):
    graph = [slow("a", 2.5), slow("b", 2.5, seed=1), slow("c", 0.3, inputs={"a": "a"})]
    study = Study(tmp_path / "s", graph)
    process = study.start()
    wait_for(lambda: len(list(study.store.glob("work/*/_resume/state.json"))) == 2)
    time.sleep(1.0)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=10) == 130 and time.monotonic() - began < 3
    status = read_status(study.run_dir)
    assert status["state"] == "interrupted"
    assert {row["state"] for row in status["nodes"].values()} == {"interrupted", "waiting"}
    assert "continue with: leaven run toy.yaml" in study.log.read_text()
    ticks = [json.loads(p.read_text())[0] for p in study.store.glob("work/*/_resume/state.json")]
    assert len(ticks) == 2 and min(ticks) >= 10
    assert study.finish() == undisturbed(tmp_path, graph)


def test_ctrl_c_ends_a_step_that_does_not_listen(tmp_path):
    deaf = {"id": "deaf", "function": "toy_steps:stubborn", "spec": {"seconds": 60}, "links": []}
    study = Study(tmp_path / "s", [deaf])
    log = study.run_dir / "logs/deaf.log"
    process = study.start()
    wait_for(lambda: log.exists() and log.stat().st_size)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=15) == 130 and time.monotonic() - began < 10
    log.unlink()
    second = study.start()
    wait_for(lambda: log.exists() and log.stat().st_size)
    began = time.monotonic()
    os.killpg(second.pid, signal.SIGINT)
    time.sleep(0.3)
    os.killpg(second.pid, signal.SIGINT)
    assert second.wait(timeout=15) == 130 and time.monotonic() - began < 3


def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    study = Study(tmp_path / "s", [slow("a", 30.0)])
    process = study.start()
    wait_for(lambda: bool(list(study.store.glob("work/*/_resume/state.json"))))
    os.kill(process.pid, signal.SIGKILL)  # the parent alone: not the group
    process.wait()
    key = next((study.store / "work").iterdir()).name
    with Store(study.store).lock(key, wait=True) as held:  # until now the worker held it
        assert held


@pytest.mark.parametrize("one_folder", [True, False])
def test_two_runs_on_one_store(tmp_path, one_folder):
    calls = tmp_path / "calls"
    graph = [slow(f"s{i}", 0.3, calls=calls, seed=i) for i in range(6)]
    graph += [slow("end", 0.2, inputs={"x": "s0", "y": "s5"}, calls=calls)]
    first = Study(tmp_path / "one", graph, store=tmp_path / "store")
    second = first if one_folder else Study(tmp_path / "two", graph, store=tmp_path / "store")
    processes = [first.start(), second.start()]
    assert [p.wait(timeout=60) for p in processes] == [0, 0], first.log.read_text() + second.log.read_text()
    assert sorted(calls.read_text().split()) == sorted(row["id"] for row in graph)
    assert first.finish() == second.finish()
    assert set(keys_of(second.run_dir)) == {row["id"] for row in graph}
