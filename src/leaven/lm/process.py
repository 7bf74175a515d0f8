"""Runtime resources -> settings of this process: threads, garbage collection, and memory that is kept.

A training step allocates the same megabyte-sized tensors again and again. glibc maps and unmaps each of them, so the
kernel zeroes fresh pages all the time: 15 % of the CPU time of a small model. Raising its thresholds keeps them.
Not covered: limits (engine/), other C libraries.
"""

from __future__ import annotations

import ctypes
import gc
import platform

import torch

from leaven.core.step import Resources

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


def prepare_process(resources: Resources) -> None:
    """Set the number of threads and, with glibc, keep freed memory for the next step."""
    torch.set_num_threads(max(1, resources.threads))
    gc.freeze()  # what importing left behind stays: walking it again and again costs 3-5 % of a small model's training
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, value in ((_MMAP_THRESHOLD, 1 << 30), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 1 << 26)):
            libc.mallopt(option, value)
