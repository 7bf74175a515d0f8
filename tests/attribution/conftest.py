"""Tiny models and texts with prompts (no loss), uneven lengths and weights, shared by the tests of attribution/."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from leaven.attribution.passes import Tracked
from leaven.attribution.texts import Text
from leaven.core.rng import rng
from leaven.lm.tiny import TinyTrainable
from leaven.lm.tiny_model import TinyConfig, init_tiny

VOCAB = 13


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_texts() -> Callable[..., list[Text]]:
    """Return a function that draws texts: a successor pattern with noise, a prompt without loss, two segments."""

    def make(n: int, seed: int = 0, longest: int = 9, *, prompts: bool = True, noise: float = 0.3) -> list[Text]:
        draw = rng(seed, "attribution-texts")
        texts = []
        for k in range(n):
            size = int(draw.integers(4, longest + 1))
            step = int(draw.integers(1, 4))
            ids = (int(draw.integers(VOCAB)) + step * np.arange(size)) % VOCAB
            ids = np.where(draw.random(size) < noise, draw.integers(VOCAB, size=size), ids)
            learn = np.ones(size, np.float32)
            if prompts:
                learn[: int(draw.integers(1, size - 1))] = 0
            segment = (np.arange(size) >= size // 2).astype(np.int32)
            texts.append(
                Text(
                    example=f"t{seed}-{k:03d}",
                    ids=ids.astype(np.int64),
                    learn=learn,
                    segment=segment,
                    source="toy",
                    format="plain",
                )
            )
        return texts

    return make


@pytest.fixture(scope="session")
def make_model() -> Callable[..., TinyTrainable]:
    """Return a function that makes a two-layer model of about 1,000 tracked parameters, optionally trained a
    little."""

    def make(
        texts: list[Text] = (),
        steps: int = 0,
        seed: int = 0,
        *,
        width: int = 8,
        layers: int = 2,
        ffn: int = 12,
        tie: bool = False,
    ) -> TinyTrainable:
        config = TinyConfig(
            vocab=VOCAB, width=width, layers=layers, heads=2, kv_heads=1, ffn=ffn, max_tokens=32, tie=tie
        )
        module = init_tiny(config, seed)
        with torch.no_grad():  # larger than the training default, so that layers matter from the start
            for parameter in module.parameters():
                if parameter.dim() == 2:
                    parameter.mul_(12.0)
        model = TinyTrainable.__new__(TinyTrainable)
        model.module, model.tokenizer, model.width, model.max_tokens = module, None, width, config.max_tokens
        if steps:
            longest = max(len(t.ids) for t in texts)
            ids, weights = torch.zeros(len(texts), longest, dtype=torch.long), torch.zeros(len(texts), longest)
            for k, text in enumerate(texts):
                ids[k, : len(text.ids)] = torch.from_numpy(text.ids)
                weights[k, : len(text.ids)] = torch.from_numpy(text.learn)
        optimizer = torch.optim.Adam(module.parameters(), lr=5e-3)
        for _ in range(steps):
            optimizer.zero_grad()
            losses = torch.nn.functional.cross_entropy(
                module(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
            )
            (losses * weights[:, 1:].flatten()).sum().div(len(texts)).backward()
            optimizer.step()
        module.zero_grad(set_to_none=True)
        return model

    return make


@pytest.fixture(scope="session")
def tracked(make_model, make_texts) -> Tracked:
    """Return all linear layers of a lightly trained model."""
    return Tracked(make_model(make_texts(16), steps=30), "linear")
