"""Scored pairs with token scores -> one small HTML page: the most and least helpful texts of each query, token by
token.

Under every token stands a mark: ++ + (helps), - -- (hurts), nothing near 0, by its share of the strip's largest
absolute score (above 1/2, above 1/8); colour repeats the mark, so the page reads without colour. No script, no
network; all text is escaped. Not covered: roll-ups over many texts (analysis/influence.py), the report of a study.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from leaven.attribution.scores import Pair
from leaven.attribution.texts import Text
from leaven.data.tokenizer import Tokenizer

MOST_TOKENS = 600
"""Tokens shown of one text; the rest is counted, not shown."""

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1b1b1b;background:#fff}
.strip{margin:.3rem 0 1.4rem;line-height:1.2} .t{display:inline-block;vertical-align:top;text-align:center;
white-space:pre;font-family:ui-monospace,monospace;font-size:.85rem;border-bottom:1px solid #ddd;padding:0 1px}
.t i{display:block;font-style:normal;font-size:.7rem;height:1em;color:#444}
.pp{background:#9fc9ef}.p{background:#dcecfa}.m{background:#fde3c8}.mm{background:#f6b26b}
@media(prefers-color-scheme:dark){body{background:#161616;color:#eee}.t i{color:#ccc}.t{border-color:#444}
.pp{background:#1d4f80}.p{background:#173049}.m{background:#4a3013}.mm{background:#8a4b08}}
"""


def strips_page(
    texts: Sequence[Text],
    names: Sequence[str],
    found: Sequence[Pair],
    tokenizer: Tokenizer,
    decomposition: str = "position",
    top: int = 5,
) -> str:
    """Return the page: per query the `top` highest and lowest pairs among `found` that have token scores."""
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>Influence</title><style>{_STYLE}</style><h1>Influence of training texts</h1>",
        "<p>Scores are nats of the target per removed training text (first order); positive helps. Under each "
        "token: ++ or + "
        "helps, - or -- hurts, relative to the largest token score of its text. "
        f"Tokens are split by {html.escape(decomposition)}.</p>",
    ]
    for query, name in enumerate(names):
        ranked = sorted((p for p in found if p.query == query and decomposition in p.tokens), key=lambda p: -p.score)
        parts.append(f"<h2>Target: {html.escape(name)}</h2>")
        high = min(top, -(-len(ranked) // 2))  # few pairs are shared out between both ends
        low = ranked[max(high, len(ranked) - top) :]
        for title, chosen in (("Most helpful", ranked[:high]), ("Least helpful", low[::-1])):
            if chosen:
                parts.append(f"<h3>{title}</h3>")
                parts += [_strip(texts[p.text], p, p.tokens[decomposition], tokenizer) for p in chosen]
    return "\n".join(parts) + "\n</html>\n"


def write_strips(path: Path, page: str) -> None:
    """Write the page."""
    path.write_text(page, encoding="utf-8")


def mark(share: float) -> tuple[str, str]:
    """Return the mark under a token and its style class, from its score as a share of the largest absolute one."""
    size = abs(share)
    if size <= 1 / 8:
        return "\u00a0", ""
    strong = size > 1 / 2
    if share > 0:
        return ("++", "pp") if strong else ("+", "p")
    return ("\u2212\u2212", "mm") if strong else ("\u2212", "m")


def _strip(text: Text, pair: Pair, scores: np.ndarray, tokenizer: Tokenizer) -> str:
    largest = float(np.abs(scores).max()) or 1.0
    spans = []
    for token, score in list(zip(text.ids.tolist(), scores.tolist(), strict=True))[:MOST_TOKENS]:
        sign, style = mark(score / largest)
        shown = html.escape(tokenizer.decode([token], special="keep").replace("\n", "\u21b5")) or "\u00a0"
        spans.append(f'<span class="t {style}" title="{score:+.3g}">{shown}<i>{sign}</i></span>')
    rest = len(text.ids) - MOST_TOKENS
    more = f"<p>... and {rest} more tokens</p>" if rest > 0 else ""
    where = html.escape("/".join(x for x in (text.source, text.example) if x))
    return f'<p><b>{where}</b> {pair.score:+.4g}</p><div class="strip">{"".join(spans)}</div>{more}'
