"""Runtime + expected work -> whether training goes through torch.compile, and why.

The choice depends on the work planned and on whether a C++ compiler is there, never on a measured time: a run that is
killed and resumed must make it the same way twice. Not covered: CUDA graphs.
"""

from __future__ import annotations

import os
import shutil

from leaven.core.step import Resources
from leaven.errors import StudyError

NOMINAL_FLOPS = 60e9
"""What one core sustains on small models; only the order of magnitude matters."""
WORTH_SECONDS = 600.0
"""Compiling costs 10-25 s per set of shapes and saves 20-35 %: below this much work it loses."""


def cpp_compiler() -> str | None:
    """Return the C++ compiler that torch.compile would use on a CPU, or None."""
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        if name and (found := shutil.which(name)):
            return found
    return None


def compile_choice(runtime: Resources, flops: float) -> tuple[bool, list[str]]:
    """Return whether to compile a run of `flops`, and notes for training.json and the progress line.

    Raises:
        StudyError: runtime.compile is not auto, on or off.
    """
    if runtime.compile not in ("auto", "on", "off"):
        raise StudyError(f"runtime.compile: expected auto, on or off, found {runtime.compile!r}")
    on_cpu = not runtime.device.startswith("cuda")
    available = not on_cpu or cpp_compiler() is not None
    worth = flops / (NOMINAL_FLOPS * max(1, runtime.threads)) > WORTH_SECONDS
    if runtime.compile == "off" or (runtime.compile == "auto" and not worth):
        return False, []
    if not available:
        return False, ["eager: no C++ compiler found (install g++ or clang++ to compile)"]
    return True, []
