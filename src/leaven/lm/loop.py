"""Order table + tokens + a model -> a trained model folder: the one training loop.

The loop only consumes: which tokens a step sees, with which weight and how packed, is data (data/build.py). Loss = sum
of weight x learn x token loss over sum of weight x learn of the whole optimiser step, whatever the micro-batches
(removal is weight 0, duplication weight 2). Everything random is a named stream of (seed, stage, step), so
resuming needs the weights, both moments and one integer, and is bit-identical at any step on the same machine and
threads.
On a CPU: fp32 below width 96 and bf16 with an fp32 master above (dtype auto), rows bucketed by length, logits of target
tokens only.
Not covered: several devices; what the model computes (tiny_model.py, hf.py).
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import polars as pl
import torch
from torch import Tensor, nn

from leaven.core.rng import stream_seed
from leaven.core.step import StepContext, step
from leaven.core.tables import CURVE, TIMINGS, read_table, write_table
from leaven.data.tokenizer import Tokenizer
from leaven.errors import BackendError, Interrupted, StudyError
from leaven.lm.batches import Batch, TrainingOrder, open_order
from leaven.lm.checkpoints import copy_tokenizer, load_state, read_json, save_state, write_json
from leaven.lm.compiling import compile_choice
from leaven.lm.optimise import FlatAdamW, learning_rate
from leaven.lm.process import prepare_process

BF16_FROM_WIDTH = 96


class Trainable(Protocol):
    """What the loop needs of a model; implemented by tiny.py and hf.py."""

    module: nn.Module
    width: int
    max_tokens: int

    def hidden(self, ids: Tensor, positions: Tensor | None, document: Tensor | None, at: Tensor) -> Tensor:
        """Return last hidden states [M,D] of the tokens `at` these places of the flattened rows.

        `document` [B,T] marks packed documents; None stands for causal rows.
        """

    def loss(self, hidden_MD: Tensor, targets_M: Tensor, weights_M: Tensor) -> Tensor:
        """Return the weighted loss of target tokens."""

    def compile(self) -> None:
        """Send the layers through torch.compile from now on."""

    def flops_per_token(self, row_tokens: float) -> float:
        """Return training FLOPs per token."""

    def save(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write config and fp32 weights of a model folder."""


@dataclass(slots=True)
class Progress:
    """Where a run stands: steps done, cumulative counters and the curve so far."""

    done: int
    rows: list[dict[str, Any]]

    def totals(self) -> tuple[int, int, int]:
        """Return cumulative tokens, learned tokens and examples."""
        last = self.rows[-1] if self.rows else {"n_tokens": 0, "n_learned_tokens": 0, "n_examples": 0}
        return last["n_tokens"], last["n_learned_tokens"], last["n_examples"]


@step(version=1)
def train(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Train a model on one stage of an order table and write its folder into `out`.

    Args:
        spec: `model` ({"kind": "tiny", width, layers, heads, kv_heads?, ffn?, max_tokens, tie?} or {"kind": "hf"}),
            `train` (lr, betas, eps, weight_decay, schedule, warmup_steps | warmup_ratio, min_lr, clip, dtype,
            checkpoint_every, checkpoints), `stage`, `seed`, `reset_optimizer`.
        inputs: `order`, `tokenizer`, `tokens:*`; optional `init` (folder to start from) or `continue` (same stage, goes
            on after its last step exactly as if it had never stopped).
        out: receives the model folder, curve.parquet, training.json, state.safetensors, checkpoints/, timings.parquet.

    Raises:
        BackendError: the loss is not finite (names step and examples), or `continue` does not fit this run.
        StudyError: the spec does not fit the model.
        Interrupted: a stop was asked for; the checkpoint is in out/_resume.
    """
    prepare_process(ctx.runtime)
    tokenizer = Tokenizer.load(inputs["tokenizer"])
    order = open_order(inputs["order"], inputs, str(spec["stage"]), tokenizer.pad_id)
    model = open_trainable(spec, inputs, tokenizer, ctx)
    if order.longest() > model.max_tokens:
        raise StudyError(
            f"model.max_tokens: the order table holds rows of {order.longest()} tokens, the model allows "
            f"{model.max_tokens}; raise max_tokens or truncate (data.truncate)"
        )
    run = Run(spec, inputs, out, ctx, order, model)
    run.restore()
    run.go()
    run.finish()


def open_trainable(
    spec: Mapping[str, Any], inputs: Mapping[str, Path], tokenizer: Tokenizer, ctx: StepContext
) -> Trainable:
    """Return the model a spec asks for, initialised from its seed or from the `init` (or `continue`) folder."""
    kind = spec["model"].get("kind", "tiny")
    folder = inputs.get("continue") or inputs.get("init")
    if kind == "tiny":
        from leaven.lm.tiny import TinyTrainable

        return TinyTrainable.open(spec["model"], int(spec["seed"]), tokenizer, folder, ctx.runtime.device)
    if kind == "hf":
        from leaven.lm.hf import HfTrainable

        if folder is None:
            raise StudyError("model.kind hf: expected an `init` folder with the weights to start from, found none")
        return HfTrainable.open(folder, tokenizer, ctx.runtime.device)
    raise StudyError(f"model.kind: expected tiny or hf, found {kind!r}")


def kept_steps(total: int, settings: Mapping[str, Any]) -> set[int]:
    """Return after which steps a model is kept under checkpoints/: every `checkpoint_every` steps, or `checkpoints` evenly spaced ones."""
    every, count = settings.get("checkpoint_every"), settings.get("checkpoints")
    steps = set(range(int(every), total + 1, int(every))) if every else set()
    return steps | ({-(-total * (i + 1) // int(count)) for i in range(int(count))} if count else set())


class Run:
    """One training run: the state between steps and how it is saved, restored and reported."""

    def __init__(
        self,
        spec: Mapping[str, Any],
        inputs: Mapping[str, Path],
        out: Path,
        ctx: StepContext,
        order: TrainingOrder,
        model: Trainable,
    ) -> None:
        self.spec, self.inputs, self.out, self.ctx, self.order, self.model = spec, inputs, out, ctx, order, model
        self.settings: Mapping[str, Any] = spec["train"]
        self.dtype = pick_dtype(self.settings.get("dtype", "auto"), model.width)
        self.optimizer = FlatAdamW(model.module, self.settings, self.dtype)
        model.module.train()
        self.progress = Progress(0, [])
        self.tokens_here, self.started, self.cpu_started = 0, time.perf_counter(), time.process_time()
        self.compiled, self.notes = compile_choice(
            ctx.runtime, model.flops_per_token(order.mean_row_tokens()) * order.n_tokens()
        )
        if self.compiled:
            model.compile()

    # -- starting --

    def restore(self) -> None:
        """Go back to the last checkpoint of this run, else to the end of the `continue` or `init` folder."""
        resume = self.out / "_resume"
        if (resume / "state.safetensors").is_file():
            self._load(*load_state(resume))
            return
        self.out.mkdir(parents=True, exist_ok=True)
        if "continue" in self.inputs:
            self._continue(self.inputs["continue"])
        elif "init" in self.inputs and not self.spec.get("reset_optimizer", True):
            self.optimizer.load_moments(load_state(self.inputs["init"])[0])

    def _load(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        self.optimizer.load(tensors)
        columns = facts["curve"]
        self.progress = Progress(
            int(facts["done"]), [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        )

    def _continue(self, folder: Path) -> None:
        """Load the end of an earlier run of this stage if its steps are the first steps of this run."""
        facts = read_json(folder / "training.json")
        curve = read_table(folder / "curve.parquet", CURVE)
        done = int(facts["steps"])
        if done > self.order.n_steps or self.order.prefix_digest(done) != facts["order_digest"]:
            raise BackendError(
                f"continue: expected an order table whose first {done} steps are those {folder} was trained on, found "
                f"{self.order.n_steps} steps with other content; train from the start instead"
            )
        planned = [learning_rate(self.settings, i, self.order.n_steps) for i in range(done)]
        if planned != curve["learning_rate"].to_list():
            raise BackendError(
                f"continue: the schedule gives other learning rates to the {done} steps already trained (a "
                "decaying schedule depends on the number of steps); use schedule: constant with warmup_steps, or train "
                "from the start"
            )
        self.optimizer.load(load_state(folder)[0])
        self.progress = Progress(done, curve.to_dicts())

    # -- training --

    def go(self) -> None:
        """Train the remaining steps; checkpoint by the clock and before leaving on a stop."""
        saved_at = time.monotonic()
        total = self.order.n_steps
        kept = kept_steps(total, self.settings)
        while self.progress.done < total:
            self._step(self.progress.done)
            if self.progress.done in kept:
                self._keep()
            stopping = self.ctx.stop()
            if stopping or time.monotonic() - saved_at >= self.ctx.runtime.checkpoint_seconds:
                self._checkpoint()
                saved_at = time.monotonic()
            if stopping:
                raise Interrupted(
                    f"training stopped after step {self.progress.done} of {total}; run the same command to resume"
                )
            self.ctx.progress(self.progress.done, total, self._note())

    def _step(self, index: int) -> None:
        """Run one optimiser step and append its row to the curve."""
        # few shapes: compilers and bf16 products (oneDNN) prepare a kernel per shape; bf16 wants multiples of 32
        round_to = 32 if self.compiled or self.dtype == torch.bfloat16 else 1
        batches = self.order.step(index, self.ctx.runtime.micro_batch, round_to)
        # dropout of brought models is the only random draw; its stream depends on the step alone, so resuming needs no
        # generator state
        torch.manual_seed(stream_seed(int(self.spec["seed"]), "dropout", str(self.spec["stage"]), index) % 2**63)
        loss = 0.0
        for number, batch in enumerate(batches.batches):
            value = self._micro_batch(batch)
            self.optimizer.collect(first=number == 0)
            loss += value
        if not math.isfinite(loss):
            raise self._broken(index, f"the loss is {loss}")
        rate = learning_rate(self.settings, index, self.order.n_steps)
        norm = self.optimizer.step(rate)
        if not math.isfinite(norm):
            raise self._broken(index, f"the gradient norm is {norm}")
        tokens, learned, examples = self.progress.totals()
        self.progress.rows.append(
            {
                "stage": self.spec["stage"],
                "step": index,
                "loss": loss,
                "learning_rate": rate,
                "gradient_norm": norm,
                "n_tokens": tokens + batches.n_tokens,
                "n_learned_tokens": learned + batches.n_learned_tokens,
                "n_examples": examples + batches.n_examples,
            }
        )
        self.progress.done = index + 1
        self.tokens_here += batches.n_tokens

    def _micro_batch(self, batch: Batch) -> float:
        """Add one micro-batch's gradients; return its share of the step's loss."""
        if not len(batch.target_at):
            return 0.0
        device = self.ctx.runtime.device
        ids, at, targets, weights = (
            torch.from_numpy(a).to(device) for a in (batch.ids, batch.target_at, batch.target_ids, batch.weights)
        )
        packed = batch.document is not None
        positions = torch.from_numpy(batch.positions).to(device) if packed else None
        document = torch.from_numpy(batch.document).to(device) if packed else None
        loss = self.model.loss(self.model.hidden(ids, positions, document, at), targets, weights)
        loss.backward()
        return loss.item()

    def _broken(self, index: int, what: str) -> BackendError:
        rows = self.progress.rows[-3:]
        before = ", ".join(f"{r['loss']:.4g}" for r in rows) or "none"
        return BackendError(
            f"stage {self.spec['stage']}, step {index}: expected finite numbers, but {what} (losses before: {before}). "
            f"The "
            f"step held {self.order.examples(index)[:8]}. Lower train.lr, set train.clip, or look at these examples"
        )

    def _note(self) -> str:
        seconds = time.perf_counter() - self.started
        last = self.progress.rows[-1]["loss"]
        how = "" if self.compiled or not self.notes else f", {self.notes[0]}"
        return f"loss {last:.3f}, {self.tokens_here / max(seconds, 1e-9):,.0f} tokens/s{how}"

    # -- writing --

    def _checkpoint(self) -> None:
        curve = {c: [r[c] for r in self.progress.rows] for c in CURVE}
        save_state(self.out / "_resume", self.optimizer.state(), {"done": self.progress.done, "curve": curve})

    def _save_model(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        copy_tokenizer(self.inputs["tokenizer"], folder)
        self.model.save(folder, self.optimizer.weights())

    def _keep(self) -> None:
        """Keep the model as it is now under checkpoints/ (a half-written folder has a `_` name and no identity)."""
        final = self.out / "checkpoints" / f"step-{self.progress.done:06d}"
        if final.exists():
            return
        partial = final.with_name(f"_{final.name}")
        shutil.rmtree(partial, ignore_errors=True)
        self._save_model(partial)
        partial.rename(final)

    def finish(self) -> None:
        """Write the model folder, the curve, the facts and the state that training can go on from."""
        self._save_model(self.out)
        write_table(self.out / "curve.parquet", pl.DataFrame(self.progress.rows, schema=CURVE), CURVE)
        tokens, learned, examples = self.progress.totals()
        save_state(self.out, self.optimizer.state(), {"done": self.progress.done})
        write_json(
            self.out / "training.json",
            {
                "stage": self.spec["stage"],
                "steps": self.progress.done,
                "n_tokens": tokens,
                "n_learned_tokens": learned,
                "n_examples": examples,
                "n_parameters": sum(p.numel() for p in self.model.module.parameters()),
                "flops": self.model.flops_per_token(self.order.mean_row_tokens()) * tokens,
                "dtype": str(self.dtype).removeprefix("torch."),
                "seed": self.spec["seed"],
                "order_digest": self.order.prefix_digest(self.progress.done),
                "compiled": self.compiled,
                "notes": self.notes,
            },
        )
        write_table(
            self.out / "timings.parquet",
            [
                {
                    "name": "train",
                    "wall_s": time.perf_counter() - self.started,
                    "cpu_s": time.process_time() - self.cpu_started,
                    "detail": f"{self.tokens_here} tokens in this process",
                }
            ],
            TIMINGS,
        )


def pick_dtype(name: str, width: int) -> torch.dtype:
    """Return the compute type: fp32, bf16, or by width for auto (bf16 is slower than fp32 on narrow models)."""
    known = {
        "fp32": torch.float32,
        "bf16": torch.bfloat16,
        "auto": torch.bfloat16 if width >= BF16_FROM_WIDTH else torch.float32,
    }
    if name not in known:
        raise StudyError(f"train.dtype: expected fp32, bf16 or auto, found {name!r}")
    return known[name]
