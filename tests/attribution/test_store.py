"""Stores of gradients: scores equal those of a pass over the texts, additions and other damping need none, what is lost
is measured, and a filling killed at any moment goes on to the same bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
import signal
import time

import numpy as np
import pytest
import torch

from leaven.attribution.coding import Coding, Rows, choose_coding
from leaven.attribution.estimates import parse_bytes, plan_filling
from leaven.attribution.factors import Damping, fit_factors
from leaven.attribution.filling import fill
from leaven.attribution.passes import Tracked
from leaven.attribution.queries import query_gradients, single_queries
from leaven.attribution.scores import ekfac_targets, text_scores
from leaven.attribution.store import Identity, Store, text_keys
from leaven.attribution.texts import make_batches, plan_batches
from leaven.core.step import StepContext
from leaven.errors import DataError, Interrupted, RefusedError, StudyError

LAYOUT = {"batch_tokens": 24}
"""Small batches, so that a filling has many."""


def identity(fisher="empirical", modules="linear", dtype="fp32", seed=0):
    return Identity("m", modules, dtype, fisher, seed)


def made(folder, tracked, texts, coding=None, fisher="empirical", check_every=1, **more):
    store = Store.create(folder, identity(fisher, tracked.modules, tracked.dtype), coding or Coding(), check_every)
    fill(store, tracked, texts, **LAYOUT | more)
    return store


def scores(store, tracked, texts, queries, damping=None):
    """Return [Q,N] in the order of `texts`, and what is lost."""
    factors = store.factors()
    turned = query_gradients(tracked, single_queries(queries), bases=store.bases)
    weighted = factors.weigh(turned, factors.damping(damping or Damping()))
    found = np.concatenate([block for _, block in store.score(weighted)], 1) / factors.n_texts
    number = {key: n for n, key in enumerate(store.texts)}
    return found[:, [number[key] for key in text_keys(texts)]], store.loss_of_ranking(weighted)


def streamed(tracked, texts, queries, fisher="empirical", damping=None, factors=None):
    factors = factors or fit_factors(tracked, texts, fisher=fisher, **LAYOUT)
    gradients = query_gradients(tracked, single_queries(queries))
    return text_scores(tracked, texts, ekfac_targets([q.example for q in queries], gradients, factors, damping or Damping()))


def close(found, wanted, worst):
    return np.abs(found - wanted).max() <= worst * np.abs(wanted).max()


def digests(folder):
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.mark.parametrize("fisher", ["empirical", "true"])
@pytest.mark.parametrize("keep_batches", [True, False])
def test_scores_equal_a_pass_over_the_texts(tracked, make_texts, tmp_path, fisher, keep_batches):
    texts, queries = make_texts(14), make_texts(3, seed=4)
    store = made(tmp_path / "s", tracked, texts, fisher=fisher, keep_batches=keep_batches)
    for damping in (Damping(), Damping("relative", 2.0)):  # another damping needs no new gradients
        found, ranking = scores(store, tracked, texts, queries, damping)
        assert close(found, streamed(tracked, texts, queries, fisher, damping), 1e-2)  # rows are bf16
    assert ranking.texts == 14 and ranking.spearman > 0.99
    assert not (tmp_path / "s" / "work").exists()


def test_factors_of_a_store_are_those_of_two_passes(tracked, make_texts, tmp_path):
    texts = make_texts(10)
    found, wanted = made(tmp_path / "s", tracked, texts).factors(), fit_factors(tracked, texts, fisher="empirical", **LAYOUT)
    for name, block in wanted.blocks.items():
        torch.testing.assert_close(found.blocks[name].eigenvalues, block.eigenvalues, rtol=0, atol=0)
        torch.testing.assert_close(found.blocks[name].q_in, block.q_in, rtol=0, atol=0)
    assert found.n_texts == wanted.n_texts == 10


def test_a_second_query_set_runs_no_training_text(tracked, make_texts, tmp_path, monkeypatch):
    texts = make_texts(8)
    made(tmp_path / "s", tracked, texts)
    store = Store.open(tmp_path / "s")
    seen = []
    backward = Tracked.backward
    monkeypatch.setattr(Tracked, "backward", lambda self, batch, draws=None: seen.append(batch) or backward(self, batch, draws))
    queries = make_texts(5, seed=6)
    assert fill(store, tracked, texts, **LAYOUT) == 0
    found, _ = scores(store, tracked, texts, queries)
    assert sum(len(b.numbers) for b in seen) == 5
    monkeypatch.undo()
    assert close(found, streamed(tracked, texts, queries), 1e-2)


def test_new_texts_join_rows_and_eigenvalues(tracked, make_texts, tmp_path):
    texts, queries = make_texts(16), make_texts(2, seed=4)
    store = made(tmp_path / "s", tracked, texts[:10])
    before = (tmp_path / "s" / "rows.bin").read_bytes()[: 10 * store.rows.bytes]
    renamed = [dataclasses.replace(t, example=f"other-{k}", source="renamed") for k, t in enumerate(texts)]
    assert fill(Store.open(tmp_path / "s"), tracked, renamed[::-1], **LAYOUT) == 6  # known by content, in any order
    store = Store.open(tmp_path / "s")
    assert (tmp_path / "s" / "rows.bin").read_bytes()[: 10 * store.rows.bytes] == before
    factors = store.factors()
    for name, block in factors.blocks.items():  # refitted over all texts in the first basis
        gradients = [block.rotate(tracked.backward(b).text_gradients(name)) for b in make_batches(texts, 32)]
        wanted = torch.cat(gradients).square().mean(0)
        torch.testing.assert_close(block.eigenvalues, wanted, rtol=1e-3, atol=1e-6 * float(wanted.max()))
    found, _ = scores(store, tracked, texts, queries)
    assert close(found, streamed(tracked, texts, queries, factors=factors), 1e-2)
    assert store.facts["fitted_on"] == 10 and store.facts["drift"] > 0


def test_equal_texts_have_a_row_each(tracked, make_texts, tmp_path):
    texts = make_texts(4)
    twice = [*texts, dataclasses.replace(texts[0], example="again")]
    store = made(tmp_path / "s", tracked, twice)
    assert len(set(store.texts)) == 5
    found, _ = scores(store, tracked, twice, make_texts(2, seed=4))
    np.testing.assert_allclose(found[:, 0], found[:, 4])


@pytest.mark.parametrize(("coding", "least"), [(Coding("int8"), 0.995), (Coding("int8", 0.5), 0.8), (Coding("int8", 0.05), 0.2)])
def test_what_a_coding_loses_is_measured(tracked, make_texts, tmp_path, coding, least):
    texts, queries = make_texts(40), make_texts(4, seed=4)
    store = made(tmp_path / "s", tracked, texts, coding)
    found, ranking = scores(store, tracked, texts, queries)
    from scipy.stats import spearmanr

    wanted = streamed(tracked, texts, queries)
    true = np.mean([spearmanr(a, b).statistic for a, b in zip(found, wanted, strict=True)])
    assert ranking.texts == 40 and ranking.spearman == pytest.approx(true, abs=2e-3)
    assert true > least and (coding.share == 1 or ranking.spearman < 0.9999)


def test_kept_coordinates_are_those_of_the_largest_eigenvalues(tracked, make_texts, tmp_path):
    store = made(tmp_path / "s", tracked, make_texts(10), Coding("int8", 0.1))
    kept = sum(c.kept for c in store.rows.columns.values())
    total = sum(x.numel() for x in store.sums.values())
    assert 0.05 * total < kept <= 0.1 * total + len(store.rows.columns)
    for name, column in store.rows.columns.items():
        basis = store.bases[name]
        size = torch.outer(basis.s_out, basis.s_in).flatten()
        rest = torch.ones(len(size), dtype=torch.bool)
        rest[column.places] = False
        assert float(size[column.places].min()) >= float(size[rest].max())


def test_bf16_products_rank_like_fp32(make_model, make_texts, tmp_path):
    texts, queries = make_texts(30), make_texts(3, seed=4)
    model = make_model(texts, steps=30)
    low, high = Tracked(model, "linear", dtype="bf16"), Tracked(model, "linear")
    store = made(tmp_path / "s", low, texts, check_every=0)
    found, ranking = scores(store, low, texts, queries)
    wanted = streamed(high, texts, queries)
    assert ranking is None  # rows are the gradients as computed
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.995
    with pytest.raises(StudyError, match="dtype"):
        Tracked(model, "linear", dtype="fp8")


def test_stopping_between_batches_loses_nothing(tracked, make_texts, tmp_path):
    texts = make_texts(12)
    made(tmp_path / "whole", tracked, texts, fisher="true")
    store = Store.create(tmp_path / "stopped", identity("true"), Coding(), 1)
    stops = 0
    for _ in range(100):
        calls = []
        ctx = StepContext(stop=lambda calls=calls: calls.append(0) or len(calls) > 2)
        try:
            fill(store, tracked, texts, ctx=ctx, **LAYOUT)
            break
        except Interrupted:
            stops += 1
            store = Store.open(tmp_path / "stopped")
    assert stops > 2 and digests(tmp_path / "stopped") == digests(tmp_path / "whole")


def test_kept_batches_are_not_run_again(tracked, make_texts, tmp_path, monkeypatch):
    texts = make_texts(12)
    store, runs = Store.create(tmp_path / "s", identity(), Coding(), 0), []
    backward = Tracked.backward
    monkeypatch.setattr(Tracked, "backward", lambda self, batch, draws=None: runs.append(batch.numbers) or backward(self, batch, draws))
    for _ in range(100):
        calls = []
        try:
            fill(store, tracked, texts, ctx=StepContext(stop=lambda calls=calls: calls.append(0) or len(calls) > 2), **LAYOUT)
            break
        except Interrupted:
            store = Store.open(tmp_path / "s")
    assert sorted(n for numbers in runs for n in numbers) == list(range(12))


@pytest.mark.parametrize("fisher", ["empirical", "true"])
@pytest.mark.parametrize("keep_batches", [True, False])
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(make_model, make_texts, tmp_path, fisher, keep_batches):
    texts, tracked = make_texts(24), Tracked(make_model(), "linear")
    made(tmp_path / "whole", tracked, texts, Coding("int8"), fisher)
    Store.create(tmp_path / "killed", identity(fisher), Coding("int8"), 1)
    kills, runs, draw, fork = 0, [], np.random.default_rng(0), multiprocessing.get_context("fork")
    for _ in range(100):
        batches_run, steps = fork.Value("i", 0), fork.Value("i", 0)
        child = fork.Process(target=_fill, args=(tmp_path / "killed", tracked, texts, keep_batches, batches_run, steps))
        child.start()
        wanted = int(draw.integers(0, 6))
        while steps.value < wanted and child.is_alive():
            time.sleep(0.001)
        time.sleep(float(draw.uniform(0.0, 0.004)))
        child.kill()
        child.join()
        runs.append(batches_run.value)
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        kills += 1
    assert child.exitcode == 0 and kills >= 3
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
    if keep_batches:  # every kill loses one batch at most
        assert sum(runs) <= len(plan_batches(texts, 32, **LAYOUT)) + kills


def _fill(folder, tracked, texts, keep_batches, batches_run, steps):
    """Fill a store; count batches that the model ran, and moments within and between batches."""

    def counted(run):
        def backward(*args):
            batches_run.value += 1
            steps.value += 1
            return run(*args)

        return backward

    Tracked.backward, Tracked.backward_both = counted(Tracked.backward), counted(Tracked.backward_both)

    def progress(*_):
        steps.value += 1

    fill(Store.open(folder), tracked, texts, keep_batches=keep_batches, ctx=StepContext(progress=progress), **LAYOUT)


def test_other_settings_and_broken_files_are_refused(tracked, make_texts, tmp_path):
    made(tmp_path / "s", tracked, make_texts(4))
    store = Store.open(tmp_path / "s")
    with pytest.raises(DataError, match="fisher 'empirical' .asked for: 'true'."):
        store.refuse_other(identity("true"))
    with pytest.raises(DataError, match="other files"):
        Store.create(tmp_path / "s", identity(), Coding(), 0)
    (tmp_path / "s" / "rows.bin").write_bytes(b"")
    with pytest.raises(DataError, match="fewer than the 4 texts"):
        Store.open(tmp_path / "s")
    (tmp_path / "s" / "store.json").write_text("{")
    with pytest.raises(DataError, match="delete this one"):
        Store.open(tmp_path / "s")
    with pytest.raises(DataError, match="expected a store"):
        Store.open(tmp_path / "nothing")
    with pytest.raises(StudyError, match="share"):
        Coding("int8", 0.0)


def test_budget_chooses_what_is_kept(tracked, make_texts, tmp_path):
    texts = make_texts(40)
    ask = lambda budget: plan_filling(tmp_path / "s", None, tracked, texts, fisher="true", budget_bytes=budget)  # noqa: E731
    whole = ask(10**9)
    assert whole.coding == Coding("bf16") and whole.keep_batches and whole.work_bytes > 0
    parameters = sum(o * i for o, i in map(tracked.shape, tracked.names()))
    half = ask(whole.bytes - 1)
    assert half.coding == Coding("int8")
    less = ask(half.bytes - 40 * parameters // 2)
    assert not less.keep_batches
    assert less.coding.kind == "int8" and 0.2 < less.coding.share < 0.6
    for filling in (whole, half, less):
        store = Store.create(tmp_path / filling.coding.sentence().replace("%", ""), identity(), filling.coding, filling.check_every)
        fill(store, tracked, texts, keep_batches=filling.keep_batches, **LAYOUT)
        held = sum(f.stat().st_size for f in store.folder.iterdir())
        assert held <= filling.bytes
    with pytest.raises(RefusedError, match="raise --budget"):
        ask(10**4)
    with pytest.raises(RefusedError, match="budget of at least"):  # an addition beyond the budget
        plan_filling(store.folder, store, tracked, make_texts(400, seed=9), fisher="true", budget_bytes=less.bytes)


def test_rows_fit_what_was_promised(tracked, make_texts, tmp_path):
    parameters = sum(o * i for o, i in map(tracked.shape, tracked.names()))
    layers = len(tracked.names())
    bases = made(tmp_path / "s", tracked, make_texts(4)).bases
    for budget in (10**6, 4 * 10**5, 2 * 10**5, 10**5):
        coding = choose_coding(budget, 100, parameters, layers)
        if coding is not None:
            assert Rows(coding, bases).bytes * 100 <= budget


@pytest.mark.parametrize(("text", "size"), [("20GB", 20e9), ("500 MB", 5e8), ("1.5t", 1.5e12), ("3", 3e9), ("7kb", 7e3)])
def test_sizes_are_read(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "-3GB", "0", "nan", "5 gigs"])
def test_other_sizes_are_refused(text):
    with pytest.raises(StudyError, match="--budget"):
        parse_bytes(text)
