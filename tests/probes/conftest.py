"""Small functions to write, a tokenizer, and models of every backend (embedded, Llama, GPT-2) with random weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import torch

from leaven.core.rng import rng
from leaven.core.step import Resources, StepContext
from leaven.core.tables import PROBE_VALUES, read_table, write_examples
from leaven.core.types import Example
from leaven.data.tokenizer import Tokenizer, train_tokenizer
from leaven.lm.checkpoints import copy_tokenizer, save_tiny
from leaven.lm.tiny_model import TinyConfig, init_tiny

QUIET = StepContext(runtime=Resources(threads=1))
NAMES = "reverse swap rotate first last head tail left right double".split()
ARCHITECTURES = ("tiny", "llama", "gpt2")


def problems(n: int, seed: int = 0) -> list[Example]:
    """Return `n` examples of varied length whose code follows from the question."""
    draw = rng(seed, "probe-problems")
    result = []
    for i in range(n):
        names = [NAMES[k] for k in draw.integers(len(NAMES), size=int(draw.integers(1, 4)))]
        result.append(
            Example(
                id=f"p{i:02d}",
                source="toy",
                question=f"apply {' then '.join(names)} to the list",
                thought="".join(f"{k}. Take {name} of it.\n" for k, name in enumerate(names, 1)),
                code="def f(x):\n" + "".join(f"    x = {name}(x)\n" for name in names) + "    return x\n",
                entry_point="f",
            )
        )
    return result


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Return 12 examples, their folder, a tokenizer folder and a function that makes model folders."""
    root = tmp_path_factory.mktemp("probes")
    for name in ("examples", "tokenizer"):
        (root / name).mkdir()
    examples = problems(12)
    write_examples(root / "examples" / "examples.parquet", examples)
    train_tokenizer(
        {"kind": "bpe", "vocab_size": 340, "formats": ["thought_code"]},
        {"toy": root / "examples"},
        root / "tokenizer",
        QUIET,
    )
    tokenizer = Tokenizer.load(root / "tokenizer")
    made: dict[tuple[str, int], Path] = {}

    def model(kind: str = "tiny", seed: int = 0, max_tokens: int = 256) -> Path:
        key = (kind, seed) if max_tokens == 256 else (f"{kind}-{max_tokens}", seed)
        if key not in made:
            made[key] = make_model(root / f"model-{key[0]}-{seed}", kind, seed, tokenizer.vocab_size, max_tokens)
            copy_tokenizer(root / "tokenizer", made[key])
        return made[key]

    return SimpleNamespace(
        root=root, examples=examples, folder=root / "examples", tokenizer=tokenizer, model=model,
        tokenizer_folder=root / "tokenizer",
    )


def make_model(folder: Path, kind: str, seed: int, vocab: int, max_tokens: int) -> Path:
    """Write a model folder with random weights large enough that its distributions are far from uniform."""
    if kind == "tiny":
        config = TinyConfig(vocab=vocab, width=16, layers=2, heads=4, kv_heads=2, ffn=24, max_tokens=max_tokens)
        model = init_tiny(config, seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.mul_(10)
        save_tiny(folder, model, dict(model.named_parameters()))
        return folder
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    config = {
        "llama": lambda: transformers.LlamaConfig(
            vocab_size=vocab, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=max_tokens, initializer_range=0.2,
        ),
        "gpt2": lambda: transformers.GPT2Config(
            vocab_size=vocab, n_embd=16, n_layer=2, n_head=4, n_positions=max_tokens, initializer_range=0.2
        ),
    }[kind]()
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(params=ARCHITECTURES)
def kind(request: pytest.FixtureRequest) -> str:
    """Every architecture a probe must work on."""
    return request.param


Measure = Callable[..., pl.DataFrame]


@pytest.fixture
def measure(toy: SimpleNamespace, tmp_path: Path) -> Measure:
    """Return a function that runs a probe's step and returns values.parquet."""

    def run(
        step: Any,
        inputs: Mapping[str, Path] | None = None,
        *,
        format: str = "thought_code",
        limit: int | None = None,
        out: str = "out",
        **options: Any,
    ) -> pl.DataFrame:
        folder = tmp_path / out
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        spec = {"format": format, "limit": limit, "seed": 0, "options": options}
        step(spec, {"model": toy.model(), "examples": toy.folder, **(inputs or {})}, folder, QUIET)
        return read_table(folder / "values.parquet", PROBE_VALUES)

    return run
