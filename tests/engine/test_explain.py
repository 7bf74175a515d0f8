"""What people are told: why an artifact changed, what a run will do and cost, progress, status; never a secret."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaven.engine.estimate import History, forecast
from leaven.engine.graph import Node
from leaven.engine.progress import seconds_text, watch
from leaven.engine.provenance import changes, fingerprint, redactor, why, worker_environ
from leaven.engine.run import run
from leaven.engine.status import read_status
from leaven.engine.store import Recipe, Source
from leaven.errors import StudyError


def graph(word="salt", seconds=0.0, tail="tail"):
    return [Node("seed-1/word", "toy_steps:write", {"text": word, "seconds": seconds}),
            Node("seed-1/tail", "toy_steps:write", {"text": tail}, {"text": "seed-1/word"}),
            Node("end", "toy_steps:write", {"text": "end"}, {"text": "seed-1/tail"})]


@pytest.fixture
def go(store, tmp_path):
    return lambda nodes, **options: run(nodes, store, run_dir=tmp_path / "run", workers=2, **options)


def test_why_follows_a_change_to_its_cause(go, store, tmp_path):
    go(graph())
    first = why(store, tmp_path / "run", "end")
    assert "nothing of that name was built here before" in first[1] and any("seed-1/tail" in line for line in first)
    go(graph(word="flour"))
    told = "\n".join(why(store, tmp_path / "run", "end"))
    assert "from seed-1/tail" in told and "from seed-1/word" in told and "spec.text: 'salt' -> 'flour'" in told
    with pytest.raises(StudyError, match="Did you mean 'end'"):
        why(store, tmp_path / "run", "ned")
    go(graph())  # back to what is cached: the artifact in place now is the first one again
    assert "spec.text: 'flour' -> 'salt'" in "\n".join(why(store, tmp_path / "run", "end"))


def test_changes_name_every_difference():
    same = Source("n", "k", "d")
    old = Recipe("m:f", 1, True, {"a": {"b": [1, 2]}, "gone": 0, "t": 1}, {"x": Source("n", "k", "d1"), "y": same})
    new = Recipe("m:f", 2, True, {"a": {"b": [1, 3]}, "new": "", "t": True}, {"x": Source("m", "l", "d2"), "z": same})
    assert changes(old, new) == [
        "step version: 1 -> 2", "spec.a.b[1]: 2 -> 3", "spec.gone: 0 -> absent", "spec.t: 1 -> True",
        "spec.new: absent -> ''", "input x: other content (d1 -> d2), from m", "input y: removed", "input z: added"]
    assert changes(old, old) == []


def test_forecast_says_what_runs_and_why(go, store, tmp_path):
    before = forecast(graph(), store)
    assert [f.state for f in before] == ["run", "depends", "depends"] and before[0].reason == "never built"
    assert not store.root.exists()
    go(graph(seconds=0.3))
    assert [f.state for f in forecast(graph(seconds=0.3), store)] == ["cached"] * 3
    after = forecast(graph(seconds=0.3, tail="new"), store, run_dir=tmp_path / "run")
    assert [f.state for f in after] == ["cached", "run", "depends"] and after[1].reason == "spec.text: 'tail' -> 'new'"
    key = after[0].key
    (store.path(key) / "text.txt").unlink()
    assert "text.txt is missing" in forecast(graph(seconds=0.3), store)[0].reason
    store.discard(key)
    assert "removed from the store" in forecast(graph(seconds=0.3), store, run_dir=tmp_path / "run")[0].reason


def test_estimates_come_from_the_most_similar_specs(go, store):
    go([Node(f"n{i}", "toy_steps:write", {"text": str(i), "seconds": s, "size": size})
        for i, (s, size) in enumerate([(0.05, "small"), (0.4, "large"), (0.42, "large")])])
    history = History(store)
    large = history.estimate("toy_steps:write", {"text": "new", "size": "large"})
    assert 0.4 <= large.wall_s < 0.8 and large.based_on == 2 and large.size_bytes == 1 and large.peak_rss_bytes > 2**20
    assert history.estimate("toy_steps:write", {"size": "small"}).wall_s < 0.3
    assert history.estimate("toy_steps:clock", {}).based_on == 0


def test_status_and_lines_while_running_and_after(go, tmp_path):
    stream, seen = io.StringIO(), []
    slow = Node("slow", "toy_steps:slow", {"ticks": 30, "tick_s": 0.05})
    with watch("plain", stream) as show:
        def both(event):
            show(event)
            if event["event"] == "progress":
                seen.append(read_status(tmp_path / "run"))
        go([slow, Node("bad", "toy_steps:fail", {"how": "nan"})], log=both, resume="leaven run x.yaml")
    assert seen and seen[0]["state"] == "running" and seen[0]["nodes"]["slow"]["state"] == "running"
    late = seen[-1]["nodes"]["slow"]
    assert late["progress"][2] == "ticks"
    end = read_status(tmp_path / "run")
    assert end["state"] == "failed" and end["resume"] == "leaven run x.yaml"
    assert {n: r["state"] for n, r in end["nodes"].items()} == {"slow": "done", "bad": "failed"}
    lines = stream.getvalue().splitlines()
    assert any("bad failed: loss became NaN" in line for line in lines)
    assert lines[-1] == "Failed: 1 built, 0 found built, 1 failed; continue with: leaven run x.yaml"


def test_json_lines_and_bars(go):
    stream = io.StringIO()
    with watch("json", stream) as show:
        go(graph(), log=show)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert events[0]["event"] == "run_started" and events[-1]["event"] == "run_finished"
    assert (events[-1]["state"], events[-1]["done"]) == ("done", 3)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    with watch("auto", screen) as show:
        bad, slow = Node("bad", "toy_steps:fail", {"how": "nan"}), Node("slow", "toy_steps:slow", {"ticks": 10})
        go([*graph(), bad, slow], log=show)
    assert "bad failed: loss became NaN" in screen.getvalue()
    assert "Failed: 1 built, 3 found built, 1 failed" in screen.getvalue()


def test_status_of_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(StudyError, match="leaven run"):
        read_status(tmp_path)


@pytest.mark.parametrize("seconds, text", [(None, ""), (0.44, "0.4 s"), (59.4, "59 s"), (200, "3 min 20 s"),
                                           (7500, "2 h 05 min")])
def test_durations_read_well(seconds, text):
    assert seconds_text(seconds) == text


@given(st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=12, max_size=30), st.text(), st.text())
def test_secrets_never_survive(secret, before, after):
    redact = redactor({"A_SECRET": secret})
    if len(secret.splitlines()) == 1:
        assert secret not in redact(before + secret + after) or secret in before + after or secret in "[redacted]"


def test_shapes_of_tokens_are_redacted_and_words_are_not():
    redact = redactor({"TOKENIZERS_PARALLELISM": "parallelism"})
    assert redact("sk-" + "a1" * 12) == "[redacted]"
    assert redact("x Bearer abcdefgh12345678 y") == "x Bearer [redacted] y"
    assert redact("http://me:pw@proxy:80/x") == "http://[redacted]@proxy:80/x"
    for harmless in ("parallelism", "n_tokens: 123456789012", "https://example.org/a@b", "risk-averse-and-quite-long"):
        assert redact(harmless) == harmless
    environ = {"HF_TOKEN": "t", "API_KEY": "k", "PATH": "p", "MY_PASSWORD": "w", "TOKENIZERS_PARALLELISM": "false"}
    assert worker_environ(environ, ("HF_TOKEN",)) == {"HF_TOKEN": "t", "PATH": "p", "TOKENIZERS_PARALLELISM": "false"}


def test_fingerprint_names_versions_without_importing():
    found = fingerprint(threads=2, device="cpu")
    assert found["packages"]["polars"] and found["threads"] == 2 and found["processor"] and found["python"]
