"""A cell of turns (ShareGPT `from`/`value` or messages `role`/`content` with tool calls) -> Turns, or why it is bad.

Function calls are what the assistant wrote, so they become assistant text: one JSON line {"name", "arguments"} each.
Results of tools are tool turns. Validity (data step of Zhang et al. 2024): not empty, starts with the user after an
optional system turn, strictly alternating; tool turns may follow the assistant. Not covered: images and other parts
without text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from leaven.core.types import Turn

Role = Literal["system", "user", "assistant", "tool"]
ROLES: dict[str, Role] = {
    "system": "system", "developer": "system",
    "human": "user", "user": "user", "prompter": "user",
    "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
    "bing": "assistant", "bard": "assistant", "function_call": "assistant", "tool_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool", "function_response": "tool",
    "tool_response": "tool",
}
_FOLLOWS = {"user": ("assistant",), "assistant": ("user", "tool"), "tool": ("assistant", "tool"), "system": ()}


class BadRow(ValueError):
    """A row that cannot become an example; its text is the reason, short enough to count by."""


def turns_of(value: Any, system: str = "") -> tuple[Turn, ...]:
    """Return the turns of one conversation; `system` (a column of the row) is put before them when it says something.

    Raises:
        BadRow: not a list of turns, no turn, an unknown role, an empty turn, not starting with the user, not
            alternating, or nothing said by the assistant.
    """
    if value is None or value == []:
        raise BadRow("empty conversation")
    if not isinstance(value, list):
        raise BadRow("conversation is not a list of turns")
    turns = [_turn(raw) for raw in value]
    if system.strip() and turns[0].role != "system":
        turns.insert(0, Turn(role="system", content=system))
    turns = turns[1:] if turns[0].role == "system" and not turns[0].content.strip() else turns
    talk = turns[1:] if turns and turns[0].role == "system" else turns
    if not talk:
        raise BadRow("empty conversation")
    if talk[0].role != "user":
        raise BadRow("does not start with the user")
    if any(after.role not in _FOLLOWS[before.role] for before, after in zip(talk, talk[1:], strict=False)):
        raise BadRow("turns do not alternate")
    if any(not t.content.strip() for t in talk):
        raise BadRow("empty turn")
    if not any(t.role == "assistant" for t in talk):
        raise BadRow("no assistant turn")
    return tuple(turns)


def _turn(raw: Any) -> Turn:
    if not isinstance(raw, Mapping):
        raise BadRow("a turn is not an object")
    who = raw.get("from") if raw.get("from") is not None else raw.get("role")
    if not isinstance(who, str):
        raise BadRow("a turn has no from or role")
    role = ROLES.get(who.strip().lower())
    if role is None:
        raise BadRow("unknown role")
    said = raw.get("value") if raw.get("value") is not None else raw.get("content")
    calls = [*(raw.get("tool_calls") or []), *([raw["function_call"]] if raw.get("function_call") else [])]
    lines = [text] if (text := _content(said)) else []
    return Turn(role=role, content="\n".join([*lines, *map(_call, calls)]))


def _content(value: Any) -> str:
    """Return the text of a turn: a string, a list of text parts, or a tool result given as an object."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in value):
        return "".join(p["text"] for p in value)
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False, default=str)
    raise BadRow("a turn is not text")


def _call(raw: Any) -> str:
    """Return one function call as a line of JSON; arguments given as JSON text are put in as what they say."""
    call = raw.get("function") if isinstance(raw, Mapping) and raw.get("function") else raw
    if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
        raise BadRow("a tool call has no name")
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            pass  # models do write arguments that are not JSON; they stay the text they are
    return json.dumps({"name": call["name"], "arguments": arguments}, ensure_ascii=False, default=str)
