"""The systems that benchmarks/attribution.py compares: leaven's store, kronfluence and bergson on one folder.

Each function gets the prepared folder, a case and a clock, and returns scores [Q,N]: influence by EK-FAC with the
empirical Fisher, damping 0.1 x the mean eigenvalue, one query per text, every position with loss, attention as
transformers chooses it. A phase ends with clock.mark(name); phases whose name starts with "second" are a second query
set over the same training texts and are left out of the total.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

BATCH = 16
"""Texts per batch, for every system (kronfluence took 6 % longer with 32)."""


class Clock:
    """CPU and wall seconds of phases, and the peak of anonymous memory (MiB), sampled every 10 ms."""

    def __init__(self) -> None:
        self.phases: list[dict[str, Any]] = []
        self.disk, self.running = 0, True
        self.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def start(self) -> None:
        """Begin the first phase; what came before (imports, loading the model) does not count."""
        self.begun = self.peak = anonymous()
        self.last = time.process_time(), time.perf_counter()

    def mark(self, name: str) -> None:
        """End a phase."""
        now = time.process_time(), time.perf_counter()
        self.phases.append({"name": name, "cpu": now[0] - self.last[0], "wall": now[1] - self.last[1]})
        self.last = now

    def occupied(self, folder: Path) -> None:
        """Note what a folder holds, if it is the most so far."""
        self.disk = max(self.disk, sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()))

    def _watch(self) -> None:
        while self.running:
            self.peak = max(self.peak, anonymous())
            time.sleep(0.01)


def anonymous() -> float:
    """Return this process's anonymous memory in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return float("nan")


def data(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return token ids of the training texts and of two query sets."""
    found = np.load(folder / "data.npz")
    return found["train"], found["query"], found["second"]


def texts_of(ids: np.ndarray, name: str) -> list[Any]:
    """Return rows of ids as leaven's texts."""
    from leaven.attribution.texts import Text

    return [Text(example=f"{name}{k}", ids=row, learn=np.ones(len(row), np.float32)) for k, row in enumerate(ids)]


def tracked_of(folder: Path, modules: str, dtype: str) -> Any:
    """Return leaven's view of the model in the folder, in a process prepared as leaven prepares its own."""
    import torch

    from leaven.attribution.passes import Tracked
    from leaven.core.step import Resources
    from leaven.lm.hf import HfTrainable
    from leaven.lm.process import prepare_process

    prepare_process(Resources(threads=torch.get_num_threads()))

    return Tracked(HfTrainable.open(folder, SimpleNamespace(vocab_size=1), "cpu"), modules, dtype=dtype)


def run_leaven(folder: Path, modules: str, dtype: str, clock: Clock) -> np.ndarray:
    """Fill a store of gradients, score one query set, and a second one."""
    from leaven.attribution.coding import Coding
    from leaven.attribution.factors import Damping
    from leaven.attribution.filling import fill
    from leaven.attribution.queries import query_gradients, single_queries
    from leaven.attribution.store import Identity, Store, text_keys
    from leaven.core.step import StepContext

    train, query, second = (texts_of(x, n) for x, n in zip(data(folder), ("t", "q", "s"), strict=True))
    tracked = tracked_of(folder, modules, dtype)
    tokens = BATCH * (len(train[0].ids) - 1)
    place = Path(tempfile.mkdtemp(dir=folder)) / "store"
    clock.start()
    current = ["covariances"]

    def progress(done: float, total: float, note: str = "") -> None:
        phase = note.removeprefix("gradients: ")
        if phase != current[0]:
            clock.occupied(place)
            clock.mark(current[0])
            current[0] = phase

    def score(store: Store, queries: list[Any], phase: str) -> np.ndarray:
        turned = query_gradients(tracked, single_queries(queries), batch_tokens=tokens, bases=store.bases)
        clock.mark(f"{phase}queries")
        factors = store.factors()
        weighted = factors.weigh(turned, factors.damping(Damping()))
        found = np.concatenate([block for _, block in store.score(weighted)], 1)
        store.loss_of_ranking(weighted)
        number = {key: n for n, key in enumerate(store.texts)}
        clock.mark(f"{phase}scores")
        return found[:, [number[key] for key in text_keys(train)]]

    store = Store.create(place, Identity("m", modules, dtype, "empirical", 0), Coding(), 16 if dtype == "fp32" else 0)
    fill(store, tracked, train, batch_tokens=tokens, ctx=StepContext(progress=progress))
    clock.mark(current[0])
    scores = score(store, query, "")
    del store
    score(Store.open(place), second, "second: ")
    shutil.rmtree(place.parent)
    return scores


def run_kronfluence(folder: Path, modules: str, dtype: str, clock: Clock, preset: str = "all") -> np.ndarray:
    """Run kronfluence: default arguments, or its low-precision presets (all, or smart: fp32 for the sensitive parts)."""
    import torch
    import torch.nn.functional as F
    import transformers
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.task import Task
    from kronfluence.utils.common import factor_arguments, score_arguments

    train, query, _ = data(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    names = [
        name
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear) and ".layers." in name and (modules == "linear" or ".mlp." in name)
    ]

    class Likelihood(Task):
        def compute_train_loss(self, batch: Any, model: Any, sample: bool = False) -> Any:
            logits = model(batch[:, :-1]).logits.float().flatten(0, 1)
            return F.cross_entropy(logits, batch[:, 1:].flatten(), reduction="sum")

        def compute_measurement(self, batch: Any, model: Any) -> Any:
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self) -> list[str]:
            return names

        def get_attention_mask(self, batch: Any) -> None:
            return None

    class Rows(torch.utils.data.Dataset):
        def __init__(self, ids: np.ndarray) -> None:
            self.ids = torch.from_numpy(ids)

        def __len__(self) -> int:
            return len(self.ids)

        def __getitem__(self, k: int) -> Any:
            return self.ids[k]

    task = Likelihood()
    out = Path(tempfile.mkdtemp(dir=folder))
    analyzer = Analyzer("run", prepare_model(model, task), task, output_dir=str(out), disable_tqdm=True, cpu=True)
    kind = "default" if dtype == "fp32" else f"{preset}_low_precision"
    fit = getattr(factor_arguments, f"{kind}_factor_arguments")()
    ask = getattr(score_arguments, f"{kind}_score_arguments")(None)  # None: damping 0.1 x the mean eigenvalue
    fit.use_empirical_fisher = True
    clock.start()
    analyzer.fit_covariance_matrices("f", Rows(train), per_device_batch_size=BATCH, factor_args=fit)
    clock.mark("covariances")
    analyzer.perform_eigendecomposition("f", factor_args=fit)
    clock.mark("eigenvectors")
    analyzer.fit_lambda_matrices("f", Rows(train), per_device_batch_size=BATCH, factor_args=fit)
    clock.mark("eigenvalues")
    analyzer.compute_pairwise_scores(
        "s", "f", Rows(query), Rows(train), per_device_query_batch_size=BATCH, per_device_train_batch_size=BATCH, score_args=ask
    )
    clock.mark("queries and scores")
    clock.occupied(out)
    scores = analyzer.load_pairwise_scores("s")["all_modules"].float().numpy()
    shutil.rmtree(out)
    return scores


def run_bergson(folder: Path, modules: str, dtype: str, clock: Clock) -> np.ndarray:
    """Run bergson's EK-FAC pipeline."""
    import datasets
    from bergson.config.config import (
        DataConfig,
        HessianConfig,
        HessianPipelineConfig,
        IndexConfig,
        InversionConfig,
        PreprocessConfig,
        QuerySetConfig,
        ScoreConfig,
    )
    from bergson.data import load_scores
    from bergson.hessians import pipeline

    train, query, _ = data(folder)
    out = Path(tempfile.mkdtemp(dir=folder))
    for name, ids in (("train", train), ("query", query)):
        rows = {"input_ids": ids.tolist(), "labels": ids.tolist(), "length": [ids.shape[1]] * len(ids)}
        datasets.Dataset.from_dict(rows).save_to_disk(str(out / name))
    index = IndexConfig(
        run_path=str(out / "run"),
        model=str(folder),
        precision=dtype,
        data=DataConfig(dataset=str(out / "train")),
        token_batch_size=BATCH * train.shape[1],
        filter_modules=None if modules == "linear" else "*self_attn*",
    )
    fit = pipeline.approximate_hessians

    def timed(*arguments: Any) -> None:
        clock.mark("queries")
        fit(*arguments)
        clock.mark("factors")

    pipeline.approximate_hessians = timed
    clock.start()
    pipeline.hessian_pipeline(
        index,
        HessianConfig(method="kfac", ev_correction=True, use_dataset_labels=True, hessian_dtype=dtype),
        ScoreConfig(precision=dtype),
        PreprocessConfig(),
        HessianPipelineConfig(
            query=QuerySetConfig(dataset=str(out / "query"), aggregation="none"), inversion_cfg=InversionConfig(damping_factor=0.1)
        ),
    )
    clock.mark("scores")
    clock.occupied(out / "run")
    found = np.asarray(load_scores(out / "run" / "scores")[:])
    found = np.stack([found[n] for n in found.dtype.names], 1) if found.dtype.names else found
    shutil.rmtree(out)
    return found.T.astype(np.float32)
