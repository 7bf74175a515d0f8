"""Dialogue segments + the chat template of a brought tokenizer -> runs of text that say which segment owns what.

A Hugging Face folder says in Jinja how its model was shown conversations. Formats mark turns with leaven's own role
tokens; here those markers give way to what the template puts around the same turns, found by rendering the
conversation once with a stand-in for each content and cutting at the stand-ins. The conversation itself is then
rendered too and has to be those pieces around the real contents, so that spans are exact or an error is raised.

For each assistant turn three renderings meet: what stands before it with `add_generation_prompt` (what the model sees
at inference), the conversation up to it, and the whole. So the parts are known apart:

    context | generation prompt | lead, content, text up to the end token | the rest
    not learned                 | learned with the turn                   | not learned

`lead` is what some templates put between generation prompt and content (a space); the model has to write it.
White space that a template trims at the ends of a turn is trimmed here as well; anything else that it changes inside
a turn (reasoning that is stripped) is refused. Templates that ask for today's date get it, as in transformers.
Not covered: tools and documents as template variables, how text becomes ids (tokenizer.py). Liu et al. 2025, section
4.3 trains with such templates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from leaven.core.types import Segment
from leaven.data.formats import END, ROLE
from leaven.errors import DataError

_MARKERS = re.compile("(" + "|".join(map(re.escape, (*ROLE.values(), END))) + ")")
_ROLE_OF = {marker: role for role, marker in ROLE.items()}


@dataclass(frozen=True, slots=True)
class Run:
    """Text that belongs to one segment; `template` text may hold special tokens, `joined` text is encoded together
    with the run before it (as one stretch, so that a token may cover the end of one and the start of the other)."""

    text: str
    segment: int
    learn: float = 0.0
    template: bool = False
    joined: bool = False


@dataclass(slots=True)
class _Turn:
    """One turn found in the segments: where its marker and end stand, and its content in pieces."""

    role: str
    marker: int
    content: list[tuple[int, str, bool]] = field(default_factory=list)  # (segment, text, is template text)
    end: int | None = None

    def owners(self) -> list[int]:
        """Return the segments of content and end."""
        return [index for index, _, _ in self.content] + ([] if self.end is None else [self.end])

    def text(self) -> str:
        """Return the content as one text."""
        return "".join(text for _, text, _ in self.content)


@dataclass(frozen=True, slots=True)
class _Frame:
    """What the template puts around the content of one turn; `tail` goes up to its end token."""

    before: str
    lead: str = ""
    tail: str = ""


class ChatTemplate:
    """The chat template of one folder; frames are found once per sequence of roles."""

    def __init__(
        self, folder: Path, source: str, variables: Mapping[str, str], special: Iterable[str], ends: Sequence[str]
    ) -> None:
        """Compile `source`.

        Args:
            folder: where the template comes from, for messages.
            source: Jinja text.
            variables: bos_token, eos_token, ... as the template may name them.
            special: texts of the special tokens.
            ends: texts of the tokens that the folder's configuration declares as end of sequence.

        Raises:
            DataError: the template is not valid Jinja.
        """
        self.folder, self._variables, self._ends = folder, dict(variables), tuple(ends)
        longest_first = sorted((s for s in special if s), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._known: dict[tuple[Any, ...], tuple[list[_Frame], str]] = {}
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise DataError(
                f"{folder}: expected a chat template in Jinja, found: {error}. Repair chat_template in "
                "tokenizer_config.json or chat_template.jinja, or remove it"
            ) from error

    def turn_end(self) -> str | None:
        """Return the special token that ends an assistant turn; None when there is none or one question is refused."""
        try:
            found = self._special.search(self._split(("user", "assistant"), generate=False)[-1])
        except DataError:  # a template that wants other roles first; what it refuses shows where it is used
            return None
        return found[0] if found else None

    def runs(self, segments: Sequence[Segment]) -> list[Run] | None:
        """Return the rendered conversation as runs in the order of segments; None when no role marker is among them.

        Raises:
            DataError: text outside turns, or a template that refuses, changes, reorders or never ends these turns.
        """
        turns = self._turns(segments)
        if not turns:
            return None
        last = turns[-1]
        prompt = last.role == "assistant" and last.end is None and not last.content
        learned = tuple(t.role == "assistant" and any(segments[i].learn > 0 for i in t.owners()) for t in turns)
        frames, rest = self._frames(tuple(t.role for t in turns), learned, last.end is None, prompt)
        contents = self._contents(turns[:-1] if prompt else turns, frames, rest, prompt)
        runs: list[Run] = []
        for number, (turn, frame) in enumerate(zip(turns, frames, strict=True)):
            after_reply = number > 0 and turns[number - 1].role == "assistant"
            runs.append(Run(frame.before, turn.marker, template=True, joined=not after_reply))
            runs += _turn_runs(segments, turn, frame, contents[number] if number < len(contents) else [])
        if last.end is not None:
            runs.append(Run(rest, last.end, template=True, joined=True))
        return [r for r in runs if r.text]

    def _turns(self, segments: Sequence[Segment]) -> list[_Turn]:
        turns: list[_Turn] = []
        outside = ""
        inside = False
        for index, segment in enumerate(segments):
            template = segment.kind == "template"
            for piece in filter(None, _MARKERS.split(segment.text) if template else [segment.text]):
                if template and piece in _ROLE_OF:
                    turns.append(_Turn(_ROLE_OF[piece], index))
                    inside = True
                elif not inside:
                    outside = outside or piece
                elif template and piece == END:
                    turns[-1].end, inside = index, False
                else:
                    turns[-1].content.append((index, piece, template))
        if turns and outside:
            raise DataError(
                f"{self.folder}: expected all text of a dialogue inside its turns, found {outside[:60]!r} "
                "outside; a chat template has no place for it, so put it into a system or user turn"
            )
        return turns

    # ---- what the template puts around contents ----

    def _frames(
        self, roles: tuple[str, ...], learned: tuple[bool, ...], unfinished: bool, prompt: bool
    ) -> tuple[list[_Frame], str]:
        """Return one frame per turn and the text after the last; with `prompt` the last turn is still to be written."""
        key = (roles, learned, unfinished, prompt)
        if key not in self._known:
            self._known[key] = self._find_frames(*key)
        return self._known[key]

    def _find_frames(
        self, roles: tuple[str, ...], learned: tuple[bool, ...], unfinished: bool, prompt: bool
    ) -> tuple[list[_Frame], str]:
        given = roles[:-1] if prompt else roles
        between = self._split(given, generate=prompt)
        frames: list[_Frame] = []
        carried, written = between[0], between[0]
        for i, role in enumerate(given):
            to_write = learned[i] or (unfinished and i == len(given) - 1 and not prompt)
            lead = self._lead(given, i, written, carried, role == "assistant" and to_write)
            end = self._special.search(between[i + 1])
            tail = between[i + 1][: end.end()] if end else ""
            if learned[i] and not (unfinished and i == len(given) - 1):
                self._check_end(given[: i + 1], written + _stand_in(i) + tail, end[0] if end else "")
            frames.append(_Frame(carried[: len(carried) - len(lead)], lead, tail))
            carried = between[i + 1][len(tail) :]
            written += _stand_in(i) + between[i + 1]
        return (frames + [_Frame(carried)], "") if prompt else (frames, carried)

    def _lead(self, roles: tuple[str, ...], number: int, written: str, carried: str, needed: bool) -> str:
        """Return what stands between the generation prompt and the content of an assistant turn."""
        if roles[number] != "assistant":
            return ""
        try:
            seen = self._render([(r, _stand_in(i)) for i, r in enumerate(roles[:number])], generate=True)
        except DataError:
            if needed:
                raise
            return ""
        if written.startswith(seen) and len(written) - len(seen) <= len(carried):
            return written[len(seen) :]
        if needed:
            raise DataError(
                f"{self.folder}: expected a chat template whose generation prompt starts what it renders "
                f"for turn {number} (assistant), found {_difference(seen, written)}. Training and "
                "inference would see different text; learn only the last turn, or repair the template"
            )
        return ""

    def _check_end(self, roles: tuple[str, ...], expected: str, end: str) -> None:
        """Raise DataError unless a learned turn ends as it does at inference, in a token that stops generation."""
        where = f"{self.folder}: turn {len(roles) - 1} (assistant)"
        if not end:
            raise DataError(
                f"{where}: expected a special token that ends the turn, found none in the chat template; "
                "the model would never learn to stop, so add eos_token after the content"
            )
        if end not in self._ends:
            raise DataError(
                f"{where}: the chat template ends it with {end!r}, but the configuration declares only "
                f"{', '.join(map(repr, self._ends))} as end of sequence, so generation would not stop. "
                f"Make {end!r} the eos_token of tokenizer_config.json, or add its id to eos_token_id of "
                "generation_config.json"
            )
        alone = self._render([(r, _stand_in(i)) for i, r in enumerate(roles)], generate=False)
        if not alone.startswith(expected):
            raise DataError(
                f"{where}: expected it to look the same as last turn and as earlier turn, found "
                f"{_difference(expected, alone)}; learn only the last turn of a conversation"
            )

    def _split(self, roles: tuple[str, ...], generate: bool) -> list[str]:
        """Return the len(roles) + 1 texts around the contents of turns with these roles."""
        text = self._render([(role, _stand_in(i)) for i, role in enumerate(roles)], generate)
        between = []
        for i, role in enumerate(roles):
            if text.count(_stand_in(i)) != 1:
                raise DataError(
                    f"{self.folder}: expected the chat template to show turn {i} ({role}) once and in "
                    f"order, found it {text.count(_stand_in(i))} times (roles: {', '.join(roles)}); use a "
                    "format without such turns"
                )
            before, text = text.split(_stand_in(i))
            between.append(before)
        return [*between, text]

    # ---- contents ----

    def _contents(
        self, turns: Sequence[_Turn], frames: Sequence[_Frame], rest: str, prompt: bool
    ) -> list[list[tuple[int, str, bool]]]:
        """Return every turn's content as rendered: as given, or with the white space at its ends trimmed."""
        rendered = self._render([(t.role, t.text()) for t in turns], prompt)
        at, contents = 0, []
        ending = frames[-1].before if prompt else rest
        for i, turn in enumerate(turns):
            text, frame = turn.text(), frames[i]
            opening = frame.before + frame.lead
            following = frames[i + 1].before + frames[i + 1].lead if i + 1 < len(frames) else ending
            head, foot = len(text) - len(text.lstrip()), len(text) - len(text.rstrip())
            for left, right in ((0, 0), (0, foot), (head, 0), (head, foot)):
                kept = text[left : max(left, len(text) - right)]
                if rendered.startswith(opening + kept + frame.tail + following, at):
                    break
            else:
                due = opening + text + frame.tail + following
                raise DataError(
                    f"{self.folder}: expected the chat template to keep the content of turn {i} "
                    f"({turn.role}), found {_difference(due, rendered[at:])}. Spans and loss would be "
                    "wrong; use a template that keeps it, or leave this text out"
                )
            # an unfinished reply has no end yet, so nothing is trimmed there
            unfinished = i == len(turns) - 1 and turn.end is None
            contents.append(_trimmed(turn.content, left, 0 if unfinished else right))
            at += len(opening) + len(kept) + len(frame.tail)
        if rendered[at:] != ending:
            raise DataError(
                f"{self.folder}: expected the chat template to end a conversation in the same way whatever "
                f"it says, found {_difference(ending, rendered[at:])}; repair the template"
            )
        return contents

    def _render(self, messages: Sequence[tuple[str, str]], generate: bool) -> str:
        try:
            return self._template.render(
                messages=[{"role": role, "content": content} for role, content in messages],
                tools=None,
                documents=None,
                add_generation_prompt=generate,
                **self._variables,
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            roles = ", ".join(role for role, _ in messages) or "none"
            raise DataError(
                f"{self.folder}: the chat template refuses a conversation with turns of {roles}: "
                f"{type(error).__name__}: {error}. Use a format whose turns it accepts"
            ) from error


def _stand_in(number: int) -> str:
    return f"@@leaven{number}@@"


def _turn_runs(
    segments: Sequence[Segment], turn: _Turn, frame: _Frame, content: Sequence[tuple[int, str, bool]]
) -> list[Run]:
    """Return lead, content and tail of one turn.

    Pieces of a reply are encoded each on its own, so that both orders of thought and code have the same tokens; only
    a plain reply takes the lead into its first token, as the model's own tokeniser would.
    """
    speaks = turn.role == "assistant"
    owner = content[0][0] if content else turn.marker if turn.end is None else turn.end
    runs = [Run(frame.lead, owner, segments[owner].learn, template=True)] if frame.lead else []
    for number, (index, text, template) in enumerate(content):
        joined = not speaks or (number == 0 and bool(frame.lead) and not template)
        runs.append(Run(text, index, segments[index].learn, template, joined))
    if turn.end is not None:
        runs.append(Run(frame.tail, turn.end, segments[turn.end].learn if speaks else 0.0, True, joined=not speaks))
    return runs


def _trimmed(content: Sequence[tuple[int, str, bool]], left: int, right: int) -> list[tuple[int, str, bool]]:
    """Return content without its first `left` and last `right` characters."""
    stop = sum(len(text) for _, text, _ in content) - right
    kept, at = [], 0
    for index, text, template in content:
        piece = text[max(0, left - at) : max(0, stop - at)]
        at += len(text)
        if piece:
            kept.append((index, piece, template))
    return kept


def _difference(expected: str, found: str) -> str:
    """Return where two texts part, for a message."""
    same = next(
        (i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), min(len(expected), len(found))
    )
    return f"{found[same : same + 60]!r} where {expected[same : same + 60]!r} was due (after {expected[:same][-30:]!r})"


# ---- the Jinja dialect of Hugging Face ---------------------------------------------------------------------


class _Generation(jinja2.ext.Extension):
    """`{% generation %} ... {% endgeneration %}`, which marks replies; here its body alone matters."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """Return the body of the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    """Return a sandbox (templates are other people's code) with the helpers that chat templates expect."""

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    # no strftime_now: today's date would make tokens depend on the day; templates carry a date of their own for this case
    environment.globals["raise_exception"] = raise_exception
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, **{"ensure_ascii": False, **options})
    return environment


def find_source(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Return the default chat template of a folder: chat_template.jinja, else that of tokenizer_config.json."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = config.get("chat_template")
    if isinstance(found, list):
        found = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}.get("default")
    return found if isinstance(found, str) else None
