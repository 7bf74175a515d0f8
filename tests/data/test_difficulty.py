"""Difficulty on named scales: what cells mean, grades of a teacher, pass rates, and labels given to real sources."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from leaven.core.step import StepContext
from leaven.core.tables import LABELS, VERDICTS, read_examples, read_table, write_examples, write_table
from leaven.core.types import Example
from leaven.data.labels import SCALES, parse_grade
from leaven.data.labels.attach import RELATIVE, attach
from leaven.data.labels.grading import GRADES, grade, grade_asks, graded
from leaven.data.labels.mathtype import symbolic_share
from leaven.data.labels.passrate import class_of, pass_rates
from leaven.data.labels.scales import FAILED, rounded
from leaven.data.labels.settings import check_label
from leaven.data.sources.files import load_file
from leaven.data.sources.world.build import generate
from leaven.data.teacher import Ask, Keep, Reply
from leaven.errors import DataError, StudyError
from leaven.spec.data import Grader, Label, Source, World

SHARED = Path(__file__).resolve().parents[3] / "shared/data"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here: real data sets are not part of the project")


# ---- scales ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "cell", "difficulty"),
    [("math", "Level 3", 3), ("math", 5.0, 5), ("math", "4", 4), ("aops", 3.875, 3.875), ("aops", "10", 10), ("apps", "interview", 2),
     ("apps", "Competition", 3), ("taco", "MEDIUM_HARD", 3), ("taco", "very hard", 5), ("leetcode", "Easy", 1), ("leetcode", 2, 2)],
)  # fmt: skip
def test_cells_of_the_data_sets(scale: str, cell: Any, difficulty: float) -> None:
    assert SCALES[scale].read(cell) == (difficulty, "")


@pytest.mark.parametrize(
    ("scale", "cell", "reason"),
    [("math", "Level ?", "does not know"), ("math", None, "does not know"), ("math", 0.0, "not on the scale math: 0"),
     ("math", "hard", "not on"),
     ("taco", "UNKNOWN_DIFFICULTY", "does not know"), ("apps", "easy", "not on the scale apps: easy"), ("aops", "-1", "does not know"),
     ("aops", 11, "not on"), ("leetcode", "Level 2", "not on")],
)  # fmt: skip
def test_cells_without_a_difficulty_say_why(scale: str, cell: Any, reason: str) -> None:
    number, why = SCALES[scale].read(cell)
    assert number is None and reason in why


@pytest.mark.parametrize("name", SCALES)
def test_relative_difficulty_rises_from_0_to_1(name: str) -> None:
    scale = SCALES[name]
    values = [scale.relative(d) for d in range(scale.lowest, scale.highest + 1)]
    assert values[0] == 0 and values[-1] == 1 and values == sorted(set(values))
    words = sorted(scale.words, key=lambda w: scale.words[w])
    assert [scale.read(w)[0] for w in words] == list(range(1, len(words) + 1))


@pytest.mark.parametrize(
    ("reply", "grade_"),
    [("[[3]]", 3.0), ("Two steps.\nDifficulty: [[4.5]].", 4.5), ("[[7.]]", 7.0), ("such as [[3]] or [[4.5]], so here [[6]]", 6.0)]
    + [(r, FAILED) for r in ("", "3", "[3]", "[[three]]", "[[ 3 ]]", "[[-2]]", "[[3]")],
)
def test_grades_in_double_brackets(reply: str, grade_: float) -> None:
    assert parse_grade(reply) == grade_


def test_halves_round_upwards() -> None:
    assert [rounded(d) for d in (1.0, 3.875, 4.5, 4.49)] == [1, 4, 5, 4]


# ---- pass rates ------------------------------------------------------------------------------------------------------


def verdict(item: str, score: float | None, index: int = 0, **more: Any) -> dict[str, Any]:
    return {"benchmark": "own", "item": item, "index": index, "metric": "accuracy", "status": "pass" if score else "fail", "score": score,
            "extracted": "", "strategy": "", "raw": "", "detail": "", "tier": "", **more}  # fmt: skip


def test_pass_rates_are_means_over_samples(tmp_path: Path) -> None:
    rows = [verdict("own/0", 1.0), verdict("own/0", 0.0, 1), verdict("own/0000001", 1.0), verdict("own/1x", 1.0)]
    rows.append(verdict("own/2", None, status="not_measured"))
    write_table(tmp_path / "verdicts.parquet", rows, VERDICTS)
    ids = ["0000000", "0000001", "0000002", "0000003"]
    assert pass_rates(tmp_path / "verdicts.parquet", ids) == {"0000000": 0.5, "0000001": 1.0}


def test_verdicts_of_programs_are_pass_or_not(tmp_path: Path) -> None:
    ends = (("a", "pass"), ("a", "fail"), ("b", "timeout_cpu"), ("c", "harness_error"))
    rows = [{"id": name, "verdict": end} for name, end in ends]
    (tmp_path / "v.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert pass_rates(tmp_path / "v.jsonl", ["a", "b", "c"]) == {"a": 0.5, "b": 0.0}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"item": "zz", "score": 1}], "expected items named like the examples"),
        ([{"name": "a", "score": 1}], "line 1: expected a verdict"),
        ([{"item": "a", "score": 3}], "expected a score from 0 to 1, found 3"),
        ([{"item": "a", "score": 1, "metric": "x"}, {"item": "a", "score": 1, "metric": "y"}], "verdicts of one metric, found x, y"),
        ([{"item": "a", "score": 1}, {"item": "own/a", "score": 1}], "two that mean 'a'"),
    ],
)
def test_tables_that_are_no_verdicts_on_these_examples(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    (tmp_path / "v.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=message):
        pass_rates(tmp_path / "v.jsonl", ["a", "b"])


def test_classes_of_pass_rates() -> None:
    assert [class_of(r, 5) for r in (1.0, 0.81, 0.8, 0.5, 0.2, 0.0)] == [1, 1, 2, 3, 5, 5]


# ---- grades ----------------------------------------------------------------------------------------------------------


class Counting:
    """A teacher that grades by the length of the question, and counts what it is asked."""

    name = "counting"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def answer(self, asks: Sequence[Ask], keep: Keep, ctx: StepContext) -> dict[str, str]:
        for ask in asks:
            self.asked.append(ask.seed)
            text = "no idea" if "unclear" in ask.question else f"I think [[{len(ask.question) % 10 + 1}]]"
            keep(Reply(ask.key, ask.source, ask.seed, ask.sample, text))
        return {}


EXAMPLES = [Example(id=f"{i:07d}", source="s", question=q, answer="1") for i, q in enumerate(["1 + 1?", "2 * 3 * 4?", "unclear", "1 + 1?"])]


def test_a_teacher_is_asked_once_per_question_and_its_file_is_read_back(tmp_path: Path) -> None:
    teacher, path = Counting(), tmp_path / GRADES
    for _ in range(2):
        assert grade(EXAMPLES, teacher, "counting", {"model": "m"}, path, StepContext()) == {}
    assert sorted(teacher.asked) == ["0000000", "0000001", "0000002"]
    found = graded(tmp_path, EXAMPLES)
    assert found["0000000"] == found["0000003"] == (7.0, "") and found["0000001"][0] == 1.0
    assert found["0000002"] == (None, "no grade in the reply")
    grade(EXAMPLES, teacher, "counting", {"model": "other"}, path, StepContext())
    assert len(teacher.asked) == 6  # another model is another request
    prompt = grade_asks(EXAMPLES, {})[0].messages[0]["content"]
    assert "[[4.5]]" in prompt and prompt.endswith("1 + 1?")


def test_recorded_replies_belong_by_id_or_question_and_are_averaged(tmp_path: Path) -> None:
    rows = [{"source": "s", "id": 1, "reply": "[[4]]"}, {"source": "s", "id": "0000001", "reply": "[[5]]"},
            {"question": "unclear ", "reply": "[[9]]"}, {"source": "other", "id": "0000000", "reply": "[[1]]"}]  # fmt: skip
    (tmp_path / "g.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert graded(tmp_path / "g.jsonl", EXAMPLES) == {"0000001": (4.5, ""), "0000002": (9.0, "")}
    (tmp_path / "bad.jsonl").write_text('{"id": 1, "grade": 3}')
    with pytest.raises(DataError, match="expected a reply {source, id, reply}"):
        graded(tmp_path / "bad.jsonl", EXAMPLES)
    (tmp_path / "none.jsonl").write_text('{"id": "77", "reply": "[[3]]"}')
    with pytest.raises(DataError, match="none of its replies belongs to any of the 4 examples"):
        graded(tmp_path / "none.jsonl", EXAMPLES)


# ---- the step --------------------------------------------------------------------------------------------------------


def label(tmp_path: Path, examples: Sequence[Example] | Path, inputs: Mapping[str, Path] | None = None, **spec: Any) -> Path:
    """Run the step; return its folder."""
    folder = examples if isinstance(examples, Path) else tmp_path / "examples"
    if not isinstance(examples, Path):
        write_examples(folder / "examples.parquet", examples)
    out = tmp_path / "labelled"
    out.mkdir(exist_ok=True)
    unset = dict.fromkeys(("difficulty", "column", "metric", "domain", "behaviours"), "")
    whole = {"source": "s", "limit": None, "classes": 5, **unset, **spec}
    attach(whole, {"examples": folder, **(inputs or {})}, out, StepContext())
    return out


def load(tmp_path: Path, file: Path, **spec: Any) -> Path:
    out = tmp_path / "loaded"
    out.mkdir()
    load_file({"name": "s", **spec}, {"file": file}, out, StepContext())
    return out


def test_difficulty_is_read_from_the_row_an_example_came_from(tmp_path: Path) -> None:
    cells = (("a", "EASY"), ("", "a bad row"), ("b", "VERY_HARD"), ("c", "UNKNOWN_DIFFICULTY"))
    rows = [{"question": q, "answer": "1", "difficulty": d} for q, d in cells]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    loaded = load(tmp_path, tmp_path / "rows.jsonl")
    out = label(tmp_path, loaded, {"file": tmp_path / "rows.jsonl"}, difficulty="taco")
    found = {e.question: (e.difficulty, e.difficulty_unit, e.meta.get(RELATIVE)) for e in read_examples(out / "examples.parquet")}
    assert found == {"a": (1, "taco", 0.0), "b": (5, "taco", 1.0), "c": (None, "taco", None)}
    report = json.loads((out / "report.json").read_text())
    assert report["difficulty"] == {"1": 1, "5": 1} and report["without_difficulty"] == {"the data set does not know": 1}
    for spec, message in (
        ({"difficulty": "taco", "column": "dificulty"}, "Did you mean 'difficulty'"),
        ({"difficulty": "apps"}, r"found none: not on the scale apps: EASY .*The scale goes from 1 to 3 \(introductory = 1"),
    ):
        with pytest.raises(DataError, match=message):
            label(tmp_path, loaded, {"file": tmp_path / "rows.jsonl"}, **spec)


def test_domain_language_and_behaviours(tmp_path: Path) -> None:
    examples = [
        Example(id="0", source="s", question="Write a function in Python.", answer="```python\ndef f():\n    return 1\n```"),
        Example(id="1", source="s", question="Tom has 2 apples and buys 3 more. How many apples has he in total?",
                thought="We add.\n\n2 + 3 = 5.\n\nLet me check: 5 - 3 = 2.", answer="5"),
        Example(id="2", source="s", question="f?", code="def f():\n    return 2\n", tests=("assert f() == 2",),
                thought="Return two.\n\n```python\ndef f():\n    return 1 + 1\n```\n\nLet me test it: fine."),
    ]  # fmt: skip
    out = label(tmp_path, examples, domain="rules", behaviours="lexicon")
    code, math, tested = read_examples(out / "examples.parquet")
    assert (code.domain, code.meta["language"], math.domain) == ("code", "python", "math")
    assert [tags[0] for _, _, tags in math.meta["behaviours"]["pieces"]] == ["setup", "derivation", "verification"]
    assert tested.meta["behaviours"]["correct"] == 1  # another program than the gold one, and it passes
    table = read_table(out / "labels.parquet", LABELS)
    assert table["domain"].to_list()[:2] == ["code", "math"] and table["source"].unique().to_list() == ["s"]


def test_structural_difficulty_of_the_embedded_world(tmp_path: Path) -> None:
    examples = [*generate("list_program", [1, 2, 3], 30, 0, "train"), *generate("word_problem", None, 20, 0, "train")]
    out = label(tmp_path, examples, difficulty="structural")
    for old, new in zip(examples, read_examples(out / "examples.parquet"), strict=True):
        assert (new.difficulty, new.difficulty_unit) == (old.difficulty, old.difficulty_unit)
    relative: dict[tuple[str, int], set[float]] = {}
    for e in read_examples(out / "examples.parquet"):
        relative.setdefault((e.family, e.difficulty or 0), set()).add(e.meta[RELATIVE])
    lists = [relative[k] for k in sorted(relative) if k[0] == "list_program"]
    assert lists == [{0.0}, {0.5}, {1.0}]


def test_pass_rates_as_difficulty(tmp_path: Path) -> None:
    scores = ((0, 1.0), (0, 0.0), (1, 0.0), (2, 1.0))
    (tmp_path / "v.jsonl").write_text("\n".join(json.dumps({"item": f"own/{i}", "score": s}) for i, s in scores))
    out = label(tmp_path, EXAMPLES, {"verdicts": tmp_path / "v.jsonl"}, difficulty="pass_rate", classes=4)
    found = [(e.difficulty, e.meta.get(RELATIVE)) for e in read_examples(out / "examples.parquet")]
    assert found == [(3, 0.5), (4, 1.0), (1, 0.0), (None, None)]
    assert json.loads((out / "report.json").read_text())["without_difficulty"] == {"no verdict of the model": 1}


# ---- real files ------------------------------------------------------------------------------------------------------


@real
@pytest.mark.parametrize(
    ("file", "load_spec", "label_spec", "expected"),
    [
        ("math/math_train_levels", {}, {"difficulty": "math"}, {1: 559, 2: 1337, 3: 1573, 4: 1673, 5: 2289}),
        ("math/math_test_minus_500", {"fields": {"question": "problem", "answer": "solution"}}, {"difficulty": "math"},
         {1: 390, 2: 795, 3: 1020, 4: 1080, 5: 1182}),
        ("math/aime_1983_2023", {"fields": {"question": "problem", "answer": "answer"}}, {"difficulty": "aops"}, None),
        ("code_eval/leetcode_contest_2023_2024", {"fields": {"question": "prompt", "tests": "test"}}, {"difficulty": "leetcode"},
         {1: 45, 2: 91, 3: 44}),
    ],
)  # fmt: skip
def test_difficulties_of_real_files(
    tmp_path: Path, file: str, load_spec: dict[str, Any], label_spec: dict[str, Any], expected: dict[int, int] | None
) -> None:
    path = SHARED / f"{file}.jsonl.gz"
    loaded = load(tmp_path, path, **load_spec)
    table = read_table(label(tmp_path, loaded, {"file": path}, **label_spec) / "labels.parquet", LABELS)
    found = Counter(d for d in table["difficulty"].to_list() if d is not None)
    if expected is not None:
        assert dict(found) == expected
    assert table["relative_difficulty"].drop_nulls().is_between(0, 1).all()
    missing = table.filter(table["difficulty"].is_null())
    assert missing.height == (2 if "math_train" in file else 0) and set(missing["reason"]) <= {"not on the scale math: 0"}


@real
def test_symbolic_problems_stand_apart_from_stories() -> None:
    def shares(file: str, column: str) -> list[float]:
        with gzip.open(SHARED / f"math/{file}.jsonl.gz", "rt", encoding="utf-8") as lines:
            return [symbolic_share(json.loads(line)[column]) for _, line in zip(range(1000), lines, strict=False)]

    formal, told = shares("math_train_levels", "problem"), shares("gsm8k_train", "question")
    pairs = sum(a > b for a in formal for b in told) / (len(formal) * len(told))
    assert pairs > 0.85  # .879: the area under the curve that tells MATH from GSM8K


def test_symbolic_shares_are_ordered() -> None:
    texts = ["Tom has 3 apples and buys 4 more. How many has he?", "Let x be 3 and y = x + 4. Find y.", r"Find $\frac{x^2}{y}$ if $x = 3$."]
    values = [symbolic_share(t) for t in texts]
    assert values == sorted(values) and values[0] < 0.1 < 0.3 < values[2] and symbolic_share("") == 0


# ---- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "at least one of difficulty, domain and behaviours"),
        ({"difficulty": "math", "grades": "g.jsonl"}, r"label\.grades: it is for difficulty: aops"),
        ({"difficulty": "aops", "grades": "g", "grader": Grader(server="http://x")}, "found both"),
        ({"difficulty": "pass_rate"}, r"label\.verdicts: expected the file"),
        ({"difficulty": "structural", "column": "x"}, r"label\.column: a column is read for"),
        ({"difficulty": "pass_rate", "verdicts": "v", "classes": 1}, "at least 2 classes"),
    ],
)
def test_labels_that_do_not_fit_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        check_label(Source(file="x.jsonl", label=Label(**fields)), "study.yaml:5 data.sources.s.label")


def test_a_column_needs_a_file() -> None:
    with pytest.raises(StudyError, match="use structural for procedural problems"):
        check_label(Source(world=World(families=("list_program",), n=3), label=Label(difficulty="math")), "label")
    with pytest.raises(StudyError, match="label the source that it is drawn from"):
        check_label(Source(subset_of="a", size_of="b", label=Label(difficulty="math")), "label")
    check_label(Source(file="x.jsonl", label=Label(difficulty="math")), "label")
