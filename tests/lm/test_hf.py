"""Local Hugging Face folders: parity with the embedded model, and training and decoding on four architectures."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest
import torch

from leaven.core.step import Resources
from leaven.core.tables import CURVE, read_table
from leaven.core.types import Generate, Score, Segment
from leaven.data.tokenise import load_tokens
from leaven.data.tokenizer import Tokenizer
from leaven.errors import BackendError, MissingExtraError
from leaven.lm.backend import Row, open_backend

transformers = pytest.importorskip("transformers")
from leaven.lm.hf import HfBackend  # noqa: E402

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
CONFIGS = {
    "llama": lambda v: transformers.LlamaConfig(
        vocab_size=v, intermediate_size=64, num_key_value_heads=2, tie_word_embeddings=True, **SIZES
    ),
    "qwen2": lambda v: transformers.Qwen2Config(vocab_size=v, intermediate_size=64, num_key_value_heads=2, **SIZES),
    "mistral": lambda v: transformers.MistralConfig(
        vocab_size=v, intermediate_size=64, num_key_value_heads=2, sliding_window=64, **SIZES
    ),
    "gpt2": lambda v: transformers.GPT2Config(vocab_size=v, n_embd=32, n_layer=2, n_head=4, n_positions=128),
}
HF = {"kind": "hf"}


def ask(question: str) -> tuple[Segment, ...]:
    return (Segment(kind="template", text="<|user|>"), Segment(kind="prompt", text=f"apply {question} to the list"))


@pytest.fixture(params=sorted(CONFIGS))
def brought(request, toy, tmp_path):
    """A folder with random weights of one architecture, as a user would bring it."""
    torch.manual_seed(0)
    folder = tmp_path / "brought"
    config = CONFIGS[request.param](Tokenizer.load(toy.tokenizer).vocab_size)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(toy.tokenizer / name, folder / name)
    return folder


def losses(folder):
    return read_table(folder / "curve.parquet", CURVE)["loss"].to_numpy()


def test_trains_resumably_and_packing_changes_nothing(brought, make_order, run_train, spec_of, request):
    spec = spec_of() | {"model": HF}
    if "gpt2" in request.node.name:  # dropout draws differ between packed and separate rows
        config = transformers.AutoConfig.from_pretrained(brought)
        config.attn_pdrop = config.embd_pdrop = config.resid_pdrop = 0.0
        config.save_pretrained(brought)
    whole = run_train(make_order(8), spec, "whole", init=brought)
    packed = run_train(make_order(8, pack_tokens=120, name="packed"), spec, "packed-out", init=brought)
    assert np.allclose(losses(whole), losses(packed), atol=1e-4)
    assert losses(whole)[-1] < 0.9 * losses(whole)[0]
    first = run_train(make_order(5, name="short"), spec, "short-out", init=brought)
    rest = run_train(make_order(8, name="long"), spec, "rest", **{"continue": first})
    assert np.array_equal(losses(rest), losses(whole))
    a, b = (transformers.AutoModelForCausalLM.from_pretrained(f).state_dict() for f in (rest, whole))
    assert all(torch.equal(v, b[k]) for k, v in a.items())


def test_decodes_and_scores_like_the_whole_model(brought):
    backend = open_backend(brought)
    assert isinstance(backend, HfBackend)
    requests = [
        Generate(prompt=ask(q), max_new_tokens=9 + n)
        for n, q in enumerate(("swap", "head then tail then left", "first"))
    ]
    model = backend.model.module
    for request, samples in zip(requests, backend.generate(requests, 0), strict=True):
        ids = backend.tokenizer.encode_segments(request.prompt).ids.tolist()
        n = len(ids)
        with torch.no_grad():
            while len(ids) - n < request.max_new_tokens and (len(ids) == n or ids[-1] != backend.tokenizer.end_id):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert samples[0].n_tokens == len(ids) - n
        assert samples[0].text == backend.tokenizer.decode([i for i in ids[n:] if i != backend.tokenizer.end_id])
        logp = (
            torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)[n - 1 : -1]
            .gather(1, torch.tensor(ids[n:])[:, None])
            .sum()
        )
        assert np.isclose(samples[0].logprob_nats, logp.item(), atol=1e-4)
    score = backend.score([Score(prompt=ask("swap"), target=(Segment(kind="code", text="return swap"),))])[0]
    assert score.n_tokens > 0 and score.logprob_nats < 0


def test_llama_equals_the_embedded_backend(make_order, run_train, spec_of, toy, tmp_path):
    order = make_order(12)
    spec = spec_of({"heads": 4, "kv_heads": 2})
    start = run_train(order, spec, "start")
    ours, theirs = open_backend(start), HfBackend.open(start, Resources())
    table = load_tokens(toy.tokens)
    rows = [Row(np.array(table.ids(e)), np.array(table.learn(e))) for e in toy.lengths["example"][:4]]
    for a, b in zip(
        ours.token_logprobs([r.ids for r in rows]), theirs.token_logprobs([r.ids for r in rows]), strict=True
    ):
        assert np.allclose(a, b, atol=1e-5)
    expected = theirs.gradients(rows)
    assert ours.gradients(rows).keys() == expected.keys()
    for name, value in ours.gradients(rows).items():
        assert torch.allclose(value, expected[name], atol=1e-5), name
    requests = [
        Generate(prompt=ask("swap then last"), max_new_tokens=20),
        Generate(prompt=ask("left"), n=3, temperature=1.0),
    ]
    texts = [[s.text for s in samples] for samples in ours.generate(requests, 3)]
    assert texts == [[s.text for s in samples] for samples in theirs.generate(requests, 3)]
    more = make_order(6, name="more", examples=list(range(48)))
    a, b = run_train(more, spec, "ours", init=start), run_train(more, spec | {"model": HF}, "theirs", init=start)
    assert np.allclose(losses(a), losses(b), atol=1e-5)
    x, y = (transformers.AutoModelForCausalLM.from_pretrained(f).state_dict() for f in (a, b))
    assert all(torch.allclose(v, y[k], atol=1e-4) for k, v in x.items())


def test_dropout_is_resumable(toy, tmp_path, make_order, run_train, spec_of):
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(CONFIGS["gpt2"](Tokenizer.load(toy.tokenizer).vocab_size)).save_pretrained(
        tmp_path / "gpt2"
    )
    spec = spec_of() | {"model": HF}
    whole = run_train(make_order(6), spec, "whole", init=tmp_path / "gpt2")
    first = run_train(make_order(3, name="short"), spec, "first", init=tmp_path / "gpt2")
    rest = run_train(make_order(6, name="long"), spec, "rest", **{"continue": first})
    assert np.array_equal(losses(whole), losses(rest))


def test_what_cannot_be_loaded_is_named(tmp_path, toy, monkeypatch, brought):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"leaven\[hf\]"):
        open_backend(brought)
    monkeypatch.undo()
    (brought / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(BackendError, match="can load, SafetensorError"):
        open_backend(brought)


def test_soft_capped_heads_and_foreign_tokenizers_are_refused(tmp_path, toy):
    config = transformers.Gemma2Config(
        vocab_size=Tokenizer.load(toy.tokenizer).vocab_size, intermediate_size=64, num_key_value_heads=2, head_dim=8,
        final_logit_softcapping=0.5, **SIZES
    )  # fmt: skip
    for name, bad in (("capped", config), ("small", CONFIGS["llama"](8))):
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(bad).save_pretrained(tmp_path / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(toy.tokenizer / file, tmp_path / name / file)
    with pytest.raises(BackendError, match="one linear map"):
        open_backend(tmp_path / "capped")
    with pytest.raises(BackendError, match="at least"):
        open_backend(tmp_path / "small")
