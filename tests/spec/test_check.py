"""What a study may not say: names, values and comparisons that are refused before anything runs, each at its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from leaven.errors import StudyError
from leaven.spec.load import load_study

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
  b: {data: {stages: {sft: {format: code_only}}}}
train: {lr: 1.0e-3}
model: {width: 64, heads: 4}
tokenizer: {vocab_size: 64}
measure:
  m: {benchmark: program, world: {families: [list_program], n: 10, split: test}}
contrasts:
  - {name: x, treatment: b, control: a, benchmark: m, primary: true}
seeds: [0, 1]
"""


def refusal(tmp_path: Path, text: str, *overrides: str) -> str:
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StudyError) as caught:
        load_study(path, overrides)
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert all(("study.yaml:" in line or line.startswith("--set ")) for line in message.splitlines()), message
    return message.replace(f"{path}:", "")


def changed(old: str, new: str) -> str:
    assert old in STUDY, old
    return STUDY.replace(old, new)


def test_the_study_of_these_tests_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY, encoding="utf-8")
    assert len(load_study(path).cells) == 2


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".hidden",
        "a/b",
        "../up",
        "a\\b",
        "a:b",
        "a|b",
        "a~2",
        "x" * 81,
        "語" * 70,
        "tab\there",
        "end ",
        "end.",
    ],
)
@pytest.mark.parametrize("at", ["study", "condition", "source", "stage", "measure"])
def test_names_that_cannot_be_folders_are_refused(tmp_path: Path, at: str, name: str) -> None:
    quoted = '"' + name.replace("\\", "\\\\").replace("\t", "\\t") + '"'
    text = {
        "study": changed("study: t", f"study: {quoted}"),
        "condition": changed("  a: {}", f"  {quoted}: {{}}").replace("control: a", f"control: {quoted}"),
        "source": changed("    lists:", f"    {quoted}:").replace("{lists: 1}", f"{{{quoted}: 1}}"),
        "stage": STUDY.replace("sft:", f"{quoted}:"),
        "measure": changed("  m: {", f"  {quoted}: {{").replace("benchmark: m,", f"benchmark: {quoted},"),
    }[at]
    assert "expected a name of letters, digits" in refusal(tmp_path, text)


@pytest.mark.parametrize("name", ["größe", "語", "a+b", "k=8", "v1.2", "code first", "_x", "हिन्दी"])
def test_names_in_any_script_are_accepted(tmp_path: Path, name: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(changed("  a: {}", f"  {name}: {{}}").replace("control: a", f"control: {name}"), encoding="utf-8")
    assert load_study(path).cells[0].condition == name


@pytest.mark.parametrize(
    "name",
    [
        "data",
        "tokens",
        "items",
        "tokenizer",
        "analysis",
        "report",
        "logs",
        "tables",
        "figures",
        "report.html",
        "findings.json",
        "status.json",
        "events.jsonl",
        "plan.json",
        "study.lock.yaml",
        "Data",
    ],
)
def test_conditions_may_not_take_the_run_folders_own_names(tmp_path: Path, name: str) -> None:
    text = changed("  a: {}", f"  {name}: {{}}").replace("control: a", f"control: {name}")
    assert f"12 conditions.{name}: expected a name that the run folder does not use itself" in refusal(tmp_path, text)


def test_names_that_differ_only_in_case_are_refused(tmp_path: Path) -> None:
    text = refusal(tmp_path, changed("  b: {data", "  A: {data").replace("treatment: b", "treatment: A"))
    assert "13 conditions.A: expected names that differ in more than case, found 'a' and 'A'" in text


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.width=4", "at least 8"),
        ("model.width=66", "multiple of twice the number of heads (4)"),
        ("model.width=20", "every head has an even size"),
        ("model.layers=0", "at least 1"),
        ("model.heads=0", "at least 1"),
        ("model.ffn=0", "at least 1"),
        ("model.max_tokens=7", "at least 8"),
        ("model.max_tokens=256", "at most model.max_tokens (256), found 512"),
        ("data.stages.sft.max_tokens=513", "at most model.max_tokens (512), found 513"),
        ("data.stages.sft.max_tokens=1", "at least 2"),
        ("data.stages.sft.batch=0", "at least 1"),
        ("train.betas=[0.9, 1.0]", "at least 0 and below 1"),
        ("train.betas=[-0.1, 0.9]", "at least 0 and below 1"),
        ("train.lr=0", "above 0"),
        ("train.eps=0", "above 0"),
        ("train.weight_decay=-1", "at least 0"),
        ("train.clip=-1", "at least 0"),
        ("train.min_lr=-1", "at least 0"),
        ("train.min_lr=1", "at most lr (0.001)"),
        ("train.warmup_ratio=1.5", "between 0 and 1"),
        ("train.warmup_steps=-1", "at least 0"),
        ("train={warmup_steps: 5, warmup_ratio: 0.1}", "found both (5 and 0.1)"),
        ("train.checkpoint_every=0", "at least 1"),
        ("train.checkpoints=0", "at least 1"),
        ("train.stages={sft: {lr: -1}}", "above 0"),
        ("train.stages={sft: {min_lr: 0.5}}", "at most lr (0.001)"),
        ("data.stages.sft.budget={steps: 0}", "at least 1"),
        ("data.stages.sft.budget={examples: -1}", "at least 1"),
        ("data.stages.sft.budget={tokens: 0}", "at least 1"),
        ("data.stages.sft.budget={learned_tokens: 0}", "at least 1"),
        ("data.stages.sft.budget={epochs: 0}", "above 0 and at most 1000000"),
        ("data.stages.sft.budget={epochs: 1e7}", "above 0 and at most 1000000"),
        ("data.stages.sft.budget={steps: 1000000000000}", "at most 2147483647, found 1000000000000"),
        ("data.stages.sft.budget={steps: 2000000000}", "2000000000 x 32 = 64000000000"),
        ("data.stages.sft.budget={examples: 2147483648}", "at most 2147483647"),
        ("data.sources.lists.world.n=0", "at least 1"),
        ("data.sources.lists.world.families=[]", "at least one value"),
        ("data.sources.lists.world.difficulties=[]", "at least one value"),
        ("data.sources.lists.world.difficulties=[0]", "at least 1"),
        ("data.sources.lists.world.split=test", "test problems are for measuring"),
        ("data.sources.lists={file: x.jsonl, limit: 0}", "at least 1"),
        ("data.sources.lists={file: x.jsonl, size_of: lists}", "`subset_of` beside it"),
        ("data.sources.lists={subset_of: lists, size_of: lists}", "drawn from itself"),
        ("measure.m.world.n=0", "at least 1"),
        ("measure.m.world.difficulties=[0]", "at least 1"),
        ("measure.m.limit=0", "at least 1"),
        ("measure.m.n=0", "at least 1"),
        ("measure.m.temperature=-0.1", "at least 0"),
        ("measure.m.top_p=0", "above 0 and at most 1"),
        ("measure.m.top_p=1.1", "above 0 and at most 1"),
        ("measure.m.max_new_tokens=0", "at least 1"),
        ("measure.m.max_new_tokens=512", "fewer than model.max_tokens (512)"),
        ("measure.m.metrics=[]", "at least one value"),
        ("contrasts.0.margin=0", "above 0"),
        ("seeds=[-1]", "at least 0"),
        ("seeds=[2147483648]", "at most 2147483647"),
        ("seeds=[]", "one or more different seeds"),
        ("tokenizer.vocab_size=23", "at least 24"),
        ("tokenizer.sources=[]", "at least one value"),
        ("tokenizer.sources=[list]", "Did you mean 'lists'?"),
        ("runtime.workers=-1", "at least 0"),
        ("runtime.threads=0", "at least 1"),
        ("runtime.micro_batch=-1", "at least 0"),
        ("runtime.checkpoint_seconds=0", "above 0"),
        ("train.lr=.nan", "expected a finite number, found nan"),
        ("train.lr=-.inf", "expected a finite number, found -inf"),
        ("data.stages.sft.format={list: code_only}", "Did you mean 'lists'?"),
        ("train.stages={sftt: {lr: 1}}", "Did you mean 'sft'?"),
        ("vary={train.lr: [1, 1.0]}", "one or more different values"),
        ("vary={train.lr: []}", "one or more different values"),
        ("contrasts.0.control=b", "another condition than the treatment"),
        ("contrasts.0.where={min_difficulty: 3, max_difficulty: 2}", "at most max_difficulty (2), found 3"),
        ("conditions.b={}", "'a' and 'b' train on the same data"),
        ("conditions={a: {}}", "at least two conditions"),
        ("conditions.b.data.stages.sft.extends=c", "another condition, found 'c'"),
        ("plugins=[absent.py]", "'absent.py', which does not exist"),
        ("plugins=[study.yaml]", "expected a Python file"),
    ],
)
def test_values_and_comparisons_without_meaning_are_refused(tmp_path: Path, override: str, expected: str) -> None:
    text = refusal(tmp_path, STUDY, override)
    assert expected in text


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("n: 100", "n: 0", "6 data.sources.lists.world.n: expected at least 1, found 0"),
        (
            "format: code_only",
            "max_tokens: 1",
            "13 conditions.b.data.stages.sft.max_tokens: expected at least 2, found 1",
        ),
        ("lr: 1.0e-3", "lr: .inf", "14 train.lr: expected a finite number, found inf"),
        ("lr: 1.0e-3", "stages: {sft: {lr: fast}}", '14 train.stages.sft.lr: expected a number, found "fast"'),
        ("lr: 1.0e-3", "stages: {sft: {lrr: 1}}", "14 train.stages.sft.lrr: unknown key 'lrr'. Did you mean 'lr'?"),
        (
            "seeds: [0, 1]",
            "vary:\n  train.lr: [1.0, 0]\nseeds: [0, 1]",
            "22 vary.train.lr: expected a number above 0, found 0.0",
        ),
        ("seeds: [0, 1]", "seeds: !foo [0, 1]", "21 YAML: expected a plain value, found the tag !foo; remove it"),
        ("seeds: [0, 1]", "seeds: [0, !!float 1]", "21 YAML: expected a plain value, found the tag !!float"),
        (
            "study: t",
            "study: 2026-01-01",
            "2 study: expected text or a number, found '2026-01-01' (date); put it in quotes",
        ),
        ("study: t", "study: &x [*x]", "study: "),
        ("study: t", "study: " + "[" * 2000, "nested too deeply"),
        (
            "train: {lr: 1.0e-3}",
            "train:",
            "14 train: expected a mapping, found nothing; remove the line, or give it keys",
        ),
        (
            "  a: {}",
            "  a:",
            "12 conditions.a: expected a mapping, found nothing; remove the line, or give it keys ({} for none)",
        ),
        (
            "{sft: {format",
            "{sftt: {format",
            "13 conditions.b.data.stages.sftt: no stage is called 'sftt' in `data.stages`. Did you mean 'sft'?",
        ),
        (
            "{stages: {sft: {format: code_only}}}",
            "{sources: {list: {limit: 3}}}",
            "13 conditions.b.data.sources.list: no source is called 'list'",
        ),
        (
            "  stages:\n",
            "    spare: {file: x.jsonl}\n  stages:\n",
            "7 data.sources.spare: no mixture uses the source 'spare'; remove it or use it",
        ),
    ],
)
def test_refusals_point_at_the_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert expected in refusal(tmp_path, changed(old, new))


def test_conditions_without_names_are_told_to_indent_them(tmp_path: Path) -> None:
    text = refusal(
        tmp_path, changed("conditions:\n  a: {}\n  b: {data: {stages: {sft: {format: code_only}}}}\n", "conditions:\n")
    )
    assert "11 conditions: expected a mapping, found nothing; remove the line, or indent names below it" in text


def test_a_condition_may_add_a_complete_stage(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        changed("{sft: {format: code_only}}", "{sft2: {mixture: {lists: 1}, budget: {steps: 3}}}"), encoding="utf-8"
    )
    assert list(load_study(path).cells[1].data.stages) == ["sft", "sft2"]


def test_merge_keys_of_yaml_are_read(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        changed("lr: 1.0e-3}", "lr: 1.0e-3, stages: {sft: &s {clip: 0.5}}}").replace(
            "  b: {data", "  b: {description: x, data"
        ),
        encoding="utf-8",
    )
    assert load_study(path).study.train.stages["sft"] == {"clip": 0.5}
    text = changed("      budget: {steps: 10}", "      budget: &b {steps: 10}").replace(
        "{sft: {format: code_only}}", "{sft: {budget: {<<: *b, stepss: 3}}}"
    )
    assert "13 conditions.b.data.stages.sft.budget.stepss: unknown key" in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seeds=2026-01-01", "--set seeds: expected text or a number, found '2026-01-01' (date); put it in quotes"),
        ("train.lr=2026-01-01", "(date); put it in quotes"),
        ("seeds=[0, 2026-01-01]", "(date); put it in quotes"),
        ("seeds=!foo [0]", "found the tag !foo"),
        ("seeds=[1", "--set seeds:1 YAML: "),
        ("seeds={a: 1, a: 2}", "YAML: "),
        ("seeds.0.a=1", "seeds.0 is 0, so nothing can be set below it"),
        ("study.x=1", 'study is "t", so nothing can be set below it'),
        ("seeds.5=1", "an index below 2 at seeds"),
        ("foo.bar=1", "--set foo.bar: unknown key 'foo'"),
        ("foo.bar={x: 1}", "--set foo.bar: unknown key 'foo'"),
        ("train.stages={sft: {lr: x}}", '--set train.stages.sft.lr: expected a number, found "x"'),
        ("data.stages.sft.budget={steps: 1, tokens: 9}", "--set data.stages.sft.budget: expected exactly one of"),
        ("=1", "expected path=value"),
        ("a..b=1", "expected path=value"),
        ("train={lrr: 1}", "--set train.lrr: unknown key 'lrr'. Did you mean 'lr'?"),
    ],
)
def test_set_values_are_checked_like_the_file(tmp_path: Path, override: str, expected: str) -> None:
    text = refusal(tmp_path, STUDY, override)
    assert expected in text and "\n" not in text


def test_set_reaches_names_with_dots(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        changed("  b: {", "  v1.5: {").replace("treatment: b", "treatment: v1.5") + "vary: {train.lr: [1.0]}\n",
        encoding="utf-8",
    )
    loaded = load_study(path, ("conditions.v1.5.description=new", "vary.train.lr=[2.0]"))
    assert loaded.study.conditions["v1.5"].description == "new" and loaded.cells[0].train.lr == 2.0
