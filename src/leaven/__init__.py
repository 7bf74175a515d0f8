"""leaven: which training data makes a language model reason and code better?

One function per verb of the command line, same names: `leaven.run("study.yaml")`, `leaven.plan`, `leaven.results("runs/quickstart")` ...
Importing this package loads no tensor or table library; a verb loads what it needs when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_VERBS = {
    "new": "new",
    "run": "running",
    "plan": "planning",
    "status": "inspect",
    "why": "inspect",
    "results": "inspect",
    "compare": "inspect",
    "report": "inspect",
    "gc": "inspect",
    "doctor": "doctor",
    "execute": "executing",
    "evaluate": "evaluating",
    "attribute": "attributing",
    "synthesize": "synthesising",
    "schema": "inspect",
    "load": "running",
}
__all__ = ["__version__", *_VERBS]


def __getattr__(name: str) -> Any:
    """Load a verb from its module on first use."""
    if name in _VERBS:
        return getattr(importlib.import_module(f"leaven.api.{_VERBS[name]}"), name)
    raise AttributeError(f"module 'leaven' has no attribute {name!r}; verbs: {', '.join(_VERBS)}")


def __dir__() -> list[str]:
    """List the verbs for tab completion."""
    return sorted(__all__)
