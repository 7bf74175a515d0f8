"""Logical tasks: deduction and induction about animals, rule chains, orderings, truth-tellers (E4).

The models are bAbI 15 and 16, ProofWriter and BIG-Bench Hard; the texts are our own. Difficulty counts hops, rules,
comparisons or statements; every thought has one line for each. Questions carry distractors that lead nowhere, and state
the assumption that makes them unambiguous. Not covered: kinship (kinship.py).
"""

from __future__ import annotations

from random import Random

from leaven.data.sources.world.family import Family, Problem, computed
from leaven.data.sources.world.words import ANIMALS, COLORS, NAMES, TRAITS, sentence


def _links(names: list[str], kind: str) -> list[str]:
    """Tie the names to each other, the last one to its kind."""
    pairs = zip(names, names[1:], strict=False)
    same = [f"{one} is the same kind of animal as {two}." for one, two in pairs]
    return [*same, f"{names[-1]} is a {kind}."]


def deduction(random: Random, difficulty: int) -> Problem:
    """Say what an animal is afraid of, from what its kind is afraid of; a hop is a same-kind link or the final rule."""
    names = random.sample(NAMES, difficulty + 2)
    chain, others = names[:difficulty], names[difficulty:]
    kinds = random.sample(ANIMALS, 3)
    fears = {kind: random.choice([a for a in ANIMALS if a != kind]) for kind in kinds}
    facts = _links(chain, kinds[0])
    facts += [f"{name} is a {kind}." for name, kind in zip(others, kinds[1:], strict=True)]
    facts += [sentence(f"{kind}s are afraid of {fears[kind]}s") for kind in kinds]
    random.shuffle(facts)
    steps = [f"{one} is the same kind of animal as {two}." for one, two in zip(chain, chain[1:], strict=False)]
    steps.append(f"{chain[-1]} is a {kinds[0]}, and {kinds[0]}s are afraid of {fears[kinds[0]]}s.")
    code = [
        f"same_kind = {dict(zip(chain, chain[1:], strict=False))}",
        f"kind = {dict(zip([chain[-1], *others], kinds, strict=True))}",
        f"afraid_of = { {f'{k}': f'{v}s' for k, v in fears.items()} }",
        "# follow the links to an animal whose kind is known",
        f'name = "{chain[0]}"',
        "while name in same_kind:",
        "    name = same_kind[name]",
        "return afraid_of[kind[name]]",
    ]
    return computed(f"{' '.join(facts)} What is {chain[0]} afraid of?", steps, code, f"{fears[kinds[0]]}s")


def induction(random: Random, difficulty: int) -> Problem:
    """Infer an animal's color from another of its kind; a hop is a same-kind link or the final inference."""
    names = random.sample(NAMES, difficulty + 3)
    chain, shown = names[:difficulty], names[difficulty:]
    kinds = random.sample(ANIMALS, 3)
    colors = dict(zip(kinds, random.sample(COLORS, 3), strict=True))
    facts = _links(chain, kinds[0])
    for name, kind in zip(shown, kinds, strict=True):
        facts += [f"{name} is a {kind}.", f"{name} is {colors[kind]}."]
    random.shuffle(facts)
    steps = [f"{one} is the same kind of animal as {two}." for one, two in zip(chain, chain[1:], strict=False)]
    steps.append(f"{chain[-1]} is a {kinds[0]}, and so is {shown[0]}, who is {colors[kinds[0]]}.")
    code = [
        f"same_kind = {dict(zip(chain, chain[1:], strict=False))}",
        f"kind = {dict(zip([chain[-1], *shown], [kinds[0], *kinds], strict=True))}",
        f"color = {dict(zip(shown, colors.values(), strict=True))}",
        f'name = "{chain[0]}"',
        "while name in same_kind:",
        "    name = same_kind[name]",
        "# find an animal of that kind whose color is known",
        "for other in color:",
        "    if kind[other] == kind[name]:",
        "        return color[other]",
    ]
    question = f"Animals of the same kind have the same color. {' '.join(facts)} What color is {chain[0]}?"
    return computed(question, steps, code, colors[kinds[0]])


def rule_chain(random: Random, difficulty: int) -> Problem:
    """Judge a statement by chaining rules; a rule with the opposite conclusion stands by but never applies."""
    traits = random.sample(TRAITS, difficulty + 4)
    chain, (idle, other_start, other_end) = traits[: difficulty + 1], traits[difficulty + 1 :]
    person, other = random.sample(NAMES, 2)
    holds = random.random() < 0.5
    says = random.random() < 0.5
    conclusions = [*chain[1:-1], chain[-1] if holds else f"not {chain[-1]}"]
    rules = [_rule(random, a, b) for a, b in zip(chain, conclusions, strict=False)]
    rules.append(_rule(random, idle, f"not {chain[-1]}" if holds else chain[-1]))
    rules.append(_rule(random, other_start, other_end))
    random.shuffle(rules)
    facts = [f"{person} is {chain[0]}.", f"{other} is {other_start}."]
    random.shuffle(facts)
    statement = f"{person} is {'' if says else 'not '}{chain[-1]}"
    steps = [f"{person} is {a}, so {person} is {b}." for a, b in zip(chain, conclusions, strict=False)]
    code = [
        f"rules = {dict(zip(chain, conclusions, strict=False))}",
        f'trait = "{chain[0]}"',
        f"# apply the rules that lead on from what {person} is",
        "while trait in rules:",
        "    trait = rules[trait]",
        f'return "True" if trait == "{"" if says else "not "}{chain[-1]}" else "False"',
    ]
    question = f"{' '.join(facts)} {' '.join(rules)} True or False: {statement}."
    return computed(question, steps, code, "True" if holds == says else "False")


def _rule(random: Random, premise: str, conclusion: str) -> str:
    if random.random() < 0.5:
        return f"If someone is {premise} then they are {conclusion}."
    return f"All {premise} people are {conclusion}."


SCALES = (
    ("taller", "shorter", "tallest", "shortest"),
    ("older", "younger", "oldest", "youngest"),
    ("faster", "slower", "fastest", "slowest"),
    ("heavier", "lighter", "heaviest", "lightest"),
    ("richer", "poorer", "richest", "poorest"),
)
ORDINALS = ("", "second ", "third ", "fourth ", "fifth ", "sixth ")


def ordering(random: Random, difficulty: int) -> Problem:
    """Find a place in an order from comparisons of neighbors."""
    names = random.sample(NAMES, difficulty + 1)
    more, less, most, least = random.choice(SCALES)
    facts = [
        f"{one} is {more} than {two}." if random.random() < 0.5 else f"{two} is {less} than {one}."
        for one, two in zip(names, names[1:], strict=False)
    ]
    random.shuffle(facts)
    place = random.randrange(len(names))
    asked = least if place == difficulty else f"{ORDINALS[place]}{most}"
    steps = [f"{one} is {more} than {two}." for one, two in zip(names, names[1:], strict=False)]
    steps[-1] += f" From {most} to {least}: {', '.join(names)}."
    below = dict(zip(names, names[1:], strict=False))
    code = [
        f"# who comes right after whom, from {most} to {least}",
        f"next_below = {dict(sorted(below.items()))}",
        "name = [n for n in next_below if n not in next_below.values()][0]",
        f"for _ in range({place}):",
        "    name = next_below[name]",
        "return name",
    ]
    return computed(f"{' '.join(facts)} Who is the {asked}?", steps, code, names[place])


def web_of_lies(random: Random, difficulty: int) -> Problem:
    """Find out whether the last of a chain of speakers tells the truth."""
    names = random.sample(NAMES, difficulty + 1)
    honest = random.random() < 0.5
    facts = [f"{names[0]} {'always tells the truth' if honest else 'always lies'}."]
    code = [f"honest = {honest}"]
    steps = []
    for about, speaker in zip(names, names[1:], strict=False):
        claim = random.random() < 0.5
        facts.append(f"{speaker} says that {about} {'tells the truth' if claim else 'lies'}.")
        code += [f"# {facts[-1][:-1]}", f"honest = honest == {claim}"]
        true_claim = claim == honest
        steps.append(f"{about} {'tells the truth' if honest else 'lies'}, so what {speaker} says is "
                     f"{'true' if true_claim else 'false'}: {speaker} {'tells the truth' if true_claim else 'lies'}.")
        honest = true_claim
    code.append('return "yes" if honest else "no"')
    first, rest = facts[0], facts[1:]
    random.shuffle(rest)
    question = (f"Everyone here either always tells the truth or always lies. {first} {' '.join(rest)} "
                f"Does {names[-1]} tell the truth?")
    return computed(question, steps, code, "yes" if honest else "no")


FAMILIES = (
    Family(name="deduction", domain="logical", difficulty_unit="hops", generate=deduction, answers="choice"),
    Family(name="induction", domain="logical", difficulty_unit="hops", generate=induction, answers="choice"),
    Family(name="rule_chain", domain="logical", difficulty_unit="rules", generate=rule_chain, answers="choice"),
    Family(name="ordering", domain="logical", difficulty_unit="comparisons", generate=ordering, answers="choice"),
    Family(name="web_of_lies", domain="logical", difficulty_unit="statements", generate=web_of_lies, answers="choice"),
)
