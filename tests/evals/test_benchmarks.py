"""Benchmarks on rows made here and on the real files: right answers score 1, wrong ones 0, and bits per byte is what it says."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from leaven.core.step import Resources, StepContext
from leaven.core.types import Generate, Item, Sample, Score
from leaven.data.sources.rows import read_rows
from leaven.errors import DataError, StudyError
from leaven.evals.harness import (
    Setting,
    answer,
    gold_bytes,
    gold_request,
    judge_all,
    metrics_of,
    open_benchmark,
    requests_of,
)
from leaven.lm.backend import FakeBackend

FILES = {
    "humaneval": "code_eval/humaneval.jsonl.gz",
    "mbpp": "code_eval/mbpp_sanitized.jsonl.gz",
    "gsm8k": "math/gsm8k_test.jsonl.gz",
    "folio": "logical/folio_v0.jsonl.gz",
}
CTX = StepContext(runtime=Resources(threads=1))


class Told(FakeBackend):
    """A backend that says what it is told: text per item for Generate, -n bits per token for Score."""

    def __init__(self, texts: dict[str, str]) -> None:
        super().__init__()
        self.texts = texts

    def generate(self, requests: Sequence[Generate], seed: int, progress=None) -> list[list[Sample]]:  # type: ignore[no-untyped-def, override]
        prompts = ["".join(s.text for s in r.prompt) for r in requests]
        return [
            [Sample(item="", request=i, text=next(t for q, t in self.texts.items() if q in p), finish="stop")]
            for i, p in enumerate(prompts)
        ]


def judged(name: str, items: list[Item], texts: dict[str, str], setting: Setting | None = None) -> list[float | None]:
    benchmark = open_benchmark(name)
    setting = setting or Setting(format="answer_only", metrics=benchmark.metrics)
    asked = [(i.id, k, r) for i in items for k, r in enumerate(requests_of(benchmark, i, setting))]
    samples: dict[str, list[Sample]] = {}
    for sample in answer(Told(texts), asked, 0):
        samples.setdefault(sample.item, []).append(sample)
    return [v.score for v in judge_all(benchmark, items, samples, setting, CTX)]


def items_of_file(shared_data: Path, name: str, limit: int) -> list[Item]:
    rows = (row.value for row in read_rows(shared_data / FILES[name], limit))
    return list(open_benchmark(name).items(rows, {}))


@pytest.mark.parametrize("name", ["humaneval", "mbpp", "gsm8k"])
def test_golds_of_real_files_score_one_and_wrong_answers_zero(shared_data: Path, name: str) -> None:
    items = items_of_file(shared_data, name, 12)
    golds = {
        i.example.question: f"```python\n{i.example.question if name == 'humaneval' else ''}{i.example.code}\n```"
        if i.example.code
        else i.example.answer
        for i in items
    }
    assert judged(name, items, golds) == [1.0] * len(items)
    wrong = {
        i.example.question: f"```python\ndef {i.example.entry_point}(*a):\n    return 'no'\n```"
        if i.example.code
        else "#### 987654321"
        for i in items
    }
    assert judged(name, items, wrong) == [0.0] * len(items)


@pytest.mark.parametrize("name", sorted(FILES))
def test_every_row_of_the_real_files_is_an_item(shared_data: Path, name: str) -> None:
    items = items_of_file(shared_data, name, 10_000)
    assert len({i.id for i in items}) == len(items) == sum(1 for _ in read_rows(shared_data / FILES[name]))
    setting = Setting(format="answer_only", metrics=("bits_per_byte",))
    for item in items[:20]:
        request = gold_request(item, setting)
        assert "".join(s.text for s in request.target) == item.example.answer
        assert gold_bytes(request) == len(item.example.answer.encode())


def test_bits_per_byte_is_bits_over_utf8_bytes() -> None:
    (item,) = open_benchmark("gsm8k").items([{"question": "q?", "answer": "zwölf #### 12"}], {})
    item = dataclasses.replace(item, benchmark="g")
    setting = Setting(format="answer_only", metrics=("bits_per_byte",))
    (verdict,) = judge_all(
        open_benchmark("gsm8k"),
        [item],
        {item.id: [Sample(item=item.id, request=0, logprob_nats=-7 * math.log(2), n_tokens=3)]},
        setting,
        CTX,
    )
    assert verdict.metric == "bits_per_byte" and verdict.score == pytest.approx(7 / len("zwölf #### 12".encode()))


def test_gold_request_leaves_out_the_end_token_and_outer_markers() -> None:
    (item,) = open_benchmark("mbpp").items(
        [{"task_id": 1, "text": "t", "code": "def f():\n    return 1\n", "test_list": ["assert f() == 1"]}], {}
    )
    request = gold_request(item, Setting(format="code_only"))
    assert "".join(s.text for s in request.target) == item.example.code
    assert request.prompt[-1].text.endswith("```python\n")


@pytest.mark.parametrize("how", ["prior", "tokens", "none"])
def test_labels_follow_the_premises_not_the_prior(how: str) -> None:
    rows = [{"premises": ["A."], "conclusion": "A?", "label": label} for label in ("True", "False", "Unknown")]
    items = list(open_benchmark("folio").items(rows, {}))
    setting = Setting(format="answer_only", metrics=("accuracy",), options={"normalise": how})
    benchmark = open_benchmark("folio")
    prior = {"True": -1.0, "False": -2.0, "Uncertain": -9.0}
    samples = {}
    for item in items:
        requests = [r for r in benchmark.requests(item, setting) if isinstance(r, Score)]
        conditional = [prior[r.label] + 0.5 * (r.label == item.example.answer) for r in requests[:3]]
        bare = [prior[r.label] for r in requests[3:]]
        samples[item.id] = [
            Sample(item=item.id, request=k, logprob_nats=v, n_tokens=1) for k, v in enumerate([*conditional, *bare])
        ]
    right = [v.score for v in judge_all(benchmark, items, samples, setting, CTX)]
    assert right == ([1.0, 1.0, 1.0] if how == "prior" else [1.0, 0.0, 0.0])


def test_texts_without_code_or_answer_are_no_answer_and_score_zero() -> None:
    (item,) = open_benchmark("gsm8k").items([{"question": "q?", "answer": "#### 12"}], {})
    (verdict,) = judge_all(
        open_benchmark("gsm8k"), [item], {item.id: [Sample(item=item.id, request=0, text="")]}, Setting(), CTX
    )
    assert (verdict.status, verdict.score) == ("no_answer", 0.0)


def test_unknown_metrics_options_and_columns_are_refused() -> None:
    with pytest.raises(StudyError, match="accuracy"):
        metrics_of(open_benchmark("gsm8k"), ["bleu"], "measure.x.metrics")
    with pytest.raises(StudyError, match="Did you mean 'humaneval'"):
        open_benchmark("humanevl")
    with pytest.raises(DataError, match="canonical_solution"):
        list(open_benchmark("humaneval").items([{"task_id": "x", "entry_point": "f", "prompt": "p", "test": ""}], {}))
    with pytest.raises(DataError, match="row 1"):
        list(open_benchmark("program").items([{"question": "q"}], {}))


def test_score_of_a_real_model_matches_its_token_logprobs(tmp_path: Path) -> None:
    """The gold's log-likelihood is the sum over exactly its own tokens."""
    from leaven.core.tables import write_examples
    from leaven.core.types import Example
    from leaven.data.tokenizer import Tokenizer, train_tokenizer
    from leaven.lm.backend import open_backend
    from leaven.lm.checkpoints import copy_tokenizer, save_tiny
    from leaven.lm.tiny_model import TinyConfig, init_tiny

    (tmp_path / "s").mkdir()
    write_examples(
        tmp_path / "s/examples.parquet", [Example(id="1", source="s", question="one two", answer="three four five")]
    )
    train_tokenizer({"kind": "bpe", "vocab_size": 300, "formats": None}, {"s": tmp_path / "s"}, tmp_path / "tok", CTX)
    tokenizer = Tokenizer.load(tmp_path / "tok")
    config = TinyConfig.from_spec(
        {"width": 32, "layers": 1, "heads": 2, "max_tokens": 64, "tie": True}, tokenizer.vocab_size
    )
    folder = tmp_path / "m"
    folder.mkdir()
    model = init_tiny(config, 0)
    save_tiny(folder, model, {n: p.detach() for n, p in model.named_parameters()})
    copy_tokenizer(tmp_path / "tok", folder)
    backend = open_backend(folder)
    (item,) = open_benchmark("answer").items([{"id": "1", "question": "one two", "answer": "three four five"}], {})
    request = gold_request(item, Setting(format="answer_only"))
    (sample,) = backend.score([request])
    encoded = tokenizer.encode_segments([*request.prompt, *request.target])
    n = len(tokenizer.encode(item.example.answer))
    (logprobs,) = backend.token_logprobs([np.asarray(encoded.ids)])
    assert sample.n_tokens == n and sample.logprob_nats == pytest.approx(float(logprobs[-n:].sum()), abs=1e-4)


@pytest.mark.parametrize("tie", [True, False])
def test_planned_parameters_are_the_models(tie: bool) -> None:
    from leaven.engine.cost import parameter_counts
    from leaven.lm.tiny_model import TinyConfig

    for width, ffn in ((32, None), (64, None), (96, 128), (128, None)):
        spec = {"width": width, "layers": 3, "heads": 4, "ffn": ffn, "max_tokens": 64, "tie": tie}
        assert parameter_counts(spec, 500)[0] == TinyConfig.from_spec(spec, 500).n_parameters()


def test_a_benchmark_that_breaks_its_contract_is_named() -> None:
    from leaven.evals.harness import BENCHMARKS

    class Half:
        metrics = ("accuracy",)

    BENCHMARKS("half")(Half)
    with pytest.raises(StudyError, match="lacks items, requests, judge"):
        open_benchmark("half", "measure.x")

    class Strange(type(open_benchmark("gsm8k"))):  # type: ignore[misc]
        def judge(self, item, outputs, setting):  # type: ignore[no-untyped-def]
            found = super().judge(item, outputs, setting)
            return [dataclasses.replace(v, metric="acuracy") for v in found] if item.id.endswith("0") else None

    items = list(Strange().items([{"question": "q", "answer": "#### 1"}, {"question": "r", "answer": "#### 1"}], {}))
    for item, words in zip(items, ("Did you mean 'accuracy'", "must return a list"), strict=True):
        with pytest.raises(StudyError, match=words):
            list(judge_all(Strange(), [item], {item.id: [Sample(item=item.id, request=0, text="1")]}, Setting(), CTX))
