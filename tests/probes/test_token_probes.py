"""Perplexity, loss and divergence: by hand on models that can be read off, by explicit loops on every backend."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
import torch

from leaven.core.step import Resources, StepContext
from leaven.errors import BackendError, DataError, Interrupted, StudyError
from leaven.lm.backend import open_backend
from leaven.lm.checkpoints import copy_tokenizer, save_tiny
from leaven.lm.tiny_model import TinyConfig, TinyModel
from leaven.probes import divergence, loss, perplexity
from leaven.probes.divergence import kl_of_logits
from leaven.probes.held_out import Shown, show


def pick(values: pl.DataFrame, **where: str) -> pl.DataFrame:
    return values.filter(*(pl.col(k) == v for k, v in where.items()))


def one(values: pl.DataFrame, **where: str) -> float:
    found = pick(values, **where)
    assert found.height == 1, found
    return found["value"][0]


@pytest.fixture
def unigram(toy, tmp_path):
    """A folder of a model whose next-token distribution never depends on the text, and its logits float64[V]."""
    vocab = toy.tokenizer.vocab_size
    model = TinyModel(TinyConfig(vocab=vocab, width=2, layers=1, heads=1, kv_heads=1, ffn=4, max_tokens=256))
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embedding.weight[:] = torch.tensor([1.0, 0.0])  # every token is one vector; layers add nothing
        model.norm.weight[:] = 1.0
        model.head.weight[:, 0] = logits / math.sqrt(2)  # the norm makes (sqrt 2, 0) of (1, 0)
    save_tiny(tmp_path / "unigram", model, dict(model.named_parameters()))
    copy_tokenizer(toy.tokenizer_folder, tmp_path / "unigram")
    return tmp_path / "unigram", logits.double()


def test_perplexity_of_a_unigram_model_by_hand(measure, toy, unigram):
    folder, logits = unigram
    nats = -torch.log_softmax(logits, 0).numpy()
    values = measure(perplexity.measure, {"model": folder})
    for example in toy.examples:
        means = {}
        for part in ("thought", "code"):
            # formats tokenise thought by line and this code as one signature and one body
            text = example.thought.splitlines(keepends=True) if part == "thought" else example.code.split("\n", 1)
            pieces = text if part == "thought" else [text[0] + "\n", text[1]]
            means[part] = np.mean([nats[i] for piece in pieces for i in toy.tokenizer.encode(piece)])
            assert one(values, example=example.id, part=part, name="perplexity") == pytest.approx(math.exp(means[part]), rel=1e-5)
        gap = math.exp(means["thought"]) - math.exp(means["code"])
        assert one(values, example=example.id, name="gap") == pytest.approx(gap, rel=1e-3, abs=1e-4)
        assert one(values, example=example.id, name="gap_nats") == pytest.approx(means["thought"] - means["code"], abs=1e-5)


def prefix_losses(backend, ids):
    """Return nats of every token from its prefix alone, one call per token."""
    found = [0.0]
    for t in range(1, len(ids)):
        logits = backend.logits(ids[:t], np.array([t - 1]))[0].double()
        found.append(-float(torch.log_softmax(logits, 0)[ids[t]]))
    return np.array(found)


def test_parts_equal_an_explicit_loop_over_prefixes(measure, toy, kind):
    folder = toy.model(kind)
    perplexities, losses = (measure(step.measure, {"model": folder}, limit=3) for step in (perplexity, loss))
    backend = open_backend(folder)
    for shown in show(toy.examples[:3], "thought_code", toy.tokenizer, 256)[0]:
        nats = prefix_losses(backend, shown.ids)
        for part in ("thought", "code"):
            wanted = nats[shown.tokens(part)].mean()
            row = pick(perplexities, example=shown.example, part=part, name="nats")
            assert row["value"][0] == pytest.approx(wanted, rel=1e-4) and row["n_tokens"][0] == shown.tokens(part).sum()
            assert one(losses, example=shown.example, part=part) == pytest.approx(wanted, rel=1e-4)
        assert one(losses, example=shown.example, part="response") == pytest.approx(nats[shown.learn > 0].mean(), rel=1e-4)


def test_exchanging_the_order_exchanges_the_roles(measure, toy):
    first, second = (measure(perplexity.measure, format=f) for f in ("thought_code", "code_thought"))
    roles = {f: set(pick(v, name="nats").select("part", "other").iter_rows()) for f, v in (("tc", first), ("ct", second))}
    assert roles["tc"] == {("thought", "prompt"), ("code", "prompt+thought")}
    assert roles["ct"] == {("code", "prompt"), ("thought", "prompt+code")}
    counts = [v.filter(pl.col("name") == "nats").sort("example", "part")["n_tokens"].to_list() for v in (first, second)]
    assert counts[0] == counts[1]  # the same tokens are scored in either order
    for values, gap in ((first, ("thought", "code")), (second, ("code", "thought"))):
        assert set(pick(values, name="gap").select("part", "other").iter_rows()) == {gap}


def test_what_counts_as_a_part(measure, toy):
    plain, marked, finer = (
        measure(perplexity.measure, limit=1, **options) for options in ({}, {"markers": "include"}, {"by": "part"})
    )
    n = {name: pick(v, name="nats").select("part", "n_tokens") for name, v in (("plain", plain), ("marked", marked))}
    plain_tokens, marked_tokens = (dict(n[k].iter_rows()) for k in ("plain", "marked"))
    assert all(marked_tokens[p] > plain_tokens[p] for p in ("thought", "code"))
    assert set(finer["part"]) == {"thought.step", "code.signature", "code.body"}
    code = pick(finer, name="nats").filter(pl.col("part").str.starts_with("code"))
    assert code["n_tokens"].sum() == plain_tokens["code"]


def test_loss_equals_transformers(measure, toy, kind):
    transformers = pytest.importorskip("transformers")
    folder = toy.model(kind)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    values = measure(loss.measure, {"model": folder}, limit=2)
    for shown in show(toy.examples[:2], "thought_code", toy.tokenizer, 256)[0]:
        labels = torch.from_numpy(np.where(shown.learn > 0, shown.ids, -100))[None]
        wanted = model(torch.from_numpy(shown.ids)[None], labels=labels).loss.item()
        assert one(values, example=shown.example, part="response") == pytest.approx(wanted, rel=1e-4)


def test_kl_of_a_two_token_vocabulary_by_hand():
    p, q = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.5, 0.5]])
    wanted = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert float(kl_of_logits(p.log(), q.log())) == pytest.approx(wanted)
    assert float(kl_of_logits(q.log(), p.log())) == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1))
    certain = torch.tensor([[0.0, -math.inf]])
    assert float(kl_of_logits(certain, q.log())) == pytest.approx(math.log(2))


def test_divergence_equals_loops_and_vanishes_from_itself(measure, toy, kind):
    model, base = toy.model(kind), toy.model(kind, 1)
    same = measure(divergence.measure, {"model": model, "base": model}, limit=2)
    assert same["value"].abs().max() == 0
    values = measure(divergence.measure, {"model": model, "base": base}, limit=2)
    assert (values["value"] > 0).all()
    back = measure(divergence.measure, {"model": base, "base": model}, limit=2)
    ours, theirs = open_backend(model), open_backend(base)
    for shown in show(toy.examples[:2], "thought_code", toy.tokenizer, 256)[0]:
        for part in ("response", "thought", "code"):
            total = []
            for t in np.flatnonzero(shown.learned(part)):
                p, q = (torch.softmax(m.logits(shown.ids, np.array([t - 1]))[0].double(), 0).tolist() for m in (ours, theirs))
                total.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))
            assert one(values, example=shown.example, part=part, name="kl") == pytest.approx(np.mean(total), rel=1e-4)
            reverse = one(values, example=shown.example, part=part, name="kl_reverse")
            assert reverse == pytest.approx(one(back, example=shown.example, part=part, name="kl"), rel=1e-9)


def test_divergence_says_what_is_missing_or_does_not_fit(measure, toy, tmp_path):
    with pytest.raises(StudyError, match="'base'.*from scratch"):
        measure(divergence.measure)
    with pytest.raises(BackendError, match="context 32"):
        measure(divergence.measure, {"base": toy.model("tiny", 0, 32)})
    config = TinyConfig(vocab=toy.tokenizer.vocab_size + 5, width=4, layers=1, heads=1, kv_heads=1, ffn=4, max_tokens=256)
    model = TinyModel(config)
    save_tiny(tmp_path / "wide", model, dict(model.named_parameters()))
    copy_tokenizer(toy.tokenizer_folder, tmp_path / "wide")
    with pytest.raises(BackendError, match="one vocabulary"):
        measure(divergence.measure, {"base": tmp_path / "wide"})


def test_examples_that_cannot_be_shown_are_counted(toy):
    long = toy.examples[0].__class__(id="long", source="toy", question="apply", thought="word " * 400, code="x = 1\n")
    bare = toy.examples[0].__class__(id="bare", source="toy", question="apply", code="x = 1\n")
    shown, counts = show([*toy.examples, long, bare], "thought_code", toy.tokenizer, 256)
    assert [s.example for s in shown] == [e.id for e in toy.examples]
    assert counts == {"n_examples": 14, "n_shown": 12, "n_too_long": 1, "n_without_field": 1, "n_without_response": 0}
    with pytest.raises(DataError, match="'p00' twice"):
        show([toy.examples[0]] * 2, "thought_code", toy.tokenizer, 256)
    assert isinstance(shown[0], Shown) and shown[0].learned_parts() == ("thought", "code")


def test_nothing_to_show_and_a_stop_are_said(measure, toy, tmp_path):
    with pytest.raises(DataError, match="n_without_field': 12"):
        measure(loss.measure, format="thought_answer")
    stopping = StepContext(runtime=Resources(), stop=lambda: True)
    with pytest.raises(Interrupted):
        loss.measure({"format": "thought_code"}, {"model": toy.model(), "examples": toy.folder}, tmp_path, stopping)
