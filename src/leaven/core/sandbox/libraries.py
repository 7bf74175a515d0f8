"""The environment's packages -> those a candidate may import: numeric and algorithmic libraries that programs commonly use.

Only these are visible in the sandbox, not the whole of site-packages: among a user's packages may be benchmarks with
their solutions. A program that imports one runs in a child of its own. Not covered: tier D, which hides nothing.
"""

from __future__ import annotations

import os
import sys
from functools import cache

NAMES = (
    "numpy",
    "scipy",
    "pandas",
    "sympy",
    "mpmath",
    "networkx",
    "sortedcontainers",
    "more_itertools",
    "dateutil",
    "pytz",
    "tzdata",
    "six",
    "attr",
    "attrs",
    "regex",
    "bitarray",
    "gmpy2",
)
# a pool of threads per program would only run into its limits
ENVIRONMENT = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")}


@cache
def library_paths() -> tuple[str, ...]:
    """Return what candidates may read of this environment's packages: folders and single files."""
    found = []
    for folder in dict.fromkeys(map(os.path.abspath, sys.path)):
        if os.path.basename(folder) in ("site-packages", "dist-packages"):
            for name in NAMES:
                found += [p for p in (f"{folder}/{name}", f"{folder}/{name}.libs", f"{folder}/{name}.py") if os.path.exists(p)]
    return tuple(found)
