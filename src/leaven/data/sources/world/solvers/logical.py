"""Logical questions -> answers, by search over the stated facts: merging, chaining, sorting, trying assignments."""

from __future__ import annotations

import re
from itertools import product

RANKS = {"second": 1, "third": 2, "fourth": 3, "fifth": 4, "sixth": 5}


def _classes(question: str) -> dict[str, set[str]]:
    """Return everybody's set of same-kind animals, by merging."""
    group = {name: {name} for name in re.findall(r"(\w+) is a \w+\.", question)}
    for one, two in re.findall(r"(\w+) is the same kind of animal as (\w+)\.", question):
        merged = group.get(one, {one}) | group.get(two, {two})
        group.update(dict.fromkeys(merged, merged))
    return group


def _kind(question: str, name: str) -> str:
    known = dict(re.findall(r"(\w+) is a (\w+)\.", question))
    return next(known[other] for other in _classes(question)[name] if other in known)


def deduction(question: str) -> str:
    """Look up what the asked animal's kind is afraid of."""
    asked = re.findall(r"What is (\w+) afraid of\?", question)[0]
    fears = {kind.lower(): fear for kind, fear in re.findall(r"(\w+)s are afraid of (\w+)\.", question)}
    return fears[_kind(question, asked)]


def induction(question: str) -> str:
    """Look for a colored animal of the asked one's kind."""
    asked = re.findall(r"What color is (\w+)\?", question)[0]
    colored = dict(re.findall(r"(\w+) is (\w+)\.", question))
    found = {color for name, color in colored.items() if _kind(question, name) == _kind(question, asked)}
    if len(found) != 1:
        raise ValueError(f"expected one color, found {sorted(found)}")
    return found.pop()


def rule_chain(question: str) -> str:
    """Derive everything about everybody by forward chaining, then look the statement up."""
    body, _, statement = question.partition(" True or False: ")
    rules = re.findall(r"If someone is (\w+) then they are ((?:not )?\w+)\.", body)
    rules += re.findall(r"All (\w+) people are ((?:not )?\w+)\.", body)
    facts = set(re.findall(r"(\w+) is (\w+)\.", body))
    while True:
        new = {(name, end) for name, trait in facts for start, end in rules if start == trait} - facts
        if not new:
            break
        facts |= new
    name, trait = re.findall(r"(\w+) is ((?:not )?\w+)\.", statement)[0]
    opposite = trait.removeprefix("not ") if trait.startswith("not ") else f"not {trait}"
    if ((name, trait) in facts) == ((name, opposite) in facts):
        raise ValueError(f"undecided: {statement}")
    return "True" if (name, trait) in facts else "False"


def ordering(question: str) -> str:
    """Sort people by how many of the others they come before."""
    asked = re.findall(r"Who is the (?:(\w+) )?(\w+)\?", question)[0]
    stem = asked[1].removesuffix("iest").removesuffix("est")
    above: dict[str, set[str]] = {}
    for one, word, two in re.findall(r"(\w+) is (\w+) than (\w+)\.", question):
        asked_side = word.removesuffix("ier").removesuffix("er") == stem
        first, second = (one, two) if asked_side else (two, one)
        above.setdefault(first, set()).add(second)
        above.setdefault(second, set())
    for _ in above:  # transitive closure
        for lower in above.values():
            lower |= {far for near in lower for far in above[near]}
    ranked = sorted(above, key=lambda name: -len(above[name]))
    if [len(above[name]) for name in ranked] != list(range(len(ranked)))[::-1]:
        raise ValueError("the comparisons leave the order open")
    return ranked[RANKS.get(asked[0], 0)]


def web_of_lies(question: str) -> str:
    """Try every assignment of honesty and keep those that fit all statements."""
    always = re.findall(r"(\w+) always (tells the truth|lies)\. ", question.partition(". ")[2])
    says = re.findall(r"(\w+) says that (\w+) (tells the truth|lies)\.", question)
    asked = re.findall(r"Does (\w+) tell the truth\?", question)[0]
    names = sorted({name for name, _ in always} | {name for claim in says for name in claim[:2]})
    answers = set()
    for honesty in product([True, False], repeat=len(names)):
        honest = dict(zip(names, honesty, strict=True))
        fits = all(honest[name] == (what != "lies") for name, what in always)
        if fits and all(honest[who] == (honest[about] == (what != "lies")) for who, about, what in says):
            answers.add(honest[asked])
    if len(answers) != 1:
        raise ValueError(f"expected one consistent answer, found {answers}")
    return "yes" if answers.pop() else "no"
