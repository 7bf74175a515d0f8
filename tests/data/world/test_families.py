"""Every family: solvers agree, programs pass their own tests, wrong programs fail, thoughts lead to the answer."""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from pathlib import Path
from random import Random

import pytest

from leaven.core.hashing import digest
from leaven.core.tables import example_row
from leaven.data.sources.world import solvers
from leaven.data.sources.world.build import FAMILIES, build_world, generate, names_answer
from leaven.data.sources.world.solvers import SOLVERS

GOLDEN = Path(__file__).with_name("golden.json")
CELLS = [(name, difficulty) for name, family in FAMILIES.items() for difficulty in family.difficulties]


def passes(code: str, tests) -> bool:
    """Run our own program and its asserts (other people's programs run in the sandbox only)."""
    space: dict = {}
    try:
        exec(code, space)
        for test in tests:
            exec(test, space)
    except Exception:
        return False
    return True


def check(name: str, difficulty: int, draws: int) -> set[str]:
    """Check `draws` problems of a cell; return the distinct questions."""
    random = Random(f"{name} {difficulty}")
    questions = set()
    for _ in range(draws):
        problem = FAMILIES[name].generate(random, difficulty)
        if problem.question in questions:
            continue
        questions.add(problem.question)
        assert SOLVERS[name](problem.question) == problem.answer, problem.question
        assert passes(problem.code, problem.tests), problem
    return questions


@pytest.mark.parametrize("name", FAMILIES)
def test_solvers_agree_and_programs_pass_their_tests(name):
    for difficulty in FAMILIES[name].difficulties:
        check(name, difficulty, 60)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_solvers_agree_on_2000_draws_per_difficulty(name):
    distinct = {difficulty: len(check(name, difficulty, 2000)) for difficulty in FAMILIES[name].difficulties}
    print(f"\n{name}: 2000 draws each, all agree; distinct {distinct}")


def test_more_than_ten_thousand_distinct_problems_from_difficulty_3_on():
    hard = list(generate("list_program", [3, 4, 5], 10_000, 0, "train"))
    assert len({e.question for e in hard}) == 10_000 and min(e.difficulty for e in hard) == 3


def test_the_world_covers_the_domains():
    domains = [family.domain for family in FAMILIES.values()]
    assert len(domains) >= 12 and domains.count("program") >= 4
    assert min(domains.count(d) for d in ("symbolic", "logical", "arithmetic")) >= 4
    assert set(SOLVERS) == set(FAMILIES)
    assert all(set(family.difficulties) >= set(range(1, 7)) for family in FAMILIES.values())


@pytest.mark.parametrize(("name", "difficulty"), CELLS)
def test_examples_are_whole(name, difficulty):
    family = FAMILIES[name]
    for e in generate(name, [difficulty], 8, 5, "train"):
        assert (e.domain, e.difficulty, e.difficulty_unit) == (family.domain, difficulty, family.difficulty_unit)
        assert e.licence == "Apache-2.0"
        assert all(t.isascii() and t == t.strip() and "  " not in t for t in (e.question, e.thought, e.answer))
        assert e.code.isascii() and e.tests and e.code.startswith(f"def {e.entry_point}(")
        steps = e.thought.split("\n")
        if name == "list_formula":
            assert len(steps) == difficulty
            assert f"order = {[int(c) for c in steps[-1].split(': ')[1]]}" in e.code
        elif name == "list_program":
            assert len(steps) == difficulty
            places = " ".join(c for c in e.answer if c.isdigit())
            assert steps[-1].split(" : ")[1] == e.group == places
            assert e.answer in e.code
        else:
            assert len(steps) == difficulty + 1
            assert steps[-1] == f"The answer is {e.answer}."
        if family.domain == "program" and name != "list_program":
            assert len(e.code.split("\n")) >= 4 and "    # " in e.code and " = " in e.code
        if family.answers == "open":
            assert not names_answer(e)


@pytest.mark.parametrize("name", FAMILIES)
def test_wrong_programs_fail(name):
    problems = list(generate(name, None, 30, 6, "train"))
    for one, two in zip(problems, problems[1:], strict=False):
        head, _, _ = one.code.rpartition("return ")
        assert not passes(f"{head}return None", one.tests)
        if one.entry_point == "solve" and one.answer != two.answer:
            assert not passes(two.code, one.tests)
        if name == "list_program" and one.group != two.group:
            assert not passes(two.code, one.tests)


@pytest.mark.parametrize("name", ["number_pipeline", "text_pipeline"])
def test_a_pipeline_without_its_last_step_fails(name):
    for e in generate(name, None, 60, 7, "train"):
        lines = e.code.split("\n")
        assert not passes("\n".join([*lines[:-3], lines[-1]]), e.tests)


@pytest.mark.parametrize("name", ["number_pipeline", "text_pipeline", "accumulator", "branching"])
def test_the_program_of_another_problem_nearly_always_fails(name):
    problems = list(generate(name, [3, 4, 5, 6], 120, 8, "train"))
    survivors = sum(passes(two.code, one.tests) for one, two in zip(problems, problems[1:], strict=False))
    assert survivors <= 1


def test_choices_are_balanced():
    for name, expected in {"coin_flip": 0.5, "rule_chain": 0.5, "web_of_lies": 0.5}.items():
        answers = [e.answer in ("yes", "True") for e in generate(name, None, 1200, 0, "train")]
        assert abs(sum(answers) / len(answers) - expected) < 0.06


def test_solvers_import_nothing_but_the_standard_library():
    for path in Path(solvers.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in names:
                standard = module.split(".")[0] in sys.stdlib_module_names
                assert standard or module.startswith(solvers.__name__), (path, module)


def golden() -> dict:
    """Return the step's version and a digest of 5 problems per difficulty of each family."""
    samples = {name: [example_row(e) for e in generate(name, None, 5 * len(family.difficulties), 0, "train")]
               for name, family in FAMILIES.items()}
    texts = {name: hashlib.sha256(digest(rows).encode()).hexdigest() for name, rows in samples.items()}
    return {"version": build_world.step_version, "families": texts}


def test_output_changes_only_with_the_version_of_the_step():
    stored, now = json.loads(GOLDEN.read_text()), golden()
    if stored["version"] == now["version"]:
        changed = [n for n, d in stored["families"].items() if now["families"].get(n) != d]
        assert not changed, f"{changed} changed: bump the version of build_world, then run python {__file__}"
    assert stored == now, f"new version or family: run python {__file__} to store its digests"


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden(), indent=1) + "\n")
