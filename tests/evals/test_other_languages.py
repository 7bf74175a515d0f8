"""MultiPL-E on the real files: every row loads, right and wrong answers of every kind are judged right, missing tools are said."""

from __future__ import annotations

from pathlib import Path

import pytest

from leaven.core.sandbox import Limits, toolchains
from leaven.core.step import Resources, StepContext
from leaven.core.types import Item, Sample, Verdict
from leaven.data.sources.rows import read_rows
from leaven.errors import StudyError
from leaven.evals.benchmarks.multipl_e import closing_brace, without_tuples
from leaven.evals.harness import Setting, judge_all, open_benchmark

CTX = StepContext(runtime=Resources(threads=1))
ROWS = {"cpp": 161, "java": 158, "js": 161, "php": 161, "sh": 158}
TASK = "HumanEval_62_derivative"
CPP = """    std::vector<long> r;
    for (size_t i = 1; i < xs.size(); i++) { r.push_back(i * xs[i]); } // don't } stop
    return r;
"""
JAVA = """        ArrayList<Long> r = new ArrayList<Long>();
        String s = "}";
        for (int i = 1; i < xs.size(); i++) { r.add(i * xs.get(i)); }
        return r;
"""
BODIES = {  # derivative of a polynomial: xs[i] * i without the first
    "cpp": CPP,
    "java": JAVA,
    "js": "  const r = [];\n  for (let i = 1; i < xs.length; i++) { r.push(i * xs[i]); }\n  return r;\n",
    "php": "    $r = [];\n    foreach ($xs as $i => $x) { if ($i > 0) { $r[] = $i * $x; } }\n    return $r;\n",
    "sh": '  local i=0 r=""\n  for x in $1; do [ $i -gt 0 ] && r="$r $((i * x))"; i=$((i + 1)); done\n  echo "${r# }"\n',
}
WRONG = {"cpp": "    return xs;\n", "java": "        return xs;\n", "js": "  return xs;\n", "php": "    return $xs;\n", "sh": "  echo $1\n"}
ENDS = {"cpp": "}\n", "java": "    }\n", "js": "}\n", "php": "}\n", "sh": "}\n"}


def items_of(shared_data: Path, language: str) -> list[Item]:
    rows = (row.value for row in read_rows(shared_data / f"code_eval/multipl_e_humaneval_{language}.jsonl.gz"))
    return list(open_benchmark("multipl_e").items(rows, {}))


def judged(item: Item, texts: list[str]) -> list[Verdict]:
    samples = {item.id: [Sample(item=item.id, request=0, index=n, text=t) for n, t in enumerate(texts)]}
    setting = Setting(limits=Limits(cpu_s=10.0, wall_s=60.0, memory_bytes=2 << 30))
    return list(judge_all(open_benchmark("multipl_e"), [item], samples, setting, CTX))


def answers(prompt: str, language: str, body: str) -> list[str]:
    """Continuation; continuation that runs on; whole function in a fence after 500 lines; the same without a fence and with a main."""
    head = prompt[prompt.rstrip().rfind("\n") + 1 :]
    whole = head + body + ENDS[language]
    wrapped = f"public class Solution {{\n{whole}    public static void main(String[] a) {{ }}\n}}\n" if language == "java" else whole
    main = "int main() { return 1; }\n" if language == "cpp" else ""
    thought = "".join(f"Step {n}: we don't stop at {{{n}}}.\n" for n in range(500))
    return [
        body + ENDS[language],
        body + ENDS[language] + {"php": "\n// more\nfoo(", "js": "\nfunction other( {"}.get(language, "\nThis works.\n"),
        f"{thought}```{language}\n{wrapped}{main}```\nIt multiplies and shifts.",
        f"{thought}\n{whole}\n{thought}",
    ]


@pytest.mark.parametrize("language", sorted(ROWS))
def test_rows_load_and_answers_of_every_kind_are_judged(shared_data: Path, language: str) -> None:
    items = items_of(shared_data, language)
    assert len({i.id for i in items}) == len(items) == ROWS[language]
    name = {"sh": "bash"}.get(language, language)
    (item,) = (i for i in items if i.id == TASK)
    prompt = item.example.meta["prompt"]
    right, wrong = (answers(prompt, language, bodies[language]) for bodies in (BODIES, WRONG))
    if language in ("java", "cpp"):  # compiling takes seconds: every kind of answer is a slow test
        right, wrong = right[2:3], wrong[:1]
    verdicts = judged(item, [*right, *wrong, "", "I do not know."])
    if toolchains()[name]:
        assert {v.status for v in verdicts[:-2]} == {"not_measured"} and {v.score for v in verdicts[:-2]} == {None}
        assert name in verdicts[0].detail
    else:
        assert [v.status for v in verdicts[: len(right)]] == ["pass"] * len(right), [v.detail for v in verdicts]
        assert {v.score for v in verdicts[len(right) :]} == {0.0}
    assert [v.status for v in verdicts[-2:]] == ["no_answer"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("language", ["cpp", "java"])
def test_every_kind_of_answer_in_compiled_languages(shared_data: Path, language: str) -> None:
    if reason := toolchains()[language]:
        pytest.skip(reason)
    (item,) = (i for i in items_of(shared_data, language) if i.id == TASK)
    prompt = item.example.meta["prompt"]
    right, wrong = (answers(prompt, language, bodies[language]) for bodies in (BODIES, WRONG))
    verdicts = judged(item, [*right, *wrong])
    assert [v.score for v in verdicts] == [1.0] * len(right) + [0.0] * len(wrong), [v.detail for v in verdicts]


def test_languages_without_a_rule_are_not_measured() -> None:
    row = {"name": "x", "language": "rs", "prompt": "fn f(x: i32) -> i32 {\n", "tests": "}", "stop_tokens": ["\n}"]}
    (item,) = open_benchmark("multipl_e").items([row], {})
    first, second = judged(item, ["    x\n", ""])
    assert (first.status, first.score, "rs" in first.detail) == ("not_measured", None, True)
    assert (second.status, second.score) == ("no_answer", None)


def test_java_programs_without_the_tuple_library() -> None:
    bare = "import java.util.*;\nimport org.javatuples.*;\nclass Problem { }"
    assert without_tuples(bare) == ("import java.util.*;\n\nclass Problem { }", "")
    assert "javatuples" in without_tuples(bare.replace("{ }", "{ Pair<Long, Long> p; }"))[1]
    assert without_tuples(bare.replace("{ }", "{ Pair p; } class Pair { }"))[1] == ""


def test_braces_in_texts_and_comments_do_not_count() -> None:
    text = 'f() { a = \'}\'; // }\n b = "}\\"}"; /* } */ if (x) { y } } rest'
    assert text[closing_brace(text, 4, "js") :] == " rest"
    shell = "f() { echo ${#x} '}' \"}\" # don't }\n}\nrest"
    assert shell[closing_brace(shell, 4, "bash") :] == "\nrest"
    assert closing_brace("f() { {", 4, "cpp") == 0


def test_programs_in_other_languages_are_not_perturbed() -> None:
    row = {"name": "HumanEval_0_f", "language": "sh", "prompt": "#!/bin/bash\nf() {\n", "tests": "}\nf\n", "stop_tokens": []}
    (item,) = open_benchmark("multipl_e").items([row], {})
    setting = Setting(perturb=({"name": "rename_identifiers", "rate": 1.0, "options": {}},))
    samples = {item.id: [Sample(item=item.id, request=0, text="  echo 1\n}\n")]}
    with pytest.raises(StudyError, match="expected programs in Python, found bash"):
        list(judge_all(open_benchmark("multipl_e"), [item], samples, setting, CTX))
