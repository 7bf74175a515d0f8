"""A small trained-from-scratch setting shared by the tests of lm/: problems, a word tokenizer, tokens, an order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from leaven.core.rng import rng
from leaven.core.step import Resources, StepContext
from leaven.core.tables import LENGTHS, ORDER, read_table, write_examples, write_table
from leaven.core.types import Example
from leaven.data.tokenise import tokenise
from leaven.data.tokenizer import train_tokenizer

FORMAT = "thought_code"
QUIET = StepContext(runtime=Resources(threads=1, checkpoint_seconds=1e9))
WORDS = "reverse swap rotate first last head tail left right double".split()


def problems(n: int, seed: int) -> list[Example]:
    """Return `n` examples of varied length whose code follows from the question."""
    draw = rng(seed, "test-problems")
    result = []
    for i in range(n):
        names = [WORDS[k] for k in draw.integers(len(WORDS), size=int(draw.integers(1, 7)))]
        result.append(
            Example(
                id=f"p{i:04d}",
                source="toy",
                question=f"apply {' then '.join(names)} to the list",
                thought="".join(f"first {name}\n" for name in names),
                code=f"return {' + '.join(names)}",
            )
        )
    return result


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Return folders `examples`, `tokenizer`, `tokens` and the `lengths` table of 200 toy problems."""
    root = tmp_path_factory.mktemp("toy")
    for name in ("examples", "tokenizer", "tokens"):
        (root / name).mkdir()
    write_examples(root / "examples" / "examples.parquet", problems(200, 0))
    train_tokenizer(
        {"kind": "word", "vocab_size": 128, "formats": [FORMAT]}, {"toy": root / "examples"}, root / "tokenizer", QUIET
    )
    tokenise(
        {"source": "toy", "format": FORMAT},
        {"examples": root / "examples", "tokenizer": root / "tokenizer"},
        root / "tokens",
        QUIET,
    )
    return SimpleNamespace(
        root=root,
        tokenizer=root / "tokenizer",
        tokens=root / "tokens",
        lengths=read_table(root / "tokens" / "lengths.parquet", LENGTHS),
    )


MakeOrder = Callable[..., Path]


@pytest.fixture
def make_order(toy: SimpleNamespace, tmp_path: Path) -> MakeOrder:
    """Return a function that writes an order table of `steps` x `batch` slots (columns may be overridden per call)."""

    def make(
        steps: int,
        batch: int = 8,
        *,
        stage: str = "sft",
        pack_tokens: int = 0,
        name: str = "order",
        weights: np.ndarray | None = None,
        examples: list[int] | None = None,
    ) -> Path:
        chosen = (
            np.asarray(examples)
            if examples is not None
            else rng(1, "toy-order").integers(toy.lengths.height, size=4096)[: steps * batch]
        )
        rows = toy.lengths[chosen.tolist()]
        slot = np.arange(steps * batch) % batch
        step = np.arange(steps * batch) // batch
        pack = slot.copy()
        if pack_tokens:
            from leaven.data.packing import pack_steps

            pack = pack_steps(step, rows["n_tokens"].to_numpy(), pack_tokens)
        frame = pl.DataFrame(
            {
                "stage": [stage] * len(step),
                "step": step,
                "slot": slot,
                "source": rows["source"],
                "example": rows["example"],
                "format": rows["format"],
                "weight": np.ones(len(step)) if weights is None else weights,
                "start_token": np.zeros(len(step), int),
                "n_tokens": rows["n_tokens"],
                "n_learned_tokens": rows["n_learned_tokens"],
                "pack": pack,
            }
        ).cast(ORDER)
        folder = tmp_path / name
        folder.mkdir()
        write_table(folder / "order.parquet", frame, ORDER)
        return folder

    return make


@pytest.fixture(scope="session")
def spec_of() -> Callable[..., dict[str, Any]]:
    """Return a function that makes the train spec of a 30k-parameter model."""

    def make(
        model: Mapping[str, Any] | None = None, seed: int = 1, reset_optimizer: bool = True, **train: Any
    ) -> dict[str, Any]:
        return {
            "model": {"kind": "tiny", "width": 32, "layers": 2, "heads": 2, "max_tokens": 128} | dict(model or {}),
            "train": {
                "lr": 4e-3,
                "schedule": "constant",
                "warmup_steps": 4,
                "clip": 1.0,
                "weight_decay": 0.1,
                "dtype": "fp32",
            }
            | train,
            "stage": "sft",
            "seed": seed,
            "reset_optimizer": reset_optimizer,
        }

    return make


@pytest.fixture
def run_train(toy: SimpleNamespace, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that trains on an order folder and returns the model folder."""
    from leaven.lm.loop import train

    def run(
        order: Path, spec: Mapping[str, Any], name: str = "model", ctx: StepContext = QUIET, **inputs: Path
    ) -> Path:
        out = tmp_path / name
        train(spec, {"order": order, "tokenizer": toy.tokenizer, "tokens:toy": toy.tokens, **inputs}, out, ctx)
        return out

    return run
