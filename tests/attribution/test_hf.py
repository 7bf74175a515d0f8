"""Hugging Face architectures from random weights: text gradients, factors and both decompositions as for the embedded
model."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from leaven.attribution import exact
from leaven.attribution.factors import Damping, fit_factors
from leaven.attribution.pairs import pairs
from leaven.attribution.passes import Tracked
from leaven.attribution.queries import query_gradients, single_queries
from leaven.attribution.scores import ekfac_targets, text_scores
from leaven.attribution.texts import make_batches
from leaven.errors import BackendError, StudyError

transformers = pytest.importorskip("transformers")
from leaven.lm.hf import HfTrainable  # noqa: E402

SIZES = {
    "vocab_size": 13,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,
}
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES),
    "mistral": lambda: transformers.MistralConfig(**SIZES),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=13, n_embd=8, n_layer=2, n_head=2, n_positions=32, n_inner=12, initializer_range=0.3
    ),
}


def opened(config):
    """Return a model with random weights as lm/hf.py would open it."""
    torch.manual_seed(0)
    return HfTrainable(transformers.AutoModelForCausalLM.from_config(config), SimpleNamespace(vocab_size=13))


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_gradients_and_sums_on_every_architecture(name, make_texts):
    tracked, texts = Tracked(opened(CONFIGS[name]()), "linear"), make_texts(5)
    assert len(tracked.names()) == (8 if name == "gpt2" else 14)
    wanted = exact.gradients(tracked, texts)
    for layout in ({}, {"pack_tokens": 20}):
        found = torch.zeros_like(wanted)
        for batch in make_batches(texts, 32, **layout):
            seen = tracked.backward(batch)
            found[batch.numbers] = exact.flatten(tracked, {n: seen.text_gradients(n) for n in tracked.names()})
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    queries = make_texts(2, seed=8)
    gradients = query_gradients(tracked, single_queries(queries))
    targets = ekfac_targets(["a", "b"], gradients, fit_factors(tracked, texts), Damping())
    scores = text_scores(tracked, texts, targets)
    for pair in pairs(tracked, texts, targets, decompositions=("position", "loss")):
        for values in pair.tokens.values():
            assert values.sum() == pytest.approx(
                scores[pair.query, pair.text], rel=1e-4, abs=1e-6 * np.abs(values).sum()
            )


def test_mlp_layers_are_found_by_name(make_texts):
    llama = Tracked(opened(CONFIGS["llama"]()), "mlp").names()
    assert [n.rsplit(".", 1)[1] for n in llama[:3]] == ["gate_proj", "up_proj", "down_proj"] and len(llama) == 6
    assert [n.rsplit(".", 1)[1] for n in Tracked(opened(CONFIGS["gpt2"]()), "mlp", layers=[1]).names()] == [
        "c_fc",
        "c_proj",
    ]
    with pytest.raises(StudyError, match="found none"):
        Tracked(opened(CONFIGS["gpt2"]()), "mlp", layers=[7])


def test_layers_with_one_input_share_its_covariance(make_texts):
    tracked = Tracked(opened(CONFIGS["qwen2"]()), "linear")
    blocks = fit_factors(tracked, make_texts(4)).blocks
    for layer in ("model.layers.0.", "model.layers.1."):
        query, key, value = (blocks[f"{layer}self_attn.{p}_proj"].q_in for p in "qkv")
        assert query is key is value and query.shape == (9, 9)  # with the bias column
        assert blocks[f"{layer}mlp.gate_proj"].q_in is blocks[f"{layer}mlp.up_proj"].q_in


def test_experts_and_tied_heads_are_refused():
    sizes = {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}
    experts = transformers.MixtralConfig(**sizes, num_key_value_heads=1, num_local_experts=2, num_experts_per_tok=1)
    with pytest.raises(BackendError, match="mixture of experts"):
        Tracked(opened(experts), "mlp")
    with pytest.raises(BackendError, match="tied"):
        Tracked(opened(CONFIGS["gpt2"]()), "linear+head")
