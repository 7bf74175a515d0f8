"""Where an artifact came from: the machine's fingerprint, what changed between two artifacts, and text without secrets.

A fingerprint never enters a key; it is kept so that contrasts across machines can warn. A changed input is followed to
the step that caused the change, because "other content" is no answer to "why". Secrets are found by the names of
environment variables and by known token shapes: a guard for logs and messages, not a proof. Not covered: encrypting
anything; secrets a step writes itself.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from leaven.engine.store import Recipe, Store
from leaven.errors import StudyError, did_you_mean

PACKAGES = ("leaven", "torch", "numpy", "polars", "tokenizers", "transformers", "scipy")


def fingerprint(*, threads: int, device: str = "cpu") -> dict[str, Any]:
    """Return what may change results in the last bits: interpreter, platform, processor, threads, device, packages."""
    return {**_machine(), "threads": threads, "device": device}


@functools.cache
def _machine() -> dict[str, Any]:
    """Return the part of the fingerprint that does not change while a process lives."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = ""
    return {"python": platform.python_version(), "platform": platform.platform(), "processor": _processor(),
            "cores": os.cpu_count() or 1, "packages": versions}


def _processor() -> str:
    """Return the processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


SECRET_NAME = re.compile(r"KEY|TOKEN(?!IZER)|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
SECRET_SHAPES = re.compile(
    r"\b(?:sk|hf|ghp|gho|ghs|glpat|xox[abp]|github_pat)[-_][A-Za-z0-9_\-]{16,}"  # services' tokens
    r"|\bAKIA[0-9A-Z]{16}\b"
    r"|(?<=Bearer )[A-Za-z0-9._\-+/=]{12,}"
    r"|(?<=://)[^\s/@:]+:[^\s/@]+(?=@)")  # user:password inside a URL
MIN_SECRET_CHARS = 8
"""Shorter values are not searched for: replacing "1" or "true" everywhere would destroy logs."""


def secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables whose name says that they hold a key, token or password."""
    return {name: value for name, value in environ.items() if SECRET_NAME.search(name)}


def secret_values(environ: Mapping[str, str]) -> set[str]:
    """Return what must not be shown: the lines (logs are redacted by line) of all secrets that are long enough."""
    return {line for value in secrets(environ).values() for line in value.splitlines() if len(line) >= MIN_SECRET_CHARS}


def worker_environ(environ: Mapping[str, str], pass_env: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the environment without secrets, except those that the runtime names in `pass_env`."""
    hidden = secrets(environ).keys() - set(pass_env)
    return {name: value for name, value in environ.items() if name not in hidden}


def redactor(environ: Mapping[str, str]) -> Callable[[str], str]:
    """Return a function that replaces secrets in a text: values of secret variables and what is shaped like one."""
    values = sorted(secret_values(environ), key=len, reverse=True)
    known = re.compile("|".join(map(re.escape, values))) if values else None

    def redact(text: str) -> str:
        return SECRET_SHAPES.sub("[redacted]", known.sub("[redacted]", text) if known else text)

    return redact


def redact_all(value: Any, redact: Callable[[str], str]) -> Any:
    """Return a plain value with every text in it redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {name: redact_all(inner, redact) for name, inner in value.items()}
    return [redact_all(inner, redact) for inner in value] if isinstance(value, list | tuple) else value


def leaves(value: Any, where: str = "spec") -> Iterator[tuple[str, Any]]:
    """Yield (field, value) for every number, text or empty collection inside a plain value."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from leaves(inner, f"{where}.{name}")
    elif isinstance(value, list | tuple) and value:
        for i, inner in enumerate(value):
            yield from leaves(inner, f"{where}[{i}]")
    else:
        yield where, value


def changes(old: Recipe, new: Recipe) -> list[str]:
    """Return one line for each difference between two recipes; empty when both give the same key."""
    lines = []
    if old.function != new.function:
        lines.append(f"step: {old.function} -> {new.function}")
    if old.version != new.version:
        lines.append(f"step version: {old.version} -> {new.version}")
    before, after = dict(leaves(old.spec)), dict(leaves(new.spec))
    for name in [*before, *(n for n in after if n not in before)]:
        was, now = before.get(name, "absent"), after.get(name, "absent")
        if was != now or type(was) is not type(now):
            lines.append(f"{name}: {_short(was)} -> {_short(now)}")
    for name in [*old.inputs, *(n for n in new.inputs if n not in old.inputs)]:
        was_in, now_in = old.inputs.get(name), new.inputs.get(name)
        if was_in is None or now_in is None:
            lines.append(f"input {name}: {'added' if was_in is None else 'removed'}")
        elif was_in.digest != now_in.digest:
            origin = now_in.node or "a file"
            lines.append(f"input {name}: other content ({was_in.digest[:8]} -> {now_in.digest[:8]}), from {origin}")
    return lines


def why(store: Store, run_dir: Path, node_id: str) -> list[str]:
    """Explain an artifact of a run folder: what changed since the one it replaced, followed down to the first cause.

    Raises StudyError when the run folder never held an artifact of that name.
    """
    history = keys_of(run_dir)
    if node_id not in history:
        raise StudyError(f"{run_dir}: no step {node_id!r} was built here.{did_you_mean(node_id, list(history))}")
    keys = history[node_id]
    now = store.manifest(keys[-1])
    if now is None:
        return [f"{node_id}: its artifact {keys[-1][:8]} is no longer in the store; run the study again to build it"]
    title = (f"{node_id}: {keys[-1][:8]}, built {now.created} in {now.cost.wall_s:.1f} s "
             f"by {now.recipe.function} version {now.recipe.version}")
    if len(keys) == 1:
        inputs = [f"  input {name}: {s.node or 'a file'} ({s.digest[:8]})" for name, s in now.recipe.inputs.items()]
        return [title, "  nothing of that name was built here before; it was made from:", *inputs,
                *(f"  {name}: {_short(value)}" for name, value in leaves(now.recipe.spec))]
    return [title, f"  it replaced {keys[-2][:8]} because:", *_causes(store, keys[-2], keys[-1], "  ")]


def _causes(store: Store, old_key: str, new_key: str, indent: str) -> list[str]:
    """Return the differences of two artifacts, each changed input followed by its own differences."""
    old, new = store.manifest(old_key), store.manifest(new_key)
    if old is None or new is None:
        which = "older" if old is None else "newer"
        return [f"{indent}the {which} artifact was removed from the store, so nothing can be compared"]
    lines = []
    for line in changes(old.recipe, new.recipe):
        lines.append(indent + line)
        name = line.removeprefix("input ").partition(":")[0]
        was, now = old.recipe.inputs.get(name), new.recipe.inputs.get(name)
        if line.startswith("input ") and was and now and was.key and now.key and was.key != now.key:
            lines += _causes(store, was.key, now.key, indent + "  ")
    return lines or [f"{indent}nothing: both have the same recipe"]


def keys_of(run_dir: Path) -> dict[str, list[str]]:
    """Return, for each node id, the distinct keys a run folder has held, oldest first."""
    found: dict[str, list[str]] = {}
    path = run_dir / "events.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a kill may cut the last line
        if event.get("event") == "node" and event.get("state") in ("done", "cached"):
            keys = found.setdefault(event["node"], [])
            if event["key"] in keys:
                keys.remove(event["key"])
            keys.append(event["key"])
    return found


def _short(value: Any) -> str:
    """Return a value as text of at most 80 characters."""
    text = repr(value) if value != "absent" else "absent"
    return text if len(text) <= 80 else text[:77] + "..."
