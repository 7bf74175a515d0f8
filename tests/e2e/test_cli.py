"""Every verb as a new user meets it: the happy path, the typo, the second time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

Cli = Callable[..., subprocess.CompletedProcess[str]]


def test_run_prints_answer_table_and_report(finished: Path) -> None:
    text = (finished / "first.txt").read_text()
    assert "95 % interval" in text and str(finished / "runs/tiny/report.html") in text
    run = finished / "runs/tiny"
    for name in (
        "report.html",
        "findings.json",
        "study.lock.yaml",
        "status.json",
        "tables",
        "figures",
        "a/seed-0/model/config.json",
    ):
        assert (run / name).exists(), name


def test_second_run_builds_nothing(finished: Path, cli: Cli) -> None:
    again = cli(finished, "run", "study.yaml", "--log", "plain")
    assert again.returncode == 0 and "0 built" in again.stderr


def test_lock_replays_to_the_same_keys(finished: Path, cli: Cli) -> None:
    replay = cli(finished, "run", "runs/tiny/study.lock.yaml", "--log", "plain")
    assert replay.returncode == 0 and "0 built" in replay.stderr


def test_typo_exits_2_with_line_and_suggestion(finished: Path, cli: Cli, study: str) -> None:
    (finished / "typo.yaml").write_text(study.replace("code_only", "code_onyl"))
    done = cli(finished, "run", "typo.yaml")
    assert (
        done.returncode == 2
        and "typo.yaml:8" in done.stderr
        and "Did you mean 'code_only'?" in done.stderr
        and "Traceback" not in done.stderr
    )


def test_unknown_names_of_benchmark_family_and_metric_are_refused_with_lines(
    finished: Path, cli: Cli, study: str
) -> None:
    for old, new, hint in (
        ("benchmark: program,", "benchmark: programm,", "Did you mean 'program'?"),
        (
            "families: [list_program], difficulties: [1, 2], n",
            "families: [list_programs], difficulties: [1, 2], n",
            "list_program",
        ),
        ("benchmark: programs, where", "benchmark: programs, metric: acuracy, where", "accuracy"),
    ):
        (finished / "typo.yaml").write_text(study.replace(old, new))
        done = cli(finished, "plan", "typo.yaml")
        assert done.returncode == 2 and hint in done.stderr and "typo.yaml:" in done.stderr, done.stderr


def test_plan_counts_costs_and_previews(finished: Path, cli: Cli) -> None:
    done = cli(finished, "plan", "study.yaml", "--preview", "1", "--log", "quiet")
    assert done.returncode == 0, done.stderr
    assert "data.stages.sft.format" in done.stdout and "still to train: 0 models" in done.stdout
    assert "<<" in done.stdout and "learned" in done.stdout
    steps = json.loads(
        cli(finished, "plan", "study.yaml", "--set", "train.lr=2e-3", "--json", "--log", "quiet").stdout
    )["steps"]
    assert {s["state"] for s in steps if s["function"].endswith(":train")} == {"run"}
    assert any("train.lr" in s["reason"] for s in steps)


def test_plan_of_a_fresh_study_trains_nothing(tmp_path: Path, cli: Cli, study: str) -> None:
    (tmp_path / "study.yaml").write_text(study)
    done = cli(tmp_path, "plan", "study.yaml", "--log", "quiet")
    assert (
        done.returncode == 0
        and "still to train: 4 models" in done.stdout
        and not list(tmp_path.rglob("model.safetensors"))
    )


def test_plan_refuses_rows_without_loss(tmp_path: Path, cli: Cli, study: str) -> None:
    rows = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": ""}]}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "study.yaml").write_text(
        study.replace("{world: {families: [list_program], difficulties: [1, 2], n: 72}}", "{file: rows.jsonl}")
        .replace("format: code_only", "format: chat")
        .replace("format: thought_code", "max_tokens: 90")
    )
    done = cli(tmp_path, "plan", "study.yaml", "--set", "measure.programs.format=code_only", "--log", "quiet")
    assert done.returncode in (1, 2), done.stdout
    assert "FAILED" in done.stdout or "error" in done.stderr


def test_status_why_results_and_report(finished: Path, cli: Cli) -> None:
    assert cli(finished, "status", "runs/tiny").stdout.startswith("done:")
    assert "model" in cli(finished, "why", "runs/tiny", "a/seed-0/model").stdout
    assert "Did you mean" in cli(finished, "why", "runs/tiny", "a/seed-0/modle").stderr
    table = cli(finished, "results", "runs/tiny")
    assert table.returncode == 0 and "condition" in table.stdout, table.stderr
    sql = cli(
        finished,
        "results",
        "runs/tiny",
        "--sql",
        "select condition, count(*) as n from results group by condition order by condition",
        "--json",
    )
    assert [r["condition"] for r in json.loads(sql.stdout)] == ["a", "b"], sql.stderr
    assert cli(finished, "report", "study.yaml", "--log", "quiet").returncode == 0
    assert cli(finished, "status", "nowhere").returncode == 2


def test_gc_keeps_what_a_run_names(finished: Path, cli: Cli) -> None:
    assert "would free" in cli(finished, "gc").stdout
    assert cli(finished, "gc", "--delete").returncode == 0
    assert "0 built" in cli(finished, "run", "study.yaml", "--log", "plain").stderr


def test_doctor_and_schema(finished: Path, cli: Cli) -> None:
    assert "sandbox tier D" in cli(finished, "doctor").stdout
    assert json.loads(cli(finished, "schema").stdout)["title"] == "leaven study"


def test_compare_takes_result_files_of_two_tools(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"id": i, "correct": i % 3 > 0}) + "\n" for i in range(60)))
    (tmp_path / "b.jsonl").write_text(
        "".join(json.dumps({"task_id": i, "passed": i % 2 > 0}) + "\n" for i in range(60))
    )
    assert "--metric correct:passed" in cli(tmp_path, "compare", "a.jsonl", "b.jsonl").stderr
    done = cli(tmp_path, "compare", "a.jsonl", "b.jsonl", "--metric", "correct:passed")
    assert done.returncode == 0 and "McNemar" in done.stdout, done.stderr
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"id": i, "correct": 1}) + "\n" for i in range(50)))
    refused = cli(tmp_path, "compare", "a.jsonl", "c.jsonl")
    assert refused.returncode in (2, 3) and "Traceback" not in refused.stderr


def test_new_writes_studies_that_plan(tmp_path: Path, cli: Cli) -> None:
    done = cli(tmp_path, "new", "quickstart")
    assert (
        done.returncode == 0
        and (tmp_path / "quickstart/study.yaml").exists()
        and (tmp_path / "quickstart/README.md").exists()
    )
    assert cli(tmp_path, "new", "quickstart").returncode == 2
    assert "Did you mean" in cli(tmp_path, "new", "quickstrat").stderr
    (tmp_path / "my.jsonl").write_text(
        "".join(json.dumps({"instruction": f"add {i} and 1", "output": str(i + 1)}) + "\n" for i in range(300))
    )
    assert cli(tmp_path, "new", "mine", "--data", "my.jsonl").returncode == 0
    planned = cli(tmp_path, "plan", "mine/study.yaml", "--log", "quiet")
    assert planned.returncode == 0 and "with/model" in planned.stdout, planned.stdout + planned.stderr


def test_a_failed_run_leaves_the_rest_and_is_reported(tmp_path: Path, cli: Cli, study: str) -> None:
    (tmp_path / "study.yaml").write_text(study + "compares: training\n")
    text = (
        (tmp_path / "study.yaml")
        .read_text()
        .replace("  b: {data", "  b: {train: {lr: 1.0e+30, clip: 0.0, warmup_steps: 0}, data")
    )
    (tmp_path / "study.yaml").write_text(text)
    done = cli(tmp_path, "run", "study.yaml", "--log", "plain")
    assert done.returncode == 1, done.stdout + done.stderr
    status = cli(tmp_path, "status", "study.yaml").stdout
    assert "failed" in status and "b/seed-0/model" in status and "leaven run study.yaml" in status
    assert (tmp_path / "runs/tiny/report.html").exists()
    results = pl.read_parquet(tmp_path / "runs/tiny/analysis/results.parquet")
    assert set(results["condition"]) == {"a"}


def test_help_is_fast_and_imports_no_tensors() -> None:
    code = (
        "import sys, leaven.cli; bad = {'torch', 'polars', 'pydantic', 'numpy'} & set(sys.modules); sys.exit(len(bad))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_planning_imports_no_torch(finished: Path) -> None:
    code = "import sys, leaven; leaven.plan('study.yaml'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=finished, check=False).returncode == 0


@pytest.mark.parametrize(
    "verb",
    [
        "new",
        "run",
        "plan",
        "status",
        "why",
        "results",
        "compare",
        "report",
        "gc",
        "doctor",
        "schema",
        "execute",
        "evaluate",
        "attribute",
    ],
)
def test_every_verb_has_help_and_a_python_twin(verb: str) -> None:
    import leaven

    done = subprocess.run(
        [sys.executable, "-m", "leaven.cli", verb, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "Usage" in done.stdout
    assert callable(getattr(leaven, verb))


def test_execute_judges_resumes_and_notices_changes(tmp_path: Path, cli: Cli) -> None:
    rows = [
        {"id": "right", "program": "def f(x): return x + 1", "tests": ["assert f(1) == 2"]},
        {"id": "wrong", "program": "def f(x): return x", "tests": "assert f(1) == 2"},
        {"id": "io", "program": "print(int(input()) * 2)", "stdin": "21", "expected_stdout": "42"},
        {"id": "nothing", "program": "", "tests": "assert f(1) == 2"},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    first = cli(tmp_path, "execute", "p.jsonl")
    verdicts = {
        v["id"]: v["verdict"] for v in map(json.loads, (tmp_path / "p.verdicts.jsonl").read_text().splitlines())
    }
    assert first.returncode == 0 and verdicts == {"right": "pass", "wrong": "fail", "io": "pass", "nothing": "error"}, (
        first.stdout + first.stderr
    )
    with (tmp_path / "p.verdicts.jsonl").open("a") as handle:
        handle.write('{"id": "cut by a ki')
    rows[1]["program"] = "def f(x): return x + 1"
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "1 judged now, 3 known before" in cli(tmp_path, "execute", "p.jsonl").stdout
    (tmp_path / "bad.jsonl").write_text('{"id": 1, "programm": "x"}')
    assert "Did you mean 'program'?" in cli(tmp_path, "execute", "bad.jsonl").stderr


def test_evaluate_scores_predictions_and_models(finished: Path, tmp_path: Path, cli: Cli) -> None:
    rows = [{"id": str(i), "question": f"{i} plus 1", "answer": str(i + 1)} for i in range(8)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "said.jsonl").write_text(
        "\n".join(json.dumps({"id": str(i), "completion": f"so the answer is {i + (i < 6)}"}) for i in range(8))
    )
    done = cli(tmp_path, "evaluate", "--benchmark", "answer", "--items", "items.jsonl", "--predictions", "said.jsonl")
    assert done.returncode == 0 and "0.750" in done.stdout and "[0." in done.stdout, done.stdout + done.stderr
    (tmp_path / "few.jsonl").write_text(json.dumps({"id": "0", "completion": "1"}))
    lost = cli(tmp_path, "evaluate", "--benchmark", "answer", "--items", "items.jsonl", "--predictions", "few.jsonl")
    assert lost.returncode == 2 and "missing 7" in lost.stderr
    model = cli(
        tmp_path,
        "evaluate",
        "--benchmark",
        "answer",
        "--items",
        "items.jsonl",
        "--model",
        str(finished / "runs/tiny/a/seed-0/model"),
        "--max-new-tokens",
        "8",
        "--metric",
        "accuracy",
        "--metric",
        "bits_per_byte",
    )
    assert model.returncode == 0 and "bits_per_byte" in model.stdout, model.stdout + model.stderr
