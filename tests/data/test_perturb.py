"""The driver: pairing, rates, proof by execution, reports, filler, and what is refused before anything runs."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from leaven.core.hashing import digest
from leaven.core.step import StepContext
from leaven.core.tables import PERTURBED, read_examples, write_examples
from leaven.core.types import Example, Turn
from leaven.data.formats import FORMATS
from leaven.data.perturb import check_operations, perturb, perturb_code, perturb_examples
from leaven.data.sources.world.build import generate
from leaven.data.sources.world.families import FAMILIES
from leaven.data.tokenizer import Tokenizer, train_tokenizer
from leaven.errors import Interrupted, StudyError

PIPELINES = list(generate("number_pipeline", None, 40, 0, "train"))
FIXED = [
    Example(
        id=str(i),
        source="fixed",
        thought="first\nthen this" if i % 2 else "once upon a time",
        code=f"def f(values, limit={i}):\n    total = 0  # sum\n    for value in values:\n        if value > limit:\n"
        f"            total += value * {i + 2}\n    return total\n",
        tests=(f"assert f([1, 20, 30]) == {50 * (i + 2) + (i + 2) * (i < 1)}",),
    )
    for i in range(6)
]
GOLDEN = {
    "filler": "1f7b6637ea9e27d7",
    "inconsistent": "20038dad59092d4a",
    "noise": "ea3a724ad4af767a",
    "remove_signatures": "6a0e185895e770ac",
    "rename_identifiers": "41badb981795ab8e",
    "structure": "5fd3cb376b237c20",
}
LISTS = list(generate("list_program", [1, 2, 3], 60, 0, "train"))


# ---- checking ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operations", "said"),
    [
        (["remove_coments"], "perturb.0: no perturbation is called 'remove_coments'. Did you mean 'remove_comments'"),
        ([{"name": "noise", "rate": 2}], "perturb.0.rate: expected a share between 0 and 1, found 2"),
        ([{"name": "noise", "rate": "a lot"}], "share between 0 and 1"),
        ([{"name": "noise", "rat": 0.1}], "found 'rat'. Did you mean 'rate'"),
        (
            ["filler", {"name": "noise", "options": {"kind": "style"}}],
            "perturb.1.options: 'noise' has no option 'kind'. Did you mean 'kinds'",
        ),
        ([{"name": "noise", "options": {"kinds": ["stile"]}}], "found 'stile'. Did you mean 'style'"),
        ([{"name": "noise", "options": {"kinds": []}}], "expected one or more of drop_token"),
        ([{"name": "rename_identifiers", "options": {"names": 0}}], "whole number of at least 1, found 0"),
        ([{"name": "rename_identifiers", "options": {"entry_point": "yes"}}], "true or false, found 'yes'"),
        ([{"name": "remove_signatures", "options": {"form": "cutt"}}], "Did you mean 'cut'"),
        ([{"name": "filler", "options": {"x": 1}}], "filler has none"),
        ("remove_comments", "expected a list of perturbations"),
        ([7], "expected a name or"),
    ],
)
def test_what_is_misspelt_is_refused_with_place_and_suggestion(operations: list, said: str) -> None:
    with pytest.raises(StudyError, match=said.replace("(", r"\(")[:70].replace("[", r"\[")):
        check_operations(operations)
    with pytest.raises(StudyError) as caught:
        check_operations(operations, where="study.yaml:7 data.stages.sft.perturb")
    assert "study.yaml:7" in str(caught.value) and (said.startswith("perturb") or said in str(caught.value))


def test_every_spelling_of_an_operation_is_the_same_plain_data() -> None:
    short = check_operations(["noise"])[0].plain()
    full = {"name": "noise", "rate": 1.0, "options": {"kinds": ["style", "wrong_return", "flip_operator", "drop_token"]}}
    assert short == check_operations([full])[0].plain() == check_operations([short])[0].plain()


def test_operations_that_need_tests_or_others_do_not_apply_to_scored_programs() -> None:
    for name in ("inconsistent", "filler"):
        with pytest.raises(StudyError, match="cannot change programs before they are scored"):
            check_operations([name], scored=True)
    assert check_operations(["rename_identifiers", "remove_comments"], scored=True)


def test_inconsistent_code_needs_the_proof() -> None:
    with pytest.raises(StudyError, match="needs prove: true"):
        perturb_examples(LISTS[:2], ["inconsistent"], 0, prove=False)


# ---- pairing and rates ---------------------------------------------------------------------------------------------


def test_only_the_named_field_changes_and_ids_and_order_stay() -> None:
    new, rows = perturb_examples(PIPELINES, ["remove_comments"], 0)
    assert [e.id for e in new] == [e.id for e in PIPELINES] == [r["example"] for r in rows]
    for before, after in zip(PIPELINES, new, strict=True):
        assert before.code != after.code and "#" not in after.code
        assert (before.question, before.thought, before.tests, before.answer) == (after.question, after.thought, after.tests, after.answer)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_the_share_of_changed_examples_is_the_rate_and_grows_by_inclusion(rate: float) -> None:
    def changed(share: float) -> set[str]:
        _, rows = perturb_examples(PIPELINES, [{"name": "remove_comments", "rate": share}], 5, prove=False)
        return {r["example"] for r in rows if r["outcome"] == "changed"}

    assert len(changed(rate)) == round(rate * len(PIPELINES)) and changed(rate) <= changed(1.0)
    assert changed(rate / 2) <= changed(rate)


def test_others_stand_in_for_examples_that_cannot_be_changed() -> None:
    plain = [Example(id=f"plain{i}", source="world", code="x = 1\n") for i in range(40)]
    _, rows = perturb_examples(plain + PIPELINES, [{"name": "remove_comments", "rate": 0.5}], 0, prove=False)
    assert Counter(r["outcome"] for r in rows) == {"changed": 40, "unchanged": 40}


def test_draws_do_not_depend_on_the_other_examples_or_operations() -> None:
    noise = {"name": "noise", "rate": 0.2}
    alone = [perturb_examples([e], [noise], 3, prove=False)[0][0].code for e in LISTS[:20]]
    together = [e.code for e in perturb_examples(LISTS, ["remove_comments", noise], 3, prove=False)[0][:20]]
    assert alone == together
    assert alone != [e.code for e in perturb_examples(LISTS[:20], [noise], 4, prove=False)[0]]


def test_an_operation_given_twice_draws_twice() -> None:
    style = {"name": "noise", "rate": 0.3, "options": {"kinds": ["style"]}}
    twice, rows = perturb_examples(LISTS[:10], [style, style], 0, prove=False)
    once, _ = perturb_examples(LISTS[:10], [style], 0, prove=False)
    assert {r["operation"] for r in rows} == {"noise", "noise#2"} and [e.code for e in twice] != [e.code for e in once]


# ---- proof ---------------------------------------------------------------------------------------------------------


def test_a_change_that_execution_disproves_is_refused_and_the_original_kept() -> None:
    code = (
        "def f(x):\n    try:\n        return x + y\n        y = 0\n"
        '    except UnboundLocalError as problem:\n        return str(problem).split("\'")[1]\n'
    )
    example = Example(id="e", source="s", code=code, tests=("assert f(1) == 'y'",), entry_point="f")
    (kept,), (row,) = perturb_examples([example], ["rename_identifiers"], 0)
    assert kept == example and row["outcome"] == "refused" and row["reason"] == "the verdict changed: pass to fail"
    (changed,), _ = perturb_examples([example], ["rename_identifiers"], 0, prove=False)
    assert changed.code != code


def test_without_tests_a_change_must_run_and_print_alike() -> None:
    prints = Example(id="a", source="s", code="def f(alpha):\n    return alpha\nprint(f(3))\n")
    tells = Example(id="b", source="s", code="def f(alpha):\n    return alpha\ntry:\n    f()\nexcept TypeError as e:\n    print(e)\n")
    new, rows = perturb_examples([prints, tells], ["rename_identifiers"], 0)
    assert [r["outcome"] for r in rows] == ["changed", "refused"] and new[1] == tells
    assert rows[0]["reason"].startswith("not proven by tests")


def test_what_failed_before_may_fail_after_but_is_not_called_proven() -> None:
    example = Example(id="e", source="s", code="def f(x):\n    y = x # c\n    return y\n", tests=("assert f(1) == 2",))
    (new,), (row,) = perturb_examples([example], ["remove_comments"], 0)
    assert "#" not in new.code and row["outcome"] == "changed" and row["reason"] == "not proven: the original ends in fail too"


def test_several_operations_each_with_its_own_proof() -> None:
    operations = ["inconsistent", "remove_comments", {"name": "rename_identifiers", "options": {"names": 20}}]
    new, rows = perturb_examples(PIPELINES[:12], operations, 0)
    by = {o: [r for r in rows if r["operation"] == o] for o in ("inconsistent", "remove_comments", "rename_identifiers")}
    assert all(r["status_before"] == "pass" and r["status_after"] in ("fail", "error") for r in by["inconsistent"])
    for before, after in (("inconsistent", "remove_comments"), ("remove_comments", "rename_identifiers")):
        assert [r["status_after"] for r in by[before]] == [r["status_before"] for r in by[after]]
    assert all("#" not in e.code and "values" not in e.code for e in new)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("x = 1  # c\n" * 1_000_000, "too long"),
        ("(" * 5000 + ")" * 5000 + "  # c\n", "does not parse"),
        ("x = " + "+".join(["1"] * 3000) + "  # c\n", ""),
        ("int main() { return 0; } // c\n", "does not parse"),
        ("x = 1 \x00 # c\n", "does not parse"),
        ("x = '\ud800' # c\n", "does not parse"),
        ("", "no code"),
        ("\ufeffx = 1 # c\n", ""),
    ],
    ids=["10 MB", "deep", "long sum", "C", "null byte", "surrogate", "empty", "mark"],
)
@pytest.mark.parametrize("operation", ["remove_comments", "rename_identifiers", "remove_signatures", "noise", "structure", "inconsistent"])
def test_bad_input_is_skipped_with_a_reason(code: str, reason: str, operation: str) -> None:
    example = Example(id="bad", source="s", code=code, tests=("assert True",))
    (same,), (row,) = perturb_examples([example], [operation], 0, prove=operation == "inconsistent")
    if reason:
        assert same == example and row["outcome"] == "skipped" and row["reason"].startswith(reason)
    assert row["outcome"] in ("changed", "unchanged", "skipped")


def test_other_languages_are_skipped() -> None:
    example = Example(id="x", source="s", code="x = 1 # c\n", meta={"language": "ruby"})
    _, (row,) = perturb_examples([example], ["remove_comments"], 0)
    assert (row["outcome"], row["reason"]) == ("skipped", "not Python: ruby")


@pytest.mark.parametrize("family", sorted(n for n, f in FAMILIES.items() if f.domain == "program"))
def test_every_function_writing_family_can_be_perturbed_and_proven(family: str) -> None:
    examples = list(generate(family, [2, 3], 12, 0, "train"))
    for name, after in (("rename_identifiers", {"pass"}), ("inconsistent", {"fail", "error"})):
        _, rows = perturb_examples(examples, [name], 0)
        assert {(r["outcome"], r["status_before"]) for r in rows} == {("changed", "pass")} and {r["status_after"] for r in rows} <= after
    for name in ("remove_comments", "remove_docstrings"):
        assert not [r for r in perturb_examples(examples, [name], 0)[1] if r["outcome"] in ("refused", "skipped")]


def test_golden_perturbations() -> None:
    """A change of what any operation draws must come with another version of the step."""
    assert perturb.step_version == 1
    operations = ["filler", "rename_identifiers", {"name": "noise", "rate": 0.1}, "inconsistent", "structure", "remove_signatures"]
    found = {}
    for operation in operations:
        new, rows = perturb_examples(FIXED, [operation], 0)
        name = operation if isinstance(operation, str) else operation["name"]
        found[name] = digest([[e.code, e.thought, r["outcome"]] for e, r in zip(new, rows, strict=True)])[:16]
    assert found == GOLDEN


# ---- where the code stands -----------------------------------------------------------------------------------------

ANSWER = (
    "Use a loop:\n```python\ntotal = 0  # sum\nfor i in range(3):\n    total += i\nprint(total)\n```\n"
    "or # this:\n```js\nlet a = 1 // # x\n```\n"
)


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        (Example(id="1", source="s", answer=ANSWER), ANSWER.replace("  # sum", "")),
        (Example(id="2", source="s", answer="x = 1  # c\nprint(x)"), "x = 1\nprint(x)"),
        (Example(id="3", source="s", text="# a\ny = 2 # b\n"), "y = 2\n"),
        (Example(id="4", source="s", turns=(Turn(role="user", content="# no\nz = 1"), Turn(role="assistant", content=ANSWER))), "total"),
    ],
)
def test_code_is_found_where_instruction_data_and_corpora_keep_it(example: Example, expected: str) -> None:
    (new,), (row,) = perturb_examples([example], ["remove_comments"], 0)
    assert row["outcome"] == "changed" and row["status_after"] == "pass"
    if example.turns:
        assert new.turns[0] == example.turns[0] and new.turns[1].content == ANSWER.replace("  # sum", "")
    else:
        assert expected in (new.answer, new.text)
    assert new.code == ""


@pytest.mark.parametrize("text", ["The answer is # 3.", "42", "Paris", "```js\nlet a = 1 # c\n```", "```python\nx = # broken\n```\n"])
def test_prose_and_other_languages_are_not_code(text: str) -> None:
    (same,), (row,) = perturb_examples([Example(id="1", source="s", answer=text)], ["remove_comments"], 0)
    assert same.answer == text and row["outcome"] == "skipped" and row["reason"].split(":")[0] in ("no code", "does not parse")


def test_what_runs_before_the_code_counts_for_the_proof() -> None:
    example = Example(
        id="1",
        source="s",
        code="def f(x):\n    return sqrt(x)  # c\n",
        tests=("assert f(4) == 2",),
        meta={"prelude": "from math import sqrt"},
    )
    _, (row,) = perturb_examples([example], ["remove_comments"], 0)
    assert (row["status_before"], row["status_after"]) == ("pass", "pass")


# ---- the step ------------------------------------------------------------------------------------------------------


def test_the_step_writes_examples_rows_and_report(tmp_path: Path) -> None:
    write_examples(tmp_path / "in/examples.parquet", [*PIPELINES[:10], Example(id="broken", source="world", code="def f(:")])
    notes: list[str] = []
    ctx = StepContext(progress=lambda done, total, note="": notes.append(f"{done}/{total} {note}"))
    spec = {"operations": ["remove_comments", {"name": "noise", "rate": 0.1}], "seed": 1}
    for out in ("out", "again"):
        (tmp_path / out).mkdir()
        perturb(spec, {"examples": tmp_path / "in"}, tmp_path / out, ctx)
    assert [e.id for e in read_examples(tmp_path / "out/examples.parquet")][-1] == "broken"
    table = pl.read_parquet(tmp_path / "out/perturbed.parquet")
    assert table.columns == list(PERTURBED) and table.height == 22
    assert table.equals(pl.read_parquet(tmp_path / "again/perturbed.parquet"))
    first, second = json.loads((tmp_path / "out/report.json").read_text())["operations"]
    assert first["outcomes"] == {"changed": 10, "skipped": 1} and first["reasons"] == {"skipped: does not parse": 1}
    assert first["proven"] == 10 and first["verdicts_of_changed"] == {"pass -> pass": 10}
    assert abs(second["realised_rate"] - 0.1) < 0.02 and second["rate"] == 0.1
    assert notes[-1].startswith("22/22 noise: 10 changed, 1 skipped")


def test_a_stop_ends_the_step_without_output(tmp_path: Path) -> None:
    write_examples(tmp_path / "in/examples.parquet", PIPELINES)
    with pytest.raises(Interrupted):
        perturb({"operations": ["remove_comments"], "seed": 0}, {"examples": tmp_path / "in"}, tmp_path, StepContext(stop=lambda: True))
    assert not (tmp_path / "examples.parquet").exists()


def test_verdicts_survive_a_stop(tmp_path: Path) -> None:
    write_examples(tmp_path / "in/examples.parquet", PIPELINES)
    log = tmp_path / "_resume/verdicts.jsonl"
    stop = StepContext(stop=lambda: log.is_file() and log.read_text().count("\n") >= 20)
    spec = {"operations": ["remove_comments", "remove_signatures"], "seed": 0}
    with pytest.raises(Interrupted):
        perturb(spec, {"examples": tmp_path / "in"}, tmp_path, stop)
    kept = log.read_text().splitlines()
    assert len(kept) >= 20 and not (tmp_path / "perturbed.parquet").exists()
    perturb(spec, {"examples": tmp_path / "in"}, tmp_path, StepContext())
    lines = log.read_text().splitlines()
    assert lines[: len(kept)] == kept and len({json.loads(line)["key"] for line in lines}) == len(lines)


def test_a_plugin_brings_a_perturbation(tmp_path: Path) -> None:
    plugin = tmp_path / "shout.py"
    plugin.write_text(
        "from dataclasses import replace\nfrom leaven.data.perturb import PERTURBATIONS, Change\n\n"
        "@PERTURBATIONS('shout')\nclass Shout:\n    options = {}\n    rate_of = 'examples'\n\n"
        "    def expects(self, options):\n        return 'anything'\n\n"
        "    def apply(self, example, random, options):\n        return Change(replace(example, code=example.code.upper()), 1, 1)\n"
    )
    write_examples(tmp_path / "in/examples.parquet", LISTS[:2])
    (tmp_path / "out").mkdir()
    perturb({"operations": ["shout"], "seed": 0}, {"examples": tmp_path / "in", "plugin:shout": plugin}, tmp_path / "out", StepContext())
    assert next(iter(read_examples(tmp_path / "out/examples.parquet"))).code.startswith("DEF F(X)")


# ---- scored programs -----------------------------------------------------------------------------------------------


def test_scored_programs_are_changed_alone_and_what_does_not_apply_says_so() -> None:
    code = "def f(x):\n    y = x  # c\n    return y\n"
    new, outcome, reason = perturb_code(code, ["remove_comments", "rename_identifiers"], 0, "item#0", "f", ("assert f(1) == 1",))
    assert outcome == "changed" and reason == "" and "#" not in new and "y" not in new
    assert (
        perturb_code(code, ["rename_identifiers"], 0, "item#0", "f", ("assert f(1) == 1",))[0]
        != perturb_code(code, ["rename_identifiers"], 0, "item#1", "f", ("assert f(1) == 1",))[0]
    )
    assert perturb_code("def f(:", ["rename_identifiers"], 0, "k")[:2] == ("def f(:", "skipped")
    assert perturb_code("x = 1\n", ["remove_comments"], 0, "k") == ("x = 1\n", "unchanged", "")
    many = [perturb_code(code, [{"name": "remove_comments", "rate": 0.3}], 0, str(i))[1] for i in range(400)]
    assert 80 < many.count("changed") < 160


# ---- filler --------------------------------------------------------------------------------------------------------

LEAKING = [
    Example(id=f"{i:03}", source="s", question=f"q{i}", thought="word " * (1 + i % 4) + "end", code=f"x = {i % 4}", difficulty=i // 200,
            family="toy")
    for i in range(400)
]  # fmt: skip
"""The length of a thought tells the answer."""


def information(pairs: list[tuple[str, str]]) -> float:
    """Return the mutual information of two labels in bits."""
    both, first, second = Counter(pairs), Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    n = len(pairs)
    return sum(k / n * math.log2(k * n / (first[a] * second[b])) for (a, b), k in both.items())


def test_filler_has_the_lengths_of_the_thoughts_and_tells_nothing_about_the_answer() -> None:
    new, rows = perturb_examples(LEAKING, ["filler"], 0)
    assert {r["outcome"] for r in rows} == {"changed"} and {w for e in new for w in e.thought.split()} == {"..."}
    for level in (0, 1):  # as many words in all, within every difficulty
        before, after = ([len(e.thought.split()) for e in es if e.difficulty == level] for es in (LEAKING, new))
        assert sorted(before) == sorted(after)
    leaking = information([(e.thought, e.code) for e in LEAKING])
    told = information([(e.thought, e.code) for e in new])
    chance = [information([(e.thought, o.code) for e, o in zip(perturb_examples(LEAKING, ["filler"], s)[0], LEAKING, strict=True)])
              for s in range(1, 20)]  # fmt: skip
    assert leaking == pytest.approx(2.0) and told < 0.06 and told <= max(chance) * 1.5


def test_permuting_filler_across_problems_of_one_difficulty_changes_nothing_in_the_embedded_world() -> None:
    new, _ = perturb_examples(LISTS, ["filler"], 0)
    by_level: dict[int | None, set[str]] = {}
    for example in new:
        by_level.setdefault(example.difficulty, set()).add(example.thought)
    assert all(len(texts) == 1 for texts in by_level.values()) and len(by_level) == 3
    plain = [FORMATS.get("filler_code")(e) for e in LISTS]
    assert plain == [FORMATS.get("thought_code")(e) for e in new] == [FORMATS.get("filler_code")(e) for e in new]


def test_filler_is_token_for_token_as_long_as_the_thought(tmp_path: Path) -> None:
    write_examples(tmp_path / "examples.parquet", LISTS)
    train_tokenizer(
        {"kind": "word", "vocab_size": 512, "formats": ["thought_code", "filler_code"]}, {"s": tmp_path}, tmp_path, StepContext()
    )
    tokenizer = Tokenizer.load(tmp_path)
    for example in LISTS:
        lengths = [len(tokenizer.encode_segments(FORMATS.get(f)(example)).ids) for f in ("thought_code", "filler_code")]
        assert lengths[0] == lengths[1]


def test_a_thought_alone_in_its_difficulty_is_said_to_keep_its_length() -> None:
    one = [Example(id="1", source="s", thought="a b\nc", code="x"), Example(id="2", source="s", code="x")]
    new, rows = perturb_examples(one, ["filler"], 0)
    assert new[0].thought == "... ...\n..." and "its own length" in rows[0]["reason"]
    assert rows[1]["outcome"] == "skipped" and rows[1]["reason"] == "no thought"
