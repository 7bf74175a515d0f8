"""multipl_e: MultiPL-E (Cassano et al. 2023), rows {name, language, prompt, tests, stop_tokens}; one file per language.

An answer continues the prompt (cut at the file's stop tokens) or holds the whole function, fenced or not; both become one program of
prompt, answer and tests. C++, Bash, Java, PHP and JavaScript run where their toolchain is installed, everything else (and Java tests
that need javatuples where it is missing) is not measured, never zero. Passing is exit code 0. Option `prompt`: completion (default; the
prompt as it is) or chat (a request to give the whole function in a code block). No gold, hence no bits per byte. Metric: accuracy.
Not covered: finding functions by a grammar; braces are counted, strings and comments left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from leaven.core.extract import Extraction, extract_code
from leaven.core.sandbox import Job, Limits
from leaven.core.types import Item, Request, Sample, Verdict
from leaven.evals.benchmarks.humaneval import choice
from leaven.evals.benchmarks.rows import broken, problem_item, required, texts
from leaven.evals.harness import BENCHMARKS, Execution, Setting, generate_request
from leaven.evals.judge import judge_extracted

NAME = "multipl_e"
LANGUAGES = {"cpp": "cpp", "sh": "bash", "bash": "bash", "java": "java", "php": "php", "js": "js"}
"""MultiPL-E's name of a language -> the sandbox's."""
JARS = Path("/usr/share/java")
"""Where the sandbox looks for javatuples, the library of MultiPL-E's Java tests."""
CHAT = "Please complete the following function and give it whole in a markdown code block:\n```{}\n{}\n```\n"
_SKIPPED = {
    "bash": r"'[^']*'|\"(?:\\.|[^\"\\])*\"|(?:(?<=\s)|^)#[^\n]*",
    "php": r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|//[^\n]*|#[^\n]*|/\*.*?\*/",
    "": r"'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\"|`(?:\\.|[^`\\])*`|//[^\n]*|/\*.*?\*/",
}
"""Language -> texts in which braces do not count."""


@BENCHMARKS(NAME)
class MultiPlE:
    """Complete a function in another language, run its tests."""

    metrics: tuple[str, ...] = ("accuracy",)
    options = ("prompt",)
    limits = Limits(cpu_s=5.0, wall_s=30.0, memory_bytes=2 << 30)

    def items(self, rows: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> Iterator[Item]:
        """Yield one item per problem."""
        wording = choice(NAME, options, "prompt", ("completion", "chat"))
        for index, row in enumerate(rows):
            language = required(row, "language", index, NAME, kind=str)
            prompt = required(row, "prompt", index, NAME, kind=str)
            lines = [line for line in prompt.splitlines() if line.strip()]
            named = re.search(r"(\w+)\s*\(", lines[-1]) if lines else None
            if named is None:
                raise broken(NAME, index, f"expected column 'prompt' to end with a function's head, found {prompt[-80:]!r}")
            yield problem_item(
                NAME,
                str(required(row, "name", index, NAME, "task_id")),
                CHAT.format(language, prompt.rstrip()) if wording == "chat" else prompt,
                tests=(required(row, "tests", index, NAME, "test", kind=str),),
                entry_point=named[1],
                domain="code",
                meta={"prompt": prompt, "language": language, "stop": list(texts(row, "stop_tokens", index, NAME))},
            )

    def requests(self, item: Item, setting: Setting) -> list[Request]:
        """Ask for completions."""
        return [generate_request(item, setting)]

    def judge(self, item: Item, outputs: Sequence[Sample], setting: Setting) -> list[Verdict | Execution]:
        """Assemble and run every sample's program; languages without a toolchain here are not measured."""
        language = item.example.meta["language"]
        verdicts: list[Verdict | Execution] = []
        for sample in outputs:
            found = assembled(sample.text, item)
            if language not in LANGUAGES:
                known = ", ".join(sorted(LANGUAGES))
                missing = f"no toolchain for {language!r}, only for {known}"
                verdicts.append(judge_extracted(item, sample, found, Job(id="", program=""), missing=missing))
                continue
            program, missing = found.code, ""
            if language == "java" and not any(JARS.glob("javatuples*.jar")):
                program, missing = without_tuples(program)
            job = Job(id=f"{item.id}#{sample.index}", program=program, limits=setting.limits, language=LANGUAGES[language])
            verdicts.append(judge_extracted(item, sample, found, job, missing=missing))
        return verdicts


def without_tuples(program: str) -> tuple[str, str]:
    """Return a Java program without the import of javatuples, and why it cannot be measured ("" where it uses no tuple)."""
    bare = re.sub(r"^import org\.javatuples\.[^\n]*;", "", program, flags=re.MULTILINE)
    used = re.search(r"\b(Unit|Pair|Triplet|Quartet|Quintet|Sextet|Septet|Octet|Ennead|Decade)\b", re.sub(r"//[^\n]*", "", bare))
    if used and not re.search(rf"\b(?:class|record)\s+{used[1]}\b", bare):
        return bare, f"{used[1]} is a class of javatuples, which is not at {JARS}"
    return bare, ""


def assembled(text: str, item: Item) -> Extraction:
    """Return the whole program of an answer: prompt, answer and tests in one text."""
    meta, (tests,) = item.example.meta, item.example.tests
    language, prompt, entry = LANGUAGES.get(meta["language"], meta["language"]), meta["prompt"], item.example.entry_point
    text = text.replace("\r\n", "\n")
    found = extract_code(text, entry, language)
    fenced = found.strategy.startswith("fence")
    body = found.code if fenced else text
    whole = definition(body, entry, language)
    if whole:
        own = body if fenced else whole
        return Extraction(_around(own, prompt, tests, language), f"{found.strategy}_function", True)
    if not body.strip() or not (fenced or _continues(body, language)):
        return Extraction("", "none", False)
    cut = min([at for stop in meta["stop"] if (at := body.find(stop)) >= 0], default=len(body))
    closing = "}\n" if language in ("php", "js") and body[:cut].count("{") == body[:cut].count("}") else ""
    start = prompt if prompt.endswith("\n") else prompt + "\n"
    return Extraction(f"{start}{body[:cut]}\n{closing}{tests}", f"{found.strategy}_continuation".replace("whole_", ""), True)


def _continues(body: str, language: str) -> bool:
    """Return whether a text without a function can be one's body: its first line is indented, or has signs of code."""
    first = next(line for line in body.splitlines() if line.strip())
    return first[:1] in (" ", "\t") or (language != "bash" and first.rstrip().endswith((";", "{", "}")))


def definition(text: str, name: str, language: str) -> str:
    """Return the last definition of a function in a text, from the start of its line to its closing brace, "" without one."""
    found = ""
    heads = re.finditer(rf"^[^\n;{{}}]*\b{re.escape(name)}\s*\([^;{{}}]*\)[^;{{}}()]*\{{", text, flags=re.MULTILINE)
    for head in heads:
        end = closing_brace(text, head.end() - 1, language)
        if end:
            found = text[head.start() : end]
    return found


def closing_brace(text: str, opening: int, language: str) -> int:
    """Return the place after the brace that closes the one at `opening`, 0 when it is never closed."""
    skipped, depth, at = re.compile(_SKIPPED.get(language, _SKIPPED[""]), re.DOTALL | re.MULTILINE), 0, opening
    while at < len(text):
        passed = skipped.match(text, at)
        if passed and passed.end() > at:
            at = passed.end()
            continue
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        at += 1
        if depth == 0:
            return at
    return 0


def _around(code: str, prompt: str, tests: str, language: str) -> str:
    """Return a program of a whole function: what the prompt has before its own, the code, and the tests."""
    code = _without_main(code, language)
    after = re.sub(r"^\s*\}", "", tests, count=1) if language in ("cpp", "bash", "java") else tests
    if language == "cpp":
        head = "".join(f"{line}\n" for line in prompt.splitlines() if line.startswith(("#", "using ")))
    elif language == "java":
        imports = re.findall(r"^\s*import [^\n]*;", code, flags=re.MULTILINE)
        inner = re.search(r"\bclass\s+\w+[^{]*\{", code)
        end = closing_brace(code, inner.end() - 1, language) if inner else 0
        code = code[inner.end() : end - 1] if inner and end else re.sub(r"^\s*import [^\n]*;", "", code, flags=re.MULTILINE)
        given = re.findall(r"^import [^\n]*;", prompt, flags=re.MULTILINE)
        head = "\n".join([*given, *imports]) + "\nclass Problem {\n"
    elif language == "php":
        head, code = "<?php\n", re.sub(r"<\?php|\?>", "", code)
    elif language == "js":
        head, code = "", re.sub(r"^.*\bassert\s*=\s*require\(.*$", "", code, flags=re.MULTILINE)
    else:
        head = "#!/bin/bash\n"
    return f"{head}{code}\n{after}"


def _without_main(code: str, language: str) -> str:
    """Return code without a main function of its own: the tests bring one."""
    pattern = {"cpp": r"^\s*int\s+main\s*\([^)]*\)\s*\{", "java": r"^\s*public\s+static\s+void\s+main\s*\([^)]*\)[^{]*\{"}.get(language)
    found = re.search(pattern, code, flags=re.MULTILINE) if pattern else None
    if not found:
        return code
    end = closing_brace(code, found.end() - 1, language)
    return code[: found.start()] + (code[end:] if end else "")
