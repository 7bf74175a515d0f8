"""Symbolic tasks: letters of words, reversed lists, coins, swapped balls, edited words (E3).

Difficulty counts words, moves, people, swaps or edits; every thought has one line for each.
"""

from __future__ import annotations

from random import Random

from leaven.data.sources.world.family import Family, Problem, computed
from leaven.data.sources.world.words import COLORS, NAMES, WORDS, listing


def _letters(random: Random, difficulty: int, which: str) -> Problem:
    words = random.sample(WORDS, difficulty)
    index = 0 if which == "first" else -1
    letters = [word[index] for word in words]
    joined = ""
    steps = []
    for word, letter in zip(words, letters, strict=True):
        joined += letter
        steps.append(f'The {which} letter of "{word}" is "{letter}", so far: {joined}')
    code = [
        f"words = {words}",
        f"# join the {which} letters",
        'result = ""',
        "for word in words:",
        f"    result = result + word[{index}]",
        "return result",
    ]
    question = f'Take the {which} letter of each of these words, in order, and join them: {", ".join(words)}.'
    return computed(question, steps, code, joined)


def first_letters(random: Random, difficulty: int) -> Problem:
    """Join the first letters of some words."""
    return _letters(random, difficulty, "first")


def last_letters(random: Random, difficulty: int) -> Problem:
    """Join the last letters of some words."""
    return _letters(random, difficulty, "last")


def reverse_words(random: Random, difficulty: int) -> Problem:
    """Write a list of words in reverse order, by moving each word after the first to the front."""
    words = random.sample(WORDS, difficulty + 1)
    steps = [f'Move "{word}" to the front: {", ".join(reversed(words[: i + 2]))}' for i, word in enumerate(words[1:])]
    code = [
        f"words = {words}",
        "# move each word to the front of those before it",
        "result = []",
        "for word in words:",
        "    result = [word] + result",
        'return ", ".join(result)',
    ]
    return computed(f"Write these words in reverse order: {', '.join(words)}.", steps, code, ", ".join(reversed(words)))


def coin_flip(random: Random, difficulty: int) -> Problem:
    """Say whether a coin shows heads after some people flip it or leave it."""
    side = random.choice(["heads", "tails"])
    people = random.sample(NAMES, difficulty)
    sentences, steps = [f"A coin shows {side}."], []
    code = [f"heads = {side == 'heads'}"]
    for name in people:
        if random.random() < 0.6:
            side = "tails" if side == "heads" else "heads"
            sentences.append(f"{name} flips the coin.")
            steps.append(f"{name} flips it: now it shows {side}.")
            code += [f"# {name} flips the coin", "heads = not heads"]
        else:
            sentences.append(f"{name} does not flip the coin.")
            steps.append(f"{name} leaves it: it still shows {side}.")
            code += [f"# {name} does not flip the coin"]
    code.append('return "yes" if heads else "no"')
    question = " ".join([*sentences, "Does the coin show heads now?"])
    return computed(question, steps, code, "yes" if side == "heads" else "no")


def tracking_swaps(random: Random, difficulty: int) -> Problem:
    """Say which ball a person holds after pairs of people swap theirs."""
    size = 3 + (difficulty > 2) + (difficulty > 4)
    people = random.sample(NAMES, size)
    colors = random.sample(COLORS, size)
    holds = dict(zip(people, colors, strict=True))
    start = listing([f"{name} holds the {color} ball" for name, color in holds.items()])
    swaps, steps, code = [], [], [f"ball = {holds}"]
    for _ in range(difficulty):
        one, two = random.sample(people, 2)
        holds[one], holds[two] = holds[two], holds[one]
        swaps.append(f"{one} and {two} swap balls.")
        steps.append(f"{one} and {two} swap: now {one} has {holds[one]} and {two} has {holds[two]}.")
        code += [f"# {one} and {two} swap", f'ball["{one}"], ball["{two}"] = ball["{two}"], ball["{one}"]']
    asked = random.choice(people)
    code.append(f'return ball["{asked}"]')
    question = f"{start}. {' '.join(swaps)} What color is the ball that {asked} holds at the end?"
    return computed(question, steps, code, holds[asked])


EDITS: dict[str, tuple[str, str]] = {
    # name in the question -> (expression in the program, what the thought says)
    "reverse it": ("word[::-1]", "Reversed"),
    "remove its first letter": ("word[1:]", "Without its first letter"),
    "remove its last letter": ("word[:-1]", "Without its last letter"),
    "move its first letter to the end": ("word[1:] + word[0]", "With its first letter at the end"),
    "move its last letter to the front": ("word[-1] + word[:-1]", "With its last letter in front"),
    "double its last letter": ("word + word[-1]", "With its last letter doubled"),
    "swap its first and last letters": ("word[-1] + word[1:-1] + word[0]", "With first and last letter swapped"),
}


def _edited(word: str, edit: str) -> str:
    first, middle, last = word[0], word[1:-1], word[-1]
    return {
        "reverse it": "".join(reversed(word)),
        "remove its first letter": middle + last,
        "remove its last letter": first + middle,
        "move its first letter to the end": middle + last + first,
        "move its last letter to the front": last + first + middle,
        "double its last letter": first + middle + last * 2,
        "swap its first and last letters": last + middle + first,
    }[edit]


def letter_edits(random: Random, difficulty: int) -> Problem:
    """Apply some edits to a word, one after the other."""
    word = random.choice(WORDS)
    question = f'Start with the word "{word}".'
    code = [f'word = "{word}"']
    steps, edits = [], []
    for _ in range(difficulty):
        edit = random.choice([e for e in EDITS if len(word) > 3 or "remove" not in e])
        word = _edited(word, edit)
        edits.append(edit)
        steps.append(f"{EDITS[edit][1]}: {word}")
        code += [f"# {edit}", f"word = {EDITS[edit][0]}"]
    code.append("return word")
    question += f" In this order: {'; '.join(edits)}. What is the result?"
    return computed(question, steps, code, word, group=f"letter_edits: {'; '.join(edits)}")


FAMILIES = (
    Family(name="first_letters", domain="symbolic", difficulty_unit="words", generate=first_letters),
    Family(name="last_letters", domain="symbolic", difficulty_unit="words", generate=last_letters),
    Family(name="reverse_words", domain="symbolic", difficulty_unit="moves", generate=reverse_words),
    Family(name="coin_flip", domain="symbolic", difficulty_unit="people", generate=coin_flip, answers="choice"),
    Family(name="tracking_swaps", domain="symbolic", difficulty_unit="swaps", generate=tracking_swaps,
           answers="choice"),
    Family(name="letter_edits", domain="symbolic", difficulty_unit="edits", generate=letter_edits),
)
