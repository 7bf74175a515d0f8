"""Training texts -> a filled store of gradients: one pass over the model, resumable at the batch.

First time: every batch is run once; covariances are summed and what the pass saw is kept (tape.py). Then the kept
batches are read back: gradients in the eigenbasis are squared into the eigenvalues and written as rows, layer by layer
and text by text, so that no batch of whole gradients is ever held. Where keeping batches does not pay (a GPU is faster
than its disk) or does not fit, the model runs twice. New texts later run once more, in the basis of the first fit.

Killed at any moment, a start over loses the batch in flight: batches kept are not run again, rows committed are not
written again, and the result is the same to the byte. Only where writing the sums takes more than a twentieth of the
time since they were last written are they written more rarely; without kept batches that much is then lost. Not
covered: deciding what to keep at which size (plan_filling in estimates.py), scores (store.py).
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from leaven.attribution.passes import Seen, Tracked
from leaven.attribution.store import Store, text_keys
from leaven.attribution.sums import Covariances, add_squares, rotated, turns
from leaven.attribution.tape import Tape
from leaven.attribution.texts import BATCH_TOKENS, Batch, Text, label_draws, lay_out, plan_batches
from leaven.core.step import StepContext

_MOST_SHARE_OF_TIME = 0.05
"""Share of the time that writing sums may take, where what they are sums of is lost with them."""
_SHARE_OF_TIME_KEPT = 0.01
"""The same where batches are kept, from which sums are formed again without the model."""
_BYTES_PER_SECOND = 1e9
"""Speed at which sums are thought to be written until it is known."""
_DRIFT_TOKENS = 1024


def fill(
    store: Store,
    tracked: Tracked,
    texts: Sequence[Text],
    *,
    keep_batches: bool = True,
    batch_tokens: int = BATCH_TOKENS,
    ctx: StepContext | None = None,
) -> int:
    """Bring the gradients of all texts into the store; return how many were new.

    Args:
        store: of this model and these settings (Store.refuse_other).
        tracked: model and layers.
        texts: training texts; those that the store holds already cost nothing.
        keep_batches: keep what the first pass saw instead of running the model twice.
        batch_tokens: most padded tokens per batch.
        ctx: progress and stop.

    Raises:
        DataError: a text does not fit the model or has no loss.
        OSError: the disk is full.
    """
    ctx = ctx or StepContext()
    known, keys = set(store.texts), text_keys(texts)
    new = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    if not new:
        shutil.rmtree(store.work, ignore_errors=True)
        return 0
    plan = _resumed_plan(store, dict(zip(keys, texts, strict=True)), new) or _fresh_plan(store, tracked, new, batch_tokens)
    work = _Work(store, tracked, plan, Tape(store.work / "batches"), ctx)
    with tracked.steady():
        if store.bases is None:
            work.fit_bases(keep_batches)
        work.write_rows()
    shutil.rmtree(store.work, ignore_errors=True)
    return len(new)


@dataclass(frozen=True, slots=True)
class _Plan:
    """The texts of this filling with their keys, and which of them lie in which row of which batch."""

    keys: list[str]
    texts: list[Text]
    batches: list[list[list[int]]]


def _fresh_plan(store: Store, tracked: Tracked, new: Mapping[str, Text], batch_tokens: int) -> _Plan:
    """Plan batches and keep the plan, so that a start over has the same ones."""
    shutil.rmtree(store.work, ignore_errors=True)
    store.work.mkdir(parents=True)
    keys, texts = list(new), list(new.values())
    batches = plan_batches(texts, tracked.model.max_tokens, tracked.at_once(batch_tokens))
    part = store.work / "plan.part"
    part.write_text(json.dumps({"keys": keys, "batches": batches}), encoding="utf-8")
    os.replace(part, store.work / "plan.json")
    return _Plan(keys, texts, batches)


def _resumed_plan(store: Store, known: Mapping[str, Text], new: Mapping[str, Text]) -> _Plan | None:
    """Return the plan of the filling that was stopped, where exactly its rest is asked for."""
    try:
        found = json.loads((store.work / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    keys = found["keys"]
    if not all(key in known for key in keys) or set(keys) - set(store.texts) != set(new):
        return None
    return _Plan(keys, [known[key] for key in keys], found["batches"])


class _Work:
    """One filling: its batches by number, from the tape where they are kept."""

    def __init__(self, store: Store, tracked: Tracked, plan: _Plan, tape: Tape, ctx: StepContext) -> None:
        self.store, self.tracked, self.plan, self.tape, self.ctx = store, tracked, plan, tape, ctx

    def fit_bases(self, keep: bool) -> None:
        """Sum covariances over all batches and write their eigenvectors."""
        sums, begin = self._saved_sums()
        share = _SHARE_OF_TIME_KEPT if keep else _MOST_SHARE_OF_TIME
        save = _Saver(lambda n: self._save_sums(sums, n), share)
        save.expect(4 * sum(o * o + i * i for o, i in map(self.tracked.shape, self.tracked.names())))
        done = sum(self._size(k) for k in range(begin))
        for k in range(begin, len(self.plan.batches)):
            _, of_draws = self._seen(k, keep, data_too=keep)
            sums.add(of_draws)
            done += self._size(k)
            save.after(k + 1, stopping=self.ctx.stop())
            self.ctx.progress(done, len(self.plan.texts), "gradients: covariances")
            self.ctx.check_stop()
        self.ctx.progress(0, 0, "gradients: eigenvectors")
        self.store.set_bases(sums.bases(), save=True)
        (self.store.work / "covariances.safetensors").unlink(missing_ok=True)

    def write_rows(self) -> None:
        """Write a row per text, in the order of batches, and sum squares."""
        store, plan = self.store, self.plan
        begin = self._first_uncommitted()
        turning = turns(store.bases, self.tracked.numbers)
        total = len(store.texts) + sum(self._size(k) for k in range(begin, len(plan.batches)))
        waiting: list[str] = []
        self.ctx.progress(0, 0, "gradients: rows")
        with _RowFiles(store, total) as files:

            def commit(_: int) -> None:
                store.commit(waiting)
                waiting.clear()

            save = _Saver(commit, _SHARE_OF_TIME_KEPT if self.tape.has(begin) else _MOST_SHARE_OF_TIME)
            save.expect(4 * sum(x.numel() for x in store.sums.values()))
            done = sum(self._size(k) for k in range(begin))
            for k in range(begin, len(plan.batches)):
                of_data, of_draws = self._seen(k, keep=False, data_too=True)
                shared: dict[int, Tensor] = {}
                for name, total_oi in store.sums.items():
                    for part, found in rotated(of_draws, name, turning[name], shared):
                        add_squares(total_oi, found)
                        if of_data is of_draws:
                            files.write(len(store.texts) + len(waiting) + part.start, name, found)
                    if of_data is not of_draws:
                        for part, found in rotated(of_data, name, turning[name], shared):
                            files.write(len(store.texts) + len(waiting) + part.start, name, found)
                if k == 0:
                    self._note_drift(of_draws, shared)
                waiting += [plan.keys[n] for n in of_data.batch.numbers]
                done += self._size(k)
                if save.after(k + 1, stopping=self.ctx.stop() or k + 1 == len(plan.batches)):
                    for old in range(k + 1):
                        self.tape.drop(old)
                self.ctx.progress(done, len(plan.texts), "gradients: rows")
                self.ctx.check_stop()

    def _seen(self, k: int, keep: bool, data_too: bool) -> tuple[Seen, Seen]:
        """Return what a pass sees of batch k under the data's labels and under those of the Fisher."""
        batch = self._batch(k)
        if self.tape.has(k):
            return self.tape.read(k, batch, self.tracked)
        if self.store.identity.fisher == "empirical":
            of_data = of_draws = self.tracked.backward(batch)
        else:
            draws = label_draws(self.plan.texts, batch, self.store.identity.seed)
            if data_too:
                of_data, of_draws = self.tracked.backward_both(batch, draws)
            else:
                of_data = of_draws = self.tracked.backward(batch, draws)
        if keep:
            self.tape.write(k, of_data, of_draws)
        return of_data, of_draws

    def _batch(self, k: int) -> Batch:
        return lay_out(self.plan.batches[k], self.plan.texts, False, self.tracked.device)

    def _size(self, k: int) -> int:
        return sum(map(len, self.plan.batches[k]))

    def _first_uncommitted(self) -> int:
        """Return the first batch of the plan that the store does not hold; commits hold whole batches in order."""
        known = set(self.store.texts)
        return next(k for k, rows in enumerate(self.plan.batches) if self.plan.keys[rows[0][0]] not in known)

    def _note_drift(self, seen: Seen, shared: Mapping[int, Tensor]) -> None:
        """Note how far inputs are from being uncorrelated in the basis: of the first batch, and of every addition's."""
        shares = []
        for a in {id(x): x for x in seen.inputs.values()}.values():
            if id(a) in shared:
                x = shared[id(a)][:_DRIFT_TOKENS].float()
                gram = x.t() @ x
                shares.append(float(1 - gram.diagonal().square().sum() / gram.square().sum()))
        found = sum(shares) / len(shares) if shares else float("nan")
        if not self.store.texts:
            self.store.write_facts(off_diagonal=found, fitted_on=len(self.plan.texts), drift=1.0)
        else:
            self.store.write_facts(drift=found / self.store.facts["off_diagonal"])

    def _save_sums(self, sums: Covariances, batches: int) -> None:
        part = self.store.work / "covariances.part"
        facts = {"batches": str(batches), "leader": json.dumps(sums.leader)}
        save_file({n: x.cpu() for n, x in sums.tensors().items()}, part, metadata=facts)
        os.replace(part, self.store.work / "covariances.safetensors")

    def _saved_sums(self) -> tuple[Covariances, int]:
        """Return sums of the batches summed before a stop, and their number."""
        path = self.store.work / "covariances.safetensors"
        try:
            tensors = {n: x.clone() for n, x in load_file(path, device=self.tracked.device).items()}
            with safe_open(path, framework="pt") as handle:
                facts = handle.metadata()
            return Covariances.of(tensors, json.loads(facts["leader"])), int(facts["batches"])
        except (OSError, SafetensorError):
            return Covariances(), 0


class _Saver:
    """Calls `save` after a batch unless that would take more than its share of the time."""

    def __init__(self, save: Callable[[int], None], share: float) -> None:
        self.save, self.share, self.cost, self.last = save, share, 0.0, time.monotonic()

    def expect(self, size: int) -> None:
        """Expect writing to cost what so many bytes take, before the first time."""
        self.cost = size / _BYTES_PER_SECOND

    def after(self, batches: int, stopping: bool = False) -> bool:
        """Save after `batches` batches if it is time, or if this is the end; say whether it was."""
        now = time.monotonic()
        if not stopping and self.cost > self.share * (now - self.last):
            return False
        self.save(batches)
        self.last = time.monotonic()
        self.cost = self.last - now
        return True


class _RowFiles:
    """rows.bin and check.bin open for writing, their space reserved so that a full disk is found out first."""

    def __init__(self, store: Store, rows: int) -> None:
        self.store, self.every = store, store.check_every
        self.begin, offset = {}, 0
        for name, total in store.sums.items():
            self.begin[name] = offset
            offset += 4 * total.numel()
        self.check_bytes = offset
        self.rows = _reserved(store.folder / "rows.bin", rows * store.rows.bytes)
        self.check = _reserved(store.folder / "check.bin", -(-rows // self.every) * offset) if self.every else -1

    def __enter__(self) -> _RowFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self.rows, self.check):
            if file >= 0:
                os.close(file)

    def write(self, row: int, name: str, gradients_Coi: Tensor) -> None:
        """Write one layer's gradients of the texts that have rows from `row` on."""
        layout = self.store.rows
        numbers, scales = layout.encode(name, gradients_Coi)
        numbers = numbers.cpu().contiguous().view(torch.uint8).numpy()
        for c in range(len(numbers)):
            offset = (row + c) * layout.bytes
            _write(self.rows, memoryview(numbers[c]), offset + layout.columns[name].begin)
            if scales is not None:
                _write(self.rows, memoryview(scales[c].cpu().numpy().tobytes()), offset + 4 * layout.number[name])
            if self.every and (row + c) % self.every == 0:
                whole = gradients_Coi[c].float().cpu().contiguous().numpy()
                _write(self.check, memoryview(whole).cast("B"), (row + c) // self.every * self.check_bytes + self.begin[name])


def _reserved(path: Path, size: int) -> int:
    """Return an open file of at least this size."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    if size > os.fstat(file).st_size:
        try:
            os.posix_fallocate(file, 0, size)
        except OSError as error:
            os.close(file)
            raise OSError(error.errno, f"{error.strerror}: {size / 1e9:.3g} GB of gradients do not fit", str(path)) from error
    return file


def _write(file: int, data: memoryview, offset: int) -> None:
    while data:
        n = os.pwrite(file, data, offset)
        data, offset = data[n:], offset + n
