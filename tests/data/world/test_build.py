"""generate and build_world: distinct, deterministic, disjoint splits, even shares, honest refusals."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaven.core.hashing import file_digest
from leaven.core.step import StepContext
from leaven.core.tables import read_examples
from leaven.data.sources.world.build import FAMILIES, build_world, generate, split_of
from leaven.data.sources.world.render import render
from leaven.errors import DataError, StudyError


def spec(**changes):
    return {"families": ["list_program"], "difficulties": None, "n": 120, "seed": 0, "split": "train",
            "rendering": "default"} | changes


@pytest.mark.parametrize("name", FAMILIES)
def test_same_arguments_give_the_same_problems_and_another_seed_gives_others(name):
    first, again, other = (list(generate(name, None, 30, seed, "train")) for seed in (0, 0, 1))
    assert first == again
    assert {e.id for e in first} != {e.id for e in other}


@pytest.mark.parametrize("name", FAMILIES)
def test_problems_are_distinct_and_no_test_problem_is_in_training(name):
    train = [e for seed in (0, 1) for e in generate(name, None, 90, seed, "train")]
    test = list(generate(name, None, 30, 0, "test"))
    for sample in (train[:90], test):
        assert len({e.id for e in sample}) == len({e.question for e in sample}) == len(sample)
    held_out = {e.question for e in test if not e.meta.get("enumerated")}
    assert held_out and not held_out & {e.question for e in train}
    assert all(split_of(question) == "test" for question in held_out)
    assert all(split_of(e.question) == "train" for e in train if not e.meta.get("enumerated"))


def test_about_one_problem_in_eight_is_held_out():
    texts = [f"question {i}" for i in range(8000)]
    assert 850 < sum(split_of(t) == "test" for t in texts) < 1150


def test_n_is_split_evenly_and_small_difficulties_give_all_they_have():
    counts = {d: 0 for d in range(1, 7)}
    for example in generate("list_program", None, 1001, 0, "train"):
        counts[example.difficulty] += 1
    assert (counts[1], counts[2]) == (8, 64)
    assert sum(counts.values()) == 1001
    assert max(counts[d] for d in range(3, 7)) - min(counts[d] for d in range(3, 7)) <= 3
    assert [e.difficulty for e in generate("list_program", [4, 3], 5, 0, "train")] == [3, 3, 3, 4, 4]


@given(
    n=st.integers(0, 400),
    difficulties=st.sets(st.integers(1, 6), min_size=1),
    split=st.sampled_from(["train", "test"]),
)
@settings(max_examples=12, deadline=None)
def test_n_is_exact_and_as_even_as_the_difficulties_allow(n, difficulties, split):
    exist = {1: 8, 2: 64, 3: 40}  # at least: depth 3 has about 64 of 512 in test
    if n > sum(exist.get(d, n) for d in difficulties):
        return
    found = Counter(e.difficulty for e in generate("list_program", sorted(difficulties), n, 0, split))
    assert sum(found.values()) == n
    ample = [found[d] for d in difficulties if d > 3]
    assert not ample or max(ample) - min(ample) <= 3
    assert all(found[d] <= max(ample, default=n) + 3 for d in difficulties)


def test_a_larger_n_only_adds_problems():
    small, large = ({e.id for e in generate("kinship", None, n, 0, "train")} for n in (50, 110))
    assert small < large


def test_enumerations_are_complete_whole_in_both_splits_and_marked():
    for split in ("train", "test"):
        found = list(generate("list_program", [1, 2], 72, 3, split))
        assert len({e.question for e in found}) == 8 + 64
        assert all(e.meta == {"enumerated": True} for e in found)
    everything = [p.question for p in FAMILIES["list_program"].enumerate(3)]
    assert len(set(everything)) == 8**3
    for split in ("train", "test"):
        expected = {question for question in everything if split_of(question) == split}
        found = list(generate("list_program", [3], len(expected), 0, split))
        assert {e.question for e in found} == expected
        assert not any(e.meta for e in found)


def test_asking_for_more_than_exists_says_how_many_do():
    held_out = sum(split_of(p.question) == "test" for p in FAMILIES["list_program"].enumerate(3))
    assert len(list(generate("list_program", [1, 2, 3], 72 + held_out, 0, "test"))) == 72 + held_out
    with pytest.raises(DataError, match=rf"found {72 + held_out} \(8 at 1, 64 at 2, {held_out} at 3\)"):
        list(generate("list_program", [1, 2, 3], 73 + held_out, 0, "test"))
    with pytest.raises(DataError, match="found .* at 1"):
        list(generate("first_letters", [1], 5000, 0, "test"))


def test_unknown_names_are_refused_with_what_exists():
    with pytest.raises(StudyError, match="Did you mean 'list_program'"):
        list(generate("list_progam", None, 3, 0, "train"))
    with pytest.raises(StudyError, match=r"has \[1, 2, 3, 4, 5, 6\] \(operations\), found \[9\]"):
        list(generate("list_program", [1, 9], 3, 0, "train"))
    with pytest.raises(StudyError, match="expected train or test, found 'dev'"):
        list(generate("list_program", None, 3, 0, "dev"))
    with pytest.raises(StudyError, match="rendering: expected one of default, text, code"):
        render(next(generate("list_program", None, 1, 0, "train")), "prose")


def test_the_step_writes_a_deterministic_table_and_a_report(tmp_path):
    names = list(FAMILIES)
    digests = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        build_world(spec(families=names, n=5 * len(names)), {}, folder, StepContext())
        digests.append(file_digest(folder / "examples.parquet"))
    assert digests[0] == digests[1]
    examples = list(read_examples(tmp_path / "a" / "examples.parquet"))
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert report["n"] == report["distinct"] == len(examples) == 5 * len(names)
    assert {name: sum(cells.values()) for name, cells in report["counts"].items()} == dict.fromkeys(names, 5)


def test_renderings_of_one_problem_pair_by_id(tmp_path):
    tables = {}
    for rendering in ("default", "text", "code"):
        (tmp_path / rendering).mkdir()
        build_world(spec(rendering=rendering), {}, tmp_path / rendering, StepContext())
        tables[rendering] = list(read_examples(tmp_path / rendering / "examples.parquet"))
    for plain, prose, code in zip(tables["default"], tables["text"], tables["code"], strict=True):
        assert plain.id == prose.id == code.id
        assert not prose.question and not code.code and not plain.text
        assert plain.question in prose.text and plain.thought in prose.text and plain.answer in prose.text
        assert plain.code not in prose.text and plain.code in code.text
        exec(compile(code.text, "rendered", "exec"), {})  # the file runs: its asserts hold
