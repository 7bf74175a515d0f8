"""This machine -> the isolation it offers, found by setting each tier up once, never by guessing from versions.

Not covered: what each tier gives (inside/cage.py).
"""

from __future__ import annotations

import functools

from leaven.core.sandbox.worker import TierUnavailable, Worker
from leaven.errors import RefusedError, did_you_mean

TIERS = ("A", "B", "C", "D")


@functools.cache
def _reason(tier: str) -> str:
    try:
        Worker(tier).close()
    except TierUnavailable as problem:
        return str(problem)
    return ""


def available_tiers() -> dict[str, str]:
    """Return tier -> "" where it works here, else the reason it does not."""
    return {tier: _reason(tier) for tier in TIERS}


def best_tier() -> str:
    """Return the strongest tier this machine offers."""
    for tier in TIERS:
        if not _reason(tier):
            return tier
    raise RefusedError(f"expected a working sandbox, found none: {_reason('D')}; check that {Worker.__name__} can start "
                       "the Python interpreter as a subprocess")


def check_tier(tier: str) -> str:
    """Return `tier` if it works here; raise RefusedError saying why not otherwise."""
    if tier not in TIERS:
        raise RefusedError(f"expected a sandbox tier out of {', '.join(TIERS)} or auto, found {tier!r}."
                           f"{did_you_mean(tier, TIERS)}")
    if _reason(tier):
        raise RefusedError(f"sandbox tier {tier} is not available here: {_reason(tier)}; use --tier auto or a weaker one")
    return tier
