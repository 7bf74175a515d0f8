"""The `leave_out` and `reweigh` sections of a stage -> refusal of what does not fit together, before anything runs.

Not covered: what only the data can tell (no example of a difficulty, no score of an example): apply.py and its parts say that.
"""

from __future__ import annotations

from collections.abc import Iterator

from leaven.errors import StudyError, did_you_mean
from leaven.spec.data import LeaveOut, Reweigh, Stage

SECTIONS = ("leave_out", "reweigh")


def check_intervention(stage: Stage, section: str, where: str) -> None:
    """Raise StudyError with every way in which a stage's `leave_out` or `reweigh` does not fit itself or its stage.

    Args:
        stage: with or without that section.
        section: one of SECTIONS.
        where: its place in the study file.
    """
    problems: list[str] = []
    if section == "leave_out" and stage.leave_out is not None:
        problems = [f"{where}{p}" for p in _leave_out(stage.leave_out, stage)]
    elif section == "reweigh" and stage.reweigh is not None:
        problems = [f"{where}.{p}" for p in (*_fits_itself(stage.reweigh), *_fits_stage(stage.reweigh, stage))]
    if problems:
        raise StudyError("\n".join(problems))


def _leave_out(asked: LeaveOut, stage: Stage) -> Iterator[str]:
    named = [n for n in ("groups", "influence", "ids") if getattr(asked, n)]
    if len(named) != 1:
        yield f": expected exactly one of groups, influence and ids, found {', '.join(named) or 'none'}"
    if (asked.count is None) != (asked.influence is None):
        yield f".count: expected a number beside `influence` and nowhere else, found {asked.count}"
    if asked.count is not None and asked.count < 1:
        yield f".count: expected at least 1, found {asked.count}"
    yield from (f".{p}" for p in _known_sources(asked.sources, stage))
    if stage.extends is not None:
        yield f": a stage that goes on where {stage.extends!r} stopped keeps that order; leave `extends` or `leave_out` out"


def _known_sources(sources: tuple[str, ...] | None, stage: Stage) -> Iterator[str]:
    known = list(stage.mixture)
    for name in sources or ():
        if name not in known:
            yield f"sources: {name!r} is not in the mixture.{did_you_mean(name, known)} Known: {', '.join(known)}"
    if sources is not None and not sources:
        yield "sources: expected at least one source (or leave the line out), found none"


def _fits_itself(reweigh: Reweigh) -> Iterator[str]:
    if reweigh.how == "flip" and reweigh.by != "difficulty":
        yield f"by: a flip mirrors difficulties; expected by: difficulty, found {reweigh.by}"
    if reweigh.how == "target" and not reweigh.target:
        yield "target: expected the share of every group, such as {\"1\": 0.1, \"2\": 0.9}, found none"
    if reweigh.how != "target" and reweigh.target:
        yield f"target: shares are used by how: target, found how: {reweigh.how}; change one of them"
    if reweigh.how == "influence" and reweigh.influence is None:
        yield "influence: expected influence.parquet of `leaven attribute` (or its folder), found none"
    if reweigh.how != "influence" and reweigh.influence is not None:
        yield f"influence: a table is used by how: influence, found how: {reweigh.how}; change one of them"
    if reweigh.range is not None and (reweigh.how != "flip" or reweigh.range[0] >= reweigh.range[1]):
        yield f"range: expected [lowest, highest] of the difficulties of a flip, found {list(reweigh.range)} with how: {reweigh.how}"
    if reweigh.tau is not None and reweigh.tau <= 0:
        yield f"tau: expected a temperature above 0, found {reweigh.tau:g}"
    if not 0 <= reweigh.floor < 1:
        yield f"floor: expected a weight of at least 0 and below 1, found {reweigh.floor:g}"
    if reweigh.by == "example" and reweigh.control == "random_swap" and reweigh.mode != "reweight":
        yield "control: a random swap keeps each slot's group; by: example every group is one example. Use mode: reweight, or another `by`"
    if reweigh.by == "source" and "source" in reweigh.match:
        yield "match: groups are sources, and matched sources cannot change; take `source` out of `match`"


def _fits_stage(reweigh: Reweigh, stage: Stage) -> Iterator[str]:
    known = list(stage.mixture)
    yield from _known_sources(reweigh.sources, stage)
    if reweigh.pool is not None:
        if reweigh.mode != "replace":
            yield f"pool: new examples come in with mode: replace, found mode: {reweigh.mode}"
        if "source" in reweigh.match:
            yield "pool: examples of a pool have another source; take `source` out of `match`, or leave the pool out"
        if reweigh.pool not in known:
            hint = did_you_mean(reweigh.pool, known)
            yield f"pool: expected a source of the mixture (its weight may be 0), found {reweigh.pool!r}.{hint}"
        if reweigh.pool in (reweigh.sources or ()):
            yield f"pool: {reweigh.pool!r} cannot be reweighed and be the pool; take it out of `sources`"
    if stage.extends is not None:
        yield f"mode: a stage that goes on where {stage.extends!r} stopped keeps that order; leave `extends` or `reweigh` out"
    if reweigh.mode != "reweight" and stage.truncate == "split":
        yield "mode: pieces of documents (truncate: split) have no difficulty of their own; use mode: reweight"
