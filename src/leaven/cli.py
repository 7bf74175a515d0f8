"""The command line: parse, call one verb of the API, print. No logic of its own.

`leaven --help` imports neither torch nor table libraries; each command imports its verb when it runs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

import leaven
from leaven.errors import LeavenError

app = typer.Typer(
    name="leaven",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Which training data makes a language model reason and code better? One study file in, one answered report out.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

StudyFile = Annotated[Path, typer.Argument(help="Study file (YAML).", show_default=False)]
RunPath = Annotated[Path, typer.Argument(help="Run folder (runs/NAME) or study file.", show_default=False)]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PATH=VALUE", help="Override one value of the study, for example train.lr=1e-3; repeatable."
    ),
]
LogOption = Annotated[str, typer.Option("--log", metavar="MODE", help="Progress: auto, plain, json or quiet.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _version(asked: bool) -> None:
    """Print the version and stop."""
    if asked:
        print(leaven.__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Which training data makes a language model reason and code better? One study file in, one answered report out."""


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="quickstart, or any name together with --data.", show_default=False)],
    folder: Annotated[
        Path | None, typer.Argument(help="Where to write; default ./NAME.", show_default=False)
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Your training rows: does adding them help? (with / without / random control)"),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="A local Hugging Face folder to tune instead of a small model from scratch.")
    ] = None,
) -> None:
    """Write a ready study: `leaven new quickstart`, or one about your own data."""
    study = leaven.new(name, folder, data=data, model=model)
    print(f"wrote {study}\nnext: leaven plan {study}    what it will do and cost\n      leaven run {study}")


@app.command()
def run(
    study: StudyFile,
    set: SetOption = None,
    log: LogOption = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Steps at a time; 0 means one per core.")] = 0,
) -> None:
    """Run a study, or go on with it: build data, train, evaluate, analyse, report."""
    with _watch(log) as show:
        result = leaven.run(study, tuple(set or ()), log=show, workers=workers or None)
    _print_result(result)
    raise typer.Exit(result.exit_code)


@app.command()
def plan(
    study: StudyFile,
    set: SetOption = None,
    log: LogOption = "auto",
    preview: Annotated[
        int, typer.Option("--preview", metavar="N", min=0, help="Show N rendered examples per condition and source.")
    ] = 0,
    no_data: Annotated[
        bool, typer.Option("--no-data", help="Do not build the data; token counts are then upper bounds.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a study will do and cost: steps, what is cached and why, tokens, FLOPs, memory, disk, hours."""
    from leaven.api.shown import plan_json, plan_text

    with _watch(log) as show:
        report = leaven.plan(study, tuple(set or ()), build_data=not no_data, previews=preview, log=show)
    print(plan_json(report) if as_json else plan_text(report))
    raise typer.Exit(report.outcome.exit_code if report.outcome else 0)


@app.command()
def status(run: RunPath, as_json: JsonOption = False) -> None:
    """Show every step of a run, what failed and why, and the command that resumes."""
    from leaven.api.shown import status_text

    found = leaven.status(run)
    print(json.dumps(found, indent=1) if as_json else status_text(found))


@app.command()
def why(
    run: RunPath,
    artifact: Annotated[
        str, typer.Argument(help="A step as `status` names it, such as code_only/seed-0/model.", show_default=False)
    ],
) -> None:
    """Say why an artifact was built: which input, setting or version changed."""
    print("\n".join(leaven.why(run, artifact)))


@app.command()
def results(
    run: RunPath,
    by: Annotated[
        list[str] | None, typer.Option(help="Group by a column (condition, benchmark, difficulty ...); repeatable.")
    ] = None,
    sql: Annotated[str, typer.Option(help="SQL over the tables results, scores, curves, realised, contrasts.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Print the tables of a run, or query them with SQL."""
    from leaven.api.shown import table_text

    found = leaven.results(run)
    frame = found.sql(sql) if sql else found.table(by=by or ["condition", "benchmark", "metric"])
    print(frame.write_json() if as_json else table_text(frame))


@app.command()
def compare(
    a: Annotated[list[Path], typer.Argument(help="Result files: A B, or several with --against.", show_default=False)],
    against: Annotated[
        list[Path] | None, typer.Option(help="Files of the other side (several files a side are seeds); repeatable.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(metavar="COL", help="Column that groups items which stand or fall together.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(metavar="COL", help="Score column, when several fit; X:Y when the sides call it differently."),
    ] = None,
    item: Annotated[
        str | None, typer.Option(metavar="COL", help="Item id column, when several fit; X:Y as above.")
    ] = None,
    unequal_seeds: Annotated[
        str, typer.Option(help="Different seeds on the two sides: refuse, common or welch.")
    ] = "refuse",
    as_json: JsonOption = False,
) -> None:
    """Compare two result files of any tool item by item: difference A - B, interval, McNemar, minimum detectable effect."""
    if against:
        left, right = list(a), list(against)
    elif len(a) == 2:
        left, right = a[:1], a[1:]
    else:
        raise typer.BadParameter(f"expected two files, or --against for several a side; found {len(a)} files")
    found = leaven.compare(left, right, cluster=cluster, metric=metric, item=item, unequal_seeds=unequal_seeds)
    print(json.dumps(found.to_dict(), indent=1) if as_json else found)


@app.command()
def execute(
    programs: Annotated[
        Path,
        typer.Argument(
            help="Rows {id, program, tests, stdin, expected_stdout, entry_point, language, limits}.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Verdict rows; verdicts already there are kept.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Programs at a time; 0 means one per core.")] = 0,
    tier: Annotated[str, typer.Option(help="Sandbox tier: auto, A, B, C or D (see doctor).")] = "auto",
    cache: Annotated[
        Path | None, typer.Option(help="File of verdicts by content: equal programs with equal tests run once, ever.")
    ] = None,
) -> None:
    """Run programs in the sandbox and write their verdicts; the same command goes on where it stopped.

    language is python (default), cpp, bash (or sh), java, php or js; a program in another language than Python holds its
    own tests, or is judged by expected_stdout. A missing toolchain gives not_measured.
    """
    from leaven.api.shown import executed_text

    print(executed_text(leaven.execute(programs, out, workers=workers, tier=tier, cache=cache)))


@app.command()
def evaluate(
    items: Annotated[
        Path,
        typer.Option(
            help="The benchmark's rows (JSONL, JSON, Parquet, also .gz), or your own {id, prompt, tests, entry_point}.",
            show_default=False,
        ),
    ],
    benchmark: Annotated[
        str, typer.Option(help="program, humaneval, humaneval_plus, mbpp, leetcode, multipl_e ... (docs/benchmarks.md).")
    ] = "program",
    model: Annotated[Path | None, typer.Option(help="A model folder.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Ready answers: rows {id, completion}; several rows of an id are several samples.")
    ] = None,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder for samples, verdicts, results and generations; a run goes on there.")
    ] = Path("evaluation"),
    format: Annotated[str, typer.Option(help="Prompt format of a model.")] = "auto",
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Option of the benchmark (prompt=chat ...); repeatable.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Metric; repeatable; default is the benchmark's own, and bits_per_byte.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first items.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest completion.")] = 512,
    temperature: Annotated[str, typer.Option(metavar="T[,T...]", help="0 is greedy; several make a sweep.")] = "0",
    top_p: Annotated[float, typer.Option(help="Nucleus sampling.")] = 1.0,
    n: Annotated[int, typer.Option(min=1, help="Samples per item.")] = 1,
    k: Annotated[str, typer.Option(metavar="K[,K...]", help="pass@k; default 1 and n.", show_default=False)] = "",
    seed: Annotated[int, typer.Option(help="Seed of sampling.")] = 0,
    limits: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Sandbox limit (cpu_s=10 ...); repeatable.")
    ] = None,
    tier: Annotated[str, typer.Option(help="Sandbox tier: auto, A, B, C or D (see doctor).")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Score a model folder, or ready predictions, on one benchmark file; the same command goes on where it stopped."""
    from leaven.api.evaluated import evaluation_text, notes

    with notes() as progress:
        found = leaven.evaluate(
            benchmark,
            items,
            model=model,
            predictions=predictions,
            out=out,
            format=format,
            metrics=metric,
            options=_pairs(option, "--option"),
            limit=limit,
            max_new_tokens=max_new_tokens,
            temperature=_numbers(temperature, "--temperature", float),
            top_p=top_p,
            n=n,
            k=_numbers(k, "--k", int),
            seed=seed,
            limits={name: _numbers(value, f"--limits {name}", float)[0] for name, value in _pairs(limits, "--limits").items()},
            tier=tier,
            progress=progress,
        )
    print(json.dumps(found.plain(), indent=1) if as_json else evaluation_text(found))


def _pairs(texts: list[str] | None, what: str) -> dict[str, str]:
    """Return NAME=VALUE options as a mapping."""
    for text in texts or ():
        if "=" not in text:
            raise typer.BadParameter(f"{what}: expected NAME=VALUE, found {text!r}")
    return dict(text.split("=", 1) for text in texts or ())


def _numbers(text: str, what: str, kind: type) -> list[Any]:
    """Return a comma-separated list of numbers."""
    try:
        return [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise typer.BadParameter(f"{what}: expected numbers such as 1 or 1,10, found {text!r}") from None


@app.command()
def attribute(
    model: Annotated[Path, typer.Option(help="A local model folder.", show_default=False)],
    train: Annotated[Path, typer.Option(help="Training rows.", show_default=False)],
    queries: Annotated[Path, typer.Option(help="Rows the model shall do well: the target.", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write.", show_default=False)],
    level: Annotated[str, typer.Option(help="instance, segment or token.")] = "instance",
    modules: Annotated[str, typer.Option(help="mlp or linear.")] = "mlp",
    top: Annotated[int, typer.Option(help="Keep only the strongest rows per query; 0 keeps all.")] = 0,
    single: Annotated[bool, typer.Option("--single", help="Score every query apart instead of their mean.")] = False,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL[=COLUMN]",
            help="Average influence by this column of the rows too: domain, family, language, difficulty or group. Columns so called "
            "count by themselves; family=subject reads another.",
            show_default=False,
        ),
    ] = None,
    refine: Annotated[int, typer.Option(help="Passes of the matrix-free refinement after EK-FAC.")] = 0,
    dtype: Annotated[str, typer.Option(help="Matrix products in fp32 or bf16.")] = "fp32",
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Keep training gradients here: other targets need no pass over the training rows, new rows are added."
        ),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Most disk space of --store, such as 20GB; default half of the free space.")
    ] = None,
) -> None:
    """Say which training rows helped a model with the target rows, by influence functions (EK-FAC).

    The estimate comes first. Stopped or killed, the same command goes on; with --store at most one batch is lost.
    """
    from leaven.api.shown import attribution_text

    found = leaven.attribute(
        model,
        train,
        queries,
        out,
        level=level,
        modules=modules,
        top=top,
        single=single,
        by=by or (),
        refine=refine,
        dtype=dtype,
        store=store,
        budget=budget,
        log=lambda line: print(line, file=sys.stderr),
    )
    print(attribution_text(found, top or 10))


class _WithFields(typer.core.TyperCommand):
    """A command whose --help ends with every field of a synthesis file; they are read only then."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the fields."""
        from leaven.api.synthesising import fields_text

        formatter.write(f"\n{fields_text()}\n")


@app.command(cls=_WithFields)
def synthesize(
    spec: Annotated[
        Path, typer.Argument(help="Synthesis file (YAML), or a file of seeds (JSONL, JSON, Parquet).", show_default=False)
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for records, funnel, replies and verdicts.")] = Path("synthesis"),
    server: Annotated[str | None, typer.Option(metavar="URL", help="Teacher: an OpenAI-compatible server (teacher.server).")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Its model (teacher.model).")] = None,
    recorded: Annotated[Path | None, typer.Option(metavar="FILE", help="Teacher: recorded replies (teacher.recorded).")] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Seeds to ask about per source (asking.limit).")] = None,
    set: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Set one field listed below; repeatable.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Filter the seeds and count the requests; ask nothing.")] = False,
    preview: Annotated[int, typer.Option("--preview", metavar="N", min=0, help="With --plan: show N rendered requests.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress lines.")] = False,
) -> None:
    """Make records of question, thought, code and tests from seeds with a teacher; the same command goes on where it stopped."""
    from leaven.api.synthesising import result_text, stderr_line

    named = {
        "teacher.server": server,
        "teacher.model": model,
        "teacher.recorded": str(recorded.absolute()) if recorded else None,
        "asking.limit": limit,
    }
    values = [f"{path}={json.dumps(value)}" for path, value in named.items() if value is not None]
    try:
        result = leaven.synthesize(
            spec, out, [*values, *(set or ())], plan=plan, previews=preview, log=None if quiet else stderr_line
        )
    finally:
        stderr_line("")
    print(result_text(result))
    raise typer.Exit(result.exit_code)


@app.command()
def report(study: StudyFile, set: SetOption = None, log: LogOption = "auto") -> None:
    """Write the report of a study again (what is missing in the store runs first)."""
    with _watch(log) as show:
        result = leaven.report(study, tuple(set or ()), log=show)
    _print_result(result)
    raise typer.Exit(result.exit_code)


@app.command()
def gc(
    store: Annotated[Path | None, typer.Option(help="Artifact store; default LEAVEN_STORE or .leaven.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete; without it only say what would be freed.")] = False,
) -> None:
    """Free artifacts that no run folder names any more."""
    from leaven.api.shown import garbage_text

    print(garbage_text(leaven.gc(store, dry_run=not delete), delete))


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Say what this machine offers (sandbox, compilers, extras) and what each missing piece would enable."""
    from leaven.api.shown import checks_json, checks_text

    checks = leaven.doctor()
    print(checks_json(checks) if as_json else checks_text(checks))


@app.command()
def schema() -> None:
    """Print the JSON Schema of study files (for editors)."""
    print(json.dumps(leaven.schema(), indent=1))


def _print_result(result: Any) -> None:
    """Print the answer, a small table, the report's path; and what failed."""
    from leaven.api.shown import result_text

    print(result_text(result), flush=True)


@contextmanager
def _watch(mode: str) -> Iterator[Any]:
    """Yield the engine's event callback for a progress mode."""
    from leaven.engine.progress import watch

    if mode not in ("auto", "plain", "json", "quiet"):
        raise typer.BadParameter(f"--log: expected auto, plain, json or quiet, found {mode!r}")
    with watch(mode) as show:  # type: ignore[arg-type]
        yield show


def main() -> None:
    """Run the command line; errors leaven raises on purpose print their message and set the exit code."""
    try:
        app()
    except BrokenPipeError:
        raise SystemExit(0) from None
    except LeavenError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except OSError as error:  # a store that is a file, a folder without permission, a full disk
        print(
            f"error: {error.strerror or type(error).__name__}: {error.filename or error}; check the paths (store, runs, data)",
            file=sys.stderr,
        )
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
