"""A model in this process -> Backend: generate, score, log-probabilities, gradients; shared by tiny.py and hf.py.

Rows are right-padded and causal, so what else is in the batch never reaches a row. Not covered: the model (tiny.py,
hf.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leaven.core.step import Resources
from leaven.core.types import Generate, Sample, Score
from leaven.data.tokenizer import Tokenizer
from leaven.errors import BackendError
from leaven.lm import decode
from leaven.lm.backend import Report, Row, silent

BATCH_TOKENS = 8192


class LocalBackend:
    """Implements Backend over a trainable model (loop.Trainable plus `logprobs`, `named_for_hf`) and a decoder."""

    def __init__(self, model: Any, decoder: decode.Decoder, tokenizer: Tokenizer, resources: Resources) -> None:
        self.model, self.decoder, self.tokenizer, self.resources = model, decoder, tokenizer, resources
        self.max_tokens = model.max_tokens

    def generate(self, requests: Sequence[Generate], seed: int, progress: Report = silent) -> list[list[Sample]]:
        """Return n samples per request (see Backend)."""
        return decode.generate(self.decoder, self.tokenizer, requests, seed, progress)

    def score(self, requests: Sequence[Score], progress: Report = silent) -> list[Sample]:
        """Return summed log-likelihoods of targets (see Backend)."""
        rows, first = [], []
        for i, request in enumerate(requests):
            encoded = self.tokenizer.encode_segments([*request.prompt, *request.target])
            begin = int((encoded.segment < len(request.prompt)).sum())
            if begin == 0 or len(encoded.ids) == begin or len(encoded.ids) > self.max_tokens:
                raise BackendError(
                    f"score, request {i}: expected a prompt and a target of together at most {self.max_tokens} tokens, "
                    f"found "
                    f"{begin} + {len(encoded.ids) - begin}; shorten the prompt or give both"
                )
            rows.append(encoded.ids)
            first.append(begin)
        logprobs = self.token_logprobs(rows, progress)
        return [
            Sample(
                item="",
                request=i,
                logprob_nats=float(values[begin - 1 :].sum(dtype=np.float64)),
                n_tokens=len(values) - begin + 1,
            )
            for i, (values, begin) in enumerate(zip(logprobs, first, strict=True))
        ]

    @torch.inference_mode()
    def token_logprobs(self, rows: Sequence[np.ndarray], progress: Report = silent) -> list[np.ndarray]:
        """Return float32[N-1] log-probabilities per row (see Backend)."""
        result: list[np.ndarray] = [np.zeros(0, np.float32)] * len(rows)
        by_length = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        at = 0
        while at < len(by_length):
            width = len(rows[by_length[at]])
            chosen = by_length[at : at + max(1, BATCH_TOKENS // max(1, width))]
            at += len(chosen)
            ids, places, targets, counts = _pad([rows[i] for i in chosen], width)
            values = self.model.logprobs(self._hidden(ids, places), targets.to(self.resources.device)).cpu().numpy()
            for i, piece in zip(chosen, np.split(values, np.cumsum(counts)[:-1]), strict=True):
                result[i] = piece
            progress(at, len(rows), "scoring")
        return result

    def gradients(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Return gradients of sum(weight x learn x token loss) / sum(weight x learn) under Hugging Face names.

        Raises:
            BackendError: no token of the rows has a loss weight.
        """
        total = sum(float(r.weight * r.learn[1:].sum(dtype=np.float64)) for r in rows)
        if not total > 0:
            raise BackendError(
                "gradients: expected at least one token with weight x learn > 0, found none in the rows given"
            )
        named = {n: p for n, p in self.model.module.named_parameters() if p.requires_grad}
        sums = {n: torch.zeros_like(p, dtype=torch.float32) for n, p in named.items()}
        for row in rows:
            ids, places, targets, _ = _pad([row.ids], len(row.ids))
            weights = torch.from_numpy((row.weight * row.learn[1:] / total).astype(np.float32))
            device = self.resources.device
            loss = self.model.loss(self._hidden(ids, places), targets.to(device), weights.to(device))
            for name, grad in zip(named, torch.autograd.grad(loss, list(named.values())), strict=True):
                sums[name] += grad
        return self.model.named_for_hf(sums)

    @torch.inference_mode()
    def states(self, ids: np.ndarray) -> Tensor:
        """Return the last hidden states [N,D] of one row (see Backend)."""
        return self._hidden(_row(ids), torch.arange(len(ids)))

    @torch.inference_mode()
    def logits(self, ids: np.ndarray, at: np.ndarray) -> Tensor:
        """Return next-token logits [M,V] after the tokens `at` of one row (see Backend)."""
        return self.model.logits(self._hidden(_row(ids), torch.from_numpy(np.asarray(at, np.int64))))

    @torch.inference_mode()
    def attention(self, ids: np.ndarray, layers: Sequence[int]) -> Tensor:
        """Return attention weights [L,H,N,N] of one row (see Backend).

        Raises:
            BackendError: the model has no such layer.
        """
        n = self.model.n_layers
        wrong = [i for i in layers if not -n <= i < n]
        if wrong:
            raise BackendError(f"attention: expected layers between {-n} and {n - 1}, found {wrong[0]}")
        return self.model.attention(_row(ids).to(self.resources.device), [i % n for i in layers])[:, 0]

    def _hidden(self, ids: Tensor, places: Tensor) -> Tensor:
        device = self.resources.device
        return self.model.hidden(ids.to(device), None, None, places.to(device))


def _row(ids: np.ndarray) -> Tensor:
    """Return one row of ids as [1,N]."""
    return torch.from_numpy(np.asarray(ids, np.int64))[None]


def _pad(rows: Sequence[np.ndarray], width: int) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """Return ids [B,T], the places of tokens that have a next one, those next ids, and how many per row."""
    ids = np.zeros((len(rows), width), np.int64)
    for b, row in enumerate(rows):
        ids[b, : len(row)] = row
    places = np.concatenate([b * width + np.arange(max(0, len(row) - 1)) for b, row in enumerate(rows)])
    targets = np.concatenate([row[1:] for row in rows]).astype(np.int64)
    return (
        torch.from_numpy(ids),
        torch.from_numpy(places),
        torch.from_numpy(targets),
        [max(0, len(r) - 1) for r in rows],
    )
