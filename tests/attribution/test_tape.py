"""Kept batches: what is read is what was written, with and without files that go past the page cache."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from leaven.attribution import tape
from leaven.attribution.passes import Tracked
from leaven.attribution.tape import Tape, tape_bytes
from leaven.attribution.texts import label_draws, make_batches


@pytest.fixture(params=["past the cache", "refused", "unknown"])
def opening(request, monkeypatch):
    """Let files past the cache be opened, be refused as some file systems do, or be unknown to the system."""
    if request.param == "unknown":
        monkeypatch.setattr(tape, "_PAST_CACHE", 0)
    if request.param == "refused":
        real = os.open

        def refusing(path, flags, mode=0o777):
            if tape._PAST_CACHE and flags & tape._PAST_CACHE:
                raise OSError(errno.EINVAL, "Invalid argument")
            return real(path, flags, mode)

        monkeypatch.setattr(tape.os, "open", refusing)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_batches_come_back_as_they_were(make_model, make_texts, tmp_path, opening, dtype):
    texts, tracked = make_texts(20), Tracked(make_model(), "linear", dtype=dtype)
    kept, seen, tokens = Tape(tmp_path / "kept"), [], 0
    batches = list(make_batches(texts, 32, 60))
    for number, batch in enumerate(batches):
        pair = tracked.backward_both(batch, label_draws(texts, batch, 0))
        kept.write(number, *pair)
        seen.append(pair)
        tokens += batch.ids.numel()
    again = Tape(tmp_path / "kept")  # as after a stop
    assert len(batches) > 2 and not list((tmp_path / "kept").glob("*.part"))
    for number in reversed(range(len(batches))):
        of_data, of_draws = again.read(number, batches[number], tracked)
        for found, wanted in ((of_data, seen[number][0]), (of_draws, seen[number][1])):
            for name in tracked.names():
                assert torch.equal(found.inputs[name], wanted.inputs[name]) and torch.equal(found.grads[name], wanted.grads[name])
    held = sum(f.stat().st_size for f in (tmp_path / "kept").iterdir())
    assert held <= tape_bytes(tracked, tokens, True) + len(batches) * 3 * tape._PAGE
    again.drop(0)
    assert not again.has(0) and again.has(1)

