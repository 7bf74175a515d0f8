"""What a teacher is asked, how its reply is taken apart, and the teachers that need no server."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaven.core.sandbox import Job, execute
from leaven.core.step import StepContext
from leaven.data.dialogue import Malformed, parse_reply, prompt_text, reply_text, split_tests
from leaven.data.seeds import Seed
from leaven.data.shots import SHOTS
from leaven.data.teacher import Recorded, Reference, Reply, asks_of, messages_of, shot_messages, shots_from
from leaven.errors import DataError

CODE = "def top(xs):\n    return max(xs)\n"
SEED = Seed("4", "s", question="Write top(xs), the largest item.", code=CODE, tests=("assert top([1]) == 1",))
TESTS = "\n".join(f"assert top([{i}, 0]) == {i}" for i in range(10))
REPLY = f"[Analysis]\nLook at each.\n\n[Solution]\n```python\n{CODE}```\n\n[Test]\n```python\n{TESTS}\n```\n"


# ---- requests ------------------------------------------------------------------------------------------------


def test_the_prompt_is_the_papers() -> None:
    text = prompt_text("", "x = 1")
    for sentence in (
        "You are a teaching assistant helping to create a Python programming task from a given code snippet. You will respond best to the "
        "Python programming task, including the reasoning process, reference solutions, and test code.",
        "The response must have these parts:",
        "[Analysis]\n{Analyze the task and reason about the given task step by step}",
        "[Solution]\n{Write a high-quality reference solution in a self-contained script that solves the task}",
        "[Test]\n{Provide ten assert statements to check the correctness of your solution}",
    ):
        assert sentence in text
    assert "seven assert" in prompt_text("q", "c", True, 7) and "25 assert" in prompt_text("q", "c", True, 25)


def test_variants_contain_and_omit_the_code() -> None:
    def last(seed: Seed, show: bool) -> str:
        return messages_of(seed, show_code=show)[-1]["content"]

    assert CODE.strip() in last(SEED, True) and SEED.question in last(SEED, True)
    assert "max(xs)" not in last(SEED, False) and "[Code Snippet]" not in last(SEED, False) and "from a given code" not in last(SEED, False)
    raw = replace(SEED, question="")
    for show in (True, False):  # raw code is all there is: it is shown, and a task is asked for
        assert CODE.strip() in last(raw, show) and "[Task]\n{Write" in last(raw, show)
    assert "[Task]\n{Write" not in last(SEED, True)
    assert "[Code Snippet]" not in last(replace(SEED, code=""), True)


def test_shots_are_earlier_turns_in_the_shape_that_is_asked_for() -> None:
    messages = messages_of(SEED, shot_messages(SHOTS, raw=False))
    assert [m["role"] for m in messages] == ["user", "assistant"] * 3 + ["user"]
    assert parse_reply(messages[1]["content"]).code == SHOTS[0].code
    raw = messages_of(replace(SEED, question=""), shot_messages(SHOTS, raw=True))
    assert parse_reply(raw[1]["content"], wants_task=True).task == SHOTS[0].question
    assert not any(SHOTS[0].answer in m["content"] for m in shot_messages(SHOTS, raw=False, show_code=False))


def test_builtin_shots_have_ten_asserts_and_pass_them() -> None:
    for shot in SHOTS:
        found = parse_reply(reply_text(shot.thought, shot.code, shot.tests))
        assert (found.thought, found.code, found.entry_point) == (shot.thought, shot.code, shot.entry_point)
        assert len(found.tests) == 10
    jobs = [Job(f"{s.id}{kind}", code, s.tests) for s in SHOTS for kind, code in (("code", s.code), ("answer", s.answer))]
    assert {r.status for r in execute(jobs, workers=1)} == {"pass"}


def test_keys_follow_the_content_alone() -> None:
    messages = messages_of(SEED, show_code=True)
    keys = [a.key for a in asks_of(SEED, messages, {"model": "m", "seed": 5}, 3)]
    assert len(set(keys)) == 3 and [a.body["seed"] for a in asks_of(SEED, messages, {"seed": 5}, 3)] == [5, 6, 7]
    assert asks_of(replace(SEED, id="9"), messages, {"model": "m", "seed": 5})[0].key == keys[0]  # the same question is the same request
    assert asks_of(SEED, messages, {"model": "n", "seed": 5})[0].key != keys[0]
    assert asks_of(SEED, messages_of(SEED, show_code=False), {"model": "m", "seed": 5})[0].key != keys[0]


# ---- replies -------------------------------------------------------------------------------------------------


def test_a_reply_becomes_thought_code_and_ten_tests() -> None:
    found = parse_reply(REPLY)
    assert (found.thought, found.code, found.entry_point, found.task) == ("Look at each.", CODE, "top", "")
    assert found.tests == tuple(TESTS.splitlines())


@pytest.mark.parametrize("change", [
    lambda t: "Sure, here it is!\n\n" + t,
    lambda t: "<think>\n[Analysis]\nhm\n[Solution] no\n</think>\n" + t,
    lambda t: t.replace("[Analysis]", "**[Analysis]**").replace("[Test]", "### [Tests]:"),
    lambda t: t.replace("\n", "\r\n"),
    lambda t: t.replace("[Analysis]\nLook", "[analysis] Look"),
    lambda t: t.replace("```python\n", "").replace("```\n", ""),
    lambda t: t.replace("\n[Test]", "\nUse it so:\n```python\ntop([2])\n```\n\n[Test]"),
])  # fmt: skip
def test_harmless_variations_are_read_alike(change) -> None:
    wanted, found = parse_reply(REPLY), parse_reply(change(REPLY))
    assert (found.thought, found.code.strip(), found.tests) == (wanted.thought, wanted.code.strip(), wanted.tests)


MALFORMED = {
    "empty reply": " \n",
    "no [Analysis] part": REPLY.replace("[Analysis]\n", ""),
    "no [Solution] part": REPLY.replace("[Solution]\n", ""),
    "no [Test] part": REPLY.split("[Test]")[0],
    "a part occurs twice": REPLY + "\n[Test]\nassert top([1]) == 1\n",
    "parts out of order": REPLY.replace("[Analysis]", "[X]").replace("[Solution]", "[Analysis]").replace("[X]", "[Solution]"),
    "[Analysis] is empty": REPLY.replace("Look at each.", ""),
    "no code in [Solution]": REPLY.replace(CODE, ""),
    "[Solution] does not parse": REPLY.replace("return max(xs)", "return max(xs"),
    "[Solution] defines no function or class": REPLY.replace(CODE, "print(max([1]))\n"),
    "[Test] does not parse": REPLY.replace("== 9", "=="),
    "no code in [Test]": REPLY.replace(TESTS, ""),
    "no assert statement about the solution": REPLY.replace(TESTS, "assert True\n" * 10),
    "fewer than 10 assert statements about the solution": REPLY.replace("assert top([9, 0]) == 9", "assert 1 == 1"),
}


@pytest.mark.parametrize("reason", MALFORMED)
def test_malformed_replies_are_refused_with_a_reason(reason: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse_reply(MALFORMED[reason])
    assert caught.value.reason == reason


def test_cut_replies_and_missing_tasks_are_refused() -> None:
    for arguments, reason in (({"finish": "length"}, "cut at the token limit"), ({"wants_task": True}, "no [Task] part")):
        with pytest.raises(Malformed) as caught:
            parse_reply(REPLY, **arguments)
        assert caught.value.reason == reason
    assert parse_reply("[Task]\nWrite top.\n\n" + REPLY, wants_task=True).task == "Write top."
    assert parse_reply(REPLY.replace("Look at each.", ""), needs_thought=False).thought == ""


text = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=60).filter(lambda t: t.strip() and "[" not in t)


@settings(max_examples=60, deadline=None)
@given(st.lists(text, min_size=1, max_size=6), st.integers(1, 12), st.booleans())
def test_what_is_written_in_the_shape_is_read_back(lines: list[str], asserts: int, task: bool) -> None:
    thought = "\n".join(lines).strip()
    if "```" in thought or "~~~" in thought or "<think>" in thought:
        return
    tests = [f"assert top([{i}]) == {i}" for i in range(asserts)]
    reply = reply_text(thought, CODE, tests, "Write top." if task else "")
    found = parse_reply(reply, wants_task=task, min_asserts=asserts)
    assert found.thought == thought and found.code == CODE and list(found.tests) == tests


pieces = st.sampled_from([
    "[Test]", "[Solution]\n", "```", "```python\n", "\n", "def f(", "assert ", "\x00", "\x0c", "\u2028", "\r", "'", '"""', "<think>", "@",
    "if __name__:\n  ", "((((" * 60, "1" * 5000, "-" * 3000 + "1", "1+" * 4000 + "1", "\\", "\t", "\ud800", "class A: pass\n",
])  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 60), pieces), min_size=1, max_size=4))
def test_whatever_a_teacher_writes_is_read_or_refused(changes: list[tuple[int, int, str]]) -> None:
    text = REPLY
    for at, gone, new in changes:
        text = text[:at] + new + text[at + gone :]
    try:
        found = parse_reply(text, min_asserts=1)
    except Malformed as error:
        assert error.reason
    else:
        compile(found.code, "code", "exec")
        for test in found.tests:
            compile(test, "test", "exec")


def test_long_sums_numbers_and_odd_separators_in_tests() -> None:
    for line in ("x = " + "1+" * 6000 + "1; assert f(x)", f"x = {'9' * 5000}; assert f(x)"):
        try:
            found, _ = split_tests(f"{line}\nassert f(1)\n", ["f"])
        except Malformed:
            continue
        assert found
    odd = "assert f('a\x0cb') == 1\n# \u2028\nassert f('\x1c') == 2\n"
    assert split_tests(odd, ["f"])[0] == ("assert f('a\x0cb') == 1", "assert f('\x1c') == 2")


@pytest.mark.parametrize(("tests", "expected", "asserts"), [
    ("s = Stack()\ns.push(1)\nassert s.pop() == 1\nassert s.empty()",
     ["s = Stack()\ns.push(1)\nassert s.pop() == 1", "assert s.empty()"], 2),
    ("xs = [2, 1]\nf(xs)\nassert xs == [1, 2]", ["xs = [2, 1]\nf(xs)\nassert xs == [1, 2]"], 1),
    ("def test_a():\n    assert f(1) == 1\n\ndef test_b():\n    assert f(2) == 2\n",
     ["def test_a():\n    assert f(1) == 1\ntest_a()", "def test_b():\n    assert f(2) == 2\ntest_b()"], 2),
    ("g = [1]\nh = f(g)\nh.append(2)\nassert g == [1]", ["g = [1]\nh = f(g)\nh.append(2)\nassert g == [1]"], 1),
    ("g = [1]\nassert f(g) == [1]\nassert g == [1]", ["g = [1]\nassert f(g) == [1]", "assert g == [1]"], 2),
    ("def bad(x):\n    try:\n        f(x)\n    except ValueError:\n        return True\n\nassert bad(0)\nassert True",
     ["def bad(x):\n    try:\n        f(x)\n    except ValueError:\n        return True\nassert bad(0)\nassert True"], 1),
    ("x = 3\nassert x == 3\nassert f(2) == len([1, 2])\nassert len([1]) == 1",
     ["x = 3\nassert x == 3\nassert f(2) == len([1, 2])\nassert len([1]) == 1"], 1),
    ("def check(g):\n    assert g(1) == 1\n    assert g(2) == 2\ncheck(f)",
     ["def check(g):\n    assert g(1) == 1\n    assert g(2) == 2\ncheck(f)"], 2),
    ('if __name__ == "__main__":\n    assert f(1) == 1\n    print("ok")', ["assert f(1) == 1\nprint('ok')"], 1),
    ("x = f(1); assert x == 1; assert x", ["x = f(1)\nassert x == 1", "assert x"], 2),
    ("for i, o in [(1, 1)]:\n    assert f(i) == o", ["for i, o in [(1, 1)]:\n    assert f(i) == o"], 1),
    ("assert f(1) == 1  # one\n# two\nassert f('#') == 2", ["assert f(1) == 1  # one", "assert f('#') == 2"], 2),
    ("assert True\nassert 2 > 1\nassert f(1)", ["assert True\nassert 2 > 1\nassert f(1)"], 1),
    ("import math\nassert math.isclose(f(1), 1)", ["import math\nassert math.isclose(f(1), 1)"], 1),
])  # fmt: skip
def test_tests_are_cut_at_their_asserts_and_all_of_them_run(tests: str, expected: list[str], asserts: int) -> None:
    found, n = split_tests(tests, ["f", "Stack"])
    assert (list(found), n) == (expected, asserts)


# ---- teachers without a server ---------------------------------------------------------------------------------


def answers(teacher, asks) -> tuple[dict[tuple[str, int], str], dict[str, str]]:
    kept: dict[tuple[str, int], str] = {}

    def keep(reply: Reply) -> None:
        kept[reply.seed, reply.sample] = reply.text

    return kept, teacher.answer(asks, keep, StepContext())


def test_a_recorded_file_answers_by_key_then_id_then_question(tmp_path: Path) -> None:
    seeds = [replace(SEED, id=str(i), question=f"Question {i}?") for i in range(5)]
    asks = [a for s in seeds for a in asks_of(s, messages_of(s, show_code=True), {})]
    rows = [
        {"source": "s", "id": "0", "reply": "by id"},
        {"key": asks[0].key, "source": "s", "id": "0", "reply": "by key"},
        {"id": "1", "reply": "any source"},
        {"question": "Question 2?", "reply": "by question"},
        {"source": "other", "id": "3", "reply": "another source"},
        {"source": "s", "id": 4, "sample": 1, "reply": "another sample"},
    ]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    kept, missing = answers(Recorded(tmp_path / "r.jsonl"), asks)
    assert kept == {("0", 0): "by key", ("1", 0): "any source", ("2", 0): "by question"}
    assert missing == {asks[3].key: "no recorded reply", asks[4].key: "no recorded reply"}


def test_recorded_files_that_cannot_serve_say_so(tmp_path: Path) -> None:
    for content, words in (('{"id": "4", "text": "x"}', "line 1: expected a row"), ('{"reply": "x"}', "line 1"), ("[1]", "row 1")):
        path = tmp_path / "bad.jsonl"
        path.write_text(content + "\n" if content[0] == "{" else content)
        with pytest.raises(DataError, match=words):
            Recorded(path)
    with pytest.raises(DataError, match="found nothing there"):
        Recorded(tmp_path / "absent.jsonl")


def test_the_reference_answers_with_the_seeds_own_code_and_tests() -> None:
    untested = replace(SEED, id="5", tests=())
    asks = [a for s in (SEED, untested) for a in asks_of(s, messages_of(s, show_code=True), {})]
    kept, missing = answers(Reference({("s", "4"): SEED, ("s", "5"): untested}), asks)
    assert list(missing.values()) == ["the seed has no tests of its own"]
    found = parse_reply(kept["4", 0], min_asserts=1, needs_thought=False)
    assert (found.code, found.tests) == (SEED.code, SEED.tests)


def test_a_file_of_shots_needs_all_four_parts(tmp_path: Path) -> None:
    good = {"question": "q", "thought": "t", "code": "c", "tests": ["assert c"], "consistent": True}
    path = tmp_path / "shots.jsonl"
    path.write_text(json.dumps(good) + "\n")
    (shot,) = shots_from(path)
    assert (shot.question, shot.thought, shot.code, shot.tests) == ("q", "t", "c", ("assert c",))
    path.write_text(json.dumps(good) + "\n" + json.dumps({**good, "thought": " ", "code": None}) + "\n")
    with pytest.raises(DataError, match="line 2: expected a shot .* lacking thought, code"):
        shots_from(path)
