"""Text templates: every format's text as the source it comes from spells it; what is learned; inference prompts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from leaven.core.types import Example, Segment, Turn
from leaven.data.formats import FORMATS, prompt_of, question_prompt
from leaven.data.templates import SKY_T1_SYSTEM, VICUNA_SYSTEM
from leaven.errors import DataError

TEMPLATES = ["plain", "alpaca", "alpaca_zh", "vicuna", "sky_t1"]
SOLVED = Example(id="e", source="s", question="2+2?", thought="Add.\nSo 4.", answer="4")
CODED = Example(id="c", source="s", question="Add.", thought="Sum.", code="x = 1 + 1\n", answer="2")
INPUT = Example(id="i", source="s", question="Translate.\n\nHallo", answer="Hello", meta={"input_at": 12})
CHAT = Example(
    id="t", source="s", turns=tuple(
        Turn(role=r, content=c)  # type: ignore[arg-type]
        for r, c in [("user", "Hi"), ("assistant", "Hello"), ("user", "Code?"), ("assistant", "```py\nx\n```")]
    ),
)
EN_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nTranslate.\n\n### Input:\nHallo\n\n### Response:Hello<|end|>"
)
EN = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n2+2?\n\n### Response:## Reasoning\nAdd.\nSo 4.\n#### 4\n<|end|>"
)
ZH_INPUT = (
    "以下是一个描述任务的指令，并附有提供进一步背景信息的输入。 编写一个响应来适当的完成任务。\n\n"
    "### 指令:\nTranslate.\n\n### 输入:\nHallo\n\n### 响应:Hello<|end|>"
)
ZH = "以下是一个描述任务的指令。 编写一个响应来适当的完成任务。\n\n### 指令:\nAdd.\n\n### 响应:"
CODED_RESPONSE = "## Reasoning\nSum.\n```python\nx = 1 + 1\n\n```\n<|end|>"
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def text(segments: list[Segment] | tuple[Segment, ...]) -> str:
    return "".join(s.text for s in segments)


def learned(segments: list[Segment]) -> str:
    return "".join(s.text for s in segments if s.learn > 0)


@pytest.mark.parametrize(
    ("name", "example", "expected"),
    [
        ("plain", INPUT, "Translate.\n\nHalloHello<|end|>"),
        ("plain", CODED, f"Add.{CODED_RESPONSE}"),
        ("alpaca", INPUT, EN_INPUT),
        ("alpaca", SOLVED, EN),
        ("alpaca_zh", INPUT, ZH_INPUT),
        ("alpaca_zh", CODED, ZH + CODED_RESPONSE),
        ("vicuna", INPUT, f"{SYSTEM} USER: Translate.\n\nHallo ASSISTANT: Hello<|end|>"),
        (
            "vicuna",
            CHAT,
            f"{SYSTEM} USER: Hi ASSISTANT: Hello<|end|>USER: Code? ASSISTANT: ```py\nx\n```<|end|>",
        ),
        (
            "sky_t1",
            SOLVED,
            f"<|system|>{SKY_T1_SYSTEM}<|end|><|user|>2+2?<|end|><|assistant|><|begin_of_thought|>\n\nAdd.\nSo 4.\n\n"
            "<|end_of_thought|>\n\n<|begin_of_solution|>\n\n4\n\n<|end_of_solution|><|end|>",
        ),
        (
            "sky_t1",
            CODED,
            f"<|system|>{SKY_T1_SYSTEM}<|end|><|user|>Add.<|end|><|assistant|><|begin_of_thought|>\n\nSum.\n\n"
            "<|end_of_thought|>\n\n<|begin_of_solution|>\n\n```python\nx = 1 + 1\n\n```\n\n<|end_of_solution|><|end|>",
        ),
    ],
)
def test_texts_are_those_of_the_sources(name: str, example: Example, expected: str) -> None:
    assert text(FORMATS.get(name)(example)) == expected


def test_the_system_prompt_of_sky_t1() -> None:
    assert SKY_T1_SYSTEM.startswith("Your role as an assistant involves thoroughly exploring questions through a ")
    assert r"{thought with steps separated with '\n\n'}" in SKY_T1_SYSTEM and "\n" not in SKY_T1_SYSTEM
    assert SKY_T1_SYSTEM.endswith("Now, try to solve the following question through the above guidelines:")
    assert VICUNA_SYSTEM == SYSTEM


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("n_shots", [0, 2])
def test_only_the_last_response_and_its_end_are_learned(name: str, n_shots: int) -> None:
    shots = (SOLVED, CODED)[:n_shots]
    segments = FORMATS.get(name)(CODED, shots)
    prompt = prompt_of(segments)
    assert all(s.learn == 1 for s in segments[len(prompt) :]) and text(segments).endswith("<|end|>")
    alone = FORMATS.get(name)(CODED)
    assert learned(segments) == learned(alone) and "x = 1 + 1" in learned(alone) and "Add." not in learned(alone)
    kinds = {s.kind for s in segments if "<|end" in s.text or "### " in s.text or "USER" in s.text}
    assert kinds == {"template"}
    assert {"thought", "code", "prompt"} <= {s.kind for s in segments}
    turns = [s.turn for s in segments]
    assert turns == sorted(turns) and {s.role for s in segments if s.learn} == {"assistant"}


@pytest.mark.parametrize(
    ("name", "ending"),
    [("plain", "2+2?"), ("alpaca", "\n\n### Response:"), ("alpaca_zh", "\n\n### 响应:"), ("vicuna", " ASSISTANT:"),
     ("sky_t1", "<|end|><|assistant|>")],
)
def test_inference_prompts(name: str, ending: str) -> None:
    prompt = question_prompt("2+2?", format_name=name)
    assert text(prompt).endswith(ending) and all(s.learn == 0 for s in prompt)
    assert prompt == prompt_of(FORMATS.get(name)(SOLVED))
    with_shot = text(question_prompt("2+2?", (CODED,), name))
    assert with_shot.endswith(ending) and with_shot == text(prompt_of(FORMATS.get(name)(CODED, (CODED,)))).replace(
        "Add.", "2+2?").replace("2+2?", "Add.", 1)


def test_every_assistant_turn_of_a_conversation_is_learned_in_vicuna() -> None:
    segments = FORMATS.get("vicuna")(CHAT)
    assert learned(segments) == " Hello<|end|> ```py\nx\n```<|end|>"
    assert [s.text for s in segments if s.kind == "code"] == ["x\n"]
    told = Example(id="t", source="s", turns=(Turn(role="system", content="Be kind."), *CHAT.turns))
    segments = FORMATS.get("vicuna")(told, (CHAT,))
    assert text(segments).startswith("Be kind. USER: Hi ASSISTANT: Hello<|end|>USER: Code?")
    assert segments[0].kind == "prompt" and learned(segments) == learned(FORMATS.get("vicuna")(CHAT))


def test_an_input_is_cut_only_where_the_source_put_it() -> None:
    for meta in ({}, {"input_at": 3}, {"input_at": 99}, {"input_at": "12"}):
        example = Example(id="i", source="s", question=INPUT.question, answer="Hello", meta=meta)
        assert "### Input" not in text(FORMATS.get("alpaca")(example))


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_does_not_fit_is_refused_by_name(name: str) -> None:
    with pytest.raises(DataError, match="'mine'.*'x7'.*question"):
        FORMATS.get(name)(Example(id="x7", source="mine", thought="T", code="c"))
    with pytest.raises(DataError, match="answer|thought"):
        FORMATS.get(name)(Example(id="x7", source="mine", question="Q"))


def test_vicuna_has_no_tool_turns() -> None:
    turns = (*CHAT.turns, Turn(role="tool", content="42"))
    with pytest.raises(DataError, match="'vicuna'.*tool.*'chat'"):
        FORMATS.get("vicuna")(Example(id="x", source="s", turns=turns))


@pytest.mark.parametrize("first", ["leaven.data.templates", "leaven.data.formats"])
def test_either_module_may_be_imported_first(first: str) -> None:
    script = f"import {first}; from leaven.data.formats import FORMATS; assert 'sky_t1' in FORMATS.names()"
    subprocess.run([sys.executable, "-c", script], check=True)
