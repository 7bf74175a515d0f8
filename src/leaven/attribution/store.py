"""A folder of training gradients in the eigenbasis -> scores of any query set without a pass over the training data.

    store.json          what the gradients are of (model, layers, labels, seed, dtype) and how they are kept
    bases.safetensors   eigenvectors and Kronecker eigenvalues of every layer
    rows.bin            one row per text (coding.py), appended; texts.jsonl says whose
    check.bin           every n-th gradient again in fp32, against which the loss of ranking is measured
    sums.safetensors    squared gradients summed over all rows, and how many rows there are: the commit
    work/               batches and sums of an unfinished first pass; absent when it is finished

A batch is in the store when sums.safetensors, written under another name and renamed, counts it; anything beyond is
overwritten by the next start. Rows hold gradients, not gradients over eigenvalues, so a change of damping costs
nothing and new texts are appended: their squares join the sums, and the basis stays that of the first fit (`drift`
says how well it still fits). Rows and eigenvalues are read through memory maps. Not covered: filling (filling.py).

Shapes: N rows, R rows read at once, C checked rows, o outputs, i inputs, Q queries.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from leaven.attribution.coding import Coding, Rows
from leaven.attribution.factors import Block, Factors, Fisher
from leaven.attribution.passes import Vectors
from leaven.attribution.sums import Basis
from leaven.attribution.texts import Text
from leaven.errors import DataError

FORMAT = 1
_ROWS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Identity:
    """What the gradients of a store are of; another value of any field needs another store."""

    model: str
    modules: str
    dtype: str
    fisher: Fisher
    seed: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """Agreement of kept rows with whole gradients on the checked texts: Spearman correlation (mean and least over
    queries) and the share of each query's upper quarter that both name."""

    texts: int
    spearman: float
    least: float
    overlap: float

    def sentence(self) -> str:
        """Return the loss in words."""
        return (
            f"ranking kept: Spearman {self.spearman:.4f} (least {self.least:.3f}), upper quarter {self.overlap:.0%} the same, "
            f"on {self.texts} texts whose whole gradients are kept"
        )


@dataclass(slots=True, eq=False)
class Store:
    """An open store. `texts` are the keys of committed rows, `sums` their squared gradients [o,i] per layer."""

    folder: Path
    identity: Identity
    coding: Coding
    check_every: int
    texts: list[str]
    sums: dict[str, Tensor]
    bases: dict[str, Basis] | None
    facts: dict[str, Any]
    rows: Rows | None = field(default=None)

    @classmethod
    def create(cls, folder: Path, identity: Identity, coding: Coding, check_every: int) -> Store:
        """Start an empty store in a folder that holds none.

        Raises:
            DataError: the folder holds other files.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise DataError(f"{folder}: expected an empty or new folder for a store of gradients, found other files; name another")
        store = cls(folder, identity, coding, check_every, [], {}, None, {})
        store.write_facts()
        return store

    @classmethod
    def open(cls, folder: Path, device: str = "cpu") -> Store:
        """Open a store, finished or not.

        Raises:
            DataError: no store lies there, or its files do not belong together.
        """
        try:
            facts = json.loads((folder / "store.json").read_text(encoding="utf-8"))
            if facts["format"] != FORMAT:
                raise DataError(
                    f"{folder}: expected a store of format {FORMAT}, found {facts['format']}; it was written by another "
                    "version of leaven: use that one, or another folder"
                )
            identity, coding = Identity(**facts["identity"]), Coding(**facts["coding"])
            store = cls(folder, identity, coding, facts["check_every"], [], {}, None, facts["facts"])
            if (folder / "bases.safetensors").is_file():
                store.set_bases(_load_bases(folder / "bases.safetensors", device))
            if (folder / "sums.safetensors").is_file():
                store._load_sums(device)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DataError(
                f"{folder}: expected a store of gradients, {type(error).__name__}: {error}; name another folder, or delete this one"
            ) from error
        return store

    @staticmethod
    def lies_in(folder: Path) -> bool:
        """Say whether a folder holds a store."""
        return (folder / "store.json").is_file()

    @property
    def work(self) -> Path:
        """Return where an unfinished pass keeps its files."""
        return self.folder / "work"

    def set_bases(self, bases: dict[str, Basis], save: bool = False) -> None:
        """Take the eigenvectors, and write them."""
        self.bases, self.rows = bases, Rows(self.coding, bases)
        if save:
            _save_bases(self.folder / "bases.safetensors", bases)
        if not self.sums:
            self.sums = {n: b.q_in.new_zeros(len(b.s_out), len(b.s_in)) for n, b in bases.items()}

    def write_facts(self, **facts: Any) -> None:
        """Write store.json, with more facts about the gradients."""
        self.facts.update(facts)
        content = {
            "format": FORMAT,
            "identity": {f: getattr(self.identity, f) for f in Identity.__slots__},
            "coding": {"kind": self.coding.kind, "share": self.coding.share},
            "check_every": self.check_every,
            "facts": self.facts,
        }
        part = self.folder / "store.json.part"
        part.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(part, self.folder / "store.json")

    def refuse_other(self, identity: Identity) -> None:
        """Raise DataError unless the store is of this identity."""
        other = [
            f"{f} {getattr(self.identity, f)!r} (asked for: {getattr(identity, f)!r})"
            for f in Identity.__slots__
            if getattr(self.identity, f) != getattr(identity, f)
        ]
        if other:
            raise DataError(
                f"{self.folder}: expected gradients of the model and settings asked for, found a store of {', '.join(other)}; "
                "name another folder with --store, or use the settings of this one"
            )

    def factors(self) -> Factors:
        """Return EK-FAC over all texts in the store.

        Raises:
            DataError: the store is empty.
        """
        if self.bases is None or not self.texts:
            raise DataError(f"{self.folder}: expected gradients of at least one text, found none; the first pass did not get that far")
        n = len(self.texts)
        blocks = {name: Block(b.q_out, b.q_in, self.sums[name] / n) for name, b in self.bases.items()}
        return Factors(blocks, n, self.identity.fisher, self.identity.seed)

    def score(self, weighted: Vectors) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, products [Q,R] of query vectors in the eigenbasis [Q,o,i] with the rows from there on).

        Raises:
            DataError: rows are missing.
        """
        rows = _mapped(self.folder / "rows.bin", (len(self.texts), self.rows.bytes))
        weighed = {n: self.rows.weigh(n, v.float()).cpu() for n, v in weighted.items()}
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            yield first, self._products(rows[first : first + _ROWS_AT_ONCE], weighed)

    def loss_of_ranking(self, weighted: Vectors) -> Ranking | None:
        """Return how the kept rows rank the checked texts for these queries, against their whole gradients; None
        where rows are whole."""
        checked = list(range(0, len(self.texts), self.check_every)) if self.check_every else []
        if not checked:
            return None
        rows = _mapped(self.folder / "rows.bin", (len(self.texts), self.rows.bytes))[checked]
        files = _mapped(self.folder / "check.bin", (len(checked), 4 * sum(x.numel() for x in self.sums.values())))
        whole, begin, weighed = 0.0, 0, {}
        for name, vectors in weighted.items():
            end = begin + 4 * vectors[0].numel()
            flat = vectors.flatten(1).float().cpu()
            whole = whole + (files[:, begin:end].view(torch.float32) @ flat.t()).double()
            weighed[name], begin = self.rows.weigh(name, vectors.float()).cpu(), end
        return _ranking(self._products(rows, weighed), whole.t().numpy())

    def _products(self, rows: Tensor, weighed: Vectors) -> np.ndarray:
        return sum(self.rows.dot(rows, n, v).double() for n, v in weighed.items()).t().numpy()

    def commit(self, keys: Sequence[str]) -> None:
        """Count rows that have been written behind the last ones, of the texts with these keys."""
        with (self.folder / "texts.jsonl").open("r+" if self.texts else "w", encoding="utf-8") as file:
            file.seek(_line_bytes() * len(self.texts))  # lines of a batch that was never committed are overwritten
            file.truncate()
            file.writelines(json.dumps(key) + "\n" for key in keys)
        n = len(self.texts) + len(keys)
        part = self.folder / "sums.part"
        save_file({k: x.cpu().contiguous() for k, x in self.sums.items()}, part, metadata={"n_rows": str(n)})
        os.replace(part, self.folder / "sums.safetensors")
        self.texts += keys

    def _load_sums(self, device: str) -> None:
        self.sums = _loaded(self.folder / "sums.safetensors", device)
        if self.bases is None or set(self.sums) != set(self.bases):
            raise DataError("sums.safetensors does not belong to bases.safetensors")
        self.sums = {n: self.sums[n] for n in self.bases}
        with safe_open(self.folder / "sums.safetensors", framework="pt") as handle:
            n = int(handle.metadata()["n_rows"])
        lines = (self.folder / "texts.jsonl").read_text(encoding="utf-8").splitlines()[:n]
        if len(lines) < n or (self.folder / "rows.bin").stat().st_size < n * self.rows.bytes:
            raise DataError(f"rows.bin and texts.jsonl hold fewer than the {n} texts counted")
        self.texts = [json.loads(line) for line in lines]


def text_keys(texts: Sequence[Text]) -> list[str]:
    """Return what texts are known by in a store: tokens, loss weights, and which of several equal ones each is. Names
    are left out, so files may be renamed and rows reordered."""
    found, times = [], Counter[bytes]()
    for text in texts:
        state = hashlib.sha256(np.ascontiguousarray(text.ids, np.int64).tobytes() + text.token_weights().tobytes())
        same = state.digest()
        state.update(str(times[same]).encode())
        times[same] += 1
        found.append(state.hexdigest()[:_KEY])
    return found


_KEY = 32


def _line_bytes() -> int:
    return _KEY + 3  # quotes and newline


def _mapped(path: Path, shape: tuple[int, int]) -> Tensor:
    """Return a file as uint8 [rows, bytes], mapped."""
    if not path.is_file() or path.stat().st_size < shape[0] * shape[1]:
        raise DataError(f"{path}: expected {shape[0]} rows of {shape[1]} bytes, found fewer; delete the store and fill it again")
    if not shape[0]:
        return torch.zeros(shape, dtype=torch.uint8)
    return torch.from_file(str(path), shared=False, size=shape[0] * shape[1], dtype=torch.uint8).view(shape)


def _ranking(kept_QC: np.ndarray, whole_QC: np.ndarray) -> Ranking:
    size = max(1, kept_QC.shape[1] // 4)
    ranks = [np.argsort(np.argsort(x, axis=1), axis=1).astype(float) for x in (kept_QC, whole_QC)]
    a, b = (r - r.mean(1, keepdims=True) for r in ranks)
    norm = (a**2).sum(1)
    spearman = np.divide((a * b).sum(1), norm, out=np.ones(len(a)), where=norm > 0)
    tops = [np.argsort(-x, axis=1)[:, :size] for x in (kept_QC, whole_QC)]
    overlap = np.mean([len(np.intersect1d(x, y)) / size for x, y in zip(*tops, strict=True)])
    return Ranking(kept_QC.shape[1], float(spearman.mean()), float(spearman.min()), float(overlap))


def _loaded(path: Path, device: str) -> dict[str, Tensor]:
    """Return a file's tensors in memory of their own, aligned as computed ones are: products then round the same."""
    return {n: x.clone() for n, x in load_file(path, device=device).items()}


def _save_bases(path: Path, bases: Mapping[str, Basis]) -> None:
    """Write eigenvectors once each."""
    tensors: dict[str, Tensor] = {}
    places: dict[int, str] = {}
    layers = {}
    for name, basis in bases.items():
        layers[name] = {}
        for part in ("q_out", "q_in", "s_out", "s_in"):
            x = getattr(basis, part)
            if id(x) not in places:
                places[id(x)] = f"{name}|{part}"
                tensors[places[id(x)]] = x.cpu().contiguous()
            layers[name][part] = places[id(x)]
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata={"layers": json.dumps(layers)})
    os.replace(part, path)


def _load_bases(path: Path, device: str) -> dict[str, Basis]:
    tensors = _loaded(path, device)
    with safe_open(path, framework="pt") as handle:
        layers = json.loads(handle.metadata()["layers"])
    return {n: Basis(*(tensors[parts[p]] for p in ("q_out", "q_in", "s_out", "s_in"))) for n, parts in layers.items()}
