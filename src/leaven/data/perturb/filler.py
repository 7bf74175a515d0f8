"""Thoughts -> filler of the same length that says nothing: the control for "the thought only buys tokens".

Every word of a thought becomes the same filler word, line by line, so that thought and filler have equally many words.
The words then carry no information, but their number still could: a longer thought may go with another answer. The
operation `filler` therefore gives each example the layout (words per line) of another thought of its source, permuted at random
among the examples of equal family and difficulty. Difficulty is in the question; given it, the filler is independent of
the problem, and a source keeps its total length. The format `filler_code` (formats.py) is the plain half of this, a
pure function of one example: honest where thoughts of one difficulty have one layout (list_program), and the same text
as `filler` followed by `thought_code` there.
Not covered: filler between other parts (Pfau et al. 2024 study filler at inference).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from leaven.core.rng import rng
from leaven.core.types import Example
from leaven.data.formats import filler_text
from leaven.data.perturb.operation import PERTURBATIONS, Change, Expect, Option, Skip


@PERTURBATIONS("filler")
class Filler:
    """Replace every thought by filler in the layout of a thought of equal family and difficulty."""

    options: Mapping[str, Option] = {}
    rate_of = "examples"

    def expects(self, options: Mapping[str, Any]) -> Expect:
        return "unexecuted"

    def apply_all(self, examples: Sequence[Example], seed: int, options: Mapping[str, Any]) -> list[Change | Skip]:
        strata: dict[tuple[str, str, int | None], list[int]] = defaultdict(list)
        for place, example in enumerate(examples):
            if example.thought:
                strata[(example.source, example.family, example.difficulty)].append(place)
        changes: list[Change | Skip] = [Skip("no thought")] * len(examples)
        for (source, family, difficulty), places in strata.items():
            places.sort(key=lambda p: examples[p].id)  # the draw does not depend on the order of the file
            donors = rng(seed, "perturb", "filler", source, family, str(difficulty)).permutation(len(places))
            for place, donor in zip(places, donors.tolist(), strict=True):
                text = filler_text(examples[places[donor]].thought)
                words = len(text.split())
                note = "" if len(places) > 1 else "the only thought of its difficulty: its own length"
                changes[place] = Change(replace(examples[place], thought=text), words, words, note)
        return changes
