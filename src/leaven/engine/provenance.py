"""Where an artifact came from: the machine's fingerprint, what changed between two artifacts, and text without secrets."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

PACKAGES = ("leaven", "torch", "numpy", "polars", "tokenizers", "transformers", "scipy")


def fingerprint(*, threads: int, device: str = "cpu") -> dict[str, Any]:
    """Return what may change results in the last bits: interpreter, platform, processor, threads, device, package versions."""
    return {**_machine(), "threads": threads, "device": device}


@functools.cache
def _machine() -> dict[str, Any]:
    """Return the part of the fingerprint that does not change while a process lives."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = ""
    return {"python": platform.python_version(), "platform": platform.platform(), "processor": _processor(),
            "cores": os.cpu_count() or 1, "packages": versions}


def _processor() -> str:
    """Return the processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
