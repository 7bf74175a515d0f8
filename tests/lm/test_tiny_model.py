"""The embedded model: parameter counts, both kernel forms, packing, and parity with transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from leaven.errors import StudyError
from leaven.lm.checkpoints import load_tiny, save_tiny
from leaven.lm.tiny_model import TinyConfig, document_mask, init_tiny

SHAPES = [
    {"width": 32, "layers": 2, "heads": 4, "max_tokens": 64},
    {"width": 48, "layers": 1, "heads": 4, "kv_heads": 2, "ffn": 100, "max_tokens": 64, "tie": True},
]


def model_of(shape: dict, vocab: int = 37):
    model = init_tiny(TinyConfig.from_spec(shape, vocab), seed=3)
    with torch.no_grad():
        for p in model.parameters():  # far from the small initial values, so that errors in any part show
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model


@pytest.mark.parametrize("shape", SHAPES)
def test_parameter_formula(shape):
    model = model_of(shape)
    assert sum(p.numel() for p in model.parameters()) == model.config.n_parameters()


def test_quickstart_shape_has_163k_parameters():
    config = TinyConfig.from_spec({"width": 64, "layers": 3, "heads": 4, "max_tokens": 96, "tie": False}, 170)
    assert 0.15e6 < config.n_parameters() < 0.18e6


@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_loads_the_folder_with_the_same_logits(shape, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    model = model_of(shape)
    save_tiny(tmp_path, model, dict(model.named_parameters()), end_id=1, pad_id=0)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.randint(0, 37, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, model(ids), atol=1e-5)
        assert torch.allclose(load_tiny(tmp_path)(ids), model(ids), atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_fast_and_plain_kernels_agree_in_values_and_gradients(shape):
    model = model_of(shape)
    ids = torch.randint(0, 37, (3, 20), generator=torch.Generator().manual_seed(0))
    results = {}
    for kernels in ("fast", "plain"):
        model.kernels = kernels
        model.zero_grad()
        logits = model(ids)
        logits.square().mean().backward()
        results[kernels] = [logits.detach()] + [p.grad.clone() for p in model.parameters()]
    for fast, plain in zip(results["fast"], results["plain"], strict=True):
        assert torch.allclose(fast, plain, atol=1e-5, rtol=1e-4)


def test_packed_documents_see_only_themselves():
    model = model_of(SHAPES[1])
    first, second = torch.arange(5)[None] + 3, torch.arange(9)[None] + 11
    packed = torch.cat([first, second], 1)
    positions = torch.tensor([[*range(5), *range(9)]])
    mask = document_mask(torch.tensor([[0] * 5 + [1] * 9]), torch.float32)
    with torch.no_grad():
        logits = model(packed, positions, mask)
        assert torch.allclose(logits[:, :5], model(first), atol=1e-5)
        assert torch.allclose(logits[:, 5:], model(second), atol=1e-5)


def test_overfits_one_batch():
    model = init_tiny(TinyConfig.from_spec(SHAPES[0], 37), seed=0)
    ids = torch.randint(0, 37, (4, 16), generator=torch.Generator().manual_seed(0))
    adam = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert loss.item() < 0.01


def test_a_width_that_does_not_divide_is_named():
    with pytest.raises(StudyError, match="width 30"):
        TinyConfig.from_spec({"width": 30, "layers": 1, "heads": 4, "max_tokens": 8}, 10)
