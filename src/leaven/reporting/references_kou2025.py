"""The claims and numbers of Kou et al. 2025 (arXiv 2505.19949, NeurIPS 2025) that are known, as data: the one place that holds them.

The paper's full text was not available when this was written: claims come from its abstract, its figures' captions and texts
that others wrote about it, and every claim says which. Its tables' bodies, damping, sample counts and LiveCodeBench window are
not known, so nothing here pretends to quote them.
Not covered: judging a claim (sections/influence_paper.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KEY = "kou2025attributes"
MODELS = ("LLaMA3-8B-Base", "Qwen2.5-7B-Instruct")
AIME_ITEMS, AIME_BEFORE, AIME_AFTER = 30, 10.0, 20.0
LIVECODEBENCH_BEFORE, LIVECODEBENCH_AFTER = 33.8, 35.3
MATH500_ITEMS, MATH500_DROP = 500, 3.4
DATA_PARTS = {"Numina": 10_500, "APPS": 2_500, "TACO": 3_000, "STILL-2": 1_000}
"""Bespoke-Stratos-17k as its recipe rounds it."""
DATA_COUNTED = {"APPS": 3_299, "TACO": 2_096, "STILL-2": 815}
"""The same parts as a third party counted them."""

Origin = Literal["caption", "abstract", "secondary"]
ORIGINS: dict[str, str] = {
    "caption": "a figure's caption",
    "abstract": "the abstract",
    "secondary": "texts by others",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class InfluenceClaim:
    """A statement: which of our numbers speaks of it (`measure`, `target`), and the direction it claims.

    `measure` is that of InfluenceEffect, or "score:treatment" for an accuracy after an intervention, where treatment is a role.
    """

    id: str
    text: str
    where: str
    measure: str
    target: str
    expects: Literal["higher", "lower"]
    origin: Origin
    printed: str = ""


def _claim(ident: str, text: str, where: str, measure: str, target: str, expects: str, origin: str, printed: str = "") -> InfluenceClaim:
    return InfluenceClaim(
        id=ident,
        text=text,
        where=where,
        measure=measure,
        target=target,
        expects=expects,
        origin=origin,
        printed=printed,  # type: ignore[arg-type]
    )


CLAIMS: tuple[InfluenceClaim, ...] = (
    _claim("own-math", "Mathematics helps mathematics more than code does.", "figure 2", "own_domain", "math", "higher", "caption"),
    _claim("own-code", "Code helps code more than mathematics does.", "figure 2", "own_domain", "code", "higher", "caption"),
    _claim("code-to-math", "Code data helps mathematics.", "figure 2", "mean:code", "math", "higher", "secondary"),
    _claim("math-to-code", "Mathematics data helps code.", "figure 2", "mean:math", "code", "higher", "secondary"),
    _claim(
        "symbolic",
        "Symbolic mathematics helps code more than conversational mathematics.",
        "figures 3 and 4",
        "symbolic_slope:math",
        "code",
        "higher",
        "secondary",
    ),
    _claim(
        "hard-math-math",
        "Harder mathematics helps mathematics more.",
        "figure 5, left",
        "difficulty_slope:math",
        "math",
        "higher",
        "abstract",
    ),
    _claim(
        "hard-math-code", "Harder mathematics helps code more.", "figure 5, left", "difficulty_slope:math", "code", "higher", "abstract"
    ),
    _claim("easy-code-code", "Easier code helps code more.", "figure 5, left", "difficulty_slope:code", "code", "lower", "abstract"),
    _claim(
        "exploration-math",
        "Exploratory behaviour in thoughts helps mathematics.",
        "sequence level",
        "exploration",
        "math",
        "higher",
        "abstract",
    ),
    _claim(
        "exploration-code", "Exploratory behaviour in thoughts helps code.", "sequence level", "exploration", "code", "higher", "abstract"
    ),
    _claim(
        "connectors",
        "Mathematics favours tokens that connect a natural-language argument.",
        "token level",
        "connector_tokens",
        "math",
        "higher",
        "abstract",
    ),
    _claim("structure", "Code favours structural tokens.", "token level", "structure_tokens", "code", "higher", "abstract"),
    _claim(
        "flip-math",
        "Flipping difficulty (harder mathematics, easier code) raises accuracy in mathematics.",
        "figure 5, right; table",
        "score:flip",
        "math",
        "higher",
        "abstract",
        "AIME24 10 % to 20 %, 30 items",
    ),
    _claim(
        "flip-code",
        "The same flip raises accuracy in code.",
        "figure 5, right; table",
        "score:flip",
        "code",
        "higher",
        "abstract",
        "LiveCodeBench 33.8 % to 35.3 %",
    ),
    _claim(
        "truncate",
        "Cutting exploration off lowers accuracy in mathematics.",
        "sequence level",
        "score:truncated",
        "math",
        "lower",
        "secondary",
        "MATH500 \u22123.4 points, 500 items",
    ),
)
