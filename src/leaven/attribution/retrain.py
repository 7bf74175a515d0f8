"""Order table + tokens + a weight per example and copy -> the value of every query for every retrained copy.

What influence predicts, measured: the same training again (initial weights, order, steps of the seed) with examples at
weight 0, many copies as one batch (copies.py), and the queries' mean log-likelihood at several points of it, so that
early-stopped and converged models come from the same runs. Random halves, groups and the top of an influence table
differ only in the weights (subsets.py). Not covered: comparing with scores (validate.py); training as lm/loop.py does
in bf16, or of Hugging Face models (such retrainings are ordinary runs of a study with leave_out).
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from leaven.attribution.copies import Copies, NumberedOrder, copies_at_once, train_copies
from leaven.attribution.queries import Query, single_queries
from leaven.attribution.subsets import Copy, Keys, plan_copies, subsets_table, weights_of
from leaven.attribution.texts import Text, fit_to, load_texts, make_batches
from leaven.core.step import StepContext, step
from leaven.core.tables import RETRAINED, SUBSETS, TIMINGS, write_table
from leaven.data.tokenise import load_tokens
from leaven.data.tokenizer import Tokenizer
from leaven.errors import DataError, Interrupted, StudyError
from leaven.lm.batches import TrainingOrder, open_order
from leaven.lm.checkpoints import load_state, save_state
from leaven.lm.loop import kept_steps
from leaven.lm.process import prepare_process
from leaven.lm.tiny import TinyTrainable
from leaven.lm.tiny_model import TinyModel


@step(version=1)
def retrain(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Retrain copies of one seed's run; write retrained.parquet, subsets.parquet, retrain.json and timings.parquet.

    Args:
        spec: `model`, `train`, `stage` and `seed` exactly as for `lm.loop.train` (model.kind tiny; trained in fp32),
            `subsets`: {kind: half, n: 100, fraction: 0.5, seed: 0}, or {kind: groups, by: group, groups: []}, or
            {kind: top, counts: [..], end: helpful, methods: [..], queries: [..], controls: 8, seed: 0} (subsets.py),
            `checkpoints`: measuring points, evenly spaced over the steps, the last one at the end (default 1; the same
            steps as train.checkpoints keeps models at),
            `queries`: aggregate (default) | single, and `reduce`: sum (default) | mean over a text's tokens, both as
            for `attribution.run.attribute`.
        inputs: `order`, `tokenizer`, `tokens:*` (or SOURCE|FORMAT) and optional `init`, the very inputs of the seed's
            `train` step; `queries:NAME` (tokenise artifacts); for groups `examples:SOURCE`, for top `influence`.
        out: receives the files above. Copy 0 has nothing left out. Copies of different seeds with the same number
            leave out the same examples when the `subsets` section and the tokens are the same.
        ctx: progress, stop (kept at the training step) and resources.

    Raises:
        StudyError: a model that is not the embedded one, bf16, or settings out of range.
        DataError: no query, groups or scores that are not there, or queries of the same name.
        BackendError: weights are no longer finite.
        Interrupted: a stop was asked for; finished chunks of copies and the running one are in out/_resume.
    """
    began, cpu = time.time(), time.process_time()
    prepare_process(ctx.runtime)
    work = open_work(spec, inputs, ctx)
    values, empty = run_copies(work, out / "_resume", ctx)
    write_table(out / "retrained.parquet", _retrained(work, values), RETRAINED)
    write_table(out / "subsets.parquet", subsets_table(work.copies, work.keys), SUBSETS)
    facts = {
        "copies": len(work.copies),
        "seed": int(spec["seed"]),
        "examples": len(work.keys),
        "points": work.points,
        "queries": [q.name for q in work.queries],
        "empty_steps": int(empty.sum()),
        "value": "nats: mean over the query's texts of the log-likelihood of their learned tokens",
    }
    (out / "retrain.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    row = {"name": "retrain", "wall_s": time.time() - began, "cpu_s": time.process_time() - cpu, "detail": ""}
    write_table(out / "timings.parquet", [row], TIMINGS)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What is trained and measured: copies [C] over examples [E], queries [Q], points (steps done) [S]."""

    model: TinyModel
    train: Mapping[str, Any]
    order: TrainingOrder
    keys: Keys
    copies: Sequence[Copy]
    queries: Sequence[Query]
    points: list[int]
    seed: int


def open_work(spec: Mapping[str, Any], inputs: Mapping[str, Path], ctx: StepContext) -> Work:
    """Read the inputs of `retrain`; arguments and errors as there."""
    kind, dtype = spec["model"].get("kind", "tiny"), spec["train"].get("dtype", "auto")
    if kind != "tiny" or dtype == "bf16":
        raise StudyError(
            f"retrain: expected model.kind tiny and train.dtype fp32, found {kind} and {dtype}; leave examples out of ordinary runs "
            "instead (data.leave_out)"
        )
    tokenizer = Tokenizer.load(inputs["tokenizer"])
    order = open_order(inputs["order"], inputs, str(spec["stage"]), tokenizer.pad_id)
    model = TinyTrainable.open(spec["model"], int(spec["seed"]), tokenizer, inputs.get("init"), "cpu")
    if order.longest() > model.max_tokens:
        raise StudyError(f"model.max_tokens: expected at least the order's longest row, {order.longest()}, found {model.max_tokens}")
    keys = example_keys(inputs)
    points = sorted(kept_steps(order.n_steps, {"checkpoints": int(spec.get("checkpoints", 1))}))
    return Work(
        model=model.module,
        train=spec["train"],
        order=order,
        keys=keys,
        copies=plan_copies(spec["subsets"], keys, inputs),
        queries=load_queries(inputs, str(spec.get("queries", "aggregate")), str(spec.get("reduce", "sum")), model.max_tokens),
        points=points,
        seed=int(spec["seed"]),
    )


def example_keys(inputs: Mapping[str, Path]) -> list[tuple[str, str]]:
    """Return (source, example) of everything in the token inputs of training, sorted."""
    folders = [inputs[name] for name in inputs if name.startswith("tokens:") or "|" in name]
    return sorted({key for f in folders for key in load_tokens(f).lengths.select("source", "example").iter_rows()})


def load_queries(inputs: Mapping[str, Path], how: str, reduce: str, max_tokens: int) -> list[Query]:
    """Return one query per input (aggregate) or per text (single) whose texts' weights make a value their sum.

    Raises:
        StudyError: an unknown `how` or `reduce`.
        DataError: no query, one without a learned token within the context, or two of one name.
    """
    if how not in ("aggregate", "single") or reduce not in ("sum", "mean"):
        raise StudyError(f"queries: expected aggregate or single, and reduce sum or mean, found {how!r} and {reduce!r}")
    found: list[Query] = []
    for name in sorted(n for n in inputs if n.startswith("queries:")):
        texts, _, _ = fit_to(load_texts(inputs[name]), max_tokens)
        if not texts:
            raise DataError(f"{name}: expected texts with a learned token within {max_tokens} tokens, found none")
        found += single_queries(texts) if how == "single" else [Query(name.partition(":")[2], tuple(texts))]
    names = [q.name for q in found]
    if not found or len(set(names)) < len(names):
        raise DataError(f"retrain: expected inputs queries:NAME with texts of distinct names, found {names or 'none'}")
    return [Query(q.name, tuple(_weighted(t, len(q.texts), reduce) for t in q.texts)) for q in found]


def _weighted(text: Text, of: int, reduce: str) -> Text:
    tokens = float(text.token_weights().sum()) if reduce == "mean" else 1.0
    return dataclasses.replace(text, weight=text.weight / (of * tokens))


def run_copies(work: Work, kept: Path, ctx: StepContext) -> tuple[np.ndarray, np.ndarray]:
    """Train all copies, chunk by chunk, going on from what `kept` holds.

    Returns:
        float64[C,S,Q] values in nats and int64[C] how many steps had nothing left.

    Raises:
        Interrupted, BackendError: as `retrain`.
    """
    numbered = NumberedOrder.of(work.order, {key: n for n, key in enumerate(work.keys)})
    weights = weights_of(work.copies, len(work.keys))
    size = copies_at_once(work.model, work.order)
    values, empty = [], []
    for begin in range(0, len(weights), size):
        path = kept / f"copies-{begin:06d}.npz"
        if not path.is_file():
            chunk = _Chunk(work, numbered, weights[begin : begin + size], begin, kept, ctx, len(weights))
            chunk.go()
            kept.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"_{path.name}")
            np.savez(part, values=chunk.values, empty=chunk.empty)
            part.replace(path)
        with np.load(path) as found:
            values.append(found["values"])
            empty.append(found["empty"])
    return np.concatenate(values), np.concatenate(empty)


class _Chunk:
    """Copies trained at once: their values at the points passed so far, and how to stop and go on in the middle."""

    def __init__(
        self, work: Work, numbered: NumberedOrder, weights: np.ndarray, begin: int, kept: Path, ctx: StepContext, n_copies: int
    ) -> None:
        self.work, self.numbered, self.weights, self.begin, self.ctx, self.n_copies = work, numbered, weights, begin, ctx, n_copies
        self.folder = kept / "chunk"
        texts = [t for q in work.queries for t in q.texts]
        self.n_texts, self.batches = len(texts), list(make_batches(texts, work.model.config.max_tokens))
        owner = np.repeat(np.arange(len(work.queries)), [len(q.texts) for q in work.queries])
        self.to_query = np.eye(len(work.queries))[owner]
        self.copies = Copies(work.model, len(weights), work.train)
        self.values = np.zeros((len(weights), len(work.points), len(work.queries)))
        self.empty = np.zeros(len(weights), np.int64)
        self.saved_at = time.monotonic()

    def go(self) -> None:
        """Train to the end."""
        train_copies(self.copies, self.work.order, self.numbered, self.weights, first=self._restore(), after=self._after)

    def _after(self, done: int, empty: np.ndarray) -> None:
        self.empty += empty
        if done in self.work.points:
            found = self.copies.values(self.batches, self.n_texts) @ self.to_query
            self.values[:, self.work.points.index(done)] = found
        steps = self.work.order.n_steps
        stopping = done < steps and self.ctx.stop()
        if stopping or (done < steps and time.monotonic() - self.saved_at >= self.ctx.runtime.checkpoint_seconds):
            self._save(done)
        if stopping:
            raise Interrupted(f"retraining stopped at copy {self.begin} of {self.n_copies}, step {done}; run the same command to resume")
        total = self.n_copies * steps
        self.ctx.progress(self.begin * steps + done * len(self.weights), total, f"copies {self.begin}-{self.begin + len(self.weights) - 1}")

    def _save(self, done: int) -> None:
        tensors = self.copies.state() | {"values": torch.from_numpy(self.values), "empty": torch.from_numpy(self.empty)}
        save_state(self.folder, tensors, {"begin": self.begin, "done": done})
        self.saved_at = time.monotonic()

    def _restore(self) -> int:
        """Return the step to go on from."""
        if not (self.folder / "state.safetensors").is_file():
            return 0
        tensors, facts = load_state(self.folder)
        if facts["begin"] != self.begin:
            return 0
        self.copies.load(tensors)
        self.values[:], self.empty[:] = tensors["values"].numpy(), tensors["empty"].numpy()
        return int(facts["done"])


def _retrained(work: Work, values_CSQ: np.ndarray) -> pl.DataFrame:
    """Return RETRAINED rows: copies, then points, then queries."""
    n_copies, n_points, n_queries = values_CSQ.shape
    left_out = np.array([len(c.left_out) for c in work.copies])
    return pl.DataFrame(
        {
            "copy": np.repeat(np.arange(n_copies), n_points * n_queries),
            "seed": np.full(values_CSQ.size, work.seed),
            "step": np.tile(np.repeat(work.points, n_queries), n_copies),
            "query": [q.name for q in work.queries] * (n_copies * n_points),
            "value": values_CSQ.reshape(-1),
            "n_left_out": np.repeat(left_out, n_points * n_queries),
        }
    )
