"""What a pass over the model saw, batch by batch -> files, so that later passes read it back instead of running the model.

Factors need a and g twice (covariances, then eigenvalues in their basis). On a CPU running the model again costs
tens of times more than writing and reading T x (sum of widths) numbers per text. One file per batch, written under
another name and renamed, so a kill leaves whole batches only; numbers keep their dtype. Every file is written once and
read once, so where the file system allows it goes past the kernel's page cache, through one buffer of the size of a
batch: filling fresh pages of the cache takes several times the processor time of the copy. They count against the
disk budget. Not covered: when keeping them pays (filling.py).
"""

from __future__ import annotations

import errno
import json
import mmap
import os
from pathlib import Path

import torch
from torch import Tensor

from leaven.attribution.passes import Seen, Tracked
from leaven.attribution.texts import Batch

_ALIGN = 64
_PAGE = 4096
_PAST_CACHE = getattr(os, "O_DIRECT", 0)
_HEAD = 8
"""Bytes at the start of a file that hold the length of its description."""


class Tape:
    """The batches kept in one folder, by number."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, which is made when the first batch is written."""
        self.folder = folder
        self._pages: mmap.mmap | None = None

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
        size = _HEAD + len(head) + offset
        buffer = self._buffer(size)
        buffer[: _HEAD + len(head)] = torch.frombuffer(bytearray(len(head).to_bytes(_HEAD, "little") + head), dtype=torch.uint8)
        for x, (begin, _, _) in zip(tensors, described, strict=True):
            begin += _HEAD + len(head)
            buffer[begin : begin + x.numel() * x.element_size()].view(x.dtype).view(x.shape).copy_(x)
        part = self._file(number).with_suffix(".part")
        _whole(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, memoryview(self._pages)[: -(-size // _PAGE) * _PAGE])
        os.replace(part, self._file(number))

    def read(self, number: int, batch: Batch, tracked: Tracked) -> tuple[Seen, Seen]:
        """Return a kept batch; on a CPU its numbers lie in the buffer, until the next one is written or read."""
        path = self._file(number)
        size = path.stat().st_size
        data = self._buffer(size)
        _whole(path, os.O_RDONLY, memoryview(self._pages)[:size])
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

    def _buffer(self, size: int) -> Tensor:
        """Return the buffer as uint8, at least this large."""
        if self._pages is None or len(self._pages) < size:
            self._pages = mmap.mmap(-1, -(-size // _PAGE) * _PAGE)
        return torch.frombuffer(self._pages, dtype=torch.uint8)


def _whole(path: Path, flags: int, data: memoryview) -> None:
    """Write or read a whole file, past the page cache where the file system can."""
    try:
        _moved(path, flags | _PAST_CACHE, data)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        _moved(path, flags, data)


def _moved(path: Path, flags: int, data: memoryview) -> None:
    """Move all of `data`; a file past the cache takes whole pages only, so every step ends at one."""
    file, at = os.open(path, flags, 0o644), 0
    try:
        if flags & os.O_CREAT:
            os.posix_fallocate(file, 0, len(data))  # blocks all at once: writing then takes a tenth of the time
        while at < len(data):
            moved = os.pwrite(file, data[at:], at) if flags & os.O_CREAT else os.preadv(file, [data[at:]], at)
            if moved < _PAGE:
                raise OSError(errno.EIO, f"expected {len(data)} bytes, found an end at {at + moved}", str(path))
            at += moved // _PAGE * _PAGE
    finally:
        os.close(file)


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
