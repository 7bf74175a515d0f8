"""On a CUDA device: the same scores as on the CPU, and a 1.1-billion-parameter model of random weights end to end.

    python -m pytest -m gpu -s tests/attribution/test_gpu.py

Prints seconds and peak memory of each phase. Skipped where there is no device; layers are left out, and the printed line says
so, where its memory is below 64 GB. Not covered: several devices.
"""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from leaven.attribution.coding import Coding
from leaven.attribution.factors import Damping, fit_factors
from leaven.attribution.filling import fill
from leaven.attribution.pairs import pairs
from leaven.attribution.passes import Tracked
from leaven.attribution.queries import query_gradients, single_queries
from leaven.attribution.scores import ekfac_targets, text_scores
from leaven.attribution.store import Identity, Store
from leaven.attribution.texts import Text
from leaven.core.rng import rng

transformers = pytest.importorskip("transformers")
from leaven.lm.hf import HfTrainable  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
WHOLE_BYTES = 64e9


def opened(device: str, **sizes: int) -> HfTrainable:
    """Return a Llama of random weights."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**sizes, initializer_range=0.02, max_position_embeddings=2048)
    return HfTrainable(transformers.AutoModelForCausalLM.from_config(config).to(device), SimpleNamespace(vocab_size=1))


def drawn(n: int, tokens: int, vocab: int, seed: int) -> list[Text]:
    """Return texts of one of eight words' neighbourhoods each, with a prompt without loss."""
    draw = rng(seed, "gpu-texts")
    found = []
    for k in range(n):
        ids = (int(draw.integers(8)) * vocab // 10 + draw.integers(0, vocab // 5, tokens)) % vocab
        learn = np.ones(tokens, np.float32)
        learn[: tokens // 4] = 0
        found.append(Text(example=f"{seed}-{k}", ids=ids, learn=learn))
    return found


@pytest.mark.parametrize("modules", ["mlp", "linear"])
def test_scores_are_those_of_the_cpu(modules):
    sizes = {
        "vocab_size": 256, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    }  # fmt: skip
    found = []
    for device in ("cpu", "cuda"):
        tracked = Tracked(opened(device, **sizes), modules)
        train, queries = drawn(48, 40, 256, 0), single_queries(drawn(4, 40, 256, 1))
        factors = fit_factors(tracked, train)
        targets = ekfac_targets([q.name for q in queries], query_gradients(tracked, queries), factors, Damping())
        found.append(text_scores(tracked, train, targets))
    assert min(spearmanr(a, b).statistic for a, b in zip(*found, strict=True)) > 0.999


def test_a_billion_parameters_end_to_end(tmp_path, capsys):
    sizes = {
        "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
        "num_attention_heads": 32, "num_key_value_heads": 4,
    }  # fmt: skip
    model = opened("cuda", **sizes)
    assert sum(p.numel() for p in model.module.parameters()) > 1e9
    free = torch.cuda.mem_get_info()[0]
    layers = None if free > WHOLE_BYTES else range(4)
    tracked = Tracked(model, "mlp", layers, dtype="bf16")
    train, queries = drawn(64, 512, 32000, 0), single_queries(drawn(2, 512, 32000, 1))
    phases: list[str] = []

    def phase(name: str, began: float) -> None:
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() / 1e9
        phases.append(f"{name}: {time.perf_counter() - began:.1f} s, peak {peak:.1f} GB")
        torch.cuda.reset_peak_memory_stats()

    began = time.perf_counter()
    store = Store.create(tmp_path / "store", Identity("random", "mlp", "bf16", "empirical", 0), Coding(), 0)
    assert fill(store, tracked, train, keep_batches=False, batch_tokens=8192) == len(train)
    phase("store of gradients", began)
    began = time.perf_counter()
    factors = store.factors()
    gradients = query_gradients(tracked, queries, bases=store.bases)
    weighted = factors.weigh(gradients, factors.damping(Damping()))
    stored = np.concatenate([s for _, s in store.score(weighted)], 1) / factors.n_texts
    phase("queries and scores from the store", began)
    began = time.perf_counter()
    targets = ekfac_targets([q.name for q in queries], query_gradients(tracked, queries), factors, Damping())
    streamed = pairs(tracked, train, targets, keep=2, batch_tokens=8192)
    phase("scores and tokens in one pass", began)
    for pair in streamed:
        tokens = pair.tokens["position"]
        assert abs(tokens.sum() - pair.score) < 0.02 * np.abs(tokens).sum()
    assert np.isfinite(stored).all() and stored.std() > 0
    with capsys.disabled():
        tracks = f"{len(tracked.names())} of {3 * sizes['num_hidden_layers']} MLP layers tracked"
        print(f"\n1.1 billion parameters, {tracks}, {len(train)} x 512 tokens, {torch.cuda.get_device_name()}: " + "; ".join(phases))
