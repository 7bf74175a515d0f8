"""Study files: what is accepted, what is refused, and how helpful the refusal is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from leaven.errors import StudyError
from leaven.spec.load import json_schema, load_study, optimiser_of, read_yaml, write_yaml

STUDY = """\
leaven: 1
study: t
question: q?
data:
  sources:
    lists: {world: {families: [list_program], n: 100}}
  stages:
    sft:
      mixture: {lists: 1}
      budget: {steps: 10}
conditions:
  a: {}
  b: {data: {stages: {sft: {format: code_only, max_tokens: 64}}}}
train: {lr: 1e-5}
measure:
  m: {benchmark: program, world: {families: [list_program], n: 10, split: test}}
contrasts:
  - {name: x, treatment: b, control: a, benchmark: m, primary: true}
seeds: [0, 1]
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(StudyError) as caught:
        load_study(written(tmp_path, text), overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_patch_changes_only_what_it_names(tmp_path: Path) -> None:
    a, b = load_study(written(tmp_path, STUDY)).cells
    assert (a.data.stages["sft"].format, a.data.stages["sft"].max_tokens) == ("auto", 512)
    assert (b.data.stages["sft"].format, b.data.stages["sft"].max_tokens) == ("code_only", 64)
    assert b.data.stages["sft"].budget.steps == 10


def test_yaml_1_2_reads_1e_5_as_a_number_and_yes_as_text(tmp_path: Path) -> None:
    assert load_study(written(tmp_path, STUDY)).study.train.lr == 1e-5
    assert 'found "yes"' in refusal(tmp_path, STUDY.replace("primary: true", "primary: yes"))


def test_unknown_key_names_line_path_and_suggestion(tmp_path: Path) -> None:
    text = refusal(tmp_path, STUDY.replace("      budget:", "      batchh: 3\n      budget:"))
    assert "study.yaml:10 data.stages.sft.batchh" in text and "Did you mean 'batch'?" in text


def test_error_in_a_patch_points_at_the_condition(tmp_path: Path) -> None:
    text = refusal(tmp_path, STUDY.replace("max_tokens: 64", "max_tokens: many"))
    assert "study.yaml:13 conditions.b.data.stages.sft.max_tokens: expected a whole number" in text


def test_all_mistakes_are_listed_at_once(tmp_path: Path) -> None:
    text = refusal(
        tmp_path, STUDY.replace("control: a", "control: c").replace("lists: 1}", "lst: 1}").replace("[0, 1]", "[0, 0]")
    )
    assert len(text.splitlines()) == 3
    assert "Did you mean 'lists'?" in text and "different seeds" in text and "name of a condition, found 'c'" in text


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("steps: 10", "steps: 10, tokens: 5", "exactly one of steps"),
        ("primary: true", "primary: false", "exactly one contrast with `primary: true`"),
        ("  b: {data", "  b: {train: {lr: 1.0}, data", "compares: training"),
        ("{world: {families: [list_program], n: 100}}", "{licence: MIT}", "exactly one of world, file and subset_of"),
        ("lists: 1}", "lists: -1}", "weight of at least 0"),
        ("max_tokens: 64", "extends: b", "another condition"),
        ("leaven: 1", "leaven: 2", "expected one of 1"),
        ("question: q?\n", "", "required key 'question' is missing"),
        ("seeds: [0, 1]", "seeds: [0, 1]\nvary: {train.lrr: [1]}", "Did you mean 'train.lr'?"),
        ("seeds: [0, 1]", "seeds: [0, 1]\nvary: {data.stages.sft.bath: [1]}", "Did you mean 'data.stages.sft.batch'?"),
        ("max_tokens: 64", "perturb: [{nme: noise}]", "unknown key 'nme'. Did you mean 'name'?"),
        ("max_tokens: 64", "perturb: [{name: noise, rate: 2}]", "above 0 and at most 1, found 2"),
        ("max_tokens: 64", "perturb: noise", "expected a list"),
        ("benchmark: program", "benchmark: program, at: all", "`train.checkpoints: N`"),
        ("seeds: [0, 1]", "seeds: [0, 1]\nprobe: {p: {kind: loss}}", "found none"),
        ("seeds: [0, 1]", "seeds: [0, 1]\nprobe: {p: {kind: loss, of: mm}}", "Did you mean 'm'?"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert expected in refusal(tmp_path, STUDY.replace(old, new))


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    assert "study.yaml:" in refusal(tmp_path, STUDY.replace("seeds: [0, 1]", "seeds: [0, 1"))
    assert "duplicate key" in refusal(tmp_path, STUDY + "study: again\n")


def test_missing_file_and_empty_file_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="leaven new quickstart"):
        load_study(tmp_path / "absent.yaml")
    assert "expected a mapping" in refusal(tmp_path, "")


def test_set_overrides_and_is_blamed_for_its_mistakes(tmp_path: Path) -> None:
    path = written(tmp_path, STUDY)
    loaded = load_study(path, ("train.lr=2e-3", "seeds=[5]", "conditions.b.data.stages.sft.batch=7"))
    assert (
        loaded.study.train.lr == 2e-3 and loaded.study.seeds == (5,) and loaded.cells[1].data.stages["sft"].batch == 7
    )
    assert "--set train.lrr" in refusal(tmp_path, STUDY, "train.lrr=1")
    assert "expected path=value" in refusal(tmp_path, STUDY, "train.lr")


def test_vary_crosses_levels_with_conditions(tmp_path: Path) -> None:
    loaded = load_study(written(tmp_path, STUDY + "vary: {train.lr: [1.0e-3, 2.0e-3], model.width: [32]}\n"))
    assert [(c.condition, c.train.lr, c.model.width) for c in loaded.cells] == [
        ("a", 1e-3, 32),
        ("a", 2e-3, 32),
        ("b", 1e-3, 32),
        ("b", 2e-3, 32),
    ]
    assert loaded.cells[0].label == "lr=0.001,width=32"


def test_batch_and_budget_of_a_stage_can_be_swept(tmp_path: Path) -> None:
    text = STUDY + "vary: {data.stages.sft.batch: [8, 16], data.stages.sft.budget.epochs: [1, 2]}\n"
    cells = load_study(written(tmp_path, text)).cells
    stages = [c.data.stages["sft"] for c in cells if c.condition == "b"]
    assert [(s.batch, s.budget.epochs, s.budget.steps) for s in stages] == [(8, 1, None), (8, 2, None), (16, 1, None), (16, 2, None)]
    assert cells[0].label == "batch=8,epochs=1"


def test_perturbations_are_names_or_mappings(tmp_path: Path) -> None:
    text = STUDY.replace("max_tokens: 64", "perturb: [remove_comments, {name: noise, rate: 0.2}]")
    first, second = load_study(written(tmp_path, text)).cells[1].data.stages["sft"].perturb
    assert first == "remove_comments" and (second.name, second.rate) == ("noise", 0.2)


def test_stage_settings_override_the_section(tmp_path: Path) -> None:
    loaded = load_study(
        written(tmp_path, STUDY.replace("train: {lr: 1e-5}", "train: {lr: 1e-5, clip: 2.0, stages: {sft: {lr: 3e-4}}}"))
    )
    found = optimiser_of(loaded.study.train, "sft")
    assert (found.lr, found.clip) == (3e-4, 2.0)
    assert "Did you mean 'lr'?" in refusal(
        tmp_path, STUDY.replace("train: {lr: 1e-5}", "train: {stages: {sft: {lrs: 1}}}")
    )


def test_written_yaml_reads_back_equal(tmp_path: Path) -> None:
    tree = {
        "a": 1e-5,
        "b": ["x", {"c": None, "d": "yes", "e": "1e-5"}],
        "text": "two\nlines: 'quoted' # no comment\n",
        "t": True,
    }
    write_yaml(tmp_path / "x.yaml", tree, "made by a test")
    assert read_yaml(tmp_path / "x.yaml")[0] == tree


def test_schema_describes_every_section() -> None:
    text = json.dumps(json_schema())
    for word in ("conditions", "contrasts", "What the shares count.", "Peak learning rate."):
        assert word in text
