"""Names of baselines -> functions that score every training text for every query, and what each needs.

One table, BASELINES, so that `attribute`, the estimate before it and the measurements of predicted retraining list the
same methods. A method is a function of a Scene (model, texts, queries, checkpoints when it asks for them) that returns
float64[Q,N], higher = more helpful, in units of its own. Not covered: EK-FAC and its refinement (run.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from leaven.attribution.baselines import gradient_scores, plain_scores
from leaven.attribution.baselines_gradient import BETAS, EPS, less, refuse_without_moments, tracin, tracin_adam
from leaven.attribution.known import PLUGGED, Need, check_known
from leaven.attribution.passes import Tracked, Vectors
from leaven.attribution.projections import projected
from leaven.attribution.queries import Query, query_gradients
from leaven.attribution.texts import Text
from leaven.attribution.trajectory import Checkpoint, open_like, training_path
from leaven.core.step import StepContext
from leaven.errors import StudyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What baselines can be told: `baseline_settings` of an attribution."""

    less_dims: int = 8192
    """Projected numbers of LESS (Xia et al. 2024 use 8192)."""
    projected_dims: int = 4096
    """Projected numbers of all layers together."""
    projected_damping: float = 0.1
    """As a multiple of each layer's mean eigenvalue."""
    betas: tuple[float, float] = BETAS
    """Of the Adam that trained the checkpoints (train.betas)."""
    eps: float = EPS
    """Of the same."""
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    """Of every checkpoint, by step; empty: from curve.parquet of the model folder."""

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> Settings:
        """Read settings; raise StudyError for a name there is none of."""
        unknown = sorted(set(given or {}) - set(cls.__slots__))
        if unknown:
            raise StudyError(f"baseline_settings: expected some of {', '.join(cls.__slots__)}, found {', '.join(unknown)}")
        return cls(**(given or {}))


class Scene:
    """What baselines look at; gradients and checkpoints are made when first asked for."""

    def __init__(
        self,
        tracked: Tracked,
        texts: Sequence[Text],
        queries: Sequence[Query],
        *,
        gradients: Callable[[], Vectors] | None = None,
        checkpoints: Callable[[], Sequence[Checkpoint]] | None = None,
        settings: Settings | None = None,
        seed: int = 0,
        ctx: StepContext | None = None,
    ) -> None:
        """Hold them.

        Args:
            tracked: the attributed model and its layers.
            texts: training texts.
            queries: targets.
            gradients: plain gradients of the queries [Q,o,i] per layer, where somebody has them already.
            checkpoints: models along training, for methods that follow it.
            settings: of the methods.
            seed: of random scores and projections.
            ctx: progress and stop.
        """
        self.tracked, self.texts, self.queries, self.seed = tracked, texts, queries, seed
        self.settings, self.ctx = settings or Settings(), ctx or StepContext()
        self._gradients, self._checkpoints = gradients, checkpoints

    @classmethod
    def of_inputs(cls, tracked: Tracked, texts: Sequence[Text], queries: Sequence[Query], inputs: Mapping[str, Path], **more: Any) -> Scene:
        """Return a scene whose checkpoints are those of a step's inputs (see trajectory.py)."""
        settings: Settings = more.get("settings") or Settings()

        def checkpoints() -> list[Checkpoint]:
            return training_path(inputs, lambda folder: open_like(tracked, folder), settings.learning_rates)

        return cls(tracked, texts, queries, checkpoints=checkpoints, **more)

    @cached_property
    def checkpoints(self) -> Sequence[Checkpoint]:
        """Return models along training; raise StudyError where there are none."""
        if self._checkpoints is None:
            raise StudyError("checkpoints: expected models along the training run, found none; give inputs checkpoint:STEP")
        return self._checkpoints()

    @cached_property
    def products(self) -> dict[str, np.ndarray]:
        """Return gradient_dot and gradient_cosine, which share a pass."""
        found = self._gradients() if self._gradients else query_gradients(self.tracked, self.queries)
        return gradient_scores(self.tracked, self.texts, found, ctx=self.ctx)


@dataclass(frozen=True, slots=True)
class Baseline:
    """A named method: what it needs, how many gradient passes over the texts it takes per model, what it is."""

    scores: Callable[[Scene], np.ndarray]
    needs: tuple[Need, ...]
    passes: float
    about: str


def _plain(name: str) -> Callable[[Scene], np.ndarray]:
    return lambda s: plain_scores(name, s.tracked, s.texts, s.queries, s.seed)


def _along(method: Callable[..., np.ndarray], *options: str) -> Callable[[Scene], np.ndarray]:
    def scores(s: Scene) -> np.ndarray:
        return method(s.checkpoints, s.texts, s.queries, ctx=s.ctx, **{o: getattr(s.settings, o) for o in options})

    return scores


def _less(s: Scene) -> np.ndarray:
    own = {"dims": s.settings.less_dims, "betas": s.settings.betas, "eps": s.settings.eps, "seed": s.seed}
    return less(s.checkpoints, s.texts, s.queries, ctx=s.ctx, **own)


def _projected(basis: str, unit: bool) -> Callable[[Scene], np.ndarray]:
    def scores(s: Scene) -> np.ndarray:
        own = {"dims": s.settings.projected_dims, "damping": s.settings.projected_damping, "seed": s.seed, "ctx": s.ctx}
        return projected(s.tracked, s.texts, s.queries, basis=basis, unit=unit, **own)  # type: ignore[arg-type]

    return scores


BASELINES: dict[str, Baseline] = {
    "gradient_dot": Baseline(lambda s: s.products["gradient_dot"], ("model",), 1, "<g_q, g_n>"),
    "gradient_cosine": Baseline(lambda s: s.products["gradient_cosine"], ("model",), 1, "cosine of gradients"),
    "tracin": Baseline(_along(tracin), ("checkpoints",), 1, "learning rate x <g_q, g_n> over checkpoints"),
    "tracin_adam": Baseline(_along(tracin_adam, "betas", "eps"), ("checkpoints", "moments"), 1, "the same, in Adam's metric"),
    "less": Baseline(_less, ("checkpoints", "moments"), 1, "cosine of projected Adam updates over checkpoints"),
    "projected": Baseline(_projected("random", False), ("model",), 1, "influence among randomly projected gradients"),
    "logra": Baseline(_projected("pca", False), ("model",), 2, "the same with PCA sides (LoGra)"),
    "trackstar": Baseline(_projected("random", True), ("model",), 1, "random sides, unit norm (TrackStar-style)"),
    "embedding": Baseline(_plain("embedding"), ("model",), 1 / 3, "cosine of mean last hidden states"),
    "bm25": Baseline(_plain("bm25"), (), 0, "words in common"),
    "loss": Baseline(_plain("loss"), ("model",), 1 / 3, "loss of the training text"),
    "length": Baseline(_plain("length"), (), 0, "learned tokens of the training text"),
    "random": Baseline(_plain("random"), (), 0, "a random order"),
}


def method(name: str) -> Baseline:
    """Return a built-in or a plugin's method; raise StudyError for a name there is none of."""
    check_known([name])
    if name in BASELINES:
        return BASELINES[name]
    own = PLUGGED[name]
    return Baseline(own.scores, own.needs, own.passes, own.about)


def check_baselines(names: Sequence[str], inputs: Mapping[str, Path] | None = None, settings: Settings | None = None) -> None:
    """Raise StudyError for a name there is none of, or where `inputs` lack what a method needs: before anything is spent."""
    check_known(names)
    follow = [n for n in names if "checkpoints" in method(n).needs]
    if not follow or inputs is None:
        return
    path = training_path(inputs, _unopened, (settings or Settings()).learning_rates)
    for name in (n for n in follow if "moments" in method(n).needs):
        for checkpoint in path:
            refuse_without_moments(name, checkpoint)


def baseline_scores(names: Sequence[str], scene: Scene) -> dict[str, np.ndarray]:
    """Return the scores of every named baseline, [Q,N] each.

    Raises:
        StudyError: an unknown name, or checkpoints or moments that a method needs are missing.
    """
    check_baselines(names)
    return {name: _checked(name, method(name).scores(scene), scene) for name in names}


def _checked(name: str, scores: np.ndarray, scene: Scene) -> np.ndarray:
    """Return a method's scores; raise StudyError when a plugin's are not one finite number per query and text."""
    found, wanted = np.asarray(scores, np.float64), (len(scene.queries), len(scene.texts))
    if found.shape != wanted or not np.isfinite(found).all():
        raise StudyError(f"attribution method {name!r}: expected finite scores of shape {wanted} (queries, texts), found {found.shape}")
    return found


def _unopened(folder: Path) -> Tracked:
    raise AssertionError(f"{folder}: checked, not opened")


def baseline_passes(names: Sequence[str], checkpoints: int = 1) -> float:
    """Return how many gradient passes over the training texts the named baselines take."""
    check_baselines(names)
    shared = {"gradient_dot", "gradient_cosine"}
    each = [method(n).passes * (checkpoints if "checkpoints" in method(n).needs else 1) for n in names if n not in shared]
    return sum(each) + bool(shared & set(names))
