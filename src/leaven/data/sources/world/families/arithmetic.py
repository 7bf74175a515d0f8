"""Arithmetic tasks: word problems, comparisons, variables, clock times, shopping, remainders (E5: like GSM8K).

Difficulty counts operations, one line of thought each; all values are whole numbers, small enough to work by hand.
"""

from __future__ import annotations

from random import Random

from leaven.data.sources.world.family import Family, Problem, computed
from leaven.data.sources.world.words import MEN, NAMES, THINGS, WOMEN

LARGEST = 400


def _change(random: Random, value: int) -> tuple[str, int]:
    """Draw an operator and operand that keep a count whole, positive and at most LARGEST."""
    options = ["+"]
    if value > 3:
        options.append("-")
    if value * 3 <= LARGEST:
        options.append("*")
    if value >= 6 and (value % 2 == 0 or value % 3 == 0):
        options.append("/")
    match random.choice(options):
        case "-":
            return "-", random.randint(2, min(value - 1, 40))
        case "*":
            return "*", random.choice([2, 3])
        case "/":
            return "/", random.choice([d for d in (2, 3) if value % d == 0])
    return "+", random.randint(2, 40)


def _apply(value: int, operator: str, operand: int) -> int:
    match operator:
        case "+":
            return value + operand
        case "-":
            return value - operand
        case "*":
            return value * operand
    return value // operand


PHRASES = {
    "+": ("{she} buys {n} more", "{she} finds {n} more", "a friend gives {her} {n} more"),
    "-": ("{she} loses {n} of them", "{she} sells {n} of them", "{she} gives {n} of them to a friend"),
    "*2": ("{her} number of {things} doubles",),
    "*3": ("{her} number of {things} triples",),
    "/2": ("{she} gives away half of them", "{she} sells half of them"),
    "/3": ("{she} keeps only a third of them",),
}


def word_problem(random: Random, difficulty: int) -> Problem:
    """Follow how many things someone has through some changes."""
    woman = random.random() < 0.5
    name = random.choice(WOMEN if woman else MEN)
    things = random.choice(THINGS)
    words = {"she": "she" if woman else "he", "her": "her" if woman else "him", "things": things}
    value = random.randint(5, 60)
    facts = [f"{name} has {value} {things}."]
    code = [f"{things} = {value}"]
    steps, operators = [], []
    for _ in range(difficulty):
        operator, operand = _change(random, value)
        key = operator if operator in "+-" else f"{operator}{operand}"
        owned = {**words, "her": "her" if woman else "his"} if operator == "*" else words
        phrase = random.choice(PHRASES[key]).format(n=operand, **owned)
        result = _apply(value, operator, operand)
        facts.append(f"Then {phrase}.")
        steps.append(f"{phrase[0].upper()}{phrase[1:]}: {value} {operator} {operand} = {result}")
        code += [f"# {phrase}", f"{things} = {things} {'//' if operator == '/' else operator} {operand}"]
        operators.append(operator)
        value = result
    code.append(f"return {things}")
    question = f"{' '.join(facts)} How many {things} does {name} have now?"
    return computed(question, steps, code, value, group=f"word_problem: {' '.join(operators)}")


def comparison(random: Random, difficulty: int) -> Problem:
    """Follow a chain of people who each have more, fewer, twice or half as many things as another."""
    names = random.sample(NAMES, difficulty + 1)
    things = random.choice(THINGS)
    value = random.randint(5, 60)
    facts = [f"{names[0]} has {value} {things}."]
    code = [f"{names[0].lower()} = {value}"]
    steps, operators = [], []
    for before, name in zip(names, names[1:], strict=False):
        operator, operand = _change(random, value)
        amount = {"+": f"{operand} more {things} than", "-": f"{operand} fewer {things} than",
                  "*": f"{'twice' if operand == 2 else 'three times'} as many {things} as",
                  "/": f"{'half' if operand == 2 else 'one third'} as many {things} as"}[operator]
        result = _apply(value, operator, operand)
        facts.append(f"{name} has {amount} {before}.")
        steps.append(f"{name} has {amount} {before}: {value} {operator} {operand} = {result}")
        symbol = "//" if operator == "/" else operator
        code += [f"# {facts[-1][:-1]}", f"{name.lower()} = {before.lower()} {symbol} {operand}"]
        operators.append(operator)
        value = result
    code.append(f"return {names[-1].lower()}")
    random.shuffle(facts)
    question = f"{' '.join(facts)} How many {things} does {names[-1]} have?"
    return computed(question, steps, code, value, group=f"comparison: {' '.join(operators)}")


def variables(random: Random, difficulty: int) -> Problem:
    """Evaluate a chain of definitions, each from the one before and a number or an earlier variable."""
    letters = random.sample("abcdefghkmnpqrstuvwxyz", difficulty + 1)
    values = {letters[0]: random.randint(2, 20)}
    facts = [f"{letters[0]} = {values[letters[0]]}"]
    steps, operators = [], []
    for before, letter in zip(letters, letters[1:], strict=False):
        operator, operand, shown = _term(random, values, before)
        result = _apply(values[before], operator, operand)
        facts.append(f"{letter} = {before} {operator} {shown}")
        steps.append(f"{facts[-1]} = {values[before]} {operator} {operand} = {result}")
        operators.append(operator)
        values[letter] = result
    code = ["# define one variable after the other", *facts, f"return {letters[-1]}"]
    question = f"Given that {', '.join(facts)}, what is {letters[-1]}?"
    return computed(question, steps, code, values[letters[-1]], group=f"variables: {' '.join(operators)}")


def _term(random: Random, values: dict[str, int], before: str) -> tuple[str, int, str]:
    """Draw operator, operand and how the operand is written; products stay below 1000 in size."""
    operator = random.choice("+-*" if abs(values[before]) < 100 else "+-")
    small = [v for v in values if v != before and (operator != "*" or abs(values[v]) < 10)]
    if small and random.random() < 0.4:
        shown = random.choice(small)
        return operator, values[shown], shown
    operand = random.randint(2, 9) if operator == "*" else random.randint(2, 40)
    return operator, operand, str(operand)


ACTIVITIES = tuple("cleans cooks draws paints reads rests runs sings swims walks works writes".split())


def clock(random: Random, difficulty: int) -> Problem:
    """Add up durations on a 24-hour clock."""
    woman = random.random() < 0.5
    name, she = random.choice(WOMEN if woman else MEN), "she" if woman else "he"
    minutes = 5 * random.randrange(24 * 12)
    facts = [f"{name} begins at {_time(minutes)}."]
    code = [f"minutes = {minutes // 60} * 60 + {minutes % 60}"]
    steps = []
    for activity in random.sample(ACTIVITIES, difficulty):
        length = 5 * random.randint(1, 36)
        hours, rest = divmod(length, 60)
        parts = [f"{hours} hour{'s' * (hours > 1)}"] * (hours > 0) + [f"{rest} minutes"] * (rest > 0)
        minutes = (minutes + length) % (24 * 60)
        facts.append(f"Then {she} {activity} for {' and '.join(parts)}.")
        steps.append(f"{name} {activity} for {' and '.join(parts)}: now it is {_time(minutes)}.")
        code += [f"# {she} {activity} for {' and '.join(parts)}", f"minutes = minutes + {length}"]
    code += ["minutes = minutes % (24 * 60)", 'return f"{minutes // 60:02d}:{minutes % 60:02d}"']
    question = f"{' '.join(facts)} What time is it then on a 24-hour clock?"
    return computed(question, steps, code, _time(minutes))


def _time(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def shopping(random: Random, difficulty: int) -> Problem:
    """Add up what some kinds of things cost."""
    name = random.choice(NAMES)
    total = 0
    bought, steps, code = [], [], ["total = 0"]
    for things in random.sample(THINGS, difficulty):
        count, price = random.randint(2, 12), random.randint(2, 15)
        total += count * price
        bought.append(f"{count} {things} for {price} dollars each")
        steps.append(f"{count} {things} cost {count} * {price} = {count * price}, which makes {total} in all.")
        code += [f"# {bought[-1]}", f"total = total + {count} * {price}"]
    code.append("return total")
    question = f"{name} buys {'; '.join(bought)}. How many dollars does {name} pay in all?"
    return computed(question, steps, code, total)


PRIMES = tuple(n for n in range(11, 100) if all(n % d for d in range(2, 10)))
"""Moduli: with a composite one, products would soon end at 0."""


def remainders(random: Random, difficulty: int) -> Problem:
    """Add and multiply, keeping only the remainder after every step."""
    modulus, value = random.choice(PRIMES), random.randint(2, 10)
    question = f"Begin with {value}."
    code = [f"value = {value}"]
    changes, steps, operators = [], [], []
    for _ in range(difficulty):
        operator = random.choice("+*")
        operand = random.randint(2, 9) if operator == "*" else random.randint(5, 90)
        raw = _apply(value, operator, operand)
        changes.append(f"{'add' if operator == '+' else 'multiply by'} {operand}")
        steps.append(f"{value} {operator} {operand} = {raw}, and the remainder is {raw % modulus}.")
        code += [f"# {changes[-1]}, keep the remainder", f"value = (value {operator} {operand}) % {modulus}"]
        operators.append(operator)
        value = raw % modulus
    code.append("return value")
    question += (f" After every step keep only the remainder after division by {modulus}. "
                 f"The steps are: {', '.join(changes)}. What is the last remainder?")
    return computed(question, steps, code, value, group=f"remainders: {' '.join(operators)}")


FAMILIES = tuple(
    Family(name=generate.__name__, domain="arithmetic", difficulty_unit="operations", generate=generate)
    for generate in (word_problem, comparison, variables)
) + (
    Family(name="clock", domain="arithmetic", difficulty_unit="durations", generate=clock),
    Family(name="shopping", domain="arithmetic", difficulty_unit="items", generate=shopping),
    Family(name="remainders", domain="arithmetic", difficulty_unit="operations", generate=remainders),
)
