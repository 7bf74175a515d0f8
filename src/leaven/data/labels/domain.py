"""Examples -> labels by rules: code, math or other, with the evidence; and the programming language of code.

Rules read question and reply (the reply tells more: questions that look like code may be answered in prose). LaTeX is
taken out before code is looked for, since a line of LaTeX ends like a line of C. Each rule that fires adds points to
one side; the higher side wins when it reaches `THRESHOLD`, else the example is other; a reply that shows code is code
whatever it computes. Points and evidence are kept, so that a reader can audit each label and a second labeller take
the close calls. The classes are those of Zhang et al. 2024 (Coding, Math, Others), who asked a language model
instead. Limits: word lists are English; questions about computing without code words are other. Not covered: labels
by a language model or a trained classifier.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from leaven.core.types import Example

Domain = Literal["code", "math", "other"]
THRESHOLD = 3.0


@dataclass(frozen=True, slots=True)
class Label:
    """The class of an example, its points, what they rest on, and the language of its code ("" = unknown)."""

    domain: Domain
    code: float
    math: float
    evidence: tuple[str, ...]
    language: str


# ---- what code and mathematics look like ----------------------------------------------------------------------

_ALIASES = {
    "py": "python", "python3": "python", "js": "javascript", "jsx": "javascript", "node": "javascript",
    "ts": "typescript", "c++": "cpp", "cc": "cpp", "c#": "csharp", "cs": "csharp", "sh": "shell", "bash": "shell",
    "zsh": "shell", "console": "shell", "golang": "go", "rb": "ruby", "rs": "rust", "htm": "html", "kt": "kotlin",
    "mysql": "sql", "postgresql": "sql", "sqlite": "sql", "yml": "yaml"}
LANGUAGES = frozenset(_ALIASES.values()) | {
    "java", "c", "php", "swift", "r", "scala", "perl", "css", "lua", "haskell", "json", "xml", "matlab", "dart",
    "julia", "vb", "scss", "makefile", "dockerfile"}
_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+#.-]*)[^\n]*\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)
# language -> lines that hardly occur outside it; the order decides between equal counts
_LINES: dict[str, re.Pattern[str]] = {language: re.compile(pattern, re.MULTILINE) for language, pattern in {
    "python": r"^[ \t]*(?:(?:async )?def \w+\(.*\).*:|class \w+.*:$|from [\w.]+ import "
              r"|import [a-z_][\w.]*(?: as \w+)?(?:,|$)"
              r"|for \w+(?:, ?\w+)* in .+:$|(?:if|elif|while) .+:$|(?:else|try|finally):$|except.*:$"
              r"|with .+ as \w+:|@\w+"
              r"|print\(.*\)|return\b.*[\w)\]]$|lambda )|if __name__ ==",
    "cpp": r"^[ \t]*#include ?<\w+>|\bstd::|^[ \t]*using namespace |\bc(?:out|in) ?(?:<<|>>)|\b(?:vector|map)<\w+",
    "c": r"^[ \t]*#include ?<\w+\.h>|\bprintf\(\"|\bscanf\(|\bint main\(|^[ \t]*(?:int|char|float|double"
         r"|void) \*?\w+\(.*\) ?\{",
    "java": r"\bpublic (?:static |final |abstract )*(?:class|void|int|String|boolean|interface)\b"
            r"|System\.out\.print|^import java",
    "csharp": r"^[ \t]*using System|Console\.Write|\bnamespace \w+ ?\{?$|\bstring\[\] args",
    "javascript": r"\b(?:const|let|var) [\w{}\[\], ]+ ?=|\bfunction ?\w*\([^)]*\) ?\{|\([\w, {}]*\) ?=>"
                  r"|[(,=] ?[a-z]\w* ?=> ?[{(\w]|console\.log\(|document\.\w+"
                  r"|\brequire\(['\"]|module\.exports|===",
    "php": r"<\?php|\$\w+ ?= ?[^\n]*;|\becho ['\"$]|\$\w+->",
    "sql": r"(?i:\bselect\b[^.;]{1,300}\bfrom\b \w|\binsert into \w+|\bcreate (?:table|database|view|index) "
           r"|\bupdate \w+ set "
           r"|\bdelete from \w|\balter table )",
    "html": r"</?(?:html|body|head|div|span|p|ul|ol|li|table|tr|td|form|input|button|script|style|h[1-6]|a"
            r"|img|nav|title|label)"
            r"(?: [^<>]*)?/?>",
    "css": r"^[ \t]*[.#]?[\w-]+(?: ?[,>:] ?[\w-]+)* ?\{\s*[\w-]+ ?:|^[ \t]+[a-z-]+: [^\n]*;$",
    "shell": r"^#!/bin/|^[ \t]*(?:sudo |apt |grep |sed |awk |chmod |mkdir |curl |cd |ls |git |docker |npm "
             r"|pip )[^\n]*|^\$ \w+"
             r"|^[ \t]*(?:fi|done|esac)$|\| ?(?:grep|awk|sed|sort|xargs)\b",
    "ruby": r"^[ \t]*(?:def \w+[?!]?(?:\(.*\))?$|puts |require ['\"]|attr_\w+ :)|\.each do \||^[ \t]*end$",
    "go": r"^package \w+$|\bfunc (?:\(\w+ \*?\w+\) )?\w+\(|:= |fmt\.Print",
    "rust": r"\bfn \w+(?:<.*>)?\(|\blet mut |println!\(|\bimpl \w+|^use std::",
    "kotlin": r"\bfun \w+\(|\bval \w+ ?[:=]",
    "swift": r"\bfunc \w+\(.*\) ?-> ?\w+ ?\{|\bguard let |\bimport (?:UIKit|Foundation)",
    "r": r"<- ?(?:function\(|c\(|data\.frame)|\blibrary\(\w+\)|ggplot\(", "xml": r"<\?xml |^[ \t]*<\w+:\w+",
    "json": r"^[ \t]*\"[\w-]+\": ?[\[{\"\d]", "matlab": r"^[ \t]*function \[?\w+.*\]? ?= ?\w+\(|\bfprintf\('",
    "typescript": r"\b(?:interface \w+ \{|: (?:string|number|boolean)\b ?[;,)=])",
    "perl": r"^[ \t]*(?:my|use strict)\b ?[\$@%]?\w*",
    "scala": r"\bobject \w+ (?:extends|\{)|\bdef \w+\(.*\) ?: ?\w+ ?=", "haskell": r"^\w+ :: .*->",
}.items()}
_ASKED = re.compile(
    r"(?i)(?<![\w/.])(?:python|javascript|typescript|java|c\+\+|c#|objective-c|visual basic|php|golang|kotlin"
    r"|sql|mysql"
    r"|html5?|css3?|bash|shell|node\.?js|react\.?js|django|flask|pandas|numpy|jquery|regex|regular expression"
    r"|mongodb|matlab"
    r"|vb\.net|powershell|ruby|rust|swift|perl|scala)(?![\w/])|(?-i:\bC (?:code|program|function)|\bin C\b)")
_ASKED_FOR = re.compile(
    r"(?i)\b(?:code|programs?|scripts?|functions?|methods?|class(?:es)?|algorithms?|snippet|query|queries"
    r"|loops?|arrays?|strings?"
    r"|integers?|dictionary|variables?|linked list|binary (?:search )?tree|recursi\w+|compil\w+|debug\w*"
    r"|syntax|databases?"
    r"|data structure|web ?page|website|constructor|pseudo-?code|boolean|hash|regex|objects?|statement"
    r"|command|pattern|interface"
    r"|exception|library|module|package|file|element|tag|selector|stylesheet|columns?|rows?|records?|tables?"
    r"|output|input)\b")
_TEX = (r"\\(?:d?frac|sqrt|cdot|boxed|text\w*|left|right|leq?|geq?|times|div|pi|theta|alpha|beta|angle|sum"
        r"|prod|int|lim|log|sin|cos"
        r"|tan|overline|begin|end|pm|infty|binom|mathbb|mathrm|mbox|dots|ldots|cdots|triangle|circ|equiv|pmod"
        r"|lfloor|rfloor|neq?)\b")
_LATEX = re.compile(
    r"\$\$.{1,2000}?\$\$|\$(?=[^$\n]{0,399}(?:\\[a-zA-Z]|\^|_\{))[^$\n]{1,400}\$|(?<![\w$])\$[\w,.+() =-]{1,12}\$(?!\w)"
    rf"|\\\[.{1,2000}?\\\]|\[asy\].{0,8000}?\[/asy\]|{_TEX}(?:\{{[^{{}}]*\}})*", re.DOTALL)
_ENDS = re.compile(r"[;{}][ \t]*$", re.MULTILINE)
_ASKED_HOW = re.compile(r"(?i)\bhow (?:many|much|far|old|long|fast|tall|big|heavy|often)\b|\bin total\b"
                        r"|\baltogether\b")
_MATH_TEXT = re.compile(
    r"(?i)\b(?:find the (?:value|sum|area|number|probability|remainder|smallest|largest|least|greatest)"
    r"|what is the (?:value|sum|area"
    r"|probability|remainder|ratio|smallest|largest|least|greatest|average|perimeter|volume|product)"
    r"|solve for|simplify|integers?"
    r"|equations?|probability|polynomial|triangle|perimeter|percent(?:age)?|remainder|divisible|fractions?"
    r"|digits?|derivative|ratio"
    r"|average speed|interest|per (?:hour|day|week|minute|pound)|integral|square root|cubed?)\b|\d+ ?%")
_MATH_SUM = re.compile(r"\d[\d.,]* ?[-+*/x×÷] ?[$(]*\d[\d.,]* ?(?:[-+*/] ?\d+ ?)*=|= ?\$?-?\d|\bx ?[=+-] ?\d")
_NUMBER = re.compile(r"[-$ ]*[\d.,/]+ ?%?")


def label_of(example: Example) -> Label:
    """Return the label of an example from its question and reply; without evidence it is "other"."""
    question, reply = _parts(example)
    found = [*_code_rules(question, reply), *_math_rules(question, reply)]
    code = sum(points for side, points, _ in found if side == "code")
    math = sum(points for side, points, _ in found if side == "math")
    shown = sum(points for side, points, words in found if side == "code" and words.startswith(_SHOWN))
    # a reply that is code is code, whatever it computes
    side: Domain = "code" if shown >= THRESHOLD - 0.5 or code >= math else "math"
    domain: Domain = side if max(code, math) >= THRESHOLD else "other"
    return Label(domain, code, math, tuple(words for _, _, words in found),
                 language_of(f"{question}\n{reply}") if domain == "code" else "")


def language_of(text: str) -> str:
    """Return the programming language of the first tagged fence, else that of most lines, else ""."""
    for tag, _ in _FENCE.findall(text):
        name = _ALIASES.get(tag.lower(), tag.lower())
        if name in LANGUAGES:
            return name
    plain = _LATEX.sub(" ", text)
    counts = {language: len(pattern.findall(plain)) for language, pattern in _LINES.items()}
    best = max(counts, key=lambda language: counts[language])
    return best if counts[best] else ""


def _parts(example: Example) -> tuple[str, str]:
    """Return what was asked and what was replied (all turns of a conversation)."""
    if example.turns:
        asked = "\n".join(t.content for t in example.turns if t.role == "user")
        return asked, "\n".join(t.content for t in example.turns if t.role == "assistant")
    if example.text:
        return "", example.text
    fenced = f"```\n{example.code}\n```" if example.code else ""
    return example.question, "\n".join(filter(None, (example.thought, fenced, example.answer)))


def _code_rules(question: str, reply: str) -> Iterator[tuple[str, float, str]]:
    fences = _FENCE.findall(reply)
    if any(_ALIASES.get(tag.lower(), tag.lower()) in LANGUAGES for tag, _ in fences):
        yield "code", 3.0, "fence with a language"
    elif fences:
        yield "code", 2.0, "fence"
    if _parses(reply):
        yield "code", 3.0, "parses as Python"
    plain = _LATEX.sub(" ", reply)
    total = plain.strip().count("\n") + 1
    lines = max(len(pattern.findall(plain)) for pattern in _LINES.values())
    if lines:
        # a short reply that is all code shows as much as many lines do; one such line in a page of prose is chance
        dense = 1.0 if lines / total >= 0.5 else 0.0
        points = min(3.0, 1.5 + 0.5 * lines + dense) if lines / total >= 0.04 else 0.5
        yield "code", points, f"lines of code: {lines}"
    ends = len(_ENDS.findall(plain))
    if ends >= 2 and ends / total >= 0.3:
        yield "code", 2.0, f"lines ended by ; or braces: {ends}"
    asked, wanted = len(_ASKED.findall(question)), len(set(map(str.lower, _ASKED_FOR.findall(question))))
    if asked and wanted:
        yield "code", 3.0, "asks for code in a language"
    elif asked:
        yield "code", 2.0, "names a language"
    elif wanted:
        yield "code", min(2.0, 0.5 * wanted), "words of programming"


_SHOWN = ("fence", "parses", "lines")


def _math_rules(question: str, reply: str) -> Iterator[tuple[str, float, str]]:
    text = f"{question}\n{reply}"
    latex = len(_LATEX.findall(text))
    if latex:
        yield "math", min(4.0, 3.0 if "\\boxed" in reply else 1.5 + 0.5 * latex), f"LaTeX spans: {latex}"
    if text.count("<<") and re.search(r"<<[^<>\n]+=[^<>\n]+>>", text):
        yield "math", 3.0, "calculator marks"
    sums = len(_MATH_SUM.findall(text))
    if sums:
        yield "math", min(3.0, 0.5 + 0.5 * sums), f"sums: {sums}"
    words = len(_MATH_TEXT.findall(question))
    if words:
        yield "math", min(2.0, 0.75 * words), f"words of mathematics: {words}"
    if len(question) <= 800 and len(re.findall(r"\d+", question)) >= 2 and (words or _ASKED_HOW.search(question)):
        yield "math", 2.0, "a question about numbers"
    if _NUMBER.fullmatch(reply.strip()):
        yield "math", 1.0, "the reply is a number"


def _parses(text: str) -> bool:
    """Return whether all of `text` is Python with at least one statement that prose or data would not be."""
    if len(text) > 20_000:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in what may not be code at all
            tree = ast.parse(text.strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    telling = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AugAssign, ast.For, ast.While,
               ast.If, ast.With, ast.Try)
    return any(isinstance(n, telling) or (isinstance(n, ast.Expr) and isinstance(n.value, ast.Call)) for n in tree.body)
