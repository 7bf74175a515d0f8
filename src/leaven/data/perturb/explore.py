"""Thoughts that go on after the right answer -> thoughts that end there; or, as the control, as much taken out elsewhere.

Kou et al. 2025 cut the exploration out of long thoughts and lose 3.4 points on MATH500, without a control for the tokens
that went. Here both are one operation with an option: `delete: exploration` ends a thought with the piece that first
reaches the right answer; `delete: random` takes out random pieces that explore nothing (never the one that reaches the
answer), as many words and signs as the other arm would, within 2 %; the last piece is cut short where none fits.
`matched: example` changes the same examples in both arms, by the same amounts: those whose other pieces have as many
tokens as the exploration. Long thoughts often explore more than they derive; with `matched: source` the first arm
changes them all, and the control makes up for what they cannot lose in other thoughts of the source. `matched: none`
is the first arm without a control.
What stays of the end: the closing statement of the answer when nothing follows the thought that states it.
The thought is the field `thought`, or what stands between thought markers in the answer or the last assistant turn.
Tokens are counted as words and signs, because no tokenizer is known here.
Not covered: what explores and where the answer is reached (data/behaviours.py). A code block in a thought counts as
right when it is the example's own program; `label: {behaviours: lexicon}` on the source runs it against the tests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from leaven.core.rng import python_rng
from leaven.core.types import Example
from leaven.data.answers import gold_of
from leaven.data.behaviours import EXPLORATORY, META, Piece, kept_pieces, pieces_of, same_program
from leaven.data.perturb.operation import PERTURBATIONS, Change, Expect, Option, Skip
from leaven.errors import DataError

MARKERS = (("<|begin_of_thought|>", "<|end_of_thought|>"), ("<think>", "</think>"))
"""What opens and closes thoughts in Bespoke-Stratos and in R1-like data."""
TOLERANCE = 0.02
"""Largest difference between what the two arms delete, as a share of it."""

_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an example keeps its thought: the field (and turn), and the thought's first and past-the-last character there."""

    field: str
    turn: int
    first: int
    last: int


def count(text: str) -> int:
    """Return how many words and signs a text has."""
    return len(_TOKEN.findall(text))


def thought_place(example: Example) -> Place | None:
    """Return where the thought of an example stands, None when it has none."""
    if example.thought:
        return Place("thought", 0, 0, len(example.thought))
    texts = [("answer", 0, example.answer)]
    texts += [("turns", n, t.content) for n, t in reversed(list(enumerate(example.turns))) if t.role == "assistant"][:1]
    for field, turn, text in texts:
        for opening, closing in MARKERS:
            first, last = text.find(opening), text.rfind(closing)
            if 0 <= first < last:
                return Place(field, turn, first + len(opening), last)
    return None


def text_at(example: Example, place: Place) -> str:
    """Return the text of the field that holds a thought."""
    return example.turns[place.turn].content if place.field == "turns" else getattr(example, place.field)


def with_thought(example: Example, place: Place, thought: str) -> Example:
    """Return the example with another thought in the same place; what was known of the old one's pieces is dropped."""
    text = text_at(example, place)
    new = text[: place.first] + thought + text[place.last :]
    meta = {k: v for k, v in example.meta.items() if k != META}
    if place.field != "turns":
        return replace(example, meta=meta, **{place.field: new})
    turns = list(example.turns)
    turns[place.turn] = replace(turns[place.turn], content=new)
    return replace(example, turns=tuple(turns), meta=meta)


def pieces_at(example: Example, place: Place) -> list[Piece]:
    """Return the pieces of an example's thought: those its label kept, else found now."""
    kept = kept_pieces(example) if place.field == "thought" else []
    if kept:
        correct = example.meta[META]["correct"]
        return [Piece(a, b, tags[0], 0, n == correct, correct is not None and n > correct) for n, (a, b, tags) in enumerate(kept)]
    text = text_at(example, place)
    after = text[place.last :]  # the solution that follows the thought states the answer
    gold = gold_of(replace(example, answer=after, turns=())) if place.field != "thought" else gold_of(example)
    judge = (lambda code: same_program(code, example.code)) if example.code else None
    return pieces_of(text[place.first : place.last], gold, judge)


# ---- what may go -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Thought:
    """A thought and what each arm may delete of it: `exploration` pieces, and `other` pieces for the control.

    `reason` says why the first arm leaves it alone ("": it does not).
    """

    place: Place
    text: str
    exploration: tuple[Piece, ...]
    other: tuple[Piece, ...]
    reason: str

    @property
    def tokens(self) -> int:
        """How many tokens the first arm deletes."""
        return sum(self.size(p) for p in self.exploration)

    @property
    def spare(self) -> int:
        """How many tokens the control can delete."""
        return sum(self.size(p) for p in self.other)

    def size(self, piece: Piece) -> int:
        """Return the tokens of a piece."""
        return count(self.text[piece.first : piece.last])


def examine(example: Example, scope: str) -> Thought | None:
    """Return what may go out of an example's thought, None when it has none.

    `scope`: after_correct (everything behind the piece that reaches the answer) or exploratory (of that, only what explores).
    """
    place = thought_place(example)
    if place is None:
        return None
    pieces = pieces_at(example, place)
    behind = [p for p in pieces if p.after]
    answered = place.field != "thought" or bool(example.answer or example.code)
    closing = [] if answered else _closing(behind)
    gone = [p for p in behind if p not in closing and (scope == "after_correct" or p.exploratory)]
    reason = ""
    if not any(p.correct for p in pieces):
        reason = "the right answer is not found in the thought"
    elif not any(p.exploratory for p in gone):
        reason = "nothing explores after the right answer" if behind else "the thought ends with the right answer"
    gone = [] if reason else gone
    other = [p for p in pieces if p.label not in (*EXPLORATORY, "answer") and not p.correct and p not in gone]
    return Thought(place, text_at(example, place)[place.first : place.last], tuple(gone), tuple(other), reason)


def _closing(behind: Sequence[Piece]) -> list[Piece]:
    """Return the statement of the answer with which a thought ends."""
    found: list[Piece] = []
    for piece in reversed(behind):
        if piece.label != "answer":
            break
        found.append(piece)
    return found


# ---- the two arms ------------------------------------------------------------------------------------------------


def without(thought: str, stretches: Sequence[tuple[int, int]]) -> str:
    """Return a thought without these stretches; it ends as it did, with no white space left dangling."""
    kept, at = [], 0
    for first, last in sorted(stretches):
        kept.append(thought[at:first])
        at = last
    kept.append(thought[at:])
    return "".join(kept).rstrip() + thought[len(thought.rstrip()) :]


def random_stretches(thought: Thought, tokens: int, random: Random) -> list[tuple[int, int]]:
    """Return stretches of pieces that explore nothing, with `tokens` tokens in all (at most `spare`)."""
    order = random.sample(thought.other, len(thought.other))
    left, whole, rest = tokens, [], []
    for piece in order:
        if thought.size(piece) <= left:
            whole.append((piece.first, piece.last))
            left -= thought.size(piece)
        else:
            rest.append(piece)
    if left > TOLERANCE * tokens:
        large = [p for p in rest if thought.size(p) > left]
        piece = next((p for p in large if "```" not in thought.text[p.first : p.last]), large[0])  # blocks of code stay whole if possible
        found = list(_TOKEN.finditer(thought.text, piece.first, piece.last))
        whole.append((found[-left].start(), found[-1].end()))  # the end of a piece
    return whole


def shares(thoughts: Sequence[Thought | None]) -> list[int]:
    """Return how many tokens the control deletes from each thought so that their sum is that of the explorations.

    Each loses what its own exploration has, as far as it can; the rest is spread over what the others can spare, in proportion.

    Raises:
        DataError: the thoughts together cannot lose as much.
    """
    taken = [min(t.tokens, t.spare) if t else 0 for t in thoughts]
    spare = [t.spare - n if t else 0 for t, n in zip(thoughts, taken, strict=True)]
    wanted, missing = sum(t.tokens for t in thoughts if t), sum(t.tokens for t in thoughts if t) - sum(taken)
    if missing > sum(spare):
        raise DataError(
            f"perturb exploration: expected other pieces of at least {wanted:,} tokens, as many as explore after the right answer, found "
            f"{sum(taken) + sum(spare):,}; use matched: example, which leaves alone what cannot be matched, or none"
        )
    if missing:
        extra = [n * missing // sum(spare) for n in spare]
        left = missing - sum(extra)
        for place in sorted(range(len(spare)), key=lambda i: (extra[i] - spare[i], i)):
            step = min(left, spare[place] - extra[place])
            extra[place] += step
            left -= step
        taken = [a + b for a, b in zip(taken, extra, strict=True)]
    return taken


@PERTURBATIONS("exploration")
class Exploration:
    """Take exploration out of a thought that has already reached the right answer, or as much of something else.

    Options:
        delete: exploration, or random (the matched control).
        scope: after_correct (everything behind the right answer) or exploratory (of that, only what verifies, backtracks or tries
            another way).
        matched: example (both arms change the same examples by the same amounts), source (as much in all, at rate 1) or none (the
            control then deletes what each thought can lose, which may be less).
    """

    options: Mapping[str, Option] = {
        "delete": Option("exploration", ("exploration", "random")),
        "scope": Option("after_correct", ("after_correct", "exploratory")),
        "matched": Option("example", ("example", "source", "none")),
    }
    rate_of = "examples"

    def expects(self, options: Mapping[str, Any]) -> Expect:
        return "unexecuted"

    def apply_all(self, examples: Sequence[Example], seed: int, options: Mapping[str, Any]) -> list[Change | Skip]:
        thoughts = [examine(e, options["scope"]) for e in examples]
        if options["matched"] == "example":
            thoughts = [replace(t, reason=t.reason or _unmatched(t)) if t else None for t in thoughts]
            tokens = [t.tokens if t and not t.reason else 0 for t in thoughts]
        else:
            tokens = shares(thoughts) if options["matched"] == "source" else [min(t.tokens, t.spare) if t else 0 for t in thoughts]
        found: list[Change | Skip] = []
        for example, thought, n in zip(examples, thoughts, tokens, strict=True):
            if thought is None:
                found.append(Skip("no thought"))
            elif options["delete"] == "exploration":
                gone = [(p.first, p.last) for p in thought.exploration]
                found.append(Skip(thought.reason) if thought.reason else _shortened(example, thought, gone))
            elif not n:
                found.append(Skip(thought.reason or "other thoughts have what it should lose"))
            else:
                random = python_rng(seed, "perturb", "exploration", example.source, example.id)
                found.append(_shortened(example, thought, random_stretches(thought, n, random)))
        return found


def _unmatched(thought: Thought) -> str:
    if thought.spare >= thought.tokens:
        return ""
    return f"no control: {thought.tokens} tokens explore, the rest has {thought.spare}"


def _shortened(example: Example, thought: Thought, stretches: Sequence[tuple[int, int]]) -> Change:
    shorter = without(thought.text, stretches)
    before, after = count(thought.text), count(shorter)
    return Change(with_thought(example, thought.place, shorter), before - after, before, f"{before - after} tokens deleted")
