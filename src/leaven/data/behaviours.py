"""A thought -> its pieces with what each does: set up, derive, verify, backtrack, try another way, state the answer.

Kou et al. 2025 find that exploratory behaviours after a correct answer help both mathematics and code; their labels are
not published, so the detector is ours: sentences are labelled by a lexicon, sentences without a word of it go on with
what their paragraph does, and after the right answer was first reached also with what the paragraph before them did.
Verification, backtracking and alternative ways are exploratory. The right answer is first reached in the first piece
whose result equals the gold, or by the first code block that passes the tests (or is the gold program).
Precision and recall on labelled traces are in tests/data/test_behaviours.py; the lexicon is English.
Not covered: labels by a language model; cutting thoughts (perturb/explore.py).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from leaven.core.hashing import digest
from leaven.core.types import Example
from leaven.data.answers import boxed, gold_of, normalised, number_of, same_answer
from leaven.data.behaviour_lexicon import COMPUTING, RESUMING, said

EXPLORATORY = frozenset({"verification", "backtracking", "alternative"})
AFTER = "after_correct"
META = "behaviours"
"""Key of `meta` under which `with_behaviours` keeps pieces as [first, past the last, [tags]]."""

Passes = Callable[[str], bool]
"""Whether a code block passes the tests of its example."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a thought, `first` to before `last` in characters, what it does, and where it stands.

    `correct` is True for the one piece that first reaches the right answer, `after` for those behind it.
    """

    first: int
    last: int
    label: str
    paragraph: int
    correct: bool = False
    after: bool = False

    @property
    def exploratory(self) -> bool:
        """Whether the piece verifies, backtracks or tries another way."""
        return self.label in EXPLORATORY

    def tags(self) -> tuple[str, ...]:
        """Return the tags of a segment that is this piece."""
        return (self.label, *(("exploratory",) if self.exploratory else ()), *((AFTER,) if self.after else ()))


# ---- cutting -----------------------------------------------------------------------------------------------------

_FENCE = re.compile(r"^[ \t]*(```|~~~)[^\n]*\n.*?^[ \t]*\1[ \t]*$\n?|^\\\[.*?\\\]\s*?$\n?|^\$\$.*?\$\$\s*?$\n?", re.MULTILINE | re.DOTALL)
_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")
_SENTENCE = re.compile(r"""(?<=[.!?…])["')\]]*[ \t]+(?=[A-Z"'(\[$\\\d*`-])|\n""")
_ABBREVIATED = re.compile(r"(?:\b(?:i\.e|e\.g|etc|vs|cf|Dr|Mr|Mrs|Ms|St|No|Fig|Eq|approx|resp|p|pp)|(?<!\w)[A-Z])\.$")
_LISTED = re.compile(r"^\s*(?:\d{1,2}|[a-zA-Z])[.)]$")


def cut(thought: str) -> list[tuple[int, int, int]]:
    """Cut a thought into (first, past the last, paragraph) stretches that together are all of it.

    Paragraphs end at blank lines; inside, each sentence and each line is a stretch; a code block is one stretch and
    opens a paragraph of its own. White space belongs to the stretch before it.
    """
    edges: dict[int, bool] = {}  # offset at which a stretch begins -> whether a paragraph does
    fences = [m.span() for m in _FENCE.finditer(thought)]
    for first, last in fences:
        edges[first] = edges[last] = True
    at = 0
    for first, last in [*fences, (len(thought), len(thought))]:
        for match in _PARAGRAPH.finditer(thought, at, first):
            edges[match.end()] = True
        for match in _SENTENCE.finditer(thought, at, first):
            before = thought[max(at, thought.rfind("\n", 0, match.start()) + 1) : match.start()]
            if match[0] == "\n" or not (_ABBREVIATED.search(before) or _LISTED.fullmatch(before)):
                edges.setdefault(match.end(), False)
        at = last
    edges.pop(0, None)
    edges.pop(len(thought), None)
    starts = [0, *sorted(edges), len(thought)]
    stretches, paragraph = [], 0
    for first, last in zip(starts, starts[1:], strict=False):
        paragraph += edges.get(first, False)
        if thought[first:last].strip() or not stretches:
            stretches.append((first, last, paragraph))
        else:  # blank stretches belong to the one before
            stretches[-1] = (stretches[-1][0], last, stretches[-1][2])
    return stretches if thought else []


# ---- where the answer is reached ---------------------------------------------------------------------------------

_WORDS = "two three four five six seven eight nine ten eleven twelve".split()
_NUMBERS = re.compile(
    rf"\b(?:{'|'.join(_WORDS)})\b|"
    r"\\[dt]?frac\s*\{[^{}]+\}\s*\{[^{}]+\}|-?(?:\d{1,3}(?:,\d{3})+|\d+)?\.?\d+(?:\s*/\s*\d+)?(?![\d.]*\w)"
)
_RESULT = re.compile(
    r"=|\\boxed|####|≈|\b(?:is|are|was|be|gives?|yields?|makes?|leaves?|equals?|get|gets|have|has|total|answer|result|costs?"
    r"|so|thus|hence|therefore|left)\b",
    re.IGNORECASE,
)


def reaches(sentence: str, gold: str) -> bool:
    """Return whether the result that a sentence states is the gold answer: a box, what follows the last `=`, or its last number.

    A question states nothing.
    """
    if inside := boxed(sentence):
        return any(same_answer(b, gold) for b in inside)
    text = re.sub(r"\\[()\[\]]|\$|\*\*", " ", sentence).strip()
    if not gold or not _RESULT.search(text) or text.endswith("?"):
        return False
    tail = re.split(r"=|≈|####", text)[-1].strip().rstrip(".!") if re.search(r"=|≈|####", text) else ""
    if tail and same_answer(tail, gold):
        return True
    if number_of(gold) is not None:
        numbers = _NUMBERS.findall(text)
        return bool(numbers) and same_answer(numbers[-1], gold)
    if re.fullmatch(r"\(?[A-J]\)?", gold.strip()):  # a choice
        return re.search(rf"\b(?:option|choice|answer|is|be)\b:? \(?{gold.strip('() ')}\)?[.!]?$", text) is not None
    if same_answer(text.split()[-1].strip(".!,;"), gold):
        return True
    return len(normalised(gold)) > 1 and normalised(text).rstrip(".!").endswith(normalised(gold))


def blocks_of(thought: str) -> list[str]:
    """Return the programs that stand in fences in a thought, in order."""
    return [_inside(thought[a:b]) for a, b, _ in cut(thought) if _is_code(thought[a:b])]


def _is_code(stretch: str) -> bool:
    return stretch.lstrip().startswith(("```", "~~~"))


def _inside(stretch: str) -> str:
    """Return the code of a fenced stretch."""
    return stretch.strip().split("\n", 1)[-1].rsplit("\n", 1)[0] + "\n"


def same_program(code: str, gold: str) -> bool:
    """Return whether two texts are the same Python program, layout and comments apart."""
    try:
        return ast.dump(ast.parse(code)) == ast.dump(ast.parse(gold))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _first_correct(thought: str, stretches: Sequence[tuple[int, int, int]], gold: str, passes: Passes | None) -> int | None:
    """Return the number of the stretch that first reaches the answer."""
    for number, (first, last, paragraph) in enumerate(stretches):
        text = thought[first:last]
        if _is_code(text):
            if passes is not None and passes(_inside(text)):
                return number
        elif gold and reaches(text, gold) and (paragraph > 0 or len({p for _, _, p in stretches}) == 1 or _computes(text)):
            return number  # the first paragraph often only repeats the question's numbers
    return None


def _computes(text: str) -> bool:
    return re.search(r"[=≈]|####|\\boxed", text) is not None


# ---- all together ------------------------------------------------------------------------------------------------


def pieces_of(thought: str, gold: str = "", passes: Passes | None = None) -> list[Piece]:
    """Return what every piece of a thought does.

    Args:
        thought: the text.
        gold: the final answer, "" where there is none to compare with.
        passes: tells whether a code block in the thought solves the task; None: code blocks are not judged.
    """
    stretches = cut(thought)
    reached = _first_correct(thought, stretches, gold, passes)
    labels = list(_labels(thought, stretches, reached, gold))
    return [
        Piece(first, last, label, paragraph, number == reached, reached is not None and number > reached)
        for number, ((first, last, paragraph), label) in enumerate(zip(stretches, labels, strict=True))
    ]


def _labels(thought: str, stretches: Sequence[tuple[int, int, int]], reached: int | None, gold: str) -> Iterator[str]:
    """Yield the label of every stretch."""
    current, before, last_paragraph = "", -1, stretches[-1][2] if stretches else 0
    colon = derived = False
    for number, (first, last, paragraph) in enumerate(stretches):
        text = thought[first:last].strip()
        after = reached is not None and number > reached
        if paragraph != before:
            current = _carried(current, text, after=after, colon=colon)
            if after and paragraph == last_paragraph and _closes(text, gold):
                current = "answer"
        before, colon = paragraph, text.endswith(":")
        current = _label(text, current, number, reached, gold, first_paragraph=paragraph == 0) or current
        current = current or ("setup" if paragraph == 0 and not derived and not _computes(text) else "derivation")
        derived = derived or current == "derivation"
        yield current
        current = "" if current in ("subgoal", "setup") else current


def _carried(current: str, text: str, *, after: bool, colon: bool) -> str:
    """Return what a new paragraph goes on with: the behaviour before it or nothing.

    Once the answer is reached exploration goes on until something else is said; before that a check or another way goes on through
    paragraphs that only compute, and through the one that a colon announced. Backtracking is over with its paragraph.
    """
    if colon or (after and current in EXPLORATORY):
        return current
    goes_on = current in ("verification", "alternative") and COMPUTING.match(text) and not RESUMING.match(text)
    return current if goes_on else ""


def _label(text: str, current: str, number: int, reached: int | None, gold: str, *, first_paragraph: bool) -> str:
    """Return what a stretch itself says that it does, "" when it says nothing that counts here."""
    if _is_code(text):
        return ""
    after = reached is not None and number > reached
    label = said(text)
    if label == "answer" and ((gold and boxed(text) and not reaches(text, gold)) or (not after and number != reached and not boxed(text))):
        label = ""  # another answer than the right one, or a plan for one
    if label in ("subgoal", "setup") and current in EXPLORATORY:
        label = ""  # a plan made inside a check belongs to the check
    if label == "backtracking" and first_paragraph and number < 3 and re.match(r"hmm", text, re.IGNORECASE):
        label = ""  # a sigh at the problem itself
    if not label and after and text.endswith("?"):
        label = "backtracking"  # doubts about what was reached
    if number == reached and label in ("verification", "answer"):
        label = "derivation"  # what first reaches the answer derives it, whatever it says of itself
    return label


def _closes(text: str, gold: str) -> bool:
    """Return whether the first sentence of the last paragraph states the outcome: it names the gold answer (or there is none)."""
    if not gold:
        return not _is_code(text)
    return reaches(text, gold) or any(same_answer(number, gold) for number in _NUMBERS.findall(text))


def with_behaviours(example: Example, passes: Passes | None = None) -> Example:
    """Return the example with the pieces of its thought in `meta`, from which formats tag segments; as it is without a thought.

    Args:
        example: any.
        passes: judges code blocks in the thought; None: a block counts when it is the example's own program.
    """
    if not example.thought:
        return example
    gold = gold_of(example)
    judge = passes or ((lambda code: same_program(code, example.code)) if example.code else None)
    found = pieces_of(example.thought, gold, judge)
    spans = [[p.first, p.last, list(p.tags())] for p in found]
    correct = next((n for n, p in enumerate(found) if p.correct), None)
    kept = {"of": digest(example.thought)[:16], "correct": correct, "pieces": spans}
    return replace(example, meta={**example.meta, META: kept})


def tags_between(pieces: Sequence[tuple[int, int, tuple[str, ...]]], text: str, first: int, last: int) -> tuple[str, ...]:
    """Return the tags of a stretch of a thought: those under which most of its letters stand; none without pieces."""
    amounts: dict[tuple[str, ...], int] = {}
    for a, b, tags in pieces:
        inside = len(text[max(a, first) : min(b, last)].strip()) if max(a, first) < min(b, last) else 0
        amounts[tags] = amounts.get(tags, 0) + inside
    best = max(amounts, key=lambda t: amounts[t], default=())
    return best if amounts.get(best) else ()


def kept_pieces(example: Example) -> list[tuple[int, int, tuple[str, ...]]]:
    """Return the pieces kept in `meta` for this very thought: (first, past the last, tags); none where it was changed since."""
    kept: Any = example.meta.get(META)
    if not isinstance(kept, Mapping) or kept.get("of") != digest(example.thought)[:16]:
        return []
    return [(int(a), int(b), tuple(tags)) for a, b, tags in kept["pieces"]]
