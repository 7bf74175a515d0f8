"""Names of attribution methods, known without loading what computes them: built-in baselines, and those a plugin registers.

A plugin's method is a function of a Scene (methods.py: model, training texts, queries, checkpoints) that returns float64[Q,N], higher
= more helpful; its scores stand in the same table as every other method's, so that retraining ranks it too. Not covered: EK-FAC and
its refinement, which are options of an attribution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from leaven.errors import StudyError, did_you_mean

Need = Literal["model", "checkpoints", "moments"]
BUILT_IN = (
    "gradient_dot", "gradient_cosine", "tracin", "tracin_adam", "less", "projected", "logra", "trackstar", "embedding", "bm25", "loss",
    "length", "random",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugged:
    """A method of a plugin: its function, what it needs, how many gradient passes over the texts it takes, what it is."""

    scores: Callable[[Any], Any]
    needs: tuple[Need, ...]
    passes: float
    about: str


PLUGGED: dict[str, Plugged] = {}


def baseline(name: str, *, needs: Sequence[Need] = ("model",), passes: float = 1, about: str = "") -> Callable[..., Any]:
    """Return a decorator that registers a function of a Scene as the attribution method `name`.

    Args:
        name: What studies call it under `attribute.NAME.baselines`.
        needs: model; checkpoints along training; their optimiser moments.
        passes: Gradient passes over the training texts that it takes per model, for estimates.
        about: One line.

    Raises:
        StudyError: The name is taken.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        known = PLUGGED.get(name)
        same = known is not None and known.scores.__qualname__ == function.__qualname__
        if name in BUILT_IN or name.startswith("ekfac") or (known is not None and not same):
            raise StudyError(f"two attribution methods are called {name!r}; rename one")
        PLUGGED[name] = Plugged(scores=function, needs=tuple(needs), passes=passes, about=about)
        return function

    return register


def check_known(names: Sequence[str], where: str = "baselines") -> None:
    """Raise StudyError for a name there is no method of."""
    known = [*BUILT_IN, *PLUGGED]
    for name in names:
        if name not in known:
            raise StudyError(f"{where}: no attribution method is called {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}")
