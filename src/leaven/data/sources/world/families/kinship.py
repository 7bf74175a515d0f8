"""Kinship chains: d statements such as "Ben is the brother of Anna" -> what the last person is to the first.

Modeled on CLUTRR (E4), with our own text. A walk over a family tree that grows as it goes keeps every person distinct
and every composed relation unambiguous under the two assumptions that the question states.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from leaven.data.sources.world.family import Family, Problem, computed
from leaven.data.sources.world.words import MEN, WOMEN

WORD = {
    "parent": ("father", "mother"), "child": ("son", "daughter"), "sibling": ("brother", "sister"),
    "spouse": ("husband", "wife"), "grandparent": ("grandfather", "grandmother"),
    "grandchild": ("grandson", "granddaughter"), "parent's sibling": ("uncle", "aunt"),
    "sibling's child": ("nephew", "niece"), "cousin": ("cousin", "cousin"),
}
"""Relation -> its words for a man and a woman."""

COMPOSE: dict[str, dict[str, str]] = {
    "": {"parent": "parent", "child": "child", "sibling": "sibling", "spouse": "spouse"},
    "parent": {"parent": "grandparent", "sibling": "parent's sibling", "spouse": "parent", "child": "sibling"},
    "child": {"child": "grandchild", "sibling": "child"},
    "sibling": {"parent": "parent", "sibling": "sibling", "child": "sibling's child"},
    "spouse": {"child": "child"},
    "grandparent": {"spouse": "grandparent"},
    "grandchild": {"sibling": "grandchild"},
    "parent's sibling": {"parent": "grandparent", "child": "cousin"},
    "sibling's child": {"sibling": "sibling's child"},
    "cousin": {"sibling": "cousin"},
}
"""Relation so far -> next step -> relation; only steps with exactly one possible outcome are listed."""


@dataclass(eq=False, slots=True)
class _Couple:
    """A father and a mother; a slot is None until the walk has met that person."""

    partners: list[_Person | None] = field(default_factory=lambda: [None, None])


@dataclass(eq=False, slots=True)
class _Person:
    """Somebody of the tree: sex 0 is a man, 1 a woman."""

    sex: int
    parents: _Couple = field(default_factory=_Couple)
    couple: _Couple = field(default_factory=_Couple)

    def __post_init__(self) -> None:
        self.couple.partners[self.sex] = self


def _next_person(random: Random, person: _Person, move: str) -> _Person | None:
    """Return a person not met before at the end of `move`, or None when everyone there was met."""
    if move == "sibling":
        return _Person(random.randrange(2), parents=person.parents)
    if move == "child":
        return _Person(random.randrange(2), parents=person.couple)
    couple = person.parents if move == "parent" else person.couple
    free = [sex for sex, partner in enumerate(couple.partners) if partner is None]
    return _Person(random.choice(free), couple=couple) if free else None


Walk = tuple[list[str], list[_Person], list[str]]
"""The moves, the people (one more) and the composed relation after each move."""

N_WALKS = 8


def _balanced_walk(random: Random, length: int) -> Walk:
    """Draw some walks and keep one of a random final relation, since long walks mostly end among grandchildren."""
    by_relation: dict[str, Walk] = {}
    for _ in range(N_WALKS):
        walk = _walk(random, length)
        by_relation.setdefault(walk[2][-1], walk)
    return random.choice(list(by_relation.values()))


def _walk(random: Random, length: int) -> Walk:
    while True:
        people, moves, relations = [_Person(random.randrange(2))], [], [""]
        while len(moves) < length:
            move = random.choice(list(COMPOSE[relations[-1]]))
            person = None if moves[-2:] == [move, move] else _next_person(random, people[-1], move)
            if person is None:
                break  # a dead end: start over
            people.append(person)
            moves.append(move)
            relations.append(COMPOSE[relations[-1]][move])
        if len(moves) == length:
            return moves, people, relations[1:]


def kinship(random: Random, difficulty: int) -> Problem:
    """Compose `difficulty` kinship statements, given in shuffled order."""
    moves, people, relations = _balanced_walk(random, difficulty)
    pools = (random.sample(MEN, len(people)), random.sample(WOMEN, len(people)))
    names = [pools[person.sex].pop() for person in people]
    words = [WORD[move][person.sex] for move, person in zip(moves, people[1:], strict=True)]
    composed = [WORD[relation][person.sex] for relation, person in zip(relations, people[1:], strict=True)]
    facts = [f"{names[i + 1]} is the {word} of {names[i]}." for i, word in enumerate(words)]
    steps = [facts[0]]
    code = [f"# {facts[0][:-1]}", f'relation = "{composed[0]}"']
    table = {}
    for before, word, after, name, fact in zip(composed, words[1:], composed[1:], names[2:], facts[1:], strict=False):
        steps.append(f"{fact} {names[0]}'s {before}'s {word} is {names[0]}'s {after}, so {name} is that {after}.")
        table[f"{before}'s {word}"] = after
        code += [f"# {fact[:-1]}", f"relation = compose[f\"{{relation}}'s {word}\"]"]
    code = [*([f"compose = {table}"] if table else []), *code, "return relation"]
    random.shuffle(facts)
    question = ("Different names are different people. Parents are married and share their children. "
                f"{' '.join(facts)} What is {names[-1]} to {names[0]}, in one word?")
    return computed(question, steps, code, composed[-1], group=f"kinship: {', '.join(moves)}")


FAMILIES = (
    Family(name="kinship", domain="logical", difficulty_unit="hops", generate=kinship, answers="choice"),
)
