"""This machine -> the isolation it offers, found by setting each tier up, never by guessing from versions.

Not covered: what each tier gives (inside/cage.py).
"""

from __future__ import annotations

from leaven.core.sandbox.worker import TierUnavailable, Worker
from leaven.errors import RefusedError, did_you_mean

TIERS = ("A", "B", "C", "D")
_reasons: dict[str, str] = {}  # tier -> why it does not work here, "" where it does; what was tried in this process


def start_worker(tier: str = "auto") -> Worker:
    """Start a worker of `tier`, or of the strongest tier this machine offers for "auto".

    Raises:
        RefusedError: no such tier, or it is not available here.
    """
    if tier not in (*TIERS, "auto"):
        raise RefusedError(
            f"expected a sandbox tier out of {', '.join(TIERS)} or auto, found {tier!r}.{did_you_mean(tier, TIERS)}"
        )
    for one in TIERS if tier == "auto" else (tier,):
        if _reasons.get(one):
            continue
        try:
            worker = Worker(one)
        except TierUnavailable as problem:
            _reasons[one] = str(problem)
            continue
        _reasons[one] = ""
        return worker
    if tier == "auto":
        raise RefusedError(
            f"expected a working sandbox, found none: {_reasons['D']}; check that {Worker.__name__} can start "
            "the Python interpreter as a subprocess"
        )
    raise RefusedError(f"sandbox tier {tier} is not available here: {_reasons[tier]}; use auto or a weaker tier")


def available_tiers() -> dict[str, str]:
    """Return tier -> "" where it works here, else the reason it does not."""
    for tier in TIERS:
        if tier not in _reasons:
            try:
                start_worker(tier).close()
            except RefusedError:
                continue  # the reason is noted
    return {tier: _reasons[tier] for tier in TIERS}


def best_tier() -> str:
    """Return the strongest tier this machine offers."""
    for tier in TIERS:
        if _reasons.get(tier) == "":
            return tier
        if tier not in _reasons:
            break
    worker = start_worker()
    worker.close()
    return worker.tier
