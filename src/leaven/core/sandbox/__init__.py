"""Run untrusted programs: `execute(jobs)` yields one verdict per program, for one program or a million.

jobs.py (Job, Limits, Result) -> pool.py (order, batches, reruns, verdicts) -> worker.py (one exec'ed worker) ->
inside/ (the worker itself: standard library only). tiers.py finds what isolation this machine offers,
toolchains.py which other languages run in it.
"""

from leaven.core.sandbox.jobs import Job, Limits, Result
from leaven.core.sandbox.pool import execute
from leaven.core.sandbox.tiers import available_tiers, best_tier
from leaven.core.sandbox.toolchains import language_of, toolchains

__all__ = ["Job", "Limits", "Result", "available_tiers", "best_tier", "execute", "language_of", "toolchains"]
