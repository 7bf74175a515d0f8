"""docs/extend.md followed to the letter: files written, study lines put in their place, the study planned and run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import leaven
import leaven.evals.benchmarks  # the built-in ones are registered before a fixture remembers them
from leaven.core.tables import EXAMPLES, ORDER, PROBE_VALUES, SEGMENTS, read_table
from leaven.data.formats import FORMATS
from leaven.data.perturb import PERTURBATIONS
from leaven.data.schedules import SCHEDULES
from leaven.data.sources.shapes import SHAPES
from leaven.data.sources.world.families import FAMILIES
from leaven.engine.store import follow
from leaven.errors import StudyError
from leaven.evals.harness import BENCHMARKS
from leaven.probes.kinds import PLUGINS, PROBES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extend.md"
BLOCK = re.compile(r"^(?:In )?`([\w.]+)`:\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sections() -> dict[str, list[tuple[str, str]]]:
    """Return heading -> [(file name, text)] of the page."""
    parts = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {title: BLOCK.findall(text) for title, text in zip(parts[1::2], parts[2::2], strict=True)}


RECIPES = [title for title, files in sections().items() if any(name == "study.yaml" for name, _ in files)]


def follow_recipe(title: str, folder: Path, **changes: Any) -> Path:
    """Write a recipe's files and the playground study with its sections replaced; return the study file."""
    yaml = YAML(typ="safe", pure=True)
    study: dict[str, Any] = {}
    for name, text in [*sections()["The playground"], *sections()[title]]:
        if name == "study.yaml":
            study |= yaml.load(text)
        else:
            (folder / name).write_text(text, encoding="utf-8")
    path = folder / "study.yaml"
    with path.open("w", encoding="utf-8") as handle:
        yaml.dump(study | changes, handle)
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty folder with its own store; what plugins register in this process is taken back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "store"))
    registries = (FORMATS, SCHEDULES, BENCHMARKS, PERTURBATIONS, PLUGINS)
    tables: list[dict[str, Any]] = [FAMILIES, SHAPES, PROBES, *(r._entries for r in registries)]
    before = [dict(table) for table in tables]
    yield tmp_path
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


def artifact(run: str, name: str) -> Path:
    """Return the folder of a run's artifact."""
    return follow(Path("runs") / run / name)


def test_the_page_names_its_recipes() -> None:
    assert len(RECIPES) == 9  # the playground and eight more
    linked = re.findall(r"\]\(#([\w-]+)\)", PAGE.read_text(encoding="utf-8"))
    slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in sections()}
    assert set(linked) <= slugs


@pytest.mark.parametrize("title", RECIPES)
def test_recipe_plans_and_builds_its_data(title: str, here: Path) -> None:
    report = leaven.plan(follow_recipe(title, here), previews=1)
    assert report.outcome is not None and not report.outcome.failed
    assert report.outcome.exit_code == 0
    assert report.previews


def test_schedule_moves_the_source_and_keeps_its_amount(here: Path) -> None:
    leaven.plan(follow_recipe("A schedule", here))
    counts = {}
    for condition in ("constant", "wave"):
        table = read_table(artifact("playground", f"{condition}/seed-0/order-sft") / "order.parquet", ORDER)
        words = table.filter(table["source"] == "words")
        counts[condition] = (words.height, (words["step"] < 5).sum())
    assert counts["constant"][0] == counts["wave"][0] == 40
    assert counts["wave"][1] > counts["constant"][1] + 5


def test_format_reaches_the_tokens(here: Path) -> None:
    leaven.plan(follow_recipe("A response format", here))
    folders = [artifact("playground", f"tokens/lists/{f}") for f in ("dots_code", "thought_code")]
    spans = [read_table(folder / "segments.parquet", SEGMENTS).filter(kind="thought") for folder in folders]
    assert spans[0].height > 0 and spans[0]["example"].equals(spans[1]["example"])


def test_perturbation_changes_thoughts_only(here: Path) -> None:
    leaven.plan(follow_recipe("A perturbation", here))
    before, after = (
        read_table(artifact("playground", f"data/{name}") / "examples.parquet", EXAMPLES) for name in ("lists", "lists+shuffle_steps")
    )
    assert before["id"].equals(after["id"]) and before["code"].equals(after["code"])
    moved = [(a, b) for a, b in zip(before["thought"], after["thought"], strict=True) if a != b]
    assert moved and all(sorted(a.splitlines()) == sorted(b.splitlines()) for a, b in moved)


def test_probe_recipe_sees_every_model(here: Path) -> None:
    result = leaven.run(follow_recipe("A probe", here), workers=1)
    assert result.exit_code == 0 and not result.failed
    values = read_table(artifact("playground", "thought_code/seed-1/probe-sure") / "values.parquet", PROBE_VALUES)
    assert values["part"].unique().sort().to_list() == ["code", "thought"] and values["value"].is_between(0, 1).all()


def test_attribution_method_stands_in_the_one_table_and_is_ranked(here: Path) -> None:
    result = leaven.run(follow_recipe("An attribution method", here), workers=1)
    assert result.exit_code == 0
    told = json.loads((artifact("playground", "attribution/main-validation/thought_code") / "validation.json").read_text())
    assert {r["method"] for r in told} == {"ekfac", "shared_words", "gradient_dot", "random"}


def test_named_shape_reads_the_file(here: Path) -> None:
    study = follow_recipe("A source from a file", here, plugins=["./my_shape.py"])
    for named in ("exam", "auto"):
        report = leaven.plan(study, ("data.sources.sums.fields=null", f"data.sources.sums.shape={named}"))
        assert report.outcome is not None and report.outcome.exit_code == 0


def test_a_taken_name_is_refused(here: Path) -> None:
    study = follow_recipe("A response format", here)
    plugin = here / "my_format.py"
    text = plugin.read_text(encoding="utf-8").replace('@FORMATS("dots_code")', '@FORMATS("code_only")')
    plugin.write_text(text, encoding="utf-8")
    with pytest.raises(StudyError, match="two formats are called 'code_only'"):
        leaven.plan(study)


def test_two_plugins_need_two_names(here: Path) -> None:
    (here / "other").mkdir()
    (here / "other" / "my_format.py").write_text("", encoding="utf-8")
    study = follow_recipe("A response format", here, plugins=["./my_format.py", "./other/my_format.py"])
    with pytest.raises(StudyError, match="different file names"):
        leaven.plan(study)


def test_a_plugin_that_fails_is_named(here: Path) -> None:
    study = follow_recipe("A schedule", here)
    (here / "my_schedule.py").write_text("import nothing_of_that_name\n", encoding="utf-8")
    with pytest.raises(StudyError, match=r"my_schedule\.py failed to import"):
        leaven.plan(study)


def test_benchmark_recipe_runs_and_a_changed_plugin_is_noticed(here: Path) -> None:
    study = follow_recipe("A benchmark", here)
    result = leaven.run(study, workers=1)
    assert result.exit_code == 0 and not result.failed
    assert result.report is not None and result.report.is_file()
    table = leaven.results("runs/playground").table(benchmark="places")
    assert set(table["metric"]) == {"places_right", "bits_per_byte"}
    assert set(table["n_items"]) == {6}
    with (here / "my_bench.py").open("a", encoding="utf-8") as plugin:
        plugin.write("# changed\n")
    states = {f.node.id: f.state for f in leaven.plan(study).forecasts}
    assert all(state == "cached" for name, state in states.items() if name.endswith("/model"))
    assert all(state != "cached" for name, state in states.items() if "/verdicts-" in name)


@pytest.mark.slow
@pytest.mark.parametrize("title", RECIPES)
def test_recipe_runs_to_its_answer(title: str, here: Path) -> None:
    result = leaven.run(follow_recipe(title, here), workers=1)
    assert result.exit_code == 0 and result.answer


@pytest.mark.slow
def test_analysis_of_a_finished_run(here: Path) -> None:
    assert leaven.run(follow_recipe("The playground", here), workers=1).exit_code == 0
    (name, text), = sections()["An analysis of a finished run"]
    (here / name).write_text(text, encoding="utf-8")
    done = subprocess.run([sys.executable, name], capture_output=True, text=True, check=False, cwd=here)
    assert done.returncode == 0, done.stderr
    assert "thought_code" in done.stdout
