"""Prompts -> completions: one batched decoding loop over any model that can prefill, advance and drop rows.

Rows are sorted by prompt length and go through in batches; finished rows leave the batch, so the batch shrinks to the
slow ones. Every sampled token uses its own uniform number from the stream (seed, prompt, sample number), so text never
depends on batch composition.
Not covered: beam search; the model's arithmetic (tiny.py, hf.py).

Shapes: B rows alive, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from leaven.core.rng import rng
from leaven.core.types import Generate, Sample
from leaven.data.tokenizer import Tokenizer
from leaven.errors import BackendError
from leaven.lm.backend import Report

CACHE_TOKENS = 32768
"""Most prompt + new tokens held in one batch's cache."""
MOST_ROWS = 256


class Decoder(Protocol):
    """A model with a key-value cache."""

    max_tokens: int

    def prefill(self, prompts: Sequence[list[int]], columns: int) -> Tensor:
        """Start a batch whose rows may grow to `columns` tokens; return next-token logits [B,V]."""

    def advance(self, tokens_B: Tensor) -> Tensor:
        """Append one token per row; return next-token logits [B,V]."""

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order."""


@dataclass(slots=True)
class _Stream:
    """One completion in the making."""

    number: int
    index: int
    prompt: list[int]
    request: Generate
    room: int
    uniforms: np.ndarray | None
    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0
    finish: str = ""
    text: str | None = None


@torch.inference_mode()
def generate(
    decoder: Decoder, tokenizer: Tokenizer, requests: Sequence[Generate], seed: int, progress: Report
) -> list[list[Sample]]:
    """Return n samples for each request, in order.

    Raises:
        BackendError: a prompt is empty or leaves no room for one new token.
    """
    streams = [s for i, request in enumerate(requests) for s in _streams(decoder, tokenizer, i, request, seed)]
    waiting = sorted(streams, key=lambda s: (len(s.prompt), s.room))
    done, total = 0, len(streams)
    while waiting:
        columns, size = 0, 0
        for stream in waiting[:MOST_ROWS]:
            columns = max(columns, len(stream.prompt) + stream.room)
            if size and (size + 1) * columns > CACHE_TOKENS:
                break
            size += 1
        batch, waiting = waiting[:size], waiting[size:]
        _finish(decoder, tokenizer, batch)
        done += len(batch)
        progress(done, total, "generating")
    result: list[list[Sample]] = [[] for _ in requests]
    for s in streams:  # in request and sample order by construction
        ids = s.ids[:-1] if s.ids and s.ids[-1] == tokenizer.end_id else s.ids
        text = tokenizer.decode(ids) if s.text is None else s.text
        result[s.number].append(
            Sample(
                item="",
                request=s.number,
                index=s.index,
                text=text,
                finish=s.finish,
                logprob_nats=s.logprob,
                n_tokens=len(s.ids),
            )
        )
    return result


def _streams(decoder: Decoder, tokenizer: Tokenizer, number: int, request: Generate, seed: int) -> list[_Stream]:
    prompt = tokenizer.encode_segments(request.prompt).ids.tolist()
    room = min(request.max_new_tokens, decoder.max_tokens - len(prompt))
    if not prompt or room < 1:
        raise BackendError(
            f"generate, request {number}: expected a prompt of 1 to {decoder.max_tokens - 1} tokens, found "
            f"{len(prompt)}; "
            "shorten the prompt (fewer shots) or use a model with a longer max_tokens"
        )
    name = hashlib.sha256(np.asarray(prompt, np.int64).tobytes()).hexdigest()
    uniforms = [
        rng(seed, "sample", name, j).random(room) if request.temperature > 0 else None for j in range(request.n)
    ]
    return [_Stream(number, j, prompt, request, room, uniforms[j]) for j in range(request.n)]


def _finish(decoder: Decoder, tokenizer: Tokenizer, batch: list[_Stream]) -> None:
    """Run one batch until every stream has ended."""
    alive = list(batch)
    logits = decoder.prefill([s.prompt for s in alive], max(len(s.prompt) + s.room for s in alive))
    while True:
        tokens, logprobs = _choose(logits.float(), alive)
        for stream, token, logprob in zip(alive, tokens.tolist(), logprobs.tolist(), strict=True):
            if not stream.finish:
                stream.ids.append(token)
                stream.logprob += logprob
                _check_end(stream, token, tokenizer)
        keep = [i for i, s in enumerate(alive) if not s.finish]
        if not keep:
            return
        # dropping rows copies the cache, so wait until a quarter of the batch has ended; ended rows run on unread
        if len(keep) <= 0.75 * len(alive):
            rows = torch.tensor(keep, device=tokens.device)
            decoder.select(rows)
            tokens, alive = tokens[rows], [alive[i] for i in keep]
        logits = decoder.advance(tokens)


def _check_end(stream: _Stream, token: int, tokenizer: Tokenizer) -> None:
    """Mark a stream that reached the end token, a stop string or its length."""
    if token == tokenizer.end_id:
        stream.finish = "stop"
    elif stream.request.stop and (cut := _stop_at(stream, tokenizer)) is not None:
        stream.finish, stream.text = "stop", cut
    elif len(stream.ids) >= stream.room:
        stream.finish = "length"


def _stop_at(stream: _Stream, tokenizer: Tokenizer) -> str | None:
    """Return the text before the first stop string, or None; only the tail is decoded until one shows up."""
    longest = max(len(stop.encode()) for stop in stream.request.stop)
    tail = tokenizer.decode(stream.ids[-(longest + 4) :])
    if not any(stop in tail for stop in stream.request.stop):
        return None
    text = tokenizer.decode(stream.ids)
    cuts = [at for stop in stream.request.stop if (at := text.find(stop)) >= 0]
    return text[: min(cuts)] if cuts else None


def _choose(logits_BV: Tensor, streams: list[_Stream]) -> tuple[Tensor, Tensor]:
    """Return every row's next token and its log-probability at temperature 1 (ended rows: one nobody reads)."""
    logp_BV = torch.log_softmax(logits_BV, -1)
    tokens = logp_BV.argmax(-1)
    drawn = [i for i, s in enumerate(streams) if s.uniforms is not None and not s.finish]
    if drawn:
        rows = torch.tensor(drawn, device=tokens.device)
        values = [
            (streams[i].request.temperature, streams[i].request.top_p, streams[i].uniforms[len(streams[i].ids)])
            for i in drawn
        ]  # type: ignore[index]
        temperature, top_p, uniform = torch.tensor(values, dtype=torch.float64, device=tokens.device).unbind(1)
        tokens[rows] = _draw(logits_BV[rows], temperature, top_p, uniform)
    return tokens, logp_BV.gather(1, tokens[:, None])[:, 0]


def _draw(logits_BV: Tensor, temperature_B: Tensor, top_p_B: Tensor, uniform_B: Tensor) -> Tensor:
    """Invert the cumulative distribution at `uniform`, over the fewest most likely tokens whose mass reaches top_p."""
    probability, token = torch.softmax(logits_BV.double() / temperature_B[:, None], -1).sort(
        dim=-1, descending=True, stable=True
    )
    mass = probability.cumsum(-1)
    probability = probability * ((mass - probability) < top_p_B[:, None])
    mass = probability.cumsum(-1)
    place = torch.searchsorted(mass, (uniform_B * mass[:, -1])[:, None], right=True).clamp_(max=logits_BV.shape[1] - 1)
    return token.gather(1, place)[:, 0]
