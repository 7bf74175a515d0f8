"""Sentences of thoughts -> what they say they do: the words by which verifying, backtracking and the like are known.

Each label has patterns, one idea per line; the labels are asked in this order and the first that fits counts. Words that
are also ordinary English are bound to a place or a neighbour: "wait" counts at the start of a sentence before a comma or
a doubt, not in "waits for"; "check" counts with an object such as "that", "again", "the result", not in "check each option",
which is how multiple-choice problems are solved in the first place. English only.
Not covered: sentences without such words (behaviours.py decides by what stands around them).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_I = (
    r"(?:let me|let's|let us|i'll|i will|i should|i need to|i want to|we should|we can|we need to|we'll|i can|i could"
    r"|we could|i'm going to)"
)
_OPEN = r"^(?:(?:but|and|so|oh|okay|ok|alright|hmm+|well|now|no|yes|wait|then|because|maybe|perhaps)[,.]? )*"
_WHAT = (
    r"(?: (?:that|this|it|these|those|them|again|once|everything|with|by|if|whether|all|for|both|my|our|each step|on)\b"
    r"| the (?:\w+ )?(?:answer|result|solution|work|calculations?|arithmetic|math|sums?|code|formula|logic|examples?|tests?"
    r"|test cases?|spelling|numbers)\b"
    r"|(?= ?[.,:!?]|$))"
)
_PLANNING = r"\b(?! (?:i|we) (?:don't|do not|understand|have|get|cover|include|follow))"

_PATTERNS: Mapping[str, tuple[str, ...]] = {
    "backtracking": (
        r"^(?:but |and |so |oh,? |no,? )*wait\b\s*"
        r"(?:[,.!?…:;—–-]|a (?:minute|second|moment)|no\b|i\b|is\b|that\b|the\b|but\b|maybe\b|what\b)",
        r"[,;.…(—–-] ?wait,",
        r"^(?:but |so )?hold on\b",
        r"^(?:but |so )?hmm+\b(?!,? (?:okay|so\b|let me (?:think|see|start|try)|let's (?:think|see|start|try)))",
        r"^(?:but )?(?:oops|whoops|uh-oh)\b|^oh,? (?:no|wait|i)\b",
        r"^(?:but )?actually,|^no,",
        r"\bthat(?:'s| is| was| seems| looks| can't be| cannot be)(?: not| n't)?"
        r" (?:wrong|incorrect|a mistake|an error|impossible|a problem)\b",
        r"\bthat(?:'s| is| does ?n[o']t seem| doesn't look) (?:not )?(?:right|correct)\?",
        r"\b(?:not right|not correct|can't be right|cannot be right)\b",
        r"\bi(?:'ve| have)? (?:made|must have made|may have made|might have made) (?:a|an|some) (?:\w+ )?(?:mistake|error)",
        r"\b(?:was|is) (?:a mistake|an error|a miscalculation)\b",
        r"\bcontradict(?:s|ory|ion)?\b(?=.* (?:earlier|previous|before|my)\b)",
        rf"{_I} (?:re-?consider|re-?do|re-?think|re-?read|re-?examine|start over|go back|backtrack|correct (?:this|that|my))",
        r"^starting over\b",
        r"\bi (?:forgot|overlooked|misread|missed|misunderstood|confused|was mistaken|was wrong)\b",
        r"\bi(?:'m| am) (?:wrong|mistaken)\b|\bperhaps there(?:'s| is) a (?:mistake|miscalculation)",
        r"\bon second thoughts?\b|\b(?:think|look|read)(?: \w+)? again\b",
        r"\bi(?:'m| am) (?:not (?:so |entirely |completely )?sure|(?:a bit |a little )?confused)\b",
        r"^(?:but |so |and )?(?:does|is|might|could|would) (?:the (?:problem|question)|it|this|that)"
        r" (?:mean|allow|ask|say|correct|right)\b",
        r"\bthis (?:does not|doesn't) (?:work|make sense|hold|look right|seem right)\b",
    ),
    "alternative": (
        rf"{_OPEN}alternatively\b",
        r"\banother (?:way|approach|method|idea|option|solution|strategy)\b",
        r"\ba different (?:way|approach|method|idea|strategy)\b|^different (?:way|approach|method)\b",
        r"\b(?:second|other|better) (?:way|approach|method)\b|^(?:approach|method) (?:2|3|two|three|b)\b",
        r"\b(?:let me|let's|i'll|i could|we could|we can|i can) (?:also )?try\b"
        r"(?! to (?:solve|find|understand|figure|break|work|think|see|compute|remember|recall|visuali[sz]e))",
        r"^(?:but |and |or )?what if\b|^(?:or|instead),? (?:we|i|one|you|maybe|perhaps)\b",
        r"^instead,|\binstead of (?:this|that),",
        r"\b(?:could|can|might) (?:also|instead)\b|\b(?:could|can) (?:also )?be done (?:with|by|differently)\b",
        r"^(?:or )?(?:maybe|perhaps) (?:we|i|there|using|use|take|a|an)\b",
        r"\b(?:is|are) there (?:a|an|any) (?:other|better|simpler|easier|faster|quicker)\b",
    ),
    "verification": (
        rf"(?:{_I}|^now,?|^to) (?:just |also |quickly |now |first )*(?:double-?|re-?|cross-?)?(?: |-)?"
        rf"(?:check|verify|confirm|validate|test){_WHAT}",
        rf"{_OPEN}(?:just )?(?:double-?|re-?|cross-?)(?: |-)?check(?:ing)?\b|\bdouble-?check|\bsanity[- ]check",
        rf"{_OPEN}(?:check|checking|verify|verifying|confirming|testing){_WHAT}",
        rf"{_I} (?:just |also )?(?:make sure|be sure|trace|walk through|run through|plug|recount|recalculate|recompute"
        rf"|re-?evaluate|look at (?:it|this) again){_PLANNING}",
        rf"\b(?:just )?to (?:be (?:sure|safe|certain)|make sure){_PLANNING}",
        r"\bplug(?:ging)? (?:it |this |that |these |them |the \w+ )?(?:back|in)\b",
        r"\bsubstitut(?:e|ing) (?:\w+ )?back in|^substituting back\b(?! \w+ ?=)",
        r"\b(?:that|this|which|it|they|everything|all|so this|so that) (?:also )?"
        r"(?:matches|checks out|agrees|works out|adds up|makes sense|looks (?:right|good|correct))",
        r"\b(?:both|the two|all)(?: \w+)? (?:agree|match|coincide|lead to the same)|\bmatch(?:es)? (?:the|what|our|my)\b",
        r"\bis consistent\b|\bconsistent with\b|\bsame (?:answer|result|number) (?:as|again)\b|\bnumerical evidence\b",
        r"\bstill holds\b|\bas (?:expected|required|desired)\b",
        r"\bis (?:indeed|in fact) |\bare indeed\b|\bindeed (?:equals?|is|gives?)",
        r"\b(?:all|that|this|it) works?[.!]?$|^works\b|\ball (?:tests )?pass\b",
        r"\bseems? (?:right|correct|reasonable)\b(?!.*\?)|\bi think (?:that's|this is) (?:right|correct)",
        r"\bedge cases?\b|^(?:walking|running|tracing|going) through (?:the|it|this|each)\b(?! option)",
        r"\b(?:did|have) i miss(?:ed)?\b|\bi(?:'m| am) (?:now )?(?:confident|fairly sure|pretty sure|convinced)",
        r"^(?:or )?is (?:that|this|it) (?:right|correct|accurate|true)\?|^let me re-?examine\b",
    ),
    "answer": (
        r"^#### |\\boxed\b|\bfinal (?:answer|solution|code)\b|^answer\b",
        r"\b(?:the|my|our) (?:final |correct )?answer (?:is|to|would be|should be|must be)\b",
        r"\b(?:the|only) (?:correct|valid|right) (?:answer|option|choice) is\b",
        r"^(?:so|therefore|thus|hence),? (?:in )?(?:conclusion|summary)|^(?:in conclusion|to sum up|in summary)\b",
    ),
    "subgoal": (
        rf"^(?:okay,? |ok,? |so,? |alright,? )*(?:first(?:ly)?|next|now|then|step \d+)[,:]?"
        rf" (?:{_I}|i|we|think|find|compute|calculate|determine|consider)\b",
        r"\bthe (?:idea|plan|goal|strategy|key|approach) (?:is|here|will)\b",
        r"^(?:okay,? |ok,? |so,? )*(?:let me|let's) (?:first |now |start |begin )*(?:by )?"
        r"(?:find|compute|calculate|write|think|look|define|denote|consider|see|break|figure|set|go|list|solve|try to)\b",
    ),
    "setup": (
        r"^(?:okay,? |ok,? |alright,? |so,? )*(?:the (?:problem|question|task)|we (?:are|were) (?:given|asked|told)"
        r"|we're (?:given|asked)|we have\b)",
        r"^(?:okay,? |ok,? |alright,? |so,? )*(?:i (?:am|have|need|want) (?:given|asked|to)|given (?:that|is)"
        r"|i have this problem)",
    ),
}
LEXICON: Mapping[str, re.Pattern[str]] = {label: re.compile("|".join(parts), re.IGNORECASE) for label, parts in _PATTERNS.items()}
"""Label -> what a sentence says that does it."""

RESUMING = re.compile(
    r"^(?:so|therefore|thus|hence|consequently|now|next|first|finally|then|okay|ok|alright|moving on|combining|similarly"
    r"|step|case|option|in total|together)\b",
    re.IGNORECASE,
)
"""How a paragraph begins that takes up the derivation again."""

COMPUTING = re.compile(
    r"^(?:[\W\d]|\w\b|[a-z]{1,3}[(_^=]|\\"
    r"|(?:compute|calculate|for|when|if|suppose|substitut\w+|take|plug\w*|using|expand\w*|factor\w*|original|positions?)\b)",
    re.IGNORECASE,
)
"""How a paragraph begins that only goes on computing."""


def said(sentence: str) -> str:
    """Return the label that the lexicon gives a sentence, "" when it has none."""
    plain = re.sub(r"[*_`]{1,3}", "", sentence.strip()).replace("’", "'")
    return next((label for label, pattern in LEXICON.items() if pattern.search(plain)), "")
