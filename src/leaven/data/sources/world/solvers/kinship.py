"""Kinship statements -> the relation asked for, by merging couples until the family tree is known and then reading it.

Every person has a couple that they are part of and a couple that they come from; each statement says that two such
couples are one. Relations are then looked up in the tree, all of them, and exactly one must hold.
"""

from __future__ import annotations

import re

SEX = {"father": 0, "mother": 1, "son": 0, "daughter": 1, "brother": 0, "sister": 1, "husband": 0, "wife": 1}
OWN, FROM = "is part of", "comes from"
SAME = {"father": (OWN, FROM), "mother": (OWN, FROM), "son": (FROM, OWN), "daughter": (FROM, OWN),
        "brother": (FROM, FROM), "sister": (FROM, FROM), "husband": (OWN, OWN), "wife": (OWN, OWN)}
"""In "X is the R of Y": which couple of X is which couple of Y."""


class _Tree:
    """Couples as a disjoint-set forest over (person, own or from)."""

    def __init__(self, statements: list[tuple[str, str, str]]) -> None:
        self.people = sorted({name for one, _, two in statements for name in (one, two)})
        self.root = {(name, side): (name, side) for name in self.people for side in (OWN, FROM)}
        for one, relation, two in statements:
            mine, theirs = SAME[relation]
            self.root[self.find(one, mine)] = self.find(two, theirs)

    def find(self, name: str, side: str) -> tuple[str, str]:
        node = (name, side)
        while self.root[node] != node:
            node = self.root[node]
        return node

    def is_parent(self, one: str, two: str) -> bool:
        return self.find(one, OWN) == self.find(two, FROM)

    def are_siblings(self, one: str, two: str) -> bool:
        return one != two and self.find(one, FROM) == self.find(two, FROM)

    def are_spouses(self, one: str, two: str) -> bool:
        return one != two and self.find(one, OWN) == self.find(two, OWN)

    def children(self, one: str) -> list[str]:
        return [name for name in self.people if self.is_parent(one, name)]

    def parents(self, one: str) -> list[str]:
        return [name for name in self.people if self.is_parent(name, one)]


def kinship(question: str) -> str:
    """Return the one word for what the first asked person is to the second."""
    statements = re.findall(r"(\w+) is the (\w+) of (\w+)\.", question)
    who, of = re.findall(r"What is (\w+) to (\w+), in one word\?", question)[0]
    sex = next(SEX[relation] for name, relation, _ in statements if name == who)
    tree = _Tree(statements)
    up = tree.parents(of)
    checks = {
        ("father", "mother"): tree.is_parent(who, of),
        ("son", "daughter"): tree.is_parent(of, who),
        ("brother", "sister"): tree.are_siblings(who, of),
        ("husband", "wife"): tree.are_spouses(who, of),
        ("grandfather", "grandmother"): any(tree.is_parent(who, parent) for parent in up),
        ("grandson", "granddaughter"): any(tree.is_parent(child, who) for child in tree.children(of)),
        ("uncle", "aunt"): any(tree.are_siblings(who, parent) for parent in up),
        ("nephew", "niece"): any(tree.are_siblings(parent, of) for parent in tree.parents(who)),
        ("cousin", "cousin"): any(tree.are_siblings(one, two) for one in tree.parents(who) for two in up),
    }
    found = [words[sex] for words, holds in checks.items() if holds]
    if len(found) != 1:
        raise ValueError(f"expected one relation, found {found}")
    return found[0]
