"""Conversations: which are valid (data step of Zhang et al. 2024) and what their turns say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from leaven.core.step import StepContext
from leaven.core.tables import read_examples
from leaven.data.sources.conversations import BadRow, turns_of
from leaven.data.sources.files import load_file


def talk(roles: str) -> list[dict[str, str]]:
    names = {"h": "human", "g": "gpt", "s": "system", "o": "observation", "f": "function_call", "x": "narrator"}
    return [{"from": names[r], "value": f"{r}{i}"} for i, r in enumerate(roles)]


CONVERSATIONS: dict[str, tuple[Any, str]] = {
    "plain": (talk("hg"), ""),
    "many": (talk("hghghg"), ""),
    "system": (talk("shg"), ""),
    "open": (talk("hgh"), ""),
    "tools": (talk("hfoghg"), ""),
    "two results": (talk("hfoog"), ""),
    "no turns": ([], "empty conversation"),
    "only system": (talk("s"), "empty conversation"),
    "assistant first": (talk("ghg"), "does not start with the user"),
    "tool first": (talk("og"), "does not start with the user"),
    "two users": (talk("hhg"), "turns do not alternate"),
    "two answers": (talk("hgg"), "turns do not alternate"),
    "late system": (talk("hgsh"), "turns do not alternate"),
    "tool to user": (talk("hfoh"), "turns do not alternate"),
    "tool without call": (talk("hog"), "turns do not alternate"),
    "no answer": (talk("h"), "no assistant turn"),
    "silent": ([*talk("h"), {"from": "gpt", "value": "  "}], "empty turn"),
    "stranger": (talk("hx"), "unknown role"),
    "text": ("hello", "conversation is not a list of turns"),
    "null": (None, "empty conversation"),
    "strings": (["hello"], "a turn is not an object"),
    "nobody": ([{"value": "x"}], "a turn has no from or role"),
    "number": ([{"from": "human", "value": 3}], "a turn is not text"),
}


def test_exactly_the_valid_conversations_are_kept(tmp_path: Path) -> None:
    rows = [{"id": name, "conversations": turns} for name, (turns, _) in CONVERSATIONS.items()]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    load_file({"name": "chat"}, {"file": tmp_path / "a.jsonl"}, tmp_path, StepContext())
    kept = [e.meta["id"] for e in read_examples(tmp_path / "examples.parquet")]
    assert kept == [name for name, (_, reason) in CONVERSATIONS.items() if not reason]
    report = json.loads((tmp_path / "report.json").read_text())
    reasons = [reason for _, reason in CONVERSATIONS.values() if reason]
    assert report["bad_rows"] == {r: reasons.count(r) for r in reasons} and report["shape"] == "sharegpt"


def test_roles_and_texts_are_kept() -> None:
    turns = turns_of(talk("shfog"))
    assert [t.role for t in turns] == ["system", "user", "assistant", "tool", "assistant"]
    assert [t.content for t in turns] == ["s0", "h1", "f2", "o3", "g4"]


def test_messages_with_tool_calls() -> None:
    turns = turns_of(
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": "Weather "}, {"type": "text", "text": "in Rome?"}],
                "tool_calls": None,
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}},
                    {"function": {"name": "clock", "arguments": {}}},
                ],
            },
            {"role": "tool", "content": {"degrees": 21}},
            {"role": "tool", "content": "12:00"},
            {"role": "assistant", "content": "21 degrees at noon."},
        ]
    )
    assert [t.content for t in turns] == [
        "Weather in Rome?",
        '{"name": "weather", "arguments": {"city": "Rome"}}\n{"name": "clock", "arguments": {}}',
        '{"degrees": 21}',
        "12:00",
        "21 degrees at noon.",
    ]


def test_a_system_column_goes_first_and_an_empty_system_turn_goes() -> None:
    assert [t.content for t in turns_of(talk("hg"), "Be kind.")] == ["Be kind.", "h0", "g1"]
    assert [t.content for t in turns_of(talk("shg"), "Be kind.")] == ["s0", "h1", "g2"]
    assert [t.role for t in turns_of([{"role": "system", "content": ""}, *talk("hg")])] == ["user", "assistant"]


def test_pictures_are_refused() -> None:
    with pytest.raises(BadRow, match="not text"):
        turns_of([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}])
