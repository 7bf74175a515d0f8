"""`transformers serve` with a model that leaven trained, as the teacher of a synthesis: alone, and behind a server that injects faults."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import leaven
from leaven.core.step import Resources, StepContext
from leaven.core.tables import write_examples
from leaven.core.types import Example
from leaven.data.build import build_order
from leaven.data.dialogue import prompt_text, reply_text
from leaven.data.tokenise import tokenise
from leaven.data.tokenizer import train_tokenizer
from leaven.errors import BackendError
from leaven.lm.loop import train

pytestmark = pytest.mark.slow  # half a minute: a model is trained, a server imports transformers
pytest.importorskip("uvicorn", reason="transformers serve needs: pip install 'transformers[serving]'")
pytest.importorskip("fastapi")
pytest.importorskip("openai")

TASKS = {  # question -> code of the reply that the model learns; the second is wrong, the third lacks its tests
    "Write a function double(n) that returns twice a number.": "def double(n):\n    return n * 2\n",
    "Write a function last(xs) that returns the last item of a list.": "def last(xs):\n    return xs[0]\n",
    "Write a function first(xs) that returns the first item of a list.": "def first(xs):\n    return xs[0]\n",
}
ASSERTS = ("assert double(1) == 2\nassert double(3) == 6", "assert last([1]) == 1\nassert last([1, 2]) == 2", "")
TEMPLATE = ("{%- for m in messages -%}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{%- endfor -%}"
            "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}")  # fmt: skip


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


FaultyServer = _load("faulty_server").FaultyServer


def reply_to(question: str, code: str, asserts: str) -> str:
    whole = reply_text("We return what the task asks for.", code, (asserts,))
    return whole if asserts else whole.split("[Test]")[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model that has learned three replies by heart, with a chat template of leaven's own markers."""
    root, ctx = tmp_path_factory.mktemp("teacher"), StepContext(runtime=Resources(threads=1, checkpoint_seconds=1e9))
    for name in ("examples", "tokenizer", "tokens", "order"):
        (root / name).mkdir()
    examples = [
        Example(id=str(i), source="s", question=prompt_text(q, "", False, 2), answer=reply_to(q, code, ASSERTS[i]))
        for i, (q, code) in enumerate(TASKS.items())
    ]
    form = "answer_only"
    write_examples(root / "examples" / "examples.parquet", examples)
    train_tokenizer({"kind": "bpe", "vocab_size": 512, "formats": [form]}, {"s": root / "examples"}, root / "tokenizer", ctx)
    tokenise({"source": "s", "format": form}, {"examples": root / "examples", "tokenizer": root / "tokenizer"}, root / "tokens", ctx)
    order = {"stage": "sft", "seed": 0, "mixture": {"s": 1}, "formats": {"s": form}, "budget": {"steps": 200}, "batch": 3,
             "max_tokens": 512, "repeat": "repeat"}  # fmt: skip
    build_order(order, {f"s|{form}": root / "tokens"}, root / "order", ctx)
    settings = {"lr": 4e-3, "schedule": "constant", "warmup_steps": 10, "clip": 1.0, "weight_decay": 0.0, "dtype": "fp32"}
    tiny = {"kind": "tiny", "width": 64, "layers": 2, "heads": 2, "max_tokens": 512}
    spec = {"model": tiny, "train": settings, "stage": "sft", "seed": 0, "reset_optimizer": True}
    train(spec, {"order": root / "order", "tokenizer": root / "tokenizer", "tokens:s": root / "tokens"}, root / "model", ctx)
    (root / "model" / "chat_template.jinja").write_text(TEMPLATE)
    return root / "model"


@pytest.fixture(scope="module")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start `transformers serve MODEL` and return its base address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--host", "127.0.0.1", "--port", str(port),
               "--device", "cpu"]  # fmt: skip
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environ) as process:
        try:
            until = time.monotonic() + 400  # five seconds on a free core
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                    break
                except OSError:
                    assert process.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


@pytest.fixture
def spec(tmp_path: Path, model: Path) -> Path:
    rows = [{"instruction": q, "output": ""} for q in TASKS]
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(r | {"output": "?"}) + "\n" for r in rows))
    (tmp_path / "s.yaml").write_text(
        "sources: {tasks: {file: seeds.jsonl, rows: question}}\n"
        "prompt: {code: without, shots: none, asserts: 2}\n"
        f"teacher: {{server: '', model: {model}, max_tokens: 120}}\n"
        "asking: {concurrency: 2, backoff_s: 0.01, timeout_s: 20}\nsplit: {validation: 0}\n"
    )
    return tmp_path / "s.yaml"


def test_a_served_model_teaches(spec: Path, served: str, tmp_path: Path) -> None:
    result = leaven.synthesize(spec, tmp_path / "out", [f"teacher.server={served}"])
    (row,) = result.funnel
    assert (row.total, row.asked, row.answered, row.parsed, row.consistent, row.inconsistent) == (3, 3, 3, 2, 1, 1)
    records = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
    assert [(r["code"], r["consistent"], r["verdicts"]) for r in records] == [
        ("def double(n):\n    return n * 2\n", True, ["pass", "pass"]),
        ("def last(xs):\n    return xs[0]\n", False, ["pass", "fail"]),
    ]
    assert ("tasks", "reply", "no [Test] part", 1) in result.reasons
    assert result.tokens["prompt"] > 300 and result.tokens["reply"] > 100
    again = leaven.synthesize(spec, tmp_path / "out", [f"teacher.server={served}"])
    assert again.now == {"answered": 0, "executed": 0} and again.funnel == result.funnel


def test_faults_on_the_way_change_nothing(spec: Path, served: str, tmp_path: Path) -> None:
    plain = leaven.synthesize(spec, tmp_path / "plain", [f"teacher.server={served}"])
    with FaultyServer({"*": ["429 0.05", "500", "cut", "not json", "reset", "cut chunks", "hang"]}) as between:
        between.forward = served
        faulty = leaven.synthesize(spec, tmp_path / "faulty", [f"teacher.server={between.url}", "asking.timeout_s=8"])
        assert len(between.seen) >= 3 + 7  # more when a loaded machine needs longer than the timeout
    assert faulty.funnel == plain.funnel
    for name in ("records.jsonl", "rejected.jsonl", "examples.parquet"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "faulty" / name).read_bytes()


def test_its_own_words_about_a_model_it_does_not_have(spec: Path, served: str, tmp_path: Path) -> None:
    options = [f"teacher.server={served}", "teacher.model=another", "asking.give_up_after=2"]
    with pytest.raises(BackendError, match="Server is pinned to"):
        leaven.synthesize(spec, tmp_path / "out", options)
    cut = leaven.synthesize(spec, tmp_path / "out", [f"teacher.server={served}", "teacher.max_tokens=5"])
    assert cut.funnel[0].parsed == 0 and ("tasks", "reply", "cut at the token limit", 3) in cut.reasons
