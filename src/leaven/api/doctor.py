"""`leaven doctor`: what this machine offers and what each missing piece would enable. Changes nothing, imports no heavy package."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
from dataclasses import dataclass

from leaven.spec.runtime import Runtime, cores, store_path

EXTRAS = {
    "transformers": ("hf", "train and evaluate local Hugging Face folders"),
    "accelerate": ("hf", "peers of benchmarks/training.py"),
    "trl": ("peers", "speed comparison in benchmarks/training.py"),
    "playwright": ("browser", "tests of the report in a real browser"),
}
TOOLS = {
    ("g++", "c++", "clang++"): "torch.compile on the CPU (faster training of long runs)",
    ("node",): "JavaScript benchmarks of MultiPL-E",
    ("javac",): "Java benchmarks of MultiPL-E",
    ("php",): "PHP benchmarks of MultiPL-E",
    ("bash",): "Bash benchmarks of MultiPL-E",
    ("chromium", "chromium-browser", "google-chrome"): "browser tests of the report",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's list: what, whether it is there, what was found, what it enables."""

    name: str
    ok: bool
    found: str
    enables: str


def doctor() -> list[Check]:
    """Return one Check per thing this machine has or lacks."""
    from leaven.core.sandbox import available_tiers

    checks = [
        Check("python", True, platform.python_version(), "leaven"),
        Check("machine", True, f"{platform.system()} {platform.machine()}, {cores()} cores", ""),
        _package("torch", "training and evaluation", ""),
        Check("store", True, str(store_path(Runtime())), "where artifacts go (LEAVEN_STORE)"),
    ]
    for tier, reason in available_tiers().items():
        checks.append(Check(f"sandbox tier {tier}", not reason, reason or "available", _TIERS.get(tier, "")))
    for names, enables in TOOLS.items():
        path = next((p for n in names if (p := shutil.which(n))), None)
        checks.append(Check(" or ".join(names), path is not None, path or "not found", enables))
    checks += [_package(name, enables, extra) for name, (extra, enables) in EXTRAS.items()]
    return checks


_TIERS = {
    "A": "run any program: namespaces, system-call filter, limits (needs root)",
    "B": "run any program: user namespaces, system-call filter, limits",
    "C": "run any program inside a container: system-call filter and limits",
    "D": "run programs that an allow-list proves harmless (always there; enough for the quickstart)",
}


def _package(name: str, enables: str, extra: str) -> Check:
    """Return whether a Python package is installed, without importing it."""
    if importlib.util.find_spec(name) is None:
        return Check(
            name, False, f"not installed: pip install 'leaven[{extra}]'" if extra else "not installed", enables
        )
    return Check(name, True, importlib.metadata.version(name), enables)
