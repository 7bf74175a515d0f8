"""File sources: every row of every shape and container is kept or counted with its reason; errors say what to do."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaven.core.step import StepContext
from leaven.core.tables import read_examples
from leaven.core.types import Example
from leaven.data.sources.files import load_file
from leaven.errors import DataError, Interrupted

ROWS = [
    {"instruction": "Reverse it.", "input": "a b", "output": "b a"},
    {"instruction": "Say é.", "input": "", "output": "é 漢"},
]


def load(path: Path, out: Path, **spec: Any) -> tuple[list[Example], dict[str, Any]]:
    load_file({"name": "s", **spec}, {"file": path}, out, StepContext())
    return list(read_examples(out / "examples.parquet")), json.loads((out / "report.json").read_text("utf-8"))


def write_lines(path: Path, rows: list[Any]) -> Path:
    lines = [r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in rows]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode()


def parquet(rows: list[Any]) -> bytes:
    import io

    buffer = io.BytesIO()
    pl.DataFrame(rows).write_parquet(buffer)
    return buffer.getvalue()


CONTAINERS = {
    "a.jsonl": lines(ROWS),
    "a.jsonl.gz": gzip.compress(lines(ROWS)),
    "bom.jsonl": b"\xef\xbb\xbf" + lines(ROWS),
    "a.json": json.dumps(ROWS, indent=2).encode(),
    "a.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "data.json": json.dumps({"version": 1, "data": ROWS}).encode(),
    "lines.json": lines(ROWS),
    "a.parquet": parquet(ROWS),
    "a.parquet.gz": gzip.compress(parquet(ROWS)),
    "no_suffix": lines(ROWS),
    "zipped_no_suffix": gzip.compress(lines(ROWS)),
    "parquet_no_suffix": parquet(ROWS),
    "blank_lines.jsonl": lines(ROWS).replace(b"\n", b"\n\n"),
    "windows.jsonl": lines(ROWS).replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_gives_the_same_examples(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(CONTAINERS[name])
    found, report = load(tmp_path / name, tmp_path / "out", licence="MIT", domain="text")
    assert [(e.id, e.question, e.answer) for e in found] == [
        ("0000000", "Reverse it.\n\na b", "b a"),
        ("0000001", "Say é.", "é 漢"),
    ]
    assert {(e.source, e.licence, e.domain) for e in found} == {("s", "MIT", "text")}
    assert (report["rows_read"], report["rows_kept"], report["bad_rows"], report["shape"]) == (2, 2, {}, "alpaca")


SHAPES = {
    "alpaca": ({"instruction": "q", "output": "a"}, {"question": "q", "answer": "a"}),
    "instruction_response": (
        {"instruction": "q", "input": "i", "response": "a"},
        {"question": "q\n\ni", "answer": "a"},
    ),
    "input_target": ({"input": "q", "target": 18.0}, {"question": "q", "answer": "18"}),
    "prompt_completion": ({"prompt": "q", "completion": "a"}, {"question": "q", "answer": "a"}),
    "text": ({"content": "def f(): ...\n", "path": "a.py"}, {"text": "def f(): ...\n", "meta": {"path": "a.py"}}),
    "problem": (
        {"question": "q", "thought": "t", "code": "c", "answer": "a", "tests": ["x", "y"], "license": "BSD"},
        {"question": "q", "thought": "t", "code": "c", "answer": "a", "tests": ("x", "y"), "licence": "BSD"},
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("named", ["auto", "named"])
def test_shapes_are_detected_or_named(shape: str, named: str, tmp_path: Path) -> None:
    row, expected = SHAPES[shape]
    found, report = load(
        write_lines(tmp_path / "a.jsonl", [row]), tmp_path, shape=shape if named == "named" else "auto"
    )
    assert report["shape"] == shape
    assert {k: getattr(found[0], k) for k in expected} == expected


@settings(max_examples=30, deadline=None)
@given(
    row=st.fixed_dictionaries(
        {
            k: st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
            for k in ("instruction", "input", "output")
        }
    )
)
def test_alpaca_rows_can_be_taken_apart_again(row: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> None:
    tmp_path = tmp_path_factory.mktemp("alpaca")
    found, report = load(write_lines(tmp_path / "a.jsonl", [row, ROWS[0]]), tmp_path)
    if not row["instruction"].strip() or not row["output"].strip():
        assert report["rows_kept"] == 1 and sum(report["bad_rows"].values()) == 1
        return
    example = found[0]
    at = example.meta.get("input_at")
    assert (example.question if at is None else example.question[: at - 2]) == row["instruction"]
    assert example.answer == row["output"]
    assert (example.question[at:] == row["input"]) if at is not None else not row["input"].strip()


def test_bad_rows_are_counted_quoted_and_never_dropped(tmp_path: Path) -> None:
    good = {"instruction": "q", "output": "a"}
    rows = [
        good,
        '{"instruction": "q", "outp',
        good,
        {"instruction": "q"},
        {"instruction": "q", "output": " "},
        ["q", "a"],
        {"instruction": "", "output": "a"},
        {"instruction": "q", "output": {"x": 1}},
        r'{"instruction":"q","output":"\ud83d"}',
    ]
    path = write_lines(tmp_path / "a.jsonl", rows)
    path.write_bytes(path.read_bytes() + b'{"instruction": "caf\xe9", "output": "a"}\n')
    found, report = load(path, tmp_path)
    assert [e.id for e in found] == ["0000000", "0000002"]
    assert report["bad_rows"] == {
        "broken JSON": 1,
        "missing output": 1,
        "empty answer": 1,
        "not an object": 1,
        "empty question": 1,
        "output is not text": 1,
        "half of a surrogate pair": 1,
        "not UTF-8": 1,
    }
    assert report["rows_read"] == 10 == report["rows_kept"] + sum(report["bad_rows"].values())
    assert report["quoted"]["broken JSON"] == [{"row": 1, "where": "line 2", "start": '{"instruction": "q", "outp'}]


def test_only_the_first_five_of_a_reason_are_quoted(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"text": "x"}] + [{"text": ""}] * 9)
    _, report = load(path, tmp_path)
    assert report["bad_rows"] == {"empty text": 9} and [q["row"] for q in report["quoted"]["empty text"]] == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_on_bad_row_error_quotes_the_line(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"text": "x"}, "", '{"text": "y'])
    with pytest.raises(DataError, match=r"line 3: broken JSON.*\{\"text\": \"y"):
        load(path, tmp_path, on_bad_row="error")


def test_limit_reads_a_prefix(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"text": str(i)} for i in range(40)])
    found, report = load(path, tmp_path, limit=25)
    assert [e.text for e in found] == [str(i) for i in range(25)] and report["rows_read"] == 25


def test_fields_map_join_and_reach_into_columns(tmp_path: Path) -> None:
    row = {
        "Body": "Tom has 3.",
        "Question": "How many?",
        "Answer": 3.0,
        "level": "Level 4",
        "meta": {"checks": ["a", "b"]},
        "a.b": "x",
    }
    fields = {
        "question": "Body + Question",
        "answer": "Answer",
        "difficulty": "level",
        "tests": "meta.checks",
        "family": "a.b",
    }
    found, report = load(write_lines(tmp_path / "a.jsonl", [row]), tmp_path, fields=fields)
    assert (found[0].question, found[0].answer, found[0].difficulty) == ("Tom has 3.\nHow many?", "3", 4)
    assert found[0].tests == ("a", "b") and found[0].family == "x"
    assert (
        report["shape"] == "fields"
        and report["fields"]["question"] == "Body + Question"
        and report["unused_columns"] == []
    )


def test_fields_override_a_named_shape(tmp_path: Path) -> None:
    row = {"instruction": "q", "input": "", "output": "print(1)"}
    found, _ = load(write_lines(tmp_path / "a.jsonl", [row]), tmp_path, shape="alpaca", fields={"code": "output"})
    assert found[0].code == "print(1)"


@pytest.mark.parametrize(
    ("row", "spec", "words"),
    [
        (
            {"id": 1, "instruction": "q", "instances": [{"input": "i", "output": "o"}]},
            {},
            [
                "alpaca lacks 'output' ('output' is nested at instances.0.output)",
                "{question: instruction, answer: instances.0.output}",
            ],
        ),
        ({"x": 1}, {}, ["Found columns: x", "Known shapes", "prompt_completion needs 'prompt', 'completion'"]),
        (
            {"text": "t", "code": "c", "test_list": []},
            {},
            ["'code', 'test_list' would be left out", "{question: text, code: code, tests: test_list}"],
        ),
        ({"prompt": "p", "completion": "c"}, {"shape": "alpaca"}, ["'alpaca' lacks 'instruction', 'output'"]),
        ({"prompt": "p", "completion": "c"}, {"shape": "alpacca"}, ["Did you mean 'alpaca'"]),
        (
            {"prompt": "p", "completion": "c"},
            {"fields": {"question": "promt"}},
            ["no column 'promt'", "Did you mean 'prompt'"],
        ),
        (
            {"prompt": "p", "completion": "c"},
            {"fields": {"anwser": "prompt"}},
            ["fields.anwser", "Did you mean 'answer'"],
        ),
        (
            {"prompt": "p", "completion": "c"},
            {"fields": {"question": "prompt"}},
            ["question with at least one of thought"],
        ),
        (
            {"prompt": "p", "completion": "c"},
            {"fields": {"text": "prompt", "question": "completion"}},
            ["exactly one of"],
        ),
        ({"prompt": " ", "completion": "c"}, {}, ["none of the 1 rows", "empty question", "line 1"]),
    ],
)
def test_refusals_name_the_columns_and_the_way_out(
    row: dict[str, Any], spec: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(DataError) as error:
        load(write_lines(tmp_path / "a.jsonl", [row]), tmp_path, **spec)
    assert not [w for w in words if w not in str(error.value)], str(error.value)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.jsonl", b"", "empty file"),
        ("a.jsonl", b"\n \n", "empty file"),
        ("a.json", b"[]", "without any"),
        ("a.json", b'[{"text": "x"},\n {"text": ]', "broken JSON at line 2 column 11"),
        ("a.json", b'[{"text": "caf\xe9"}]', "byte 0xe9 at line 1"),
        ("a.jsonl", '{"text": "x"}'.encode("utf-16"), "UTF-16"),
        ("a.csv", b"a,b\n1,2\n", "expected JSONL, JSON or Parquet rows"),
        ("a.jsonl", b"a,b\n1,2\n", "broken JSON at line 1"),
        ("a.parquet", b"PAR1 not really", "readable Parquet"),
        ("a.jsonl.gz", gzip.compress(lines(ROWS * 50))[:-30], "damaged or cut short"),
        ("a.json", b'{"a": [{"text": "x"}], "b": [{"text": "x"}]}', "found 2: a, b"),
        ("a.json", b"[1, 2]", "rows that are objects"),
    ],
)
def test_unreadable_files_are_refused_with_the_place(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=words):
        load(tmp_path / name, tmp_path / "out")


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", [{"text": "x"}])
    with pytest.raises(DataError, match="found a folder.*train.jsonl"):
        load(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="Did you mean 'train.jsonl'"):
        load(tmp_path / "trian.jsonl", tmp_path / "out")


def test_loading_can_be_stopped(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"text": "x"}])
    with pytest.raises(Interrupted):
        load_file({"name": "s"}, {"file": path}, tmp_path, StepContext(stop=lambda: True))
