"""Rule labels: a fixture of hand-written examples, and precision and recall by source on the real files."""

from __future__ import annotations

import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from leaven.core.step import StepContext
from leaven.core.tables import read_examples
from leaven.core.types import Example, Turn
from leaven.data.labels import label_of, language_of
from leaven.data.sources.files import load_file

CODE = [
    ("Write a function that doubles a number.", "def double(n):\n    return 2 * n"),
    ("Make the button red.", ".button {\n  color: red;\n  border: none;\n}"),
    ("Show all customers from Rome.", "SELECT * FROM customers WHERE city = 'Rome';"),
    ("What does this print?", "It prints 3:\n```python\nprint(1 + 2)\n```"),
    ("Print hello in C++.", '#include <iostream>\nint main() {\n  std::cout << "hello";\n  return 0;\n}'),
    ("Explain what an interface is in Java.", "An interface lists methods that a class promises to implement."),
    ("Say hello.", "console.log('hello');\nconst x = 1;"),
    ("Count files.", "#!/bin/bash\nls | wc -l\nmkdir out"),
    ("Debug this Python script: prnt('x')", "The function is called print."),
    ("Sum of squares", 'package main\nimport "fmt"\nfunc main() {\n  total := 0\n  fmt.Println(total)\n}'),
    ("How do I reverse a string in Python?", "Slice it: s[::-1]."),
    ("Compute the total price of 3 items at $4.", "items = 3\nprice = 4\ntotal = items * price\nprint(total)"),
    ("Find primes in PHP", "<?php\nfor ($i = 2; $i <= 50; $i++) {\n  $ok = true;\n  if ($ok) { echo $i; }\n}"),
    ("A page with a title", "<html>\n<head><title>Hi</title></head>\n<body><h1>Hi</h1></body>\n</html>"),
]
MATH = [
    ("Tom has 3 apples and buys 4 more. How many apples does he have?", "He has 3 + 4 = 7 apples.\n#### 7"),
    ("Find the value of $x$ if $\\frac{x}{2} = 5$.", "Multiply by 2: $x = \\boxed{10}$."),
    ("What is the probability that two dice show 12 in total?", "There are 36 outcomes, so $\\frac{1}{36}$."),
    ("A train runs 60 miles per hour for 3 hours. How far does it go?", "60 * 3 = <<60*3=180>>180 miles"),
    ("Simplify $(a+b)^2 - (a-b)^2$.", "We have $4ab$, since $a^2+2ab+b^2-a^2+2ab-b^2 = \\boxed{4ab}$."),
    ("Let $f(x)=x^2$; find $f'(3)$.", "\\begin{align*} f'(x) &= 2x; \\\\ f'(3) &= 6; \\end{align*} so $\\boxed{6}$."),
    (
        '[asy] draw((0,0)--(1,0)); label("A",(0,0)); [/asy] What is the area of the triangle with sides 3, 4, 5?',
        "It is a right triangle, so the area is $\\frac{1}{2} \\cdot 3 \\cdot 4 = 6$.",
    ),
    ("If 15% of a number is 30, what is the number?", "200"),
    ("Bob is 12 and his father is 3 times as old. How old is his father?", "12 x 3 = 36 years old"),
]
OTHER = [
    ("Name three fruits.", "Apple, pear and plum."),
    ("Who wrote Emma?", "Jane Austen wrote Emma in 1815."),
    ("Tell me about the island of Java.", "Java is an island of Indonesia; it has many volcanoes."),
    ("Make a packing list.", "1. Shirts\n2. Socks\n3. A map"),
    ("Give advice.", "If you are tired, sleep.\nWhile you wait, read."),
    ("What is the sentiment of: I liked it; it was great;", "positive"),
    ("Translate to French: the class is in room 12.", "La classe est dans la salle 12."),
    ("Write a haiku.", "Quiet pond at dusk\na frog returns to the moss\nrings fade into night"),
    ("Summarise: In 2012 sales rose by 4 points to 20 million.", "Sales rose in 2012."),
    ("Rate this film.", "[5]"),
    ("What is a list of prime ministers?", "Attlee, Churchill, Eden, Macmillan."),
    ("Hi", "Hello"),
    ("Yes?", "x"),
    ("", ""),
]


def example(question: str, answer: str) -> Example:
    return Example(id="0", source="s", question=question, answer=answer)


def test_rules_agree_with_the_fixture() -> None:
    rows = [(d, q, a) for d, pairs in (("code", CODE), ("math", MATH), ("other", OTHER)) for q, a in pairs]
    wrong = [(d, q, label_of(example(q, a))) for d, q, a in rows if label_of(example(q, a)).domain != d]
    assert len(wrong) <= 0.05 * len(rows), wrong


def test_latex_is_not_code_and_dollars_of_php_are_not_latex() -> None:
    question, answer = MATH[5]
    assert label_of(example(question, answer)).code == 0
    label = label_of(example(*CODE[12]))
    assert (label.domain, label.language) == ("code", "php") and not any("LaTeX" in e for e in label.evidence)


def test_every_label_says_why() -> None:
    label = label_of(example(*CODE[3]))
    assert label.evidence[0] == "fence with a language" and label.code >= 3
    assert label_of(example(*OTHER[0])).evidence == ()


def test_conversations_problems_and_documents_are_read_whole() -> None:
    turns = (
        Turn(role="user", content="Hi"),
        Turn(role="assistant", content="Hello"),
        Turn(role="user", content="Python?"),
        Turn(role="assistant", content="```python\nx = 1\n```"),
    )
    assert label_of(Example(id="0", source="s", turns=turns)).domain == "code"
    assert (
        label_of(Example(id="0", source="s", question="Double it", code="def f(x):\n    return 2 * x\n")).domain
        == "code"
    )
    assert label_of(Example(id="0", source="s", text="import os\n\nx = os.getcwd()\nprint(x)\n")).domain == "code"
    assert label_of(Example(id="0", source="s", text="It was a bright cold day in April.")).domain == "other"


def test_a_chance_line_in_a_long_text_is_not_code_and_hostile_text_stays_fast() -> None:
    prose = "It was late, and the old man said nothing.\n" * 400
    text = prose + "return the book\nfrom here import nothing more\n"
    assert label_of(Example(id="0", source="s", text=text)).domain == "other"
    started = time.process_time()
    for text in ("[asy]" * 8000, "\\[ " * 8000, "$$ " * 8000, "$ a " * 8000, "select a " * 8000, "```\nx\n" * 3000):
        label_of(example("q", text))
    assert time.process_time() - started < 10


LANGUAGES = [
    ("```js\nx\n```", "javascript"),
    ("```C++\nx\n```", "cpp"),
    ("```\nSELECT a FROM t;\n```", "sql"),
    ("no code", ""),
    ("```output\n3\n```\n```py\nx\n```", "python"),
    *zip(
        [CODE[i][1] for i in (0, 1, 2, 4, 6, 9, 12, 13)],
        ["python", "css", "sql", "cpp", "javascript", "go", "php", "html"],
        strict=True,
    ),
]


@pytest.mark.parametrize(("text", "language"), LANGUAGES)
def test_language_from_fence_or_lines(text: str, language: str) -> None:
    assert language_of(text) == language


SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
PROBLEM = {"question": "problem", "answer": "solution"}
# label, file, fields, share of rows that must get this label (other: share at most called code). Code Alpaca has
# prose about computing, Self-Instruct has real programs: there the source is no gold label.
BARS: list[tuple[str, str, dict[str, str] | None, float]] = [
    ("code", "instruction/code_gpteacher_codegen", None, 0.985),
    ("code", "instruction/code_alpaca_2k", None, 0.84),
    ("code", "instruction/code_easyinstruct_8k", None, 0.99),
    ("other", "instruction/text_alpaca_5k", None, 0.04),
    ("other", "instruction/text_self_instruct_5k", None, 0.1),
    ("other", "instruction/text_roleplay_gpteacher", None, 0.01),
    ("other", "corpus/text_c4_demo", None, 0.01),
    ("math", "math/math_test_minus_500", PROBLEM, 0.98),
    ("math", "math/gsm8k_test", None, 0.98),
]


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data folder beside the checkout")
@pytest.mark.parametrize(("label", "name", "fields", "bar"), BARS)
def test_labels_by_source(label: str, name: str, fields: Any, bar: float, tmp_path: Path) -> None:
    spec = {"name": name, "fields": fields, "limit": 600}
    load_file(spec, {"file": SHARED / f"{name}.jsonl.gz"}, tmp_path, StepContext())
    counts = Counter(label_of(e).domain for e in islice(read_examples(tmp_path / "examples.parquet"), 600))
    shares = {d: n / counts.total() for d, n in counts.items()}
    if label == "other":
        assert shares.get("code", 0) <= bar, shares
    else:
        assert shares[label] >= bar and (label == "code" or shares.get("code", 0) <= 0.01), shares
