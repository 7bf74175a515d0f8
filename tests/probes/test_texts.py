"""Similarity, lengths and overlap; parts of a model's answer; options and plugins."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaven.core.responses import response_parts
from leaven.core.step import Resources, StepContext
from leaven.core.tables import PROBE_VALUES, read_table, write_items, write_samples
from leaven.core.types import Example, Item, Sample
from leaven.data.formats import FORMATS
from leaven.errors import DataError, StudyError
from leaven.lm.backend import open_backend
from leaven.probes import kinds, lengths, similarity
from leaven.probes.kinds import check_options, find_kind, needed_inputs
from leaven.probes.lengths import count_sentences, count_statements
from leaven.probes.similarity import EmbedderContext, cosine, tfidf

QUIET = StepContext(runtime=Resources(threads=1))


def vectors(*texts: str) -> np.ndarray:
    return tfidf(texts, EmbedderContext(None, QUIET))


# ---- similarity --------------------------------------------------------------------------------------------


def test_tfidf_by_hand():
    a, b, c = vectors("sort the list", "sort_list sortList", "count words")
    # sort and list are in 2 of 3 texts, the in 1; columns in alphabetical order: count list sort the words
    common, rare = 1 + math.log(4 / 3), 1 + math.log(4 / 2)
    assert a == pytest.approx([0, common, common, rare, 0]) and b == pytest.approx([0, 2 * common, 2 * common, 0, 0])
    assert cosine(a, b) == pytest.approx(2 * common / math.sqrt(2 * common**2 + rare**2) / math.sqrt(2))
    assert cosine(a, a) == pytest.approx(1) and cosine(a, c) == 0 and cosine(np.zeros(2), np.ones(2)) == 0


def test_hidden_states_are_means_of_each_text_alone(measure, toy, kind):
    folder = toy.model(kind)
    values = measure(similarity.measure, {"model": folder}, limit=1)
    backend, example = open_backend(folder), toy.examples[0]
    states = {
        part: backend.states(np.array(toy.tokenizer.encode(text))).double().mean(0).numpy()
        for part, text in (("prompt", example.question), ("thought", example.thought), ("code", example.code))
    }
    assert [(r["part"], r["other"]) for r in values.iter_rows(named=True)] == [
        ("prompt", "thought"),
        ("prompt", "code"),
        ("thought", "code"),
    ]
    for row in values.iter_rows(named=True):
        assert row["value"] == pytest.approx(cosine(states[row["part"]], states[row["other"]]), rel=1e-4)


def test_a_plugins_embedder(measure, toy, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "import numpy as np\nfrom leaven.probes.similarity import EMBEDDERS\n\n\n"
        "@EMBEDDERS('lengths_of_text')\ndef embed(texts, context):\n    return np.array([[len(t), 1.0] for t in texts])\n"
    )
    values = measure(similarity.measure, {"plugin:mine.py": plugin}, limit=1, embedder="lengths_of_text")
    sizes = [len(t) for t in (toy.examples[0].question, toy.examples[0].code)]
    wanted = cosine(np.array([sizes[0], 1.0]), np.array([sizes[1], 1.0]))
    assert values.filter((pl.col("part") == "prompt") & (pl.col("other") == "code"))["value"][0] == pytest.approx(wanted)
    with pytest.raises(StudyError, match="tfid.*Did you mean 'tfidf'"):
        measure(similarity.measure, embedder="tfid")


# ---- lengths -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "n"),
    [("One. Two! Three?", 3), ("1. Sort it.\n2. Take the first.\n", 2), ("no end", 1), ("It is 3.5 long. Done.", 2),
     ("a line\nanother line", 2), ("", 0), ("...", 0), ("Step 1: go. Then stop.", 2)],
)  # fmt: skip
def test_sentences(text, n):
    assert count_sentences(text) == n


def test_steps_and_statements():
    assert lengths.lengths("thought", "1. Sort it. Quickly.\n2) Take one.\n") == {"lines": 2, "sentences": 3, "steps": 2}
    assert lengths.lengths("thought", "Step 1: sort.\n\n**Step 2:** take one.\n")["steps"] == 2
    assert lengths.lengths("thought", "Sort it. Take 1. one.") == {"lines": 1, "sentences": 3, "steps": 3}
    code = 'def f(x):\n    """Doc."""\n\n    # why\n    if x:\n        return 1\n    return 2\n'
    assert lengths.lengths("code", code) == {"lines": 6, "statements": 4}  # def, if, return, return
    assert count_statements("def (") is None and lengths.lengths("code", "def (\n") == {"lines": 1}


def samples_of(folder: Path, *texts: str, item: str = "p00") -> Path:
    folder.mkdir(exist_ok=True)
    write_samples(
        folder / "samples.parquet",
        [Sample(item=item, request=0, index=i, text=t, finish="stop", n_tokens=3) for i, t in enumerate(texts)],
    )
    return folder


def answer_of(example: Example, *order: str) -> str:
    whole = FORMATS.get("_".join(order))(example)
    return "".join(s.text for s in whole if s.learn > 0).removesuffix("<|end|>")


def test_lengths_of_examples_and_of_samples(measure, toy, tmp_path):
    example = toy.examples[0]
    right, empty = answer_of(example, "code", "thought"), "I do not know"
    values = measure(lengths.measure, {"samples": samples_of(tmp_path / "s", right, empty)}, limit=2)

    def one(part, name, other):
        at = (pl.col("example") == "p00") & (pl.col("part") == part) & (pl.col("name") == name) & (pl.col("other") == other)
        return values.filter(at)["value"][0]

    assert one("code", "tokens", "reference") == len(toy.tokenizer.encode(example.code))
    assert one("code", "lines", "sample") == pytest.approx(one("code", "lines", "reference") / 2)
    assert one("thought", "steps", "sample") == pytest.approx((one("thought", "steps", "reference") + 1) / 2)
    items = tmp_path / "items"  # a benchmark's items, whose ids samples carry
    write_items(items / "items.parquet", [Item(id=f"b/{e.id}", benchmark="b", example=e) for e in toy.examples[:2]])
    again = measure(lengths.measure, {"examples": items, "samples": samples_of(tmp_path / "s", right, empty, item="b/p00")})
    assert again["example"].to_list() == [f"b/{e}" for e in values["example"]] and again["value"].equals(values["value"])
    with pytest.raises(DataError, match="one of 12 examples"):
        measure(lengths.measure, {"samples": samples_of(tmp_path / "t", right, item="other")})


# ---- overlap -----------------------------------------------------------------------------------------------


def test_overlap_with_the_references(toy, tmp_path):
    pytest.importorskip("tree_sitter_python", reason="CodeBLEU needs the extra eval")
    from leaven.evals.codebleu import codebleu
    from leaven.evals.overlap import measure

    example = toy.examples[0]
    inputs = {"examples": toy.folder, "samples": samples_of(tmp_path / "s", answer_of(example, "thought", "code"), "no idea")}
    measure({"format": "thought_code", "limit": None, "options": {}}, inputs, tmp_path, QUIET)
    values = read_table(tmp_path / "values.parquet", PROBE_VALUES)
    by = {(r["example"], r["part"], r["name"]): r["value"] for r in values.iter_rows(named=True)}
    assert by["p00", "code", "codebleu"] == pytest.approx(0.5) and by["p00", "code", "bleu"] == pytest.approx(0.5)
    assert by["p00", "thought", "bleu"] == pytest.approx(0.5)
    assert by["", "code", "codebleu"] == codebleu([[example.code]] * 2, [example.code, ""]).total
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["n_missing"] == {"thought": 0, "code": 1} and report["n_examples"] == 1
    with pytest.raises(DataError, match="'samples'"):
        measure({"options": {}}, {"examples": toy.folder}, tmp_path, QUIET)


# ---- parts of an answer ------------------------------------------------------------------------------------

lines = st.lists(st.from_regex(r"[A-Za-z][a-z ,]{0,20}[a-z]\.", fullmatch=True), min_size=1, max_size=6)


@given(lines, st.integers(0, 9), st.sampled_from(["thought_code", "code_thought"]))
@settings(max_examples=60, deadline=None)
def test_parts_come_back_whatever_the_order(thought: list[str], number: int, form: str) -> None:
    example = Example(
        id="x", source="s", question="q", thought="".join(f"{t}\n" for t in thought), code=f"def f(x):\n    return x + {number}\n"
    )
    found = response_parts(answer_of(example, *form.split("_")), "f")
    assert found == {"thought": example.thought, "code": example.code, "answer": ""}


def test_parts_of_other_answers():
    assert response_parts("We add.\n#### 42\n") == {"thought": "We add.\n", "code": "", "answer": "42"}
    assert response_parts("Look:\ndef f(x):\n    return x\nDone.") == {
        "thought": "Look:\nDone.\n", "code": "def f(x):\n    return x\n", "answer": "",
    }  # fmt: skip
    assert response_parts("Think.\n```python\ndef f():\n    return 1")["thought"] == "Think.\n"
    sky = "<|begin_of_thought|>\n\nHm.\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n```python\nx = 1\n```\n\n<|end_of_solution|>"
    assert response_parts(sky) == {"thought": "Hm.\n", "code": "x = 1\n", "answer": ""}
    assert response_parts("") == {"thought": "", "code": "", "answer": ""}


# ---- names, options, plugins -------------------------------------------------------------------------------


def test_names_and_options_are_checked():
    assert check_options("attention", {"grid": 8}) == {
        "by": "kind", "markers": "exclude", "layers": "last", "grid": 8, "weights": "model",
    }  # fmt: skip
    for name, options, message in (
        ("perplexty", {}, "Did you mean 'perplexity'"),
        ("loss", {"makers": "include"}, "Did you mean 'markers'"),
        ("loss", {"markers": "includ"}, "Did you mean 'include'"),
        ("attention", {"grid": 1}, "at least 2"),
        ("attention", {"grid": "8"}, "expected a int"),
        ("attention", {"grid": True}, "expected a int"),
        ("lengths", {"by": "kind"}, "no options"),
    ):
        with pytest.raises(StudyError, match=message):
            check_options(name, options, "probe.x")
    assert needed_inputs("divergence", {}) == ("base",) and needed_inputs("overlap", {}) == ("samples",)
    assert needed_inputs("gradients", {"weights": "base"}) == ("base",) and needed_inputs("gradients", {}) == ()


def test_every_built_in_probe_is_where_its_name_says():
    import importlib

    for name in kinds.PROBES:
        module, function = find_kind(name).step.rsplit(".", 1)
        assert getattr(importlib.import_module(module), function).step_version >= 1


def test_a_plugins_probe(toy, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from leaven.core.tables import PROBE_VALUES, write_table\nfrom leaven.probes.kinds import Option, probe\n\n\n"
        "@probe('constant', options={'size': Option(1.0)})\ndef measure(spec, inputs, out, ctx):\n"
        "    row = {'example': 'e', 'part': 'code', 'other': '', 'layer': -1, 'name': 'size', 'n_tokens': 1}\n"
        "    write_table(out / 'values.parquet', [{**row, 'value': spec['options']['size']}], PROBE_VALUES)\n"
    )
    before = dict(kinds.PROBES), dict(kinds.PLUGINS._entries)
    try:
        kinds.measure_plugin({"kind": "constant", "options": {"size": 2.5}}, {"plugin:mine.py": plugin}, tmp_path, QUIET)
        assert read_table(tmp_path / "values.parquet", PROBE_VALUES)["value"].to_list() == [2.5]
        assert find_kind("constant").step == kinds.PLUGIN_STEP and check_options("constant", {}) == {"size": 1.0}
        plugin.write_text("from leaven.probes.kinds import probe\nprobe('loss')\n")
        with pytest.raises(StudyError, match="another"):
            kinds.measure_plugin({"kind": "x"}, {"plugin:mine.py": plugin}, tmp_path, QUIET)
    finally:
        for table, entries in zip((kinds.PROBES, kinds.PLUGINS._entries), before, strict=True):
            table.clear()
            table.update(entries)
