"""A plan and its built order tables -> tokens, parameters, FLOPs, memory, disk and hours, before anything is spent.

Tokens are exact once the data steps are built, else bounded from batch x max_tokens x steps. FLOPs = 6 x (matrix parameters +
head) + attention, per trained token (Kaplan et al. 2020, section 2.1). Hours come from
earlier trainings of the same model in this store, else from a matrix-product rate measured now. Not covered: evaluation.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leaven.core.hashing import canonical
from leaven.core.tables import LENGTHS, read_table
from leaven.engine.estimate import Forecast
from leaven.engine.graph import Node
from leaven.engine.store import Store
from leaven.spec.train import Model

TRAIN = "leaven.lm.loop:train"
EFFICIENCY = 0.5
"""Share of the bare fp32 matrix-product rate taken for a model this store has never trained."""
RECENT = 8
"""How many earlier trainings of the same model speak for its speed."""


@dataclass(frozen=True, slots=True)
class TrainingCost:
    """Expected cost of one training step of the graph; `exact` says whether tokens come from a built order table."""

    node: str
    state: str
    steps: int
    tokens: int
    learned_tokens: int
    exact: bool
    parameters: int
    flops: float
    memory_bytes: int
    disk_bytes: int
    hours: float


@dataclass(frozen=True, slots=True)
class Brought:
    """A Hugging Face model that a training step starts from: its folder, and the shape declared in case it is not there yet."""

    folder: Path
    declared: Model


def training_costs(
    forecasts: list[Forecast], store: Store, brought: Mapping[str, Brought] | None = None
) -> list[TrainingCost]:
    """Return one row per training step, in graph order; `brought` tells which step trains which Hugging Face model."""
    by_id = {f.node.id: f for f in forecasts}
    bare = EFFICIENCY * _matrix_flops_per_second()
    seen = _seen_rates(store)
    found = []
    for forecast in forecasts:
        if forecast.node.function == TRAIN:
            rate = seen.get(canonical(forecast.node.spec["model"]), bare)
            found.append(_cost(forecast, by_id, store, rate, (brought or {}).get(forecast.node.id)))
    return found


def _seen_rates(store: Store) -> dict[str, float]:
    """Return model section -> FLOPs per processor second that training it took in this store (median of the most recent runs)."""
    rates: dict[str, list[float]] = {}
    trained = [m for m in store.manifests() if m.recipe.function == TRAIN and "continue" not in m.recipe.inputs]
    for manifest in sorted(trained, key=lambda m: m.created):
        facts = store.path(manifest.key) / "training.json"
        if facts.is_file() and manifest.cost.cpu_s > 0:
            flops = float(json.loads(facts.read_text(encoding="utf-8")).get("flops") or 0)
            rates.setdefault(canonical(manifest.recipe.spec["model"]), []).append(flops / manifest.cost.cpu_s)
    return {model: statistics.median(found[-RECENT:]) for model, found in rates.items() if found[-1] > 0}


def _cost(
    forecast: Forecast, by_id: Mapping[str, Forecast], store: Store, rate: float, brought: Brought | None
) -> TrainingCost:
    node = forecast.node
    order = by_id[str(node.inputs["order"])]
    steps, tokens, learned, exact = _amount(order, by_id, store)
    done = node.inputs.get("continue")
    if isinstance(done, str):  # the shared prefix is trained once, by the other condition
        earlier = _amount(by_id[str(by_id[done].node.inputs["order"])], by_id, store)
        steps, tokens, learned = steps - earlier[0], tokens - earlier[1], learned - earlier[2]
    model = node.spec["model"]
    config = _brought_config(brought) if brought is not None else {}
    vocabulary = int(config.get("vocab_size", 0)) or _vocabulary(node, by_id, store)
    if model["kind"] == "tiny":
        parameters, matrices = parameter_counts(model, vocabulary)
    else:
        parameters, matrices = _folder_counts(config, brought.folder if brought is not None else None)
    length = int(order.node.spec["max_tokens"])
    width = int(model.get("width") or config.get("hidden_size", 4096))
    layers = int(model.get("layers") or config.get("num_hidden_layers", 32))
    flops = tokens * (6.0 * matrices + 6.0 * layers * width * length)
    batch_tokens = int(order.node.spec["batch"]) * min(
        length, max(1, tokens // max(1, steps * int(order.node.spec["batch"])))
    )
    memory = parameters * 16 + batch_tokens * (layers * width * 34 + vocabulary * 8)
    hours = flops / rate / 3600
    return TrainingCost(
        node.id, forecast.state, steps, tokens, learned, exact, parameters, flops, memory, parameters * 12, hours
    )


def parameter_counts(model: Mapping[str, Any], vocabulary: int) -> tuple[int, int]:
    """Return (all parameters, parameters that multiply: all but the input embedding) of an embedded model.

    Layer: q, k, v, o (4 d^2), gate, up, down (3 d f), two norms (2 d); embedding V d, once when tied; final norm d.
    """
    width, layers = int(model["width"]), int(model["layers"])
    ffn = int(model["ffn"] or -(-8 * width // 12) * 4)
    layer = 4 * width**2 + 3 * width * ffn + 2 * width
    matrices = layers * layer + width + vocabulary * width
    return matrices + (0 if model["tie"] else vocabulary * width), matrices


def _amount(order: Forecast, by_id: Mapping[str, Forecast], store: Store) -> tuple[int, int, int, bool]:
    """Return (steps, tokens, learned tokens, exact) of an order table: read when built, bounded otherwise."""
    if order.state == "cached":
        table = read_table(store.path(order.key) / "order.parquet")
        last = table["step"].max()
        return (
            int(last) + 1 if isinstance(last, int) else 0,
            int(table["n_tokens"].sum()),
            int(table["n_learned_tokens"].sum()),
            True,
        )
    spec = order.node.spec
    per_step = int(spec["batch"]) * int(spec["max_tokens"])
    budget = dict(spec["budget"])
    if (
        "tokens_of" in budget
    ):  # bounded by the condition it matches, at a shorter row: as many tokens, so at most as many steps
        _, tokens, learned, _ = _amount(by_id[str(order.node.inputs["tokens_of"])], by_id, store)
        return -(-tokens // int(spec["batch"])), tokens, learned, False
    if "epochs" in budget:
        return _passes(order, by_id, store, float(budget["epochs"]))
    if "steps" in budget:
        steps = int(budget["steps"])
    elif "examples" in budget:
        steps = -(-int(budget["examples"]) // int(spec["batch"]))
    else:
        steps = -(-int(budget.get("tokens") or budget.get("learned_tokens") or 0) // per_step)
    return steps, steps * per_step, steps * per_step, False


def _passes(order: Forecast, by_id: Mapping[str, Forecast], store: Store, epochs: float) -> tuple[int, int, int, bool]:
    """Return what so many passes over all tokenised sources of an order amount to: at least what any mixture of them takes."""
    tokens = [by_id[i] for name, i in order.node.inputs.items() if "|" in name and isinstance(i, str)]
    if any(f.state != "cached" for f in tokens):
        return 0, 0, 0, False
    lengths = [read_table(store.path(f.key) / "lengths.parquet", LENGTHS) for f in tokens]
    rows, seen, learned = (sum(f[c].sum() if c else f.height for f in lengths) * epochs for c in ("", "n_tokens", "n_learned_tokens"))
    return -(-int(rows) // int(order.node.spec["batch"])), int(seen), int(learned), False


def _vocabulary(node: Node, by_id: Mapping[str, Forecast], store: Store) -> int:
    """Return the vocabulary size of a training step's tokenizer."""
    source = node.inputs["tokenizer"]
    if isinstance(source, str):
        tokenizer = by_id[source]
        if tokenizer.state == "cached":
            return int(json.loads((store.path(tokenizer.key) / "report.json").read_text())["vocab_size"])
        return int(tokenizer.node.spec["vocab_size"])
    return int(_config(Path(source.path)).get("vocab_size", 32000))


def _config(folder: Path) -> dict[str, Any]:
    """Return config.json of a model folder, {} when absent."""
    path = folder / "config.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _brought_config(brought: Brought) -> dict[str, Any]:
    """Return the configuration of a Hugging Face folder, or the shape that the study declares for one that is not there."""
    config, model = _config(brought.folder), brought.declared
    if config or model.ffn is None:
        return config
    return {"hidden_size": model.width, "num_hidden_layers": model.layers, "num_attention_heads": model.heads,
            "intermediate_size": model.ffn, "vocab_size": 32000, "tie_word_embeddings": model.tie}  # fmt: skip


def _folder_counts(config: Mapping[str, Any], folder: Path | None) -> tuple[int, int]:
    """Return (all, multiplying) parameters of a Hugging Face model from its configuration (Llama-like), or from its files' size."""
    if not {"hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size"} <= config.keys():
        weights = sum(p.stat().st_size for p in folder.glob("*.safetensors")) // 4 if folder and folder.is_dir() else 0
        return weights, weights
    width, ffn = config["hidden_size"], config["intermediate_size"]
    shared = config.get("num_key_value_heads", config.get("num_attention_heads", 1)) / config.get(
        "num_attention_heads", 1
    )
    layer = (2 + 2 * shared) * width**2 + 3 * width * ffn + 2 * width
    matrices = int(config["num_hidden_layers"] * layer + width + config["vocab_size"] * width)
    return matrices + (0 if config.get("tie_word_embeddings") else config["vocab_size"] * width), matrices


def _matrix_flops_per_second() -> float:
    """Measure this machine's fp32 matrix-product rate on one shape: the best of ten windows of 10 ms, so that other load counts little."""
    rng = np.random.Generator(np.random.Philox(0))
    a, b = rng.standard_normal((512, 256), dtype=np.float32), rng.standard_normal((256, 256), dtype=np.float32)
    a @ b
    best = 0.0
    for _ in range(10):
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < 0.01:
            a @ b
            count += 1
        best = max(best, count * 2.0 * 512 * 256 * 256 / (time.perf_counter() - began))
    return best
