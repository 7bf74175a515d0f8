"""What a pass over the model saw, batch by batch -> files, so that later passes read it back instead of running the model.

Factors need a and g twice (covariances, then eigenvalues in their basis). On a CPU running the model again costs
tens of times more than writing and mapping T x (sum of widths) numbers per text. One file per batch, written under
another name and renamed, so a kill leaves whole batches only; numbers keep their dtype. Files are memory-mapped on
reading: they count against the disk budget, not against memory. Not covered: when keeping them pays (filling.py).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch import Tensor

from leaven.attribution.passes import Seen, Tracked
from leaven.attribution.texts import Batch

_ALIGN = 64
_HEAD = 8
"""Bytes at the start of a file that hold the length of its description."""


class Tape:
    """The batches kept in one folder, by number."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, which is made when the first batch is written."""
        self.folder = folder

    def has(self, number: int) -> bool:
        """Say whether a batch is kept."""
        return self._file(number).is_file()

    def write(self, number: int, of_data: Seen, of_draws: Seen) -> None:
        """Keep one batch: inputs, and pseudo-gradients of the data's labels and of drawn ones (may be the same)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors, places = _distinct(of_data, of_draws)
        described, offset = [], 0
        for x in tensors:
            described.append([offset, list(x.shape), str(x.dtype).removeprefix("torch.")])
            offset += -(-x.numel() * x.element_size() // _ALIGN) * _ALIGN
        head = json.dumps({"tensors": described, **places}).encode()
        head += b" " * (-(len(head) + _HEAD) % _ALIGN)
        part = self._file(number).with_suffix(".part")
        with part.open("wb", buffering=0) as file:
            size = _HEAD + len(head) + offset
            os.posix_fallocate(file.fileno(), 0, size)  # blocks all at once: writing then takes a tenth of the time
            file.write(len(head).to_bytes(_HEAD, "little") + head)
            for x, (begin, _, _) in zip(tensors, described, strict=True):
                file.seek(_HEAD + len(head) + begin)
                file.write(memoryview(x.cpu().contiguous().view(torch.uint8).numpy()))
        os.replace(part, self._file(number))

    def read(self, number: int, batch: Batch, tracked: Tracked) -> tuple[Seen, Seen]:
        """Return a kept batch, memory-mapped."""
        path = self._file(number)
        data = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
        length = int.from_bytes(bytes(data[:_HEAD].tolist()), "little")
        head = json.loads(bytes(data[_HEAD : _HEAD + length].numpy()))
        tensors = []
        for begin, shape, dtype in head["tensors"]:
            kind = getattr(torch, dtype)
            size = torch.Size(shape).numel() * kind.itemsize
            begin += _HEAD + length
            tensors.append(data[begin : begin + size].view(kind).view(shape).to(tracked.device))
        inputs, grads, drawn = ({n: tensors[k] for n, k in head[p].items()} for p in ("inputs", "grads", "drawn"))
        none = torch.zeros(0, device=tracked.device)
        of_data = Seen(batch, inputs, grads, none)
        return of_data, of_data if head["grads"] == head["drawn"] else Seen(batch, inputs, drawn, none)

    def drop(self, number: int) -> None:
        """Give up one batch."""
        self._file(number).unlink(missing_ok=True)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.tape"


def tape_bytes(tracked: Tracked, tokens: int, both: bool) -> int:
    """Return about what `tokens` tokens take on the tape (an upper bound: layers that share an input count it once)."""
    shapes = [tracked.shape(n) for n in tracked.names()]
    return tokens * sum(i + o * (2 if both else 1) for o, i in shapes) * tracked.numbers.itemsize


def _distinct(of_data: Seen, of_draws: Seen) -> tuple[list[Tensor], dict[str, dict[str, int]]]:
    """Return every distinct tensor once, and which of them each layer uses."""
    number: dict[int, int] = {}
    tensors: list[Tensor] = []
    places: dict[str, dict[str, int]] = {}
    for part, named in (("inputs", of_data.inputs), ("grads", of_data.grads), ("drawn", of_draws.grads)):
        places[part] = {}
        for name, x in named.items():
            if id(x) not in number:
                number[id(x)] = len(tensors)
                tensors.append(x)
            places[part][name] = number[id(x)]
    return tensors, places
