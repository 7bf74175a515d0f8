"""WHERE and how fast: cores, device, store and folders. Never part of a key. Only here the environment is read."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from leaven.spec.data import CONFIG


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Folders that `data:NAME` and `model:NAME` stand for."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    data: str = "data"
    """Folder of `data:NAME`, relative to the study file."""
    models: str = "models"
    """Folder of `model:NAME`, relative to the study file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Where a study runs."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CONFIG
    store: str = ".leaven"
    """Artifact store; LEAVEN_STORE overrides it."""
    runs: str = "runs"
    """Folder of run folders."""
    workers: int = 0
    """Steps at a time; 0 means one per core."""
    threads: int = 1
    """Threads per step."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Where tensors live."""
    micro_batch: int = 0
    """Rows per forward pass; 0 chooses."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile: auto uses it where a compiler exists and it pays."""
    sandbox_tier: Literal["auto", "A", "B", "C", "D"] = "auto"
    """Strongest sandbox to use; auto takes the best this machine offers."""
    checkpoint_seconds: float = 20.0
    """Training saves a resume point this often."""
    paths: Paths = field(default_factory=Paths)
    """Folders for named files."""


def cores() -> int:
    """Return the number of cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def store_path(runtime: Runtime) -> Path:
    """Return the store folder: LEAVEN_STORE when set, else the runtime's."""
    return Path(os.environ.get("LEAVEN_STORE") or runtime.store).expanduser().absolute()


def secret(name: str | None) -> str:
    """Return the value of the environment variable that holds a secret, "" for no name or no value; it is never stored."""
    return os.environ.get(name, "") if name else ""
