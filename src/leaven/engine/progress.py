"""Events of a run -> what a person sees: bars on a terminal, plain lines elsewhere, JSON lines for machines.

The only file that imports rich, and only when bars are drawn. Not covered: what the events mean (status.py).
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal, TextIO

from leaven.engine.status import Event

Mode = Literal["auto", "plain", "json", "quiet"]


@contextlib.contextmanager
def watch(mode: Mode = "auto", stream: TextIO | None = None) -> Iterator[Callable[[Event], None]]:
    """Yield the callback for `run(log=...)` that shows events on `stream` (default: standard error)."""
    stream = stream or sys.stderr
    if mode == "quiet":
        yield lambda event: None
    elif mode == "json":
        yield lambda event: print(json.dumps(event, ensure_ascii=False), file=stream, flush=True)
    elif mode == "auto" and stream.isatty():
        with _bars(stream) as show:
            yield show
    else:
        yield _Lines(stream).show


def seconds_text(seconds: float | None) -> str:
    """Return a duration as people write it: 0.4 s, 12 s, 3 min 20 s, 2 h 05 min; "" when unknown."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class _Lines:
    """One line for each step that ends; cached steps are counted in one line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._total = 0
        self._ended: dict[str, str] = {}

    def show(self, event: Event) -> None:
        """Print what is worth a line."""
        if event["event"] == "run_started":
            self._total = len(event["nodes"])
        elif event["event"] == "message":
            self._print(event["text"])
        elif event["event"] == "run_finished":
            self._print(summary(event))
        elif event["event"] == "node" and event["state"] in ("done", "failed", "interrupted", "cached", "blocked"):
            self._ended[event["node"]] = event["state"]
            if event["state"] != "cached":
                self._print(f"[{len(self._ended)}/{self._total}] {node_line(event)}")

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


def node_line(event: Event) -> str:
    """Return one line about a step that ended."""
    left = f", about {seconds_text(event['run_eta_s'])} left" if event.get("run_eta_s") else ""
    if event["state"] == "done":
        return f"{event['node']} done in {seconds_text(event['seconds'])}{left}"
    return f"{event['node']} {event['state']}: {event['reason']}"


def summary(event: Event) -> str:
    """Return one line about how a run ended."""
    parts = [f"{event['done']} built", f"{event['cached']} found built"]
    parts += [f"{event[name]} {name}" for name in ("failed", "blocked") if event[name]]
    resume = f"; continue with: {event['resume']}" if event["state"] != "done" and event["resume"] else ""
    return f"{'Finished' if event['state'] == 'done' else event['state'].capitalize()}: {', '.join(parts)}{resume}"


@contextlib.contextmanager
def _bars(stream: TextIO) -> Iterator[Callable[[Event], None]]:
    """Draw one bar for the whole run and one for each running step."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(file=stream)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[note]}"),
               TimeElapsedColumn(), TextColumn("{task.fields[left]}", style="dim"))
    with Progress(*columns, console=console, transient=True) as bars:
        overall = bars.add_task("steps", note="", left="")
        rows: dict[str, Any] = {}
        ended: set[str] = set()

        def show(event: Event) -> None:
            kind, name = event["event"], event.get("node", "")
            if event.get("run_eta_s") is not None:
                bars.update(overall, left=f"{seconds_text(event['run_eta_s'])} left")
            if kind == "run_started":
                bars.update(overall, total=len(event["nodes"]))
            elif kind == "progress" and name in rows:
                left = f"{seconds_text(event['eta_s'])} left" if event["eta_s"] else ""
                bars.update(rows[name], completed=event["done"], total=event["total"] or None, left=left,
                            note=escape(event["note"]))
            elif kind == "message":
                console.print(escape(event["text"]), highlight=False)
            elif kind == "run_finished":
                console.print(escape(summary(event)), highlight=False)
            elif kind == "node" and event["state"] == "running":
                rows[name] = bars.add_task(f"  {escape(name)}", total=None, note="", left="")
            elif kind == "node":
                if name in rows:
                    bars.remove_task(rows.pop(name))
                if event["state"] in ("failed", "blocked", "interrupted"):
                    console.print(escape(node_line(event)), highlight=False)
                ended.discard(name) if event["state"] == "waiting" else ended.add(name)
                bars.update(overall, completed=len(ended), note=f"{len(ended)} ended")

        yield show
