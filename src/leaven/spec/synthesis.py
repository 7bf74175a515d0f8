"""A synthesis file: which seeds become questions with thought, code and tests, who writes them, and how they are judged.

`teacher`, `prompt` and `sources` say what is asked and identify an answer; `asking` says how fast and never does.
Numbers that Liu et al. 2025 (section 4.1 and appendix B) give are theirs: three shots, ten asserts; the others are ours.
Not covered: reading the file (load.py), doing it (data/synthesis.py, lm/server.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from leaven.spec.data import CONFIG


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedSource:
    """One file of seeds."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    file: str
    """A file: `data:NAME` under paths.data, or a path relative to the synthesis file. JSONL, JSON, Parquet, also .gz."""
    rows: Literal["task", "question", "code"] = "task"
    """task: a question with reference code; question: a question alone; code: raw Python, from which tasks are made."""
    shape: str = "auto"
    """How rows are read: auto, alpaca, problem, sharegpt, text ... (as in a study file)."""
    fields: dict[str, str] | None = None
    """Our field -> the file's column, when the shape is none of the named ones."""
    limit: int | None = None
    """Read only the first rows."""
    licence: str = ""
    """Licence of the source; every record carries it."""
    prelude: str = ""
    """Program text that runs before every solution of this source (imports, helper types); part of no record's code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Which seeds are worth asking about (data/seeds.py lists every rule with its reason)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    min_question_words: int = 5
    """Shorter questions are refused."""
    max_question_chars: int = 4000
    """Longer questions are refused."""
    min_statements: int = 3
    """Reference code with fewer statements (docstrings not counted) is trivial."""
    max_code_lines: int = 120
    """Longer reference code is refused."""
    modules: tuple[str, ...] = ()
    """Modules that code may import beyond the standard modules without side effects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What the teacher is shown."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    code: Literal["with", "without"] = "with"
    """with: the reference code is shown as a hint; without: the teacher reasons before it has seen any code."""
    shots: str = "builtin"
    """builtin (three examples of leaven's own), none, or a file of rows {question, thought, code, tests}."""
    asserts: int = 10
    """How many assert statements the teacher is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """Who answers: exactly one of `server`, `recorded` and `reference`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    server: str | None = None
    """Base address of an OpenAI-compatible server, such as http://localhost:8000/v1."""
    model: str = ""
    """Model name the server knows."""
    key_env: str | None = None
    """Environment variable that holds the API key; the key itself is never written anywhere. Null sends none."""
    recorded: str | None = None
    """A file of replies: rows {source, id, reply} or {question, reply}; replies.jsonl of an earlier run is one."""
    reference: bool = False
    """The seeds' own code and tests are the reply: measures the funnel without a model; thoughts may be empty."""
    temperature: float = 0.0
    """Sampling temperature; 0 is greedy."""
    top_p: float = 1.0
    """Nucleus sampling; sent only when below 1."""
    max_tokens: int | None = 2048
    """Longest reply; null sends no limit."""
    samples: int = 1
    """Replies per seed; the first consistent one becomes the record. More than 1 needs a temperature."""
    seed: int = 0
    """Sampling seed of the first reply (the next ones count up); sent only with a temperature."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further fields of the request body, such as {max_completion_tokens: 4096}."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How a server is asked; changes no answer."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    limit: int | None = None
    """Ask about so many seeds per source at most (a seeded draw; a larger limit keeps those of a smaller one)."""
    concurrency: int = 4
    """Requests at a time."""
    requests_per_minute: float = 0
    """Highest rate; 0 means none."""
    timeout_s: float = 180
    """Longest wait for one reply, from connecting to its last byte."""
    attempts: int = 6
    """Tries per request: after 408, 409, 425, 429, 5xx, timeouts, cut connections and malformed replies."""
    backoff_s: float = 1.0
    """First wait before another try; it doubles each time, up to 60 s, unless the server says Retry-After."""
    give_up_after: int = 8
    """Stop when so many requests in a row stay without an answer; what was answered is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """How replies are judged."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    min_asserts: int | None = None
    """Replies with fewer assert statements about their solution are refused; null means as many as were asked for."""
    limits: dict[str, float] = field(default_factory=dict)
    """Sandbox limits in place of the defaults: cpu_s 3, wall_s 15, memory_bytes 1 GiB ..."""
    workers: int = 0
    """Programs at a time; 0 means one per core."""
    tier: Literal["auto", "A", "B", "C", "D"] = "auto"
    """Sandbox tier; auto takes the strongest this machine offers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Training and validation records: exact sizes, drawn by a hash of seed, source and id."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    validation: int | None = None
    """Validation records; null means 2.09 % of the consistent ones (1,093 of 52,293 in the paper)."""
    train: int | None = None
    """Training records; null means all others."""
    seed: int = 0
    """Seed of the draw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Where files lie."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    data: str = "data"
    """Folder of `data:NAME`, relative to the synthesis file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthesis:
    """A whole synthesis file."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    sources: dict[str, SeedSource]
    """Name -> file of seeds."""
    teacher: Teacher
    """Who answers."""
    rules: Rules = field(default_factory=Rules)
    """Which seeds are kept."""
    prompt: Prompt = field(default_factory=Prompt)
    """What the teacher is shown."""
    asking: Asking = field(default_factory=Asking)
    """How a server is asked."""
    judging: Judging = field(default_factory=Judging)
    """How replies are judged."""
    split: Split = field(default_factory=Split)
    """Sizes of training and validation."""
    paths: Folders = field(default_factory=Folders)
    """Where files lie."""
