"""Examples -> segments in the text templates that others train with: plain, Alpaca (EN, ZH), Vicuna, Sky-T1.

They register as formats beside leaven's own and keep the same rules: question and template text are context, the
response with its end token is learned, thought and code keep their kinds. The response has the parts that `auto` would
choose, in that order. `<|end|>` stands for the tokenizer's end of sequence (`</s>` of a Llama tokenizer).

| format | paper | text |
|---|---|---|
| plain | section 2.3: training text = input + target + end, no template | question, response |
| alpaca, alpaca_zh | section 2.3: the two templates of the released script | instruction, input, response |
| vicuna | section 1.3: FastChat's conversation template | `USER: ... ASSISTANT: ...<|end|>`, many turns |
| sky_t1 | section 3.2, setting B: thought and solution between markers, with the system prompt | a dialogue |

Not covered: the chat template of a Hugging Face tokenizer; it applies to every format made of dialogue turns, sky_t1
included (chat_template.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from leaven.core.types import Example, Segment
from leaven.data.formats import (
    END,
    FORMATS,
    dialogue_turn,
    marked_part,
    natural_parts,
    prose_segments,
    question_turn,
)
from leaven.errors import DataError


@dataclass(frozen=True, slots=True)
class _Alpaca:
    """The fixed texts of one Alpaca template; the response follows `response` directly."""

    with_input: str
    without_input: str
    instruction: str
    input: str
    response: str


ALPACA = _Alpaca(
    with_input="Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n",
    without_input="Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n",
    instruction="### Instruction:\n",
    input="\n\n### Input:\n",
    response="\n\n### Response:",
)
"""Taori et al. 2023, Stanford Alpaca."""

ALPACA_ZH = _Alpaca(
    with_input="以下是一个描述任务的指令，并附有提供进一步背景信息的输入。 编写一个响应来适当的完成任务。\n\n",
    without_input="以下是一个描述任务的指令。 编写一个响应来适当的完成任务。\n\n",
    instruction="### 指令:\n",
    input="\n\n### 输入:\n",
    response="\n\n### 响应:",
)
"""The Chinese translation used beside it (Ma et al. 2024)."""

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""FastChat vicuna_v1.1, where a conversation has no system turn of its own."""

SKY_T1_SYSTEM = (
    "Your role as an assistant involves thoroughly exploring questions through a systematic long thinking process "
    "before providing the final precise and accurate solutions. This requires engaging in a comprehensive cycle of "
    "analysis, summarizing, exploration, reassessment, reflection, backtracing, and iteration to develop "
    "well-considered thinking process. Please structure your response into two main sections: Thought and Solution. "
    "In the Thought section, detail your reasoning process using the specified format: <|begin_of_thought|> {thought "
    "with steps separated with '\\n\\n'} <|end_of_thought|> Each step should include detailed considerations such as "
    "analisying questions, summarizing relevant findings, brainstorming new ideas, verifying the accuracy of the "
    "current steps, refining any errors, and revisiting previous steps. In the Solution section, based on various "
    "attempts, explorations, and reflections from the Thought section, systematically present the final solution that "
    "you deem correct. The solution should remain a logical, accurate, concise expression style and detail necessary "
    "step needed to reach the conclusion, formatted as follows: <|begin_of_solution|> {final formatted, precise, and "
    "clear solution} <|end_of_solution|> Now, try to solve the following question through the above guidelines:"
)
"""The system prompt of Bespoke-Stratos-17k, spelling included."""

SKY_T1_MARKERS = {
    "thought": ("<|begin_of_thought|>\n\n", "\n\n<|end_of_thought|>\n\n"),
    "solution": ("<|begin_of_solution|>\n\n", "\n\n<|end_of_solution|>"),
}


# ---- pieces ------------------------------------------------------------------------------------------------


def _context(text: str, turn: int) -> Segment:
    return Segment(kind="template", text=text, turn=turn, role="user")


def _prompt(text: str, turn: int) -> list[Segment]:
    return [Segment(kind="prompt", text=text, turn=turn, role="user")] if text else []


def _reply(content: Iterable[Segment], turn: int) -> list[Segment]:
    """Return a learned response with its end token."""
    return [
        *(replace(s, turn=turn, role="assistant") for s in content),
        Segment(kind="template", text=END, learn=1.0, turn=turn, role="assistant"),
    ]


def _response(example: Example, format_name: str) -> list[Segment]:
    """Return the response as `auto` would give it; an answer that stands alone has no markers."""
    parts = natural_parts(example)
    if parts == ("answer",):
        return marked_part(example, "answer", format_name)[1:-1]
    return [s for part in parts for s in marked_part(example, part, format_name)]


def _after_shots(
    example: Example, shots: Iterable[Example], render: Callable[[Example, int], list[Segment]]
) -> list[Segment]:
    """Return `render(example, turn number)` after the shots, which are context only."""
    segments: list[Segment] = []
    for shot in shots:
        number = segments[-1].turn + 1 if segments else 0
        segments += [replace(s, learn=0.0) for s in render(shot, number)]
    return segments + render(example, segments[-1].turn + 1 if segments else 0)


def _need_question(example: Example, format_name: str) -> None:
    if not example.question:
        raise DataError(
            f"source {example.source!r}, example {example.id!r}: format {format_name!r} needs the field 'question', "
            "found none; use 'document' for raw text, 'vicuna' or 'chat' for conversations"
        )


# ---- the formats -------------------------------------------------------------------------------------------


@FORMATS("plain")
def plain(example: Example, shots: tuple[Example, ...] = ()) -> list[Segment]:
    """Question, then the response, with nothing between them (training text = input + target + end)."""

    def render(e: Example, turn: int) -> list[Segment]:
        _need_question(e, "plain")
        return [*_prompt(e.question, turn), *_reply(_response(e, "plain"), turn + 1)]

    return _after_shots(example, shots, render)


@FORMATS("alpaca")
def alpaca(example: Example, shots: tuple[Example, ...] = ()) -> list[Segment]:
    """Stanford Alpaca: instruction, input where the source has one, response."""
    return _after_shots(example, shots, lambda e, turn: _alpaca(e, turn, ALPACA, "alpaca"))


@FORMATS("alpaca_zh")
def alpaca_zh(example: Example, shots: tuple[Example, ...] = ()) -> list[Segment]:
    """The Alpaca template in Chinese."""
    return _after_shots(example, shots, lambda e, turn: _alpaca(e, turn, ALPACA_ZH, "alpaca_zh"))


def _alpaca(example: Example, turn: int, texts: _Alpaca, name: str) -> list[Segment]:
    _need_question(example, name)
    instruction, given = instruction_and_input(example)
    opening = (texts.with_input if given else texts.without_input) + texts.instruction
    return [
        _context(opening, turn),
        *_prompt(instruction, turn),
        *([_context(texts.input, turn), *_prompt(given, turn)] if given else []),
        _context(texts.response, turn),
        *_reply(_response(example, name), turn + 1),
    ]


def instruction_and_input(example: Example) -> tuple[str, str]:
    """Cut a question where its input starts (`meta["input_at"]`, set by the source); input is "" without one."""
    at = example.meta.get("input_at")
    if not isinstance(at, int) or not 2 <= at <= len(example.question):
        return example.question, ""
    # the source puts one blank line between the two; a question changed since then is left whole
    if example.question[at - 2 : at] != "\n\n":
        return example.question, ""
    return example.question[: at - 2], example.question[at:]


@FORMATS("vicuna")
def vicuna(example: Example, shots: tuple[Example, ...] = ()) -> list[Segment]:
    """FastChat's vicuna_v1.1: every assistant turn is learned with its end token.

    The inference prompt ends with `ASSISTANT:`, so the space after it is learned. The system text is the example's own
    system turn, else FastChat's; those of shots are left out, because the template has one place for it.

    Raises:
        DataError: a tool turn, or a system turn that is not the first.
    """
    own = bool(example.turns) and example.turns[0].role == "system"
    system = Segment(kind="prompt" if own else "template", text=example.turns[0].content if own else VICUNA_SYSTEM)
    segments = [replace(system, role="system")]
    for one, learn in (*((shot, 0.0) for shot in shots), (example, 1.0)):
        for role, content in _exchanges(one):
            turn = segments[-1].turn + (len(segments) > 1)
            gap = "" if segments[-1].text == END else " "
            if role == "user":
                segments += [_context(f"{gap}USER: ", turn), *(replace(s, turn=turn, role=role) for s in content)]
                continue
            opening = replace(_context(f"{gap}ASSISTANT:", turn), role=role)
            reply = _reply([Segment(kind="template", text=" ", learn=1.0), *content], turn)
            segments += [opening, *(replace(s, learn=s.learn * learn) for s in reply)]
    return segments


def _exchanges(example: Example) -> list[tuple[str, list[Segment]]]:
    """Return the user and assistant turns of a conversation, or of a single question and its response."""
    if not example.turns:
        _need_question(example, "vicuna")
        return [("user", _prompt(example.question, 0)), ("assistant", _response(example, "vicuna"))]
    turns = example.turns[1:] if example.turns[0].role == "system" else example.turns
    wrong = sorted({t.role for t in turns} - {"user", "assistant"})
    if wrong:
        raise DataError(
            f"source {example.source!r}, example {example.id!r}: format 'vicuna' has user and assistant turns and one "
            f"system text at the start, found turns of {', '.join(wrong)}; use the format 'chat'"
        )
    return [(t.role, prose_segments(t.content) if t.role == "assistant" else _prompt(t.content, 0)) for t in turns]


@FORMATS("sky_t1")
def sky_t1(example: Example, shots: tuple[Example, ...] = ()) -> list[Segment]:
    """Sky-T1 / Bespoke-Stratos: system prompt, question, thought and solution between markers.

    The solution is the fenced code where the example has code, else its answer.
    """
    segments = dialogue_turn("system", 0, [Segment(kind="template", text=SKY_T1_SYSTEM)], learn=False)
    for one, learn in (*((shot, False) for shot in shots), (example, True)):
        number = segments[-1].turn + 1
        segments += question_turn(one, number) + dialogue_turn("assistant", number + 1, _sky_t1_response(one), learn)
    return segments


def _sky_t1_response(example: Example) -> list[Segment]:
    if example.code:
        fenced = marked_part(example, "code", "sky_t1")
        solution = [*fenced[:-1], replace(fenced[-1], text=fenced[-1].text.rstrip("\n"))]
    else:
        solution = marked_part(example, "answer", "sky_t1")[1:-1]
    inner = {"thought": marked_part(example, "thought", "sky_t1")[1:-1], "solution": solution}
    segments: list[Segment] = []
    for part, (opening, closing) in SKY_T1_MARKERS.items():
        segments += [
            Segment(kind="template", text=opening, learn=1.0, part=part),
            *inner[part],
            Segment(kind="template", text=closing, learn=1.0, part=part),
        ]
    return segments
