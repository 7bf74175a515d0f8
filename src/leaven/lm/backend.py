"""Model folder -> one object that generates, scores and differentiates: Protocol, fake and `open_backend`.

Every backend speaks segments and tokens: a Generate gives n Samples, a Score the log-likelihood of its target. Samples
carry the request's number in `request` and an empty `item`; whoever asks knows which item it was.
Not covered: training (loop.py), remote services.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from leaven.core.step import Resources
from leaven.core.types import Generate, Sample, Score
from leaven.errors import BackendError

if TYPE_CHECKING:
    from torch import Tensor

    from leaven.data.tokenizer import Tokenizer

Report = Callable[..., None]


def silent(done: float, total: float, note: str = "") -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One training row for `gradients`: token ids, their loss weights (learn) and the example's weight."""

    ids: np.ndarray
    learn: np.ndarray
    weight: float = 1.0


class Backend(Protocol):
    """A loaded model. Greedy results and scores do not depend on what else is in the batch."""

    tokenizer: Tokenizer
    max_tokens: int

    def generate(self, requests: Sequence[Generate], seed: int, progress: Report = silent) -> list[list[Sample]]:
        """Return `n` samples per request; sampled text depends on seed, prompt and sample number alone.

        A sample's text ends before the end token or the first stop string; `finish` is stop or length, `n_tokens`
        counts generated tokens including the end token, `logprob_nats` is the model's log-likelihood of them at
        temperature 1.
        """

    def score(self, requests: Sequence[Score], progress: Report = silent) -> list[Sample]:
        """Return the summed log-likelihood (nats) and number of target tokens of each request."""

    def token_logprobs(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return for each row of N ids the float32[N-1] log-probabilities of tokens 1..N-1 given those before."""

    def gradients(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Return d loss / d parameter of the rows' weighted loss, under Hugging Face parameter names."""

    def states(self, ids: np.ndarray) -> Tensor:
        """Return the normalised last hidden states [N,D] of one row of N ids, without gradients."""

    def logits(self, ids: np.ndarray, at: np.ndarray) -> Tensor:
        """Return next-token logits [M,V] after the tokens `at` of one row, without gradients."""

    def attention(self, ids: np.ndarray, layers: Sequence[int]) -> Tensor:
        """Return attention weights [L,H,N,N] of these layers (negative counts from the last) for one row of N ids."""


def open_backend(folder: Path | str, resources: Resources | None = None) -> Backend:
    """Open a model folder: the embedded model's own kernels for folders leaven wrote, transformers for any other.

    Raises:
        BackendError: `folder` is no local model folder.
        MissingExtraError: another architecture, and the extra `hf` is not installed.
    """
    resources = resources or Resources()
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise BackendError(
            f"model {str(folder)!r}: expected a local folder with config.json, weights and tokenizer, found "
            f"{'no config.json in it' if path.is_dir() else 'no such folder'}. leaven never downloads models: fetch it "
            f"first "
            f"(huggingface-cli download {folder} --local-dir DIR) and give DIR"
        )
    from leaven.lm.checkpoints import is_tiny

    if is_tiny(path):
        from leaven.lm.tiny import TinyBackend

        return TinyBackend.open(path, resources)
    from leaven.lm.hf import HfBackend

    return HfBackend.open(path, resources)


class FakeBackend:
    """A deterministic stand-in: `answers` maps prompt text to completions; other prompts get text made of a hash.

    Scores are -1 nat per target token, less 1/1000 nat per hash unit, so candidates differ but never randomly.
    """

    def __init__(
        self, tokenizer: Tokenizer | None = None, answers: Mapping[str, str] | None = None, max_tokens: int = 512
    ) -> None:
        self.tokenizer, self.answers, self.max_tokens = tokenizer, dict(answers or {}), max_tokens  # type: ignore[assignment]

    def generate(self, requests: Sequence[Generate], seed: int, progress: Report = silent) -> list[list[Sample]]:
        """Return the known answer of each prompt, or hex digits made of prompt, sample number and (sampling) seed."""
        return [[self._sample(i, j, request, seed) for j in range(request.n)] for i, request in enumerate(requests)]

    def _sample(self, number: int, index: int, request: Generate, seed: int) -> Sample:
        prompt = _text(request.prompt)
        draw = f"{seed}/{index}" if request.temperature > 0 else ""
        text = self.answers.get(prompt, _hash(f"{prompt}\x1f{draw}")[:8])
        words = text.split()
        long = len(words) > request.max_new_tokens
        text = " ".join(words[: request.max_new_tokens]) if long else text
        cuts = [at for stop in request.stop if (at := text.find(stop)) >= 0]
        return Sample(
            item="",
            request=number,
            index=index,
            text=text[: min(cuts)] if cuts else text,
            finish="length" if long and not cuts else "stop",
            logprob_nats=-float(len(words)),
            n_tokens=len(words),
        )

    def score(self, requests: Sequence[Score], progress: Report = silent) -> list[Sample]:
        """Return a fixed score per (prompt, target)."""
        result = []
        for i, request in enumerate(requests):
            target = _text(request.target)
            n = max(1, len(target.split()))
            nats = -float(n) - int(_hash(f"{_text(request.prompt)}\x1f{target}")[:4], 16) / 65536
            result.append(Sample(item="", request=i, logprob_nats=nats, n_tokens=n))
        return result

    def token_logprobs(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return -1 nat for every token."""
        return [np.full(max(0, len(ids) - 1), -1.0, np.float32) for ids in rows]

    def gradients(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Raise BackendError: the fake has no parameters."""
        raise _no_parameters("gradients")

    def states(self, ids: np.ndarray) -> Any:
        """Raise BackendError: the fake has no layers."""
        raise _no_parameters("states")

    def logits(self, ids: np.ndarray, at: np.ndarray) -> Any:
        """Raise BackendError: the fake has no logits."""
        raise _no_parameters("logits")

    def attention(self, ids: np.ndarray, layers: Sequence[int]) -> Any:
        """Raise BackendError: the fake has no layers."""
        raise _no_parameters("attention")


def _no_parameters(what: str) -> BackendError:
    return BackendError(f"{what}: expected a model with parameters, found the fake backend; train a tiny model instead")


def _text(segments: Sequence[Any]) -> str:
    return "".join(s.text for s in segments)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
