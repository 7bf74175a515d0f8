"""Backends: decoding against a no-cache reference, batch independence, sampling, stops, scores and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from leaven.core.step import Resources
from leaven.core.types import Generate, Score, Segment
from leaven.data.formats import FORMATS, prompt_of
from leaven.data.tokenise import load_tokens
from leaven.data.tokenizer import Tokenizer
from leaven.errors import BackendError
from leaven.lm.backend import FakeBackend, Row, open_backend

QUESTIONS = [
    "reverse",
    "swap then first",
    "head then tail then left then right then double",
    "rotate then rotate",
    "last then first",
]


def prompt(question: str) -> tuple[Segment, ...]:
    return (
        Segment(kind="template", text="<|user|>"),
        Segment(kind="prompt", text=f"apply {question} to the list"),
        Segment(kind="template", text="<|end|><|assistant|>"),
    )


@pytest.fixture
def folder(make_order, run_train, spec_of):
    return run_train(make_order(40, 16), spec_of({"heads": 4, "kv_heads": 2}))


def reference(folder, request: Generate) -> list[int]:
    """Greedy decoding with the whole prefix at every step."""
    from leaven.lm.checkpoints import load_tiny

    model, tokenizer = load_tiny(folder), Tokenizer.load(folder)
    ids = tokenizer.encode_segments(request.prompt).ids.tolist()
    new: list[int] = []
    with torch.no_grad():
        while len(new) < request.max_new_tokens and (not new or new[-1] != tokenizer.end_id):
            new.append(int(model(torch.tensor([ids + new]))[0, -1].argmax()))
    return new


def test_greedy_equals_full_recomputation_and_ignores_the_batch(folder):
    backend = open_backend(folder)
    requests = [Generate(prompt=prompt(q), max_new_tokens=24 + i) for i, q in enumerate(QUESTIONS)]
    together = [samples[0] for samples in backend.generate(requests, seed=0)]
    for request, sample in zip(requests, together, strict=True):
        new = reference(folder, request)
        text = [i for i in new if i != backend.tokenizer.end_id]
        assert sample.text == backend.tokenizer.decode(text) and sample.n_tokens == len(new)
        assert sample.finish == ("stop" if len(new) > len(text) else "length")
        alone = backend.generate([request], seed=0)[0][0]
        assert alone.text == sample.text and np.isclose(alone.logprob_nats, sample.logprob_nats, atol=1e-4)
    assert len({s.text for s in together}) > 1


def test_sampling_is_seeded_and_independent_of_the_batch(folder):
    backend = open_backend(folder)
    request = Generate(prompt=prompt("swap"), max_new_tokens=16, n=5, temperature=1.5, top_p=0.95)
    first = [s.text for s in backend.generate([request], seed=1)[0]]
    assert first == [
        s.text for s in backend.generate([Generate(prompt=prompt("head"), max_new_tokens=30), request], seed=1)[1]
    ]
    assert first != [s.text for s in backend.generate([request], seed=2)[0]]
    assert len(set(first)) > 1
    narrow = Generate(prompt=prompt("swap"), max_new_tokens=16, temperature=1.5, top_p=1e-9)
    greedy = Generate(prompt=prompt("swap"), max_new_tokens=16)
    assert backend.generate([narrow], 0)[0][0].text == backend.generate([greedy], 0)[0][0].text


def test_sampled_frequencies_follow_the_distribution():
    from leaven.lm.decode import _draw

    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).expand(4000, 4)
    uniform = torch.from_numpy(np.random.default_rng(0).random(4000))
    drawn = _draw(logits, torch.full((4000,), 0.7, dtype=torch.float64), torch.ones(4000, dtype=torch.float64), uniform)
    share = torch.bincount(drawn, minlength=4) / 4000
    assert torch.allclose(share, torch.softmax(logits[0] / 0.7, 0), atol=0.02)
    nucleus = _draw(
        logits, torch.ones(4000, dtype=torch.float64), torch.full((4000,), 0.8, dtype=torch.float64), uniform
    )
    assert set(nucleus.tolist()) == {0, 1}


def test_stop_strings_end_the_text(folder):
    backend = open_backend(folder)
    whole = backend.generate([Generate(prompt=prompt(QUESTIONS[2]), max_new_tokens=40)], 0)[0][0].text
    stop = whole.split()[2]
    cut = backend.generate([Generate(prompt=prompt(QUESTIONS[2]), max_new_tokens=40, stop=("never", stop))], 0)[0][0]
    assert cut.text == whole[: whole.index(stop)] and cut.finish == "stop"


def test_scores_match_the_full_softmax(folder, toy):
    backend = open_backend(folder)
    ids = [np.array(load_tokens(toy.tokens).ids(e)) for e in toy.lengths["example"][:6]]
    from leaven.lm.checkpoints import load_tiny

    model = load_tiny(folder)
    for row, values in zip(ids, backend.token_logprobs(ids), strict=True):
        logp = torch.log_softmax(model(torch.tensor(row[None]).long())[0], -1)
        assert np.allclose(values, logp[:-1].gather(1, torch.tensor(row[1:, None]).long())[:, 0].detach(), atol=1e-5)
    requests = [Score(prompt=prompt(q), target=(Segment(kind="code", text="return swap"),)) for q in QUESTIONS]
    for request, sample in zip(requests, backend.score(requests), strict=True):
        encoded = backend.tokenizer.encode_segments([*request.prompt, *request.target])
        values = backend.token_logprobs([encoded.ids])[0]
        n = int((encoded.segment == 3).sum())
        assert sample.n_tokens == n and np.isclose(sample.logprob_nats, values[-n:].sum(), atol=1e-4)


def test_gradients_are_those_of_the_weighted_loss(folder, toy):
    backend = open_backend(folder)
    table = load_tokens(toy.tokens)
    rows = [
        Row(np.array(table.ids(e)), np.array(table.learn(e)), w)
        for e, w in zip(toy.lengths["example"][:3], (1, 0.5, 2), strict=True)
    ]
    found = backend.gradients(rows)
    model = backend.model.module
    top, bottom = 0.0, 0.0
    for row in rows:
        losses = torch.nn.functional.cross_entropy(
            model(torch.tensor(row.ids[None]).long())[0, :-1], torch.tensor(row.ids[1:]).long(), reduction="none"
        )
        weight = torch.tensor(row.weight * row.learn[1:])
        top, bottom = top + (weight * losses).sum(), bottom + weight.sum()
    names = dict(model.named_parameters())
    expected = backend.model.named_for_hf(
        dict(zip(names, torch.autograd.grad(top / bottom, list(names.values())), strict=True))
    )
    assert found.keys() == expected.keys() and "model.layers.0.self_attn.q_proj.weight" in found
    for name in found:
        assert torch.allclose(found[name], expected[name], atol=1e-5), name
    with pytest.raises(BackendError, match="weight x learn"):
        backend.gradients([Row(rows[0].ids, np.zeros_like(rows[0].learn))])


def test_prompts_that_do_not_fit_are_named(folder):
    backend = open_backend(folder, Resources())
    with pytest.raises(BackendError, match="request 0.*127 tokens"):
        backend.generate([Generate(prompt=prompt("swap " * 200))], 0)
    with pytest.raises(BackendError, match="request 0"):
        backend.score([Score(prompt=(), target=(Segment(kind="code", text="swap"),))])


def test_only_local_folders(tmp_path):
    with pytest.raises(BackendError, match="never downloads"):
        open_backend("gpt2")
    with pytest.raises(BackendError, match="no config.json"):
        open_backend(tmp_path)


def test_the_fake_is_deterministic():
    fake = FakeBackend(answers={"2+2?": "4 of course"})
    ask = (Segment(kind="prompt", text="2+2?"),)
    assert fake.generate([Generate(prompt=ask, n=2)], 0)[0][1].text == "4 of course"
    assert fake.generate([Generate(prompt=ask, stop=(" of",))], 0)[0][0].text == "4"
    other = Generate(prompt=(Segment(kind="prompt", text="?"),), n=2, temperature=1.0)
    assert fake.generate([other], 0) == fake.generate([other], 0) != fake.generate([other], 1)
    one, two = fake.score([Score(prompt=ask, target=(Segment(kind="answer", text=t),)) for t in ("4", "5")])
    assert one.logprob_nats != two.logprob_nats and one.n_tokens == 1


def test_prompts_come_from_formats(folder, toy):
    """What a benchmark asks is what the format trained: the prompt part ends where learning begins."""
    from leaven.core.tables import read_examples

    example = next(read_examples(toy.root / "examples" / "examples.parquet"))
    backend = open_backend(folder)
    sample = backend.generate([Generate(prompt=prompt_of(FORMATS.get("thought_code")(example)), max_new_tokens=60)], 0)[
        0
    ][0]
    assert sample.text.startswith("## Reasoning\n") and "<|" not in sample.text
