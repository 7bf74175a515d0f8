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


# ---- what a sentence does ----------------------------------------------------------------------------------------

_ME = r"(?:let me|let's|let us|i'll|i will|i should|i need to|i want to|we should|we can|we need to|we'll|i can|i could|we could)"
_OPENING = r"^(?:but |and |so |oh,? |okay,? |ok,? |alright,? |hmm,? |well,? |now,? |no,? |yes,? |wait,? |then,? )*"
LEXICON: Mapping[str, re.Pattern[str]] = {
    label: re.compile(pattern, re.IGNORECASE)
    for label, pattern in {
        "backtracking": (
            r"^(?:but |and |so |oh,? |no,? )*wait\b(?! for\b| until\b| times?\b)\s*(?:[,.!?…:;—-]|(?:a|one) (?:minute|second|moment)|no\b|i\b|is\b|that\b|the\b|but\b|maybe\b)"
            r"|[,;.…(—-]\s*wait,|^(?:but |so )?hold on\b|^(?:but )?hmm+\b|^(?:but )?(?:oops|whoops|uh-oh)\b|^oh,? (?:no|wait|i)\b|^(?:but )?actually,|^no,"
            rf"|\bthat(?:'s| is| was| seems| looks| can't be| cannot be|'s not) (?:not )?(?:wrong|incorrect|right\b(?=[^.]*\?)|a mistake|an error|impossible)|\bthat(?:'s| is| does ?n[o']t seem| doesn't look) not (?:right|correct)"
            rf"|\bi(?:'ve| have)? (?:made|must have made|may have made) (?:a|an|some) (?:\w+ )?(?:mistake|error)|\b(?:was|is) (?:a mistake|an error)\b|{_ME} (?:re-?consider|re-?do|re-?think|re-?read|re-?examine|start over|go back|backtrack|correct (?:this|that|my))"
            r"|\bi (?:forgot|overlooked|misread|missed|misunderstood|confused)\b|\bon second thoughts?\b|\bi'm (?:not sure|confused)|\bi am (?:not sure|confused)|\b(?:think|look|read)(?: \w+)? again\b"
            r"|^(?:but |so |and )?(?:does|is|might|could|would) (?:the (?:problem|question)|it|this|that) (?:mean|allow|ask|say)\b|\bthis (?:does not|doesn't) (?:work|make sense|hold|look right|seem right)\b"
        ),
        "alternative": (
            rf"{_OPENING}alternatively\b|\banother (?:way|approach|method|idea|possibility|option|solution|thought)\b|\b(?:a )?different (?:way|approach|method|idea)\b|\b(?:second|other) (?:way|approach|method)\b"
            rf"|{_ME} (?:also )?try\b|^(?:let's|let me) try\b|^(?:but |and |or )?what if\b|^(?:or|instead),? (?:we|i|one|you|maybe)\b|\b(?:could|can|might) (?:also|instead)\b|\b(?:could|can) be done (?:with|by|differently)\b"
            r"|^(?:or )?maybe (?:we|i|there) (?:can|could|should|is|are)\b|\b(?:is|are) there (?:a|an|any) (?:other|better|simpler|easier|faster|quicker)\b|^(?:approach|method|option) (?:2|3|two|three|b)\b|^instead,|\binstead of (?:this|that),"
        ),
        "verification": (
            rf"{_ME} (?:just |also |quickly |now )*(?:double-?|re-?|cross-?)? ?(?:check|verify|confirm|test|validate|make sure|be sure|trace|walk through|run through|plug|substitute back|sanity)"
            rf"|{_OPENING}(?:double-?|re-?|cross-?)?(?:check(?:ing)?|verif(?:y|ying|ication)|confirm(?:ing)?)\b(?! (?:over|for|from|box|out)\b)|\b(?:to|just to) (?:double-?check|verify|check|confirm|be (?:sure|safe|certain)|make sure)\b"
            r"|\bdouble-?check|\bsanity[- ]check|\bplug(?:ging)? (?:it |this |that |these |them |the \w+ )?(?:back|in)\b|\bsubstitut(?:e|ing) (?:it |this |that |these |them )?back\b|\bmak(?:e|ing) sure\b"
            r"|\b(?:that|this|which|it|they|everything|all) (?:also )?(?:matches|checks out|agrees|works out|adds up|makes sense|looks (?:right|good|correct))|\b(?:both|the two|all)(?: \w+)? (?:agree|match|coincide|lead to the same)|\bmatch(?:es)? (?:the|what|our|my)\b"
            r"|\bstill holds\b|\bas (?:expected|required|desired)\b|\bis (?:indeed|in fact) |\bare indeed\b|\bindeed (?:equals?|is|gives?)|\b(?:all|that|this|it) works?\b[.!]?$|^works\b|\ball (?:tests )?pass\b|\bthat seems (?:right|correct|reasonable)|\bseems (?:right|correct|reasonable)[.!]?$"
            r"|\bedge cases?\b|^(?:walking|running|tracing|going) through\b|\b(?:did|have) i miss(?:ed)?\b|\b(?:is|consistent) (?:that|this|it)? ?consistent\b|\bi(?:'m| am) (?:now )?(?:confident|fairly sure|pretty sure|convinced)|\bsame (?:answer|result|number) (?:as|again)\b"
        ),
        "answer": (
            r"^#### |\\boxed\b|\bfinal (?:answer|solution|code)\b|\b(?:the|my|our) answer (?:is|to|would be|should be)\b|^answer\b|^(?:so|therefore|thus|hence),? (?:in )?(?:conclusion|summary)|^(?:in conclusion|to sum up|in summary)\b"
        ),
        "subgoal": (
            rf"^(?:okay,? |ok,? |so,? |alright,? )*(?:first(?:ly)?|next|now|then|step \d+)[,:]? (?:{_ME}|i|we|think|find|compute|calculate|determine|consider)\b|\bthe (?:idea|plan|goal|strategy|key|approach) (?:is|here|will)\b|^(?:okay,? |ok,? |so,? )*(?:let me|let's) (?:first |now |start |begin )*(?:by )?(?:find|compute|calculate|write|think|look|define|denote|consider|see|break|figure|set)"
        ),
        "setup": (
            r"^(?:okay,? |ok,? |alright,? |so,? )*(?:the (?:problem|question|task)|we (?:are|were) (?:given|asked|told)|we're (?:given|asked)|i (?:am|have|need|want) (?:given|asked|to)|given (?:that|is)|i have this problem)"
        ),
    }.items()
}  # fmt: skip
"""Label -> what a sentence says that does it; the first label that fits counts."""

_CONCLUDING = re.compile(r"^(?:so|therefore|thus|hence|consequently|then|and so|that means|this means|it follows)\b", re.IGNORECASE)


def _said(sentence: str) -> str:
    """Return the label that the lexicon gives a sentence, "" when it has none."""
    plain = re.sub(r"[*_`]{1,3}", "", sentence.strip()).replace("’", "'")
    if _FENCE.match(sentence):
        return ""
    return next((label for label, pattern in LEXICON.items() if pattern.search(plain)), "")


# ---- where the answer is reached ---------------------------------------------------------------------------------

_NUMBERS = re.compile(r"\\[dt]?frac\s*\{[^{}]+\}\s*\{[^{}]+\}|-?(?:\d{1,3}(?:,\d{3})+|\d+)?\.?\d+(?:\s*/\s*\d+)?(?![\d.]*\w)")
_RESULT = re.compile(
    r"=|\\boxed|####|≈|\b(?:is|are|was|be|gives?|yields?|makes?|leaves?|equals?|get|gets|have|has|total|answer|result|costs?|so|thus|hence|therefore|left)\b",
    re.IGNORECASE,
)


def reaches(sentence: str, gold: str) -> bool:
    """Return whether the result that a sentence states is the gold answer: a box, what follows the last `=`, or its last number."""
    if inside := boxed(sentence):
        return any(same_answer(b, gold) for b in inside)
    if not gold or not _RESULT.search(sentence):
        return False
    text = re.sub(r"\\[()\[\]]|\$|\*\*", " ", sentence).strip()
    tail = re.split(r"=|≈|####", text)[-1].strip().rstrip(".!") if re.search(r"=|≈|####", text) else ""
    if tail and same_answer(tail, gold):
        return True
    if number_of(gold) is not None:
        numbers = _NUMBERS.findall(text)
        return bool(numbers) and same_answer(numbers[-1], gold)
    wanted = normalised(gold)
    words = re.sub(r"\s+", "", text).lower().rstrip(".!")
    return len(wanted) > 1 and words.endswith(wanted)


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
        text = thought[first:last]
        after = reached is not None and number > reached
        if paragraph != before:
            # a new paragraph goes on with the old behaviour after the answer, or when the last sentence announced it
            current = current if colon or (after and current in EXPLORATORY) else ""
            if after and current and paragraph == last_paragraph and _closes(text, gold):
                current = "answer"
        before, colon = paragraph, text.rstrip().endswith(":")
        said = _said(text)
        if said == "answer" and gold and boxed(text) and not reaches(text, gold):
            said = ""
        if not said and after and _CONCLUDING.match(text.strip()) and gold and reaches(text, gold):
            said = "answer"
        if said in ("subgoal", "setup") and current in EXPLORATORY:
            said = ""  # a plan made inside a check belongs to the check
        if number == reached and said in ("verification", "answer"):
            said = "derivation"  # what first reaches the answer derives it, whatever it says of itself
        current = said or current or ("setup" if paragraph == 0 and not derived and not _computes(text) else "derivation")
        derived = derived or current == "derivation"
        yield current
        if current in ("setup", "subgoal"):
            current = "" if current == "subgoal" else current


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


def kept_pieces(example: Example) -> list[tuple[int, int, tuple[str, ...]]]:
    """Return the pieces kept in `meta` for this very thought: (first, past the last, tags); none where it was changed since."""
    kept: Any = example.meta.get(META)
    if not isinstance(kept, Mapping) or kept.get("of") != digest(example.thought)[:16]:
        return []
    return [(int(a), int(b), tuple(tags)) for a, b, tags in kept["pieces"]]
