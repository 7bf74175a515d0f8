"""`leaven synthesize`: from seeds to records that a study reads; stopped, killed, repeated, mistyped."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import leaven
from leaven.core.step import StepContext
from leaven.core.tables import read_examples
from leaven.data.dialogue import reply_text
from leaven.data.sources.files import load_file
from leaven.errors import BackendError, DataError, RefusedError, StudyError

CHOICES = ("consistent", "inconsistent", "malformed", "cut")
KEY = "sk-test-8b1f0c77aa21"


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


FaultyServer = _load(Path(__file__).parents[1] / "lm" / "faulty_server.py").FaultyServer


def code_of(i: int) -> str:
    return f"def add{i}(xs):\n    total = {i}\n    for x in xs:\n        total += x\n    return total\n"


def reply_of(i: int, kind: str = "consistent") -> str:
    tests = [f"assert add{i}([{j}]) == {i + j}" for j in range(10)]
    wrong = code_of(i).replace("total += x", "total -= x")
    text = reply_text("Sum up, starting with the offset.", wrong if kind == "inconsistent" else code_of(i), tests)
    return text.split("[Test]")[0] if kind == "malformed" else text


def kind_of(i: int) -> str:
    return "inconsistent" if i % 5 == 3 else "malformed" if i % 5 == 4 else "consistent"


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    """Forty rows: 30 good ones, 10 that the filter refuses."""
    rows = [{"instruction": f"Write add{i}(xs): the sum of a list plus {i}, as an integer.", "output": f"```python\n{code_of(i)}```"}
            for i in range(30)]  # fmt: skip
    rows += [{"instruction": f"Say hello to the world number {i} please.", "output": "Hello!"} for i in range(10)]
    path = tmp_path / "seeds.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    path = tmp_path / "recorded.jsonl"
    rows = [{"source": "seeds", "id": f"{i:07d}", "reply": reply_of(i, kind_of(i))} for i in range(30)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def served(text: str) -> str:
    number = int(text.split("Write add")[-1].split("(")[0])
    return reply_of(number, kind_of(number))


def rows_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def contents(out: Path) -> dict[str, bytes]:
    """Return the files whose content does not depend on what was there before."""
    grown = ("timings.json", "replies.jsonl", "verdicts.jsonl")
    return {p.name: p.read_bytes() for p in out.iterdir() if p.is_file() and p.name not in grown}


# ---- from seeds to records -----------------------------------------------------------------------------------


def test_funnel_records_and_reasons(seeds: Path, recorded: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = leaven.synthesize(seeds, out, [f"teacher.recorded={recorded}", "split.validation=4", "split.train=12"])
    (row,) = result.funnel
    assert (row.total, row.filtered, row.asked, row.answered, row.parsed, row.consistent, row.inconsistent) == (40, 30, 30, 30, 24, 18, 6)
    assert row.ratio_percent == 45.0 and result.exit_code == 0 and result.split == {"train": 12, "validation": 4, "unused": 2}
    assert ("seeds", "reply", "no [Test] part", 6) in result.reasons and ("seeds", "execution", "fail", 6) in result.reasons
    records = {r["id"]: r for r in rows_in(out / "records.jsonl")}
    assert len(records) == 24
    good, bad = records["0000000"], records["0000003"]
    assert good["consistent"] is True and good["verdicts"] == ["pass"] * 10 and good["code"] == code_of(0)
    assert bad["consistent"] is False and bad["verdicts"] == ["pass"] + ["fail"] * 9 and bad["split"] == ""
    assert good["answer"].startswith("```python") and good["provenance"]["teacher"] == "recorded"
    rejected = rows_in(out / "rejected.jsonl")
    assert len(rejected) == 10 + 6 + 6 and all(r["reason"] and r["stage"] in ("seed", "reply", "execution") for r in rejected)
    assert pl.read_parquet(out / "funnel.parquet")["consistent"].to_list() == [18]


def test_split_is_exact_disjoint_and_stable(seeds: Path, recorded: Path, tmp_path: Path) -> None:
    def split(out: Path, *options: str) -> tuple[set[str], set[str]]:
        leaven.synthesize(seeds, out, [f"teacher.recorded={recorded}", *options])
        return tuple({r["id"] for r in rows_in(out / f"{n}.jsonl")} for n in ("train", "validation"))  # type: ignore[return-value]

    out = tmp_path / "out"
    train, validation = split(out, "split.validation=5")
    assert len(train) == 13 and len(validation) == 5 and not train & validation
    assert split(tmp_path / "other", "split.validation=5") == (train, validation)
    assert split(out, "split.validation=5", "split.seed=1") != (train, validation)
    assert split(out, "split.validation=6")[1] > validation  # a larger validation set holds the smaller one
    assert [len(s) for s in split(out)] == [18, 0]  # 2.09 % of 18
    with pytest.raises(StudyError, match="at most 18 records"):
        split(out, "split.validation=10", "split.train=10")


def test_studies_read_the_records_and_draw_size_matched_inconsistent_code(seeds: Path, recorded: Path, tmp_path: Path) -> None:
    from leaven.engine.stages import subset

    out = tmp_path / "out"
    leaven.synthesize(seeds, out, [f"teacher.recorded={recorded}"])
    folders = {}
    for name in ("train", "inconsistent", "records"):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        load_file({"name": name}, {"file": out / f"{name}.jsonl"}, folders[name], StepContext())
    train = list(read_examples(folders["train"] / "examples.parquet"))
    assert all(e.question and e.thought and e.code and e.answer and len(e.tests) == 10 and e.entry_point for e in train)
    (tmp_path / "matched").mkdir()
    subset({"seed": 0}, {"pool": folders["train"], "like": folders["inconsistent"]}, tmp_path / "matched", StepContext())
    matched, bad = (list(read_examples(p / "examples.parquet")) for p in (tmp_path / "matched", folders["inconsistent"]))
    assert len(matched) == len(bad) == 6 and not {e.question for e in matched} & {e.question for e in bad}
    (tmp_path / "whole").mkdir()
    load_file({"name": "whole"}, {"file": out / "examples.parquet"}, tmp_path / "whole", StepContext())
    whole = list(read_examples(out / "examples.parquet"))
    assert len(whole) == 24 and {e.meta["consistent"] for e in whole} == {True, False}


def test_the_replies_of_a_run_are_a_recorded_teacher(seeds: Path, recorded: Path, tmp_path: Path) -> None:
    first = leaven.synthesize(seeds, tmp_path / "a", [f"teacher.recorded={recorded}"])
    second = leaven.synthesize(seeds, tmp_path / "b", [f"teacher.recorded={tmp_path / 'a' / 'replies.jsonl'}"])
    assert first.funnel == second.funnel
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_changed_file_and_another_teacher_are_other_replies(seeds: Path, recorded: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    leaven.synthesize(seeds, out, [f"teacher.recorded={recorded}"])
    recorded.write_text(recorded.read_text().replace("total -= x", "total += x"))
    changed = leaven.synthesize(seeds, out, [f"teacher.recorded={recorded}"])
    assert changed.funnel[0].consistent == 24 and changed.now == {"answered": 30, "executed": 6}
    with FaultyServer(answer=served) as server:
        asked = leaven.synthesize(seeds, out, [f"teacher.server={server.url}", "teacher.model=m"])
        assert len(server.seen) == 30 and asked.funnel[0].consistent == 18 and asked.now["executed"] == 0
        leaven.synthesize(seeds, out, [f"teacher.recorded={recorded}"])  # the server's answers outlive another teacher's run
        leaven.synthesize(seeds, out, [f"teacher.server={server.url}", "teacher.model=m"])
        assert len(server.seen) == 30


def test_odd_characters_in_replies_are_kept_or_replaced(seeds: Path, tmp_path: Path) -> None:
    reply = reply_of(0).replace("Sum up", "\ud800 Sum \x00 up \u2028 \U0001f600")
    (tmp_path / "r.jsonl").write_text(json.dumps({"id": "0000000", "reply": reply}) + "\n")
    for _ in range(2):
        result = leaven.synthesize(seeds, tmp_path / "out", [f"teacher.recorded={tmp_path / 'r.jsonl'}"])
        assert result.funnel[0].consistent == 1
        (record,) = rows_in(tmp_path / "out" / "records.jsonl")
        assert record["thought"].startswith("? Sum \x00 up") and "\U0001f600" in record["thought"]


def test_equal_requests_are_asked_once(tmp_path: Path) -> None:
    row = {"instruction": "Write add7(xs): the sum of a list plus 7, as an integer.", "output": code_of(7)}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "s.yaml").write_text("sources: {a: {file: a.jsonl}, b: {file: a.jsonl}}\nteacher: {model: m}\n")
    with FaultyServer(answer=served) as server:
        result = leaven.synthesize(tmp_path / "s.yaml", tmp_path / "out", [f"teacher.server={server.url}"])
        assert len(server.seen) == 1 and [r.consistent for r in result.funnel] == [1, 1, 2]


def test_several_replies_per_seed_give_the_first_consistent_one(seeds: Path, tmp_path: Path) -> None:
    kinds = {0: ("malformed", "inconsistent", "consistent"), 1: ("inconsistent", "malformed", "inconsistent"), 2: ("malformed",) * 3}
    rows = [{"id": f"{i:07d}", "sample": s, "reply": reply_of(i, kind)} for i, found in kinds.items() for s, kind in enumerate(found)]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    result = leaven.synthesize(seeds, tmp_path / "out", [f"teacher.recorded={tmp_path / 'r.jsonl'}", "teacher.samples=3"])
    records = {r["id"]: (r["consistent"], r["provenance"]["sample"]) for r in rows_in(tmp_path / "out" / "records.jsonl")}
    assert records == {"0000000": (True, 2), "0000001": (False, 0)}
    (row,) = result.funnel
    assert (row.answered, row.parsed, row.consistent, row.inconsistent) == (3, 2, 1, 1)
    assert result.exit_code == 0 and result.unanswered == {"no recorded reply": 81}  # asking a file again would bring no more
    assert [r["reason"] for r in rows_in(tmp_path / "out" / "rejected.jsonl") if r["stage"] == "reply"] == ["no [Test] part"]


def test_reference_solutions_pass_through_preludes_and_raw_code_asks_for_a_task(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps({
        "problem": "Given a list of numbers return the sum of all that are even.", "solutions": "def even(xs: List[int]) -> int:\n"
        "    total = 0\n    for x in xs:\n        if x % 2 == 0:\n            total += x\n    return total\n",
        "tests": {"functional": "def check(c):\n    assert c([1, 2, 4]) == 6\n\ncheck(even)"}}) + "\n")  # fmt: skip
    (tmp_path / "raw.jsonl").write_text(json.dumps({"text": f"import os\n\n{code_of(1)}"}) + "\n")
    fields = "{question: problem, code: solutions, tests: tests.functional}"
    spec = f"sources:\n  p: {{file: p.jsonl, fields: {fields}, prelude: 'from typing import *'}}\n"
    (tmp_path / "s.yaml").write_text(spec + "teacher: {reference: true}\njudging: {min_asserts: 1}\n")
    assert leaven.synthesize(tmp_path / "s.yaml", tmp_path / "out").funnel[0].consistent == 1
    result = leaven.synthesize(tmp_path / "s.yaml", tmp_path / "out", ["sources.p.prelude=''"])
    assert result.funnel[0].inconsistent == 1 and ("p", "execution", "error", 1) in result.reasons  # `List` is unknown
    (tmp_path / "s.yaml").write_text("sources: {raw: {file: raw.jsonl, rows: code}}\nteacher: {recorded: r.jsonl}\n")
    task = "Write add1(xs): one more than the sum."
    (tmp_path / "r.jsonl").write_text(json.dumps({"id": "0000000:add1", "reply": f"[Task]\n{task}\n\n{reply_of(1)}"}) + "\n")
    assert leaven.synthesize(tmp_path / "s.yaml", tmp_path / "raw").funnel[0].consistent == 1
    (record,) = rows_in(tmp_path / "raw" / "records.jsonl")
    assert record["question"] == task and record["provenance"]["prompt"] == "raw_code"


def test_plan_asks_nothing_and_says_what_would_be_asked(seeds: Path, tmp_path: Path) -> None:
    with FaultyServer(answer=served) as server:
        options = [f"teacher.server={server.url}", "teacher.model=m", "asking.limit=7"]
        plan = leaven.synthesize(seeds, tmp_path / "out", options, plan=True, previews=1)
        assert (plan.requests, plan.requests_known, plan.funnel[0].asked, len(server.seen)) == (7, 0, 7, 0)
        assert "[Code Snippet]" in plan.previews[0] and plan.request_chars > 7 * len(plan.previews[0]) * 0.8
        leaven.synthesize(seeds, tmp_path / "out", options)
        first = {text for text, _, _ in server.seen}
        more = leaven.synthesize(seeds, tmp_path / "out", [*options[:2], "asking.limit=12"], plan=True)
        assert (more.requests, more.requests_known) == (12, 7)
        leaven.synthesize(seeds, tmp_path / "out", [*options[:2], "asking.limit=12"])
        assert len(server.seen) == 12 and first < {text for text, _, _ in server.seen}


def test_replies_of_a_real_model_are_judged_as_its_published_verdicts_say(shared_data: Path, tmp_path: Path) -> None:
    """164 HumanEval programs of StarCoder2 as a recorded teacher, with the benchmark's own tests: EvalPlus passed 119 of them."""

    def read(name: str) -> list[dict[str, Any]]:
        with gzip.open(shared_data / name, "rt") as lines:
            return [json.loads(line) for line in lines]

    problems = {r["task_id"]: r for r in read("code_eval/humaneval.jsonl.gz")}
    outputs = read("model_outputs/starcoder2_instruct_humaneval_verdicts.jsonl.gz")
    seeds, replies = [], []
    for number, found in enumerate(outputs):
        problem = problems[found["task_id"]]
        tests = [f"{problem['test']}\ncheck({problem['entry_point']})"]
        seeds.append({"question": problem["prompt"], "answer": "?"})
        replies.append({"id": f"{number:07d}", "reply": reply_text("As the text says.", found["solution"], tests)})
    for name, rows in (("seeds", seeds), ("replies", replies)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    options = [f"teacher.recorded={tmp_path / 'replies.jsonl'}", "sources.seeds.rows=question", "judging.min_asserts=1",
               "judging.limits={cpu_s: 6}", "rules.min_question_words=0"]  # fmt: skip
    result = leaven.synthesize(tmp_path / "seeds.jsonl", tmp_path / "out", options)
    assert (result.funnel[0].parsed, result.funnel[0].consistent, result.funnel[0].inconsistent) == (164, 119, 45)
    tags = {r["id"]: r["consistent"] for r in rows_in(tmp_path / "out" / "records.jsonl")}
    assert tags == {f"{i:07d}": found["base_status"] == "pass" for i, found in enumerate(outputs)}


# ---- a server --------------------------------------------------------------------------------------------------


def test_a_server_is_asked_once_per_request_whatever_it_does(seeds: Path, recorded: Path, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("MY_TEACHER_KEY", KEY)
    faults = ["429", "500", "cut", "reset", "not json", "no choices"]
    with FaultyServer({"*": faults * 2}, served) as server:
        options = [f"teacher.server={server.url}", "teacher.model=m", "teacher.key_env=MY_TEACHER_KEY", "asking.backoff_s=0.01",
                   "asking.concurrency=6", "prompt.shots=none", "teacher.extra={top_k: 5}"]  # fmt: skip
        result = leaven.synthesize(seeds, tmp_path / "out", options)
        assert len(server.seen) == 30 + 12 and len(server.finished) == 30
        again = leaven.synthesize(seeds, tmp_path / "out", options)
        assert len(server.seen) == 42 and again.now == {"answered": 0, "executed": 0} and again.funnel == result.funnel
        _, body, headers = server.seen[0]
        assert body.pop("messages")[-1]["role"] == "user"
        assert body == {"model": "m", "temperature": 0.0, "max_tokens": 2048, "stream": False, "top_k": 5}
        assert headers["Authorization"] == f"Bearer {KEY}"
    assert result.tokens == {"prompt": 210, "reply": 90}
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]
    by_file = leaven.synthesize(seeds, tmp_path / "file", [f"teacher.recorded={recorded}", "prompt.shots=none"])
    assert by_file.funnel == result.funnel  # who answers makes no difference to what becomes of the answers


def test_what_stays_unanswered_is_asked_again_and_nothing_else(seeds: Path, tmp_path: Path) -> None:
    with FaultyServer(answer=served) as server:
        options = [f"teacher.server={server.url}", "teacher.model=m", "asking.backoff_s=0.01", "asking.attempts=2"]
        server.script = {"*": ["400", "500", "500"]}
        result = leaven.synthesize(seeds, tmp_path / "out", [*options, "asking.concurrency=1"])
        assert result.exit_code == 1 and result.funnel[0].answered == 28 and sum(result.unanswered.values()) == 2
        assert set(result.unanswered) == {"500 after 2 tries", "refused by the server: 400 sorry, nobody"}
        asked = len(server.seen)
        result = leaven.synthesize(seeds, tmp_path / "out", options)
        assert len(server.seen) == asked + 2 and result.exit_code == 0 and result.funnel[0].answered == 30


def test_a_wrong_key_stops_with_the_answers_kept(seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TEACHER_KEY", KEY)
    with FaultyServer(answer=served) as server:
        options = [f"teacher.server={server.url}", "teacher.model=m", "teacher.key_env=MY_TEACHER_KEY", "asking.concurrency=1"]
        server.script = {"*": [""] * 5 + ["401"]}
        with pytest.raises(BackendError, match="the key is wrong") as caught:
            leaven.synthesize(seeds, tmp_path / "out", options)
        assert KEY not in str(caught.value) and len(rows_in(tmp_path / "out" / "replies.jsonl")) == 5
        leaven.synthesize(seeds, tmp_path / "out", options)
        assert len(server.finished) == 30
    monkeypatch.delenv("MY_TEACHER_KEY")
    with pytest.raises(StudyError, match="MY_TEACHER_KEY, found none"):
        leaven.synthesize(seeds, tmp_path / "out", options)


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Start:
    def run(*arguments: str | Path) -> subprocess.Popen[str]:
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-m", "leaven.cli", "synthesize", *map(str, arguments)], env=environ, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip

    return run


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM], ids=lambda s: s.name)
def test_answers_that_finished_survive(how: signal.Signals, seeds: Path, tmp_path: Path, start: Start) -> None:
    out = tmp_path / "out"
    with FaultyServer(answer=served) as server:
        server.delay_s = 0.15
        command = (seeds, "-o", out, "--server", server.url, "--model", "m", "--set", "asking.concurrency=3")
        running = start(*command)
        wait_for(lambda: len(server.finished) >= 7)
        running.send_signal(how)
        stdout, stderr = running.communicate(timeout=60)
        assert running.returncode == (130 if how == signal.SIGINT else -how), stderr
        assert "Traceback" not in stderr
        if how == signal.SIGINT:
            assert "run the same command" in stderr
        time.sleep(0.3)  # what was on its way when the client died
        finished, kept = len(server.finished), len(rows_in(out / "replies.jsonl"))
        assert kept >= 7 - 3 and finished - 3 <= kept <= finished  # at most the three under way are lost
        if how == signal.SIGINT:
            assert kept == finished
        server.delay_s = 0.0
        result = leaven.synthesize(seeds, out, [f"teacher.server={server.url}", "teacher.model=m"])
        assert result.now["answered"] == 30 - kept and len(server.finished) == finished + 30 - kept
        assert result.funnel[0].consistent == 18
        quiet = start(*command, "--quiet")
        stdout, stderr = quiet.communicate(timeout=60)
        assert quiet.returncode == 0 and "answered now: 0, executed now: 0" in stdout and not stderr


def test_two_at_once_in_one_folder_are_refused(seeds: Path, tmp_path: Path, start: Start) -> None:
    with FaultyServer(answer=served) as server:
        server.delay_s = 5.0
        running = start(seeds, "-o", tmp_path / "out", "--server", server.url, "--model", "m")
        wait_for(lambda: len(server.seen) > 0)
        with pytest.raises(RefusedError, match="another `leaven synthesize` writes here"):
            leaven.synthesize(seeds, tmp_path / "out", ["teacher.reference=true"])
        running.kill()
        running.communicate()


# ---- mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "words"), [
    ("teacher: {}", "exactly one of server, recorded and reference, found none"),
    ("teacher: {server: http://localhost:1/v1, reference: true, model: m}", "found server, reference"),
    ("teacher: {server: http://localhost:1/v1}", "teacher.model"),
    ("teacher: {server: http://localhost:1/v1, model: m, samples: 3}", "set teacher.temperature above 0"),
    ("teacher: {reference: true, top_p: 0.0}", "teacher.top_p"),
    ("teacher: {reference: true, extra: {n: 3}}", "teacher.extra: n is set by leaven"),
    ("teacher: {refrence: true}", r"s.yaml:2 teacher.refrence: unknown key 'refrence'. Did you mean 'reference'\?"),
    ("teacher: {reference: true}\nprompt: {code: perhaps}", r"s.yaml:3 prompt.code: expected one of"),
    ("teacher: {reference: true}\nasking: {concurrency: 0}", "asking.concurrency: expected more than 0, found 0"),
    ("teacher: {reference: true}\nasking: {limit: many}", "s.yaml:3 asking.limit: expected a whole number"),
    ("teacher: {reference: true}\njudging: {limits: {cpu: 3}}", "Did you mean 'cpu_s'"),
    ("teacher: {reference: true}\nprompt: {shots: shots.jsonl}", "shots.jsonl: expected a JSONL, JSON or Parquet file"),
])  # fmt: skip
def test_mistakes_are_named(change: str, words: str, seeds: Path, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(f"sources: {{s: {{file: {seeds.name}}}}}\n{change}\n")
    with pytest.raises((StudyError, DataError), match=words):
        leaven.synthesize(tmp_path / "s.yaml", tmp_path / "out")


def test_files_that_hold_no_seed_are_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such synthesis file"):
        leaven.synthesize(tmp_path / "absent.yaml", tmp_path / "out")
    with pytest.raises(DataError, match="found nothing there"):
        leaven.synthesize(tmp_path / "absent.jsonl", tmp_path / "out", ["teacher.reference=true"])
    (tmp_path / "s.jsonl").write_text(json.dumps({"instruction": "Say hello to all the world.", "output": "Hello!"}) + "\n")
    with pytest.raises(DataError, match=r"found none of 1 \(no code in the answer: 1\)"):
        leaven.synthesize(tmp_path / "s.jsonl", tmp_path / "out", ["teacher.reference=true"])


def test_a_teacher_that_knows_none_of_the_seeds_is_named(seeds: Path, tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(json.dumps({"id": "77", "reply": reply_of(0)}) + "\n")
    with pytest.raises(DataError, match=r"found none \(no recorded reply\); the first seed is source 'seeds', id '0000000'"):
        leaven.synthesize(seeds, tmp_path / "out", [f"teacher.recorded={tmp_path / 'r.jsonl'}"])
    with pytest.raises(DataError, match="the seed has no tests of its own"):
        leaven.synthesize(seeds, tmp_path / "out", ["teacher.reference=true"])


def test_help_lists_every_field_with_its_default(start: Start) -> None:
    running = start("--help")
    stdout, _ = running.communicate(timeout=60)
    for line in ("teacher.max_tokens (default 2048)", "asking.attempts (default 6)", "sources.NAME.file (required)",
                 "split.validation (default null)", "rules.min_statements (default 3)", "prompt.asserts (default 10)"):  # fmt: skip
        assert line in stdout
