"""Texts token by token -> strips that read without colour: the texts that help and hurt each target most.

Above a stretch of tokens stands ++ or + (helps) or -- or - (hurts), by its share of the text's largest token score; shading
repeats the mark. Long texts show their heaviest stretch, and say how much is left out.
Not covered: which texts (analysis/influence_tokens.py); the rule of the marks (attribution/strips.py).
"""

from __future__ import annotations

from leaven.reporting.sections.influence_inputs import InfluenceInputs, Strip
from leaven.reporting.sections.influence_words import cell_words, method_words
from leaven.reporting.sections.section import Section, ShownStrip, bracketed
from leaven.reporting.wording import plural

MARKS = {2: ("++", "pp"), 1: ("+", "p"), 0: ("", ""), -1: ("\u2212", "m"), -2: ("\u2212\u2212", "mm")}
MOST = 16
"""Strips on the page; further ones stand in strips.html of their artifact."""


def example_section(inputs: InfluenceInputs) -> Section | None:
    """Return the texts that help and hurt most; None without token scores."""
    if not inputs.strips:
        return None
    shown = inputs.strips[:MOST]
    method = method_words(shown[0].method)
    return Section(
        id="influence-examples",
        title="Texts that help and hurt most",
        short="Texts token by token",
        paragraphs=(
            f"By {method}, scores averaged over seeds. Before a stretch of tokens stands ++ or + where it helps, \u2212\u2212 or "
            f"\u2212 where it "
            "hurts (more than a half, more than an eighth of the text's largest token score), nothing where it does little.",
        ),
        strips=tuple(_shown(s, inputs) for s in shown),
        notes=(f"{plural(len(inputs.strips) - MOST, 'more text')} in influence.json.",) if len(inputs.strips) > MOST else (),
    )


def _shown(s: Strip, inputs: InfluenceInputs) -> ShownStrip:
    side = "Helps" if s.side == "top" else "Hurts"
    several = len({(x.name, x.condition, x.level) for x in inputs.strips}) > 1
    where = "/".join(w for w in (s.source, s.example) if w)
    about = ", ".join(w for w in (s.label, cell_words(s, inputs) if several else "") if w)
    seeds = plural(len(s.score.seeds), "seed")
    title = f"{side} {s.target}: {where}"
    facts = f"{bracketed(s.score, signed=True)} nats, {plural(s.score.n, 'token')}, {seeds}; a full mark is {s.largest:.2g} nats"
    cut = [f"{s.n_before} tokens before" if s.n_before else "", f"{s.n_after} after" if s.n_after else ""]
    left_out = " and ".join(c for c in cut if c)
    pieces = tuple((p.text.replace("\n", "\u21b5\n"), *MARKS[max(-2, min(2, p.step))]) for p in s.pieces)
    return ShownStrip(
        title=title, about=f"{about}. {facts}" if about else facts, pieces=pieces, cut=f"Left out: {left_out}." if left_out else ""
    )
