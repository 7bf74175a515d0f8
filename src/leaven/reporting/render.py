"""Report facts -> one HTML file that loads nothing and runs nothing; and the step that writes it with its figures
and tables.

The page is a Jinja2 template with autoescape on: model output, item text and study text are data and stay data. The
bytes depend on the facts alone.
Not covered: reading artifacts (read.py), wording rows (rows.py), drawing (figures.py), the files beside the page
(exports.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from leaven.core.step import StepContext, step
from leaven.reporting.exports import write_exports
from leaven.reporting.facts import ReportData
from leaven.reporting.figures import figures
from leaven.reporting.methods import methods
from leaven.reporting.read import read_report
from leaven.reporting.references import cited
from leaven.reporting.rows import (
    Provenance,
    amounts_table,
    basis,
    compared,
    contrast_row,
    difficulty_tables,
    fact_text,
    has_levels,
    licence_row,
    loss_rows,
    mixture_table,
    no_primary,
    score_tables,
    shared_measure,
    warning_list,
)
from leaven.reporting.samples import samples_note, shown_item
from leaven.reporting.sections.influence import influence_sections
from leaven.reporting.sections.order import order_sections
from leaven.reporting.sections.page import shown_sections
from leaven.reporting.wording import MISSING, plural, printable, unbroken, value_text


@step(version=5)
def report(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Write report.html, findings.json, tables/ and figures/ into `out`.

    `spec` is the resolved study as plain JSON; `inputs` holds "analysis" and the evaluation and item folders that
    spec["runs"] names.

    Raises DataError when the analysis folder lacks a file or a table lacks a column.
    """
    data = read_report(spec, inputs)
    ctx.progress(1, 3, "drawing")
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.html").write_text(render_html(data), encoding="utf-8", newline="\n")
    ctx.progress(2, 3, "tables and figures")
    write_exports(data, inputs["analysis"], out)
    ctx.progress(3, 3, "done")


def render_html(data: ReportData) -> str:
    """Return the report as one HTML page; the same facts give the same bytes."""
    return _template().render(_context(data)).rstrip("\n") + "\n"


@lru_cache(maxsize=1)
def _template() -> Any:
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printed,
    )
    environment.filters["unbroken"] = unbroken
    environment.globals["style"] = (folder / "style.css").read_text(encoding="utf-8")
    return environment.get_template("template.html")


def _printed(value: Any) -> Any:
    """Return what the template prints for `value`: plain text without control characters, markup as it is."""
    return printable(value) if type(value) is str else value


def _context(data: ReportData) -> dict[str, Any]:
    provenance = Provenance(data)
    contrasts = [contrast_row(c, data, provenance) for c in data.contrasts if c.data.get("difficulty") is None]
    contrasts_deep = [contrast_row(c, data, provenance) for c in data.contrasts if c.data.get("difficulty") is not None]
    scores = score_tables(data, provenance)
    by_difficulty = difficulty_tables(data, provenance)
    shown = [*order_sections(data.order), *influence_sections(data.influence)]
    sections = shown_sections(shown, provenance.add_source, provenance.add_sources)
    references = cited(data.references, data.version)
    context = {
        "d": data,
        "contrasts": contrasts,
        "contrasts_deep": contrasts_deep,
        "scores": scores,
        "by_difficulty": by_difficulty,
        "sections": sections,
        "contrast_measure": shared_measure(contrasts),
        "provenance": provenance.rows,
        "primary": next((c for c in contrasts if c["primary"] and c["estimate"] != MISSING), None),
        "no_primary": no_primary(data),
        "basis": basis(data),
        "compared": compared(data),
        "warnings": warning_list(data),
        "figures": figures(data),
        "final_loss": loss_rows(data),
        "mixtures": mixture_table(data),
        "amounts": amounts_table(data),
        "samples": [shown_item(s, data) for s in data.samples],
        "samples_note": samples_note(data),
        "methods": methods(data),
        "condition_names": [c.name for c in data.conditions],
        "described": [c for c in data.conditions if c.description],
        "differences": [
            (path, [value_text(values.get(c.name)) for c in data.conditions]) for path, values in data.differences
        ],
        "licences": [licence_row(row) for row in data.licences],
        "has_rows": any(row.get("rows_read") is not None for row in data.licences),
        "runs": provenance.runs,
        "references": references,
        "bibtex": "\n\n".join(r.bibtex for r in references if r.bibtex),
        "has_levels": has_levels(data),
        "has_keys": any(r.key for r in data.runs),
        "fingerprints": [[(k, fact_text(v)) for k, v in sorted(f.items())] for f in data.fingerprints],
    }
    context["warnings_title"] = plural(len(context["warnings"]), "warning").capitalize()
    context["contents"] = _contents(context)
    return context


def _contents(context: Mapping[str, Any]) -> list[tuple[str, str]]:
    sections = [
        ("result", "Result", True),
        ("differs", "What differs", True),
        ("scores-h", "Scores", True),
        ("difficulty-h", "By difficulty", context["by_difficulty"]),
        *((s["id"] + "-h", s["short"], True) for s in context["sections"]),
        ("curves-h", "Learning curves", context["final_loss"]),
        ("mixtures-h", "Mixtures", context["mixtures"]["rows"]),
        ("samples-h", "What the models wrote", context["samples"]),
        ("methods-h", "Methods", True),
        ("provenance-h", "Where numbers come from", True),
    ]
    return [(ident, name) for ident, name, there in sections if there]
