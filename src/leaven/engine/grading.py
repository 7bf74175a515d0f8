"""A source's examples + a served model -> grades.jsonl: what the model replied when it was asked how difficult each is.

Composes data.labels.grading with a teacher of lm/server.py, as stages.py does for synthesis. Replies lie under
`_resume` while the step runs, one line each the moment it arrives; a stopped run asks only for the rest.
Not covered: what a grade is (data/labels).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leaven.core.step import StepContext, step
from leaven.core.tables import read_examples
from leaven.errors import BackendError, StudyError


@step(version=1, deterministic=False)
def grade(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Ask a model to grade every example; write grades.jsonl and report.json.

    Args:
        spec: the fields of spec.data.Grader.
        inputs: `examples`, a folder with examples.parquet.
        out: Receives the files; replies of an earlier, stopped call are used again.
        ctx: The stop flag.

    Raises:
        StudyError: the key's environment variable is empty.
        BackendError: the server cannot be used, or not one example was graded; replies so far are kept.
        Interrupted: stopped; replies so far are kept.
    """
    from leaven.data.labels.grading import GRADES, grade_asks
    from leaven.data.labels.grading import grade as ask
    from leaven.lm.server import Server
    from leaven.spec.runtime import secret

    name = spec.get("key_env")
    if name and not secret(name):
        raise StudyError(f"label.grader.key_env: expected the API key in the environment variable {name}, found none; set it and run again")
    body = {"model": spec["model"], "temperature": 0.0}
    body |= {"max_tokens": spec["max_tokens"]} if spec.get("max_tokens") else {}
    examples = list(read_examples(Path(inputs["examples"]) / "examples.parquet"))
    replies = out / "_resume" / GRADES
    replies.parent.mkdir(parents=True, exist_ok=True)
    ctx.progress(0, len(examples), f"grading with {spec['model'] or spec['server']}")
    unanswered = ask(examples, Server(spec["server"], secret(name)), "server", body, replies, ctx)
    if not replies.is_file():
        reasons = ", ".join(sorted(set(unanswered.values()))) or "no example asks a question"
        raise BackendError(f"label.grader: expected replies of {spec['server']}, found none: {reasons}")
    (out / GRADES).write_bytes(replies.read_bytes())
    asked = len({a.key for a in grade_asks(examples, body)})
    report = {"examples": len(examples), "requests": asked, "unanswered": dict(Counter(unanswered.values()))}
    (out / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
