"""A graph of toy steps through the public `run`: caching, sharing, failures, damage, secrets."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from leaven.core.hashing import tree_digest
from leaven.engine.collect import collect
from leaven.engine.graph import FileInput, Node, input_digest
from leaven.engine.run import run
from leaven.engine.status import read_status
from leaven.engine.store import follow
from leaven.errors import StudyError


def node(name: str, step: str = "write", *, inputs=None, links=(), threads=1, **spec) -> Node:
    if step in ("write", "slow"):
        spec.setdefault("text", name)
    return Node(name, f"toy_steps:{step}", spec, inputs or {}, links, threads)


@pytest.fixture
def go(store, tmp_path):
    def start(*nodes, **options):
        return run(nodes, store, run_dir=tmp_path / "run", workers=2, resume="leaven run toy.yaml", **options)

    return start


def text(tmp_path: Path, link: str) -> str:
    return (follow(tmp_path / "run" / link) / "text.txt").read_text()


def test_builds_links_and_finds_everything_again(go, tmp_path):
    nodes = [node("a", links=("x/a",)), node("b", inputs={"from": "a"}, links=("x/b", "y/b"))]
    first = go(*nodes)
    assert (first.done, first.cached, first.failed, first.exit_code) == (("a", "b"), (), {}, 0)
    assert text(tmp_path, "y/b") == "b|a"
    assert (tmp_path / "run/x/a").is_symlink() and not Path((tmp_path / "run/x/a").readlink()).is_absolute()
    second = go(*nodes)
    assert (second.done, second.cached) == ((), ("a", "b"))


def test_equal_steps_run_once(go, tmp_path):
    calls = tmp_path / "calls"
    twins = [node(f"seed-{i}/data", text="same", calls=str(calls), seconds=0.1, links=(f"s{i}",)) for i in range(4)]
    outcome = go(*twins)
    assert len(calls.read_text().splitlines()) == 1
    assert len(outcome.done) == 1 and len(outcome.cached) == 3
    assert {text(tmp_path, f"s{i}") for i in range(4)} == {"same"}


def test_same_content_downstream_is_not_built_again(go, tmp_path):
    calls = tmp_path / "calls"

    def graph(word):
        return [node("word", text=word), node("length", "length", inputs={"text": "word"}),
                node("last", inputs={"n": "length"}, calls=str(calls))]

    go(*graph("salt"))
    again = go(*graph("flour"))  # other length
    assert again.done == ("word", "length", "last")
    cut = go(*graph("yeast"))  # same length as flour: the step after `length` is found built
    assert (cut.done, cut.cached) == (("word", "length"), ("last",))
    assert len(calls.read_text().splitlines()) == 2


def test_undetermined_steps_are_known_by_their_key(go, store, tmp_path):
    nodes = [node("clock", "clock"), node("reader", inputs={"t": "clock"}, links=("r",))]
    go(*nodes)
    before = text(tmp_path, "r")
    store.discard(json.loads((tmp_path / "run/status.json").read_text())["nodes"]["clock"]["key"])
    outcome = go(*nodes)
    assert outcome.done == ("clock",) and outcome.cached == ("reader",)
    assert text(tmp_path, "r") == before


def test_steps_run_in_parallel(go, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    outcome = go(*(node(n, "meet", me=n, other=o, place=str(place)) for n, o in (("a", "b"), ("b", "a"))))
    assert sorted(outcome.done) == ["a", "b"]


@pytest.mark.parametrize("how, kind, words", [
    ("exception", "exception", "ValueError: seven is not a colour"),
    ("nan", "backend", "loss became NaN at step 12; lower the learning rate"),
    ("disk", "full_disk", "No space left on device"),
    ("exit", "exception", "SystemExit: 3"),
    ("segfault", "crash", "SIGSEGV"),
    ("kill", "out_of_memory", "signal 9"),
    ("memory", "out_of_memory", "MemoryError"),
])
def test_a_failed_step_leaves_the_rest_running(go, tmp_path, how, kind, words):
    bad = node("bad", "fail", how=how)
    outcome = go(bad, node("reader", inputs={"x": "bad"}), node("late", inputs={"x": "reader"}),
                 node("good", seconds=0.2), node("better", inputs={"x": "good"}))
    assert set(outcome.done) == {"good", "better"} and outcome.exit_code == 1
    assert set(outcome.skipped) == {"reader", "late"}
    failure = outcome.failed["bad"]
    assert failure.kind == kind and words in failure.reason and failure.resume == "leaven run toy.yaml"
    rows = read_status(tmp_path / "run")["nodes"]
    assert rows["late"]["reason"] == "blocked by bad" and words in rows["bad"]["reason"]
    if how == "exception":
        assert 'raise ValueError("seven' in Path(failure.log).read_text()
    if how == "disk":
        assert not list((tmp_path / "store/work").rglob("half.bin"))


def test_memory_budget_stops_a_step_not_the_machine(go):
    from leaven.core.step import Resources

    outcome = go(node("hungry", "fail", how="hungry", bytes=3 * 2**30),
                 node("modest", "fail", how="hungry", bytes=2**20),
                 resources=Resources(memory_bytes=2**30))
    assert outcome.failed["hungry"].kind == "out_of_memory" and outcome.done == ("modest",)


def artifact(tmp_path: Path, link: str) -> Path:
    return follow(tmp_path / "run" / link)


@pytest.mark.parametrize("harm", ["flip", "rot", "truncate", "delete", "manifest"])
def test_damaged_artifacts_are_built_again(go, tmp_path, harm):
    nodes = [node("a", links=("a",)), node("b", inputs={"x": "a"}, links=("b",))]
    go(*nodes)
    before, victim = tree_digest(artifact(tmp_path, "a")), artifact(tmp_path, "a") / "text.txt"
    if harm == "flip":
        victim.write_text("A")
    elif harm == "rot":  # the bytes change and nothing says so
        times = victim.stat()
        victim.write_text("A")
        os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif harm == "truncate":
        victim.write_text("")
    elif harm == "delete":
        victim.unlink()
    else:
        (victim.parent / "_manifest.json").write_text('{"half')
    said = []
    outcome = go(*nodes, node("c", inputs={"x": "a"}, links=("c",)), log=said.append)
    assert outcome.exit_code == 0 and set(outcome.done) >= {"a", "c"} and "b" in outcome.cached
    assert any("damaged" in e.get("text", "") for e in said)
    assert tree_digest(artifact(tmp_path, "a")) == before and text(tmp_path, "c") == "c|a"


def test_outside_files_enter_by_content(go, tmp_path):
    data = tmp_path / "data.txt"
    data.write_text("flour")
    given = FileInput(str(data), input_digest(data))
    go(node("a", inputs={"data": given}, links=("a",)))
    assert text(tmp_path, "a") == "a|flour"
    data.rename(tmp_path / "moved.txt")
    assert go(node("a", inputs={"data": FileInput(str(tmp_path / "moved.txt"), given.sha256)})).cached == ("a",)
    gone = go(node("b", inputs={"data": given})).failed["b"]
    assert gone.kind == "corrupted_input" and "does not exist" in gone.reason
    data.write_text("chalk")
    changed = go(node("b", inputs={"data": given})).failed["b"]
    assert changed.kind == "corrupted_input" and "changed since the plan" in changed.reason


def test_no_secret_reaches_a_file(go, store, tmp_path, monkeypatch):
    monkeypatch.setenv("SERVICE_API_KEY", "correct-horse-battery")
    monkeypatch.setenv("OTHER_TOKEN", "staple-and-paper")
    shaped = "hf_" + "abcdefghij" * 3
    outcome = go(node("loud", "noisy", shown=shaped[:3] + "x"),
                 node("bad", "noisy", shown="Bearer abcdef0123456789", fail=True),
                 node("allowed", "noisy", shown=shaped, fail=True), pass_env=("OTHER_TOKEN",))
    assert outcome.done == ("loud",) and set(outcome.failed) == {"bad", "allowed"}
    store.discard(read_status(tmp_path / "run")["nodes"]["loud"]["key"])  # it wrote on purpose what it may see
    for path in [p for p in tmp_path.rglob("*") if p.is_file()]:
        content = path.read_text(errors="replace")
        assert "correct-horse" not in content, path
        if "work" not in path.parts:
            assert "staple-and" not in content and shaped not in content and "abcdef0123456789" not in content, path
    assert "from the shell" in (tmp_path / "run/logs/loud.log").read_text()
    with pytest.raises(StudyError, match=r"spec\.text"):
        go(node("leak", text="use correct-horse-battery"))


def test_links_follow_the_graph(go, tmp_path):
    go(node("a", links=("seed/x",)), node("b", links=("old",)))
    (tmp_path / "run/mine.txt").write_text("kept")
    go(node("a", links=("seed/x/deeper",)))
    assert text(tmp_path, "seed/x/deeper") == "a" and not (tmp_path / "run/old").is_symlink()
    assert (tmp_path / "run/mine.txt").read_text() == "kept"
    assert sorted(p.name for p in artifact(tmp_path, "seed/x/deeper").iterdir()) == ["_manifest.json", "text.txt"]


def test_a_part_of_a_graph_leaves_the_rest_as_it_was(go, store, tmp_path):
    whole = [node("a", links=("a",)), node("bad", "fail", how="nan"), node("late", inputs={"x": "bad"})]
    go(*whole)
    part = go(node("a", links=("a",)), node("report", links=("report",)), partial=True)
    assert part.exit_code == 0 and part.done == ("report",)
    status = read_status(tmp_path / "run")
    assert {n: r["state"] for n, r in status["nodes"].items()} == {"a": "cached", "report": "done", "bad": "failed",
                                                                   "late": "blocked"}
    assert status["state"] == "failed"
    go(node("report", links=("report",)), partial=True)
    assert text(tmp_path, "a") == "a" and collect(store).artifacts == ()


def test_pointer_files_where_links_fail(go, tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    go(node("a", links=("seed/a",)))
    assert (tmp_path / "run/seed/a").is_file() and text(tmp_path, "seed/a") == "a"


def test_many_steps_are_built_once(go):
    assert len(go(*[node(f"n{i}") for i in range(60)]).done) == 60
    assert len(go(*[node(f"n{i}") for i in range(60)]).cached) == 60
