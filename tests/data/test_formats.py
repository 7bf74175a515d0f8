"""Formats: what is learned, what both orders share, what is refused."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leaven.core.step import StepContext
from leaven.core.tables import write_examples
from leaven.core.types import Example, Turn
from leaven.data.formats import FORMATS, auto_name, prompt_of, question_prompt, split_code
from leaven.data.tokenizer import Tokenizer, train_tokenizer
from leaven.errors import DataError

CODE = '''@cache
def add(a: int,
        b: int = 2) -> int:
    """Add.

    Twice é."""
    # alone
    total = "#é" + b  # tail
    return total


class Box:
    size = 1
'''
TEMPLATES = {"plain", "alpaca", "alpaca_zh", "vicuna", "sky_t1"}
OWN = sorted(set(FORMATS.names()) - {"chat", "document"} - TEMPLATES)
EXAMPLE = Example(
    id="e1", source="s", question="Add two numbers.", thought="First read.\nThen add.", code=CODE, answer="3"
)


def rendered(name: str, example: Example = EXAMPLE, shots: tuple[Example, ...] = ()) -> str:
    return "".join(s.text for s in FORMATS.get(name)(example, shots))


@pytest.fixture(scope="module", params=["word", "bpe"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp(request.param)
    write_examples(folder / "examples.parquet", [EXAMPLE])
    train_tokenizer(
        {"kind": request.param, "vocab_size": 320, "formats": ["thought_code"]}, {"s": folder}, folder, StepContext()
    )
    return Tokenizer.load(folder)


def test_layout_of_both_orders() -> None:
    example = Example(id="1", source="s", question="Q", thought="T", code="c = 1")
    assert rendered("thought_code", example) == (
        "<|user|>Q<|end|><|assistant|>## Reasoning\nT\n```python\nc = 1\n```\n<|end|>"
    )
    assert rendered("code_thought", example) == (
        "<|user|>Q<|end|><|assistant|>```python\nc = 1\n```\n## Reasoning\nT\n<|end|>"
    )
    assert rendered("code_only", example) == "<|user|>Q<|end|><|assistant|>```python\nc = 1\n```\n<|end|>"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(thought=st.text(min_size=1, max_size=60), code=st.one_of(st.text(min_size=1, max_size=60), st.just(CODE)))
def test_both_orders_have_the_same_tokens(tokenizer: Tokenizer, thought: str, code: str) -> None:
    example = Example(id="1", source="s", question="Q ?", thought=thought, code=code)
    follow, precede = (tokenizer.encode_segments(FORMATS.get(n)(example)) for n in ("thought_code", "code_thought"))
    for field in ("ids", "learn"):
        assert Counter(getattr(follow, field).tolist()) == Counter(getattr(precede, field).tolist())
    pairs = [Counter(zip(e.ids.tolist(), e.learn.tolist(), strict=True)) for e in (follow, precede)]
    assert pairs[0] == pairs[1]


def test_mixed_is_one_of_the_orders_by_id_alone_and_half_of_each() -> None:
    examples = [Example(id=str(i), source="s", question="Q", thought="T", code="c") for i in range(400)]
    orders = [rendered("mixed", e) for e in examples]
    follow = sum(o == rendered("thought_code", e) for o, e in zip(orders, examples, strict=True))
    precede = sum(o == rendered("code_thought", e) for o, e in zip(orders, examples, strict=True))
    assert follow + precede == 400 and 160 < follow < 240
    assert orders == [rendered("mixed", e) for e in examples]


@pytest.mark.parametrize("name", OWN)
def test_only_the_response_is_learned_and_shots_are_context(name: str) -> None:
    shot = Example(id="shot", source="s", question="Earlier?", thought="Hm.", code="x = 0", answer="0")
    segments = FORMATS.get(name)(EXAMPLE, (shot,))
    prompt = prompt_of(segments)
    assert all(s.learn == 0 for s in prompt) and all(s.learn == 1 for s in segments[len(prompt) :])
    assert "".join(s.text for s in prompt) == "".join(s.text for s in question_prompt(EXAMPLE.question, (shot,), name))
    assert prompt[-1].text == "<|assistant|>" and segments[-1].text == "<|end|>"
    turns = [s.turn for s in segments]
    assert turns == sorted(turns) and set(turns) == {0, 1, 2, 3}
    special = [s.kind for s in segments if s.text.startswith("<|")]
    assert set(special) == {"template"}


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("thought_code", "thought"),
        ("code_only", "code"),
        ("answer_only", "answer"),
        ("document", "text"),
        ("chat", "turns"),
        ("code_only", "question"),
    ],
)
def test_a_missing_field_is_named(name: str, field: str) -> None:
    filled = {"question": "Q", "thought": "T", "code": "c", "answer": "a"}
    example = Example(id="x7", source="mine", **{k: v for k, v in filled.items() if k != field})
    with pytest.raises(DataError, match=rf"'mine'.*'x7'.*{field}"):
        FORMATS.get(name)(example)


def test_every_assistant_turn_of_a_chat_is_learned_with_its_end() -> None:
    turns = [
        ("system", "Be kind."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("tool", "42"),
        ("assistant", "It is:\n```py\nx = 42\n```\nDone."),
    ]
    example = Example(id="c", source="s", turns=tuple(Turn(role=r, content=c) for r, c in turns))
    segments = FORMATS.get("chat")(example)
    learned = [s.text for s in segments if s.learn > 0]
    assert learned == ["Hello", "<|end|>", "It is:\n```py\n", "x = 42\n", "```\nDone.", "<|end|>"]
    assert [s.text for s in segments if s.kind == "code"] == ["x = 42\n"]
    assert "".join(s.text for s in segments) == "".join(f"<|{r}|>{c}<|end|>" for r, c in turns)
    assert all(s.learn == 0 for s in FORMATS.get("chat")(example, (example,))[: len(segments)])


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["text\n", "```\n", "```python\n", "``", "`", "\n", "é", "x = 1\n"]), max_size=12).map(
        "".join
    )
)
def test_fences_in_a_response_are_cut_without_loss(text: str) -> None:
    example = Example(id="c", source="s", turns=(Turn(role="assistant", content=text),))
    assert rendered("chat", example) == f"<|assistant|>{text}<|end|>"


def test_documents_are_learned_whole() -> None:
    segments = FORMATS.get("document")(Example(id="d", source="s", text="Once."))
    assert [(s.kind, s.text, s.learn) for s in segments] == [("text", "Once.", 1.0), ("template", "<|end|>", 1.0)]


def test_auto_takes_what_the_example_has() -> None:
    def named(**fields: object) -> str:
        return auto_name(Example(id="1", source="s", **fields))  # type: ignore[arg-type]

    assert named(turns=(Turn(role="user", content="x"),)) == "chat"
    assert named(text="x") == "document"
    assert named(question="q", thought="t", code="c", answer="a") == "thought_code"
    assert named(question="q", code="c") == "code_only"
    assert named(question="q", thought="t", answer="a") == "thought_answer"
    assert named(question="q", answer="a") == "answer_only"
    assert rendered("auto") == rendered("thought_code")


def test_code_is_cut_into_signature_comment_and_body() -> None:
    assert split_code(CODE) == [
        ("signature", "@cache\ndef add(a: int,\n        b: int = 2) -> int:\n"),
        ("comment", '    """Add.\n\n    Twice é."""\n    # alone\n'),
        ("body", '    total = "#é" + b'),
        ("comment", "  # tail"),
        ("body", "\n    return total\n\n\n"),
        ("signature", "class Box:\n"),
        ("body", "    size = 1\n"),
    ]
    assert split_code("def f(:\n  # broken") == [("body", "def f(:\n  # broken")]
    assert split_code("def f(): return 1\n") == [("body", "def f(): return 1\n")]


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.sampled_from(
            [
                "def f():\n",
                "    '''d'''\n",
                "    return 1",
                "\n",
                "# c",
                "  # c\n",
                "class A:\n",
                "x = 'é'",
                "\t",
                "\r\n",
                "\\\n",
                "    pass\n",
                "async def g(x,\n y):\n",
                "\f",
                "\x0b",
                "\u2028",
                "'''",
                "@d\n",
            ]
        ),
        max_size=9,
    ).map("".join)
)
def test_cutting_code_loses_nothing(code: str) -> None:
    assert "".join(text for _, text in split_code(code)) == code
