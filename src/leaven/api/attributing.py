"""`leaven attribute`: a model folder, a file of training rows and a file of targets -> which rows made the model able
to do the targets.

The files are read as any source is (data/sources), rendered in a format and tokenised with the model's own tokenizer;
then the step `attribution.run.attribute` does the work, and attribution_groups.py averages its table over groups of rows.
Everything lies under the output folder, so the same command goes on after a stop.
Not covered: studies (attribution inside a study file), models that are not on this machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from leaven.errors import DataError, StudyError

if TYPE_CHECKING:
    import polars as pl


_ROWS = "_rows"


@dataclass(frozen=True, slots=True)
class Attribution:
    """What `attribute` brings back: the folder, its table, the page with token strips (None at instance level), what
    happened in the store of gradients (None without one), and mean influence by group (None where `top` left rows out)."""

    folder: Path
    table: Path
    page: Path | None
    store: dict[str, Any] | None = None
    groups: pl.DataFrame | None = None

    def top(self, n: int = 10) -> pl.DataFrame:
        """Return the `n` most helpful texts of every query by the curvature method, with how they begin.

        `example` is the number of the row in its file, from 0.
        """
        import polars as pl

        from leaven.core.tables import EXAMPLES, read_table

        ours = (pl.col("level") == "instance") & pl.col("method").str.starts_with("ekfac")
        frame = pl.read_parquet(self.table).filter(ours)
        frame = frame.filter(pl.col("method") == frame["method"].max())  # refined, where it was: "ekfac+..." > "ekfac"
        best = frame.sort("score", descending=True).group_by("query", maintain_order=True).head(n)
        examples = read_table(self.folder / _ROWS / "tokens" / "rows" / "examples.parquet", EXAMPLES)
        begins = pl.concat_str("question", "turns", "text").str.slice(0, 60).str.replace_all(r"\s+", " ").alias("begins")
        told = examples.select(pl.col("id").alias("example"), begins)
        return best.select("query", "example", "n_learned_tokens", "score").join(told, on="example", how="left", maintain_order="left")


def attribute(
    model: Path | str,
    train: Path | str,
    queries: Path | str,
    out: Path | str,
    *,
    level: Literal["instance", "segment", "token"] = "instance",
    modules: Literal["mlp", "linear", "linear+head"] = "mlp",
    top: int = 0,
    single: bool = False,
    fisher: Literal["true", "empirical"] = "true",
    damping: float = 0.1,
    decompositions: Sequence[str] = ("position",),
    refine: int = 0,
    baselines: Sequence[str] = (),
    by: Sequence[str] = (),
    format: str = "auto",
    seed: int = 0,
    dtype: Literal["fp32", "bf16"] = "fp32",
    store: Path | str | None = None,
    budget: str | None = None,
    threads: int = 1,
    device: str = "cpu",
    log: Callable[[str], None] | None = None,
) -> Attribution:
    """Score every training row by its influence on the targets.

    Args:
        model: A local folder: one that leaven trained, or a Hugging Face causal language model.
        train: Training rows, any file that leaven reads (JSONL, JSON, Parquet; shape detected).
        queries: Target rows; f is the mean log-likelihood of their learned parts.
        out: Folder to write.
        level: The finest level of the table.
        modules: Which layers are tracked.
        top: Keep each query's `top` highest and lowest rows; 0 = all.
        single: One query per target row instead of their mean.
        fisher: Labels drawn from the model, or those of the data.
        damping: As a multiple of each layer's mean eigenvalue.
        decompositions: How finer levels are split: position, loss; leave_out runs each text again without each segment.
        refine: Passes of the matrix-free refinement per query; 0 = plain EK-FAC.
        baselines: Also score by these names of `attribution.methods.BASELINES`.
        by: Labels of rows to average over, "difficulty" or "family=subject" (label=column); columns called domain, family,
            language, difficulty and group count by themselves.
        format: How rows become text.
        seed: Of label draws and random scores.
        dtype: Of matrix products; sums are fp32.
        store: Folder where training gradients are kept, so that another query set needs no pass over the training rows,
            new rows alone are added, and a stop at any moment loses one batch at most.
        budget: Most disk space of the store, such as 20GB; rows are kept as well as fits. None: half of the free space.
        threads: Of the tensor library.
        device: cpu, or a CUDA device.
        log: Receives lines of progress.

    Raises:
        DataError: A file is absent or has no usable row.
        StudyError: An option has no such value.
        BackendError: The model cannot be opened or has unsupported layers.
        RefusedError: The gradients do not fit the budget or the disk.
    """
    from leaven.api.attribution_groups import group_means
    from leaven.attribution.run import attribute_into
    from leaven.core.step import Resources, StepContext

    budget_bytes, columns = _limit(budget, store), _columns(by, top)
    _check(level, modules, dtype, top, refine, Path(model))
    folder, place = Path(out), None if store is None else Path(store)
    context = StepContext(runtime=Resources(threads=threads, device=device), progress=_reporter(log))
    inputs = _inputs(Path(model), Path(train), Path(queries), folder, format, context, log)
    labels, domains = _labels(Path(train), Path(queries), folder, columns)
    spec: dict[str, Any] = {
        "modules": modules, "fisher": fisher, "damping": {"rule": "relative", "value": damping}, "reduce": "sum",
        "queries": "single" if single else "aggregate", "level": level, "decompositions": list(decompositions), "keep": top,
        "baselines": list(baselines), "seed": seed, "dtype": dtype, "refine": {"passes": refine, "seed": seed} if refine else None,
    }  # fmt: skip
    page = folder / "strips.html"
    page.unlink(missing_ok=True)  # of an earlier call with another level
    with _told_on_stop(place, log):
        report = attribute_into(spec, inputs, folder, context, store=place, budget_bytes=budget_bytes)
    groups = None if top else group_means(folder, labels, domains, folder / _ROWS / "tokens" / "tokens", Path(model))
    return Attribution(folder, folder / "influence.parquet", page if page.is_file() else None, report.get("store"), groups)


def _limit(budget: str | None, store: Path | str | None) -> int | None:
    """Return the most bytes of the store."""
    from leaven.attribution.estimates import parse_bytes

    if budget is not None and store is None:
        raise StudyError("--budget: expected a folder for the store it limits, found none; add --store DIR")
    return None if budget is None else parse_bytes(budget)


def _columns(by: Sequence[str], top: int) -> dict[str, str]:
    """Return label -> column of what is averaged over."""
    from leaven.api.attribution_groups import label_columns

    columns = label_columns(by)
    if columns and top:
        raise StudyError("--by: expected a table of all rows to average, found --top, which leaves rows out; drop one of them")
    return columns


@contextmanager
def _told_on_stop(store: Path | None, log: Callable[[str], None] | None) -> Iterator[None]:
    """Say on Ctrl-C what is kept."""
    try:
        yield
    except KeyboardInterrupt:
        if log is not None:
            kept = f"gradients so far are in {store}" if store else "factors are kept once they are fitted"
            log(f"stopped; {kept}, and the same command goes on")
        raise


def _check(level: str, modules: str, dtype: str, top: int, refine: int, model: Path) -> None:
    """Refuse options before anything is read or written."""
    for option, value, known in (
        ("level", level, ("instance", "segment", "token")),
        ("modules", modules, ("mlp", "linear", "linear+head")),
        ("dtype", dtype, ("fp32", "bf16")),
    ):
        if value not in known:
            raise StudyError(f"--{option}: expected {', '.join(known[:-1])} or {known[-1]}, found {value!r}")
    for option, number in (("top", top), ("refine", refine)):
        if number < 0:
            raise StudyError(f"--{option}: expected 0 or more, found {number}")
    if not model.is_dir():
        raise DataError(f"--model: expected a local model folder, found none at {str(model)!r}; models are never downloaded")


def _inputs(
    model: Path, train: Path, queries: Path, folder: Path, format: str, context: Any, log: Callable[[str], None] | None
) -> dict[str, Path]:
    """Read and tokenise both files under `folder`; return the inputs of the step."""
    inputs = {"model": model}
    for kind, file in (("tokens", train), ("queries", queries)):
        inputs[f"{kind}:{file.stem}"] = _tokens(file, folder / _ROWS / kind, model, format, context, log)
    return inputs


def _labels(train: Path, queries: Path, folder: Path, columns: dict[str, str]) -> tuple[pl.DataFrame, dict[str, str]]:
    """Return the labels of training rows, and the domain of every target that has one."""
    from leaven.api.attribution_groups import row_labels

    of_targets = row_labels(queries, folder / _ROWS / "queries" / "rows", {}).select("example", "domain")
    return row_labels(train, folder / _ROWS / "tokens" / "rows", columns), {e: d for e, d in of_targets.iter_rows() if d}


def _tokens(file: Path, folder: Path, model: Path, format: str, context: Any, log: Callable[[str], None] | None) -> Path:
    """Read a file of rows and tokenise them; return the folder of tokens. Rows that cannot be used are told."""
    from leaven.core.step import StepContext
    from leaven.data.sources.files import load_file
    from leaven.data.tokenise import tokenise

    if not file.is_file():
        raise DataError(f"{file}: expected a file of rows, found none; give a JSONL, JSON or Parquet file")
    rows, tokens = folder / "rows", folder / "tokens"
    for place in (rows, tokens):
        place.mkdir(parents=True, exist_ok=True)
    load_file({"name": file.stem, "shape": "auto"}, {"file": file}, rows, StepContext(runtime=context.runtime))
    books = json.loads((rows / "report.json").read_text(encoding="utf-8"))
    if log is not None and books["bad_rows"]:
        reasons = "; ".join(f"{why}: {n}, first at {books['quoted'][why][0]['where']}" for why, n in books["bad_rows"].items())
        log(f"{file}: {books['rows_kept']} of {books['rows_read']} rows used, the others cannot be ({reasons})")
    tokenise({"source": file.stem, "format": format}, {"examples": rows, "tokenizer": model}, tokens, context)
    return tokens


def _reporter(log: Callable[[str], None] | None) -> Callable[..., None]:
    """Return a progress callback that logs the estimate and then, every few seconds, how far each pass is and how
    long it takes."""
    import time

    began: dict[str, float] = {}
    last = [0.0]

    def report(done: float, total: float, note: str = "") -> None:
        if log is None:
            return
        now = time.monotonic()
        first = note not in began
        began.setdefault(note, now)
        if done == 0 and first:
            log(note)
        elif now - last[0] > 2 and total:
            last[0] = now
            left = (now - began[note]) * (total - done) / max(done, 1)
            log(f"{note}: {done:.0f} of {total:.0f}, {left:.0f} s left")

    return report
