"""Baselines against explicit loops over explicit gradients, and hand-computed values."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
import torch

from leaven.attribution import exact, known, methods
from leaven.attribution.baselines import bm25, gradient_scores, plain_scores
from leaven.attribution.baselines_gradient import less, tracin, tracin_adam
from leaven.attribution.known import BUILT_IN
from leaven.attribution.methods import BASELINES, Scene, Settings, baseline_passes, baseline_scores, check_baselines
from leaven.attribution.passes import Tracked
from leaven.attribution.projections import Projection, projected
from leaven.attribution.queries import Query, query_gradients, single_queries
from leaven.attribution.run import attribute
from leaven.attribution.texts import Text
from leaven.attribution.trajectory import Checkpoint, Moments, by_layer, training_path
from leaven.core.step import StepContext
from leaven.core.tables import CURVE, INFLUENCE, read_table, write_examples, write_table
from leaven.core.types import Example
from leaven.data.tokenise import tokenise
from leaven.data.tokenizer import Tokenizer, train_tokenizer
from leaven.errors import DataError, StudyError
from leaven.lm.checkpoints import copy_tokenizer, save_state, save_tiny
from leaven.lm.optimise import FlatAdamW
from leaven.lm.tiny_model import TinyConfig, init_tiny


def explicit(tracked, texts):
    return exact.gradients(tracked, texts).double().numpy()


def test_dot_and_cosine_are_those_of_explicit_gradients(tracked, make_texts):
    texts, queries = make_texts(7), single_queries(make_texts(2, seed=3))
    found = gradient_scores(tracked, texts, query_gradients(tracked, queries), batch_tokens=20)
    g_q, g_n = explicit(tracked, [q.texts[0] for q in queries]), explicit(tracked, texts)
    dot = g_q @ g_n.T
    np.testing.assert_allclose(found["gradient_dot"], dot / 7, rtol=1e-3, atol=1e-5 * abs(dot).max())
    scale = np.outer(np.linalg.norm(g_q, axis=1), np.linalg.norm(g_n, axis=1))
    np.testing.assert_allclose(found["gradient_cosine"], dot / scale, rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def path(make_model, make_texts):
    """Return two checkpoints of one training run, early and late, with moments."""
    texts = make_texts(5)
    result = []
    for step, rate, model in ((0, 0.5, make_model()), (10, 0.1, make_model(texts, steps=10))):
        tracked = Tracked(model, "linear")
        draw = torch.Generator().manual_seed(step)
        first, second = ({n: torch.randn(tracked.shape(n), generator=draw) * 0.01 for n in tracked.names()} for _ in range(2))
        moments = Moments(first, {n: v.square() for n, v in second.items()}, step + 3)
        result.append(Checkpoint(step, rate, lambda t=tracked: t, lambda _, m=moments: m))
    return result


def test_tracin_adds_checkpoints_by_learning_rate(path, make_texts):
    texts, queries = make_texts(5), single_queries(make_texts(2, seed=3))
    wanted, scaled = np.zeros((2, 5)), np.zeros((2, 5))
    for checkpoint in path:
        tracked = checkpoint.open()
        g_q, g_n = explicit(tracked, [q.texts[0] for q in queries]), explicit(tracked, texts)
        moments = checkpoint.moments(tracked)
        v = exact.flatten(tracked, moments.second).double().numpy() / (1 - 0.95**moments.updates)
        for q in range(2):
            for n in range(5):
                wanted[q, n] += checkpoint.rate * (g_q[q] @ g_n[n]) / 5
                scaled[q, n] += checkpoint.rate * (g_q[q] / (np.sqrt(v) + 1e-8) @ g_n[n]) / 5
    np.testing.assert_allclose(tracin(path, texts, queries), wanted, rtol=1e-3, atol=1e-5 * abs(wanted).max())
    found = tracin_adam(path, texts, queries)
    np.testing.assert_allclose(found, scaled, rtol=1e-3, atol=1e-5 * abs(scaled).max())
    with pytest.raises(StudyError, match=r"train\.checkpoints"):
        tracin([], texts, queries)


@pytest.mark.parametrize("dims", [10**6, 200])
def test_less_is_the_cosine_of_projected_adam_updates(path, make_texts, dims):
    texts, queries = make_texts(5), single_queries(make_texts(2, seed=3))
    b1, b2, wanted = 0.9, 0.95, np.zeros((2, 5))
    for checkpoint in path:
        tracked = checkpoint.open()
        projection, moments = Projection.random(tracked, dims, 0), checkpoint.moments(tracked)
        m, v, t = exact.flatten(tracked, moments.first), exact.flatten(tracked, moments.second), moments.updates + 1
        asked, found = [], []
        for group, rows in ((([q.texts[0] for q in queries]), asked), (texts, found)):
            for text, g in zip(group, exact.gradients(tracked, group), strict=True):
                g = g / text.token_weights().sum()
                if rows is found:
                    g = (b1 * m + (1 - b1) * g) / (1 - b1**t) / torch.sqrt((b2 * v + (1 - b2) * g**2) / (1 - b2**t) + 1e-8)
                x = projection.project({n: x[None] for n, x in exact.unflatten(tracked, g).items()})[0]
                rows.append(x / x.norm())
        wanted += checkpoint.rate * (torch.stack(asked) @ torch.stack(found).t()).double().numpy()
    assert (len(x) == len(m)) == (dims == 10**6)
    np.testing.assert_allclose(less(path, texts, queries, dims=dims, batch_tokens=20), wanted, rtol=1e-3, atol=1e-4)


def test_projections_keep_inner_products_in_the_mean(tracked, make_texts):
    g = query_gradients(tracked, single_queries(make_texts(2, seed=3)))
    flat = exact.flatten(tracked, g)
    true = float(flat[0] @ flat[1])
    found = [p[0] @ p[1] for p in (Projection.random(tracked, 300, seed).project(g) for seed in range(300))]
    assert float(np.mean(found)) == pytest.approx(true, abs=4 * float(np.std(found)) / math.sqrt(300))
    with pytest.raises(StudyError, match="per layer"):
        Projection.random(tracked, 2, 0)


@pytest.mark.parametrize(("basis", "unit"), [("random", False), ("random", True), ("pca", False)])
def test_projected_influence_is_that_of_explicit_features(tracked, make_texts, basis, unit):
    texts, queries = make_texts(9), single_queries(make_texts(2, seed=3))
    found = projected(tracked, texts, queries, basis=basis, unit=unit, dims=250, seed=4, batch_tokens=30)
    projection = Projection.pca(tracked, texts, 250) if basis == "pca" else Projection.random(tracked, 250, 4)
    g_q, g_n = (exact.unflatten(tracked, exact.gradients(tracked, t)) for t in ([q.texts[0] for q in queries], texts))
    dots, of_q, of_n = np.zeros((2, 9)), np.zeros(2), np.zeros(9)
    for name in tracked.names():
        q, n = (projection.layer(name, g[name]).double() for g in (g_q, g_n))
        f = sum(torch.outer(row, row) for row in n) / 9
        inverse = torch.linalg.inv(f + 0.1 * f.diagonal().mean() * torch.eye(len(f), dtype=f.dtype))
        dots += (q @ inverse @ n.t()).numpy()
        of_q += (q @ inverse * q).sum(1).numpy()
        of_n += (n @ inverse * n).sum(1).numpy()
    wanted = dots / np.sqrt(np.outer(of_q, of_n)) if unit else dots / 9
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=1e-4 * abs(wanted).max())
    with pytest.raises(StudyError, match="basis"):
        projected(tracked, texts, queries, basis="svd")


def test_pca_sides_keep_more_of_the_gradients_than_random_ones(tracked, make_texts):
    texts = make_texts(12)
    g = exact.unflatten(tracked, exact.gradients(tracked, texts))
    whole = sum(float(v.square().sum()) for v in g.values())
    kept = Projection.pca(tracked, texts, 16 * len(g)).project(g).square().sum() / whole
    assert 0.5 < float(kept) <= 1 + 1e-5


def test_embeddings_are_means_of_last_hidden_states(tracked, make_texts):
    texts, asked = make_texts(6), make_texts(3, seed=3)
    queries = [Query("pair", tuple(asked[:2])), Query("one", (asked[2],))]

    def mean(text):
        used = int(np.flatnonzero(text.token_weights())[-1])
        return tracked.model.module.hidden(torch.from_numpy(text.ids[:used])[None])[0].mean(0).detach().double().numpy()

    q = [(mean(asked[0]) + mean(asked[1])) / 2, mean(asked[2])]
    wanted = [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in map(mean, texts)] for a in q]
    np.testing.assert_allclose(plain_scores("embedding", tracked, texts, queries), wanted, rtol=1e-4, atol=1e-5)


def test_baselines_without_gradients(tracked, make_texts):
    texts, queries = make_texts(6), single_queries(make_texts(2, seed=3))
    wanted = exact.losses(tracked, texts, exact.parameters(tracked))
    np.testing.assert_allclose(plain_scores("loss", tracked, texts, queries)[1], wanted, rtol=1e-4)
    assert plain_scores("length", tracked, texts, queries)[0].tolist() == [t.token_weights().sum() for t in texts]
    random = plain_scores("random", tracked, texts, queries, seed=1)
    assert np.array_equal(random, plain_scores("random", tracked, texts, queries, seed=1))
    assert not np.array_equal(random, plain_scores("random", tracked, texts, queries, seed=2))
    with pytest.raises(StudyError, match="bm25"):
        plain_scores("bm52", tracked, texts, queries)


def test_bm25_by_hand():
    def text(*ids):
        return Text(example="x", ids=np.array(ids), learn=np.ones(len(ids), np.float32))

    texts = [text(1, 1, 2), text(2, 3, 4), text(5, 6, 7, 8, 9, 2)]
    scores = bm25(texts, single_queries([text(1, 3), text(2, 2), text(12, 12)]))
    rare, common = math.log1p(2.5 / 1.5), math.log1p(0.5 / 3.5)
    short, long = 1.5 * (0.25 + 0.75 * 3 / 4), 1.5 * (0.25 + 0.75 * 6 / 4)
    first = [rare * 2 * 2.5 / (2 + short), rare * 2.5 / (1 + short), 0]
    second = [2 * common * 2.5 / (1 + x) for x in (short, short, long)]
    np.testing.assert_allclose(scores, [first, second, [0, 0, 0]])


def test_every_name_gives_one_score_per_query_and_text(tracked, path, make_texts):
    texts, queries = make_texts(5), single_queries(make_texts(2, seed=3))
    scene = Scene(tracked, texts, queries, checkpoints=lambda: path, seed=1)
    found = baseline_scores(list(BASELINES), scene)
    assert list(found) == list(BASELINES)
    assert all(s.shape == (2, 5) and np.isfinite(s).all() for s in found.values())
    assert baseline_passes(["gradient_dot", "gradient_cosine", "tracin", "bm25"], checkpoints=6) == 7
    alone = Scene(tracked, texts, queries)
    with pytest.raises(StudyError, match="checkpoint:STEP"):
        baseline_scores(["tracin"], alone)
    with pytest.raises(StudyError, match="'tracln'"):
        baseline_scores(["tracln"], alone)
    with pytest.raises(StudyError, match="less_dim"):
        Settings.of({"less_dim": 3})


def test_checkpoints_of_a_training_run_carry_rates_and_moments(tmp_path, make_texts):
    config = TinyConfig(vocab=13, width=8, layers=1, heads=2, kv_heads=1, ffn=12, max_tokens=32)
    model = init_tiny(config, 0)
    run = tmp_path / "run"
    for folder in (run, run / "checkpoints" / "step-000004", run / "checkpoints" / "step-000002"):
        save_tiny(folder, model, dict(model.named_parameters()))

    def opened(folder):
        from types import SimpleNamespace

        assert folder.name.startswith("step-")
        return Tracked(SimpleNamespace(module=model, max_tokens=32), "linear")

    with pytest.raises(DataError, match="learning_rates"):
        training_path({"model": run}, opened)
    stage = {"stage": "a", "loss": 1.0, "gradient_norm": 1.0, "n_tokens": 1, "n_learned_tokens": 1, "n_examples": 1}
    rows = [stage | {"step": k, "learning_rate": r} for k, r in enumerate((1.0, 3.0, 2.0, 0.0))]
    write_table(run / "curve.parquet", pl.DataFrame(rows, schema=CURVE), CURVE)
    found = training_path({"model": run}, opened)
    assert [(c.step, c.rate) for c in found] == [(2, 2.0), (4, 1.0)] and found[0].moments is None
    with pytest.raises(StudyError, match=r"state\.safetensors"):
        check_baselines(["less"], {"model": run})
    check_baselines(["tracin"], {"model": run})
    optimizer = FlatAdamW(model, {"lr": 0.1}, torch.float32)
    gradients = {n: torch.randn_like(p) for n, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.grad.copy_(gradients[name])
    optimizer.step(0.1)
    save_state(run, optimizer.state(), {"done": 4})
    check_baselines(["less", "tracin_adam"], {"model": run})
    checkpoint = training_path({"model": run}, opened)[1]
    tracked = checkpoint.open()
    moments = checkpoint.moments(tracked)
    assert moments.updates == 1
    for name, wanted in by_layer(tracked, gradients).items():
        torch.testing.assert_close(moments.first[name], wanted * 0.1, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(moments.second[name], wanted**2 * 0.05, rtol=1e-4, atol=1e-6)
    given = {"model": run, "checkpoint:7": run / "checkpoints" / "step-000002"}
    assert [(c.step, c.rate) for c in training_path(given, opened, {"7": 0.5})] == [(7, 0.5)]
    with pytest.raises(StudyError, match="'last'"):
        training_path({"model": run, "checkpoint:last": run}, opened)
    with pytest.raises(DataError, match=r"\[7\]"):
        training_path(given, opened, {"8": 0.5})
    with pytest.raises(StudyError, match="checkpoints"):
        training_path({"model": tmp_path / "other"}, opened)


def test_attribute_follows_the_checkpoints_of_its_model_folder(tmp_path):
    words = [f"add {k % 5} to {k % 3} = {k % 5 + k % 3}" for k in range(12)]
    folders = {n: tmp_path / n for n in ("examples", "tokenizer", "tokens", "model")}
    for folder in folders.values():
        folder.mkdir()
    rows = [Example(id=f"e{k}", source="s", question=w, answer="yes") for k, w in enumerate(words)]
    write_examples(folders["examples"] / "examples.parquet", rows)
    quiet = StepContext()
    form = {"kind": "word", "vocab_size": 64, "formats": ["answer_only"]}
    train_tokenizer(form, {"s": folders["examples"]}, folders["tokenizer"], quiet)
    inputs = {"examples": folders["examples"], "tokenizer": folders["tokenizer"]}
    tokenise({"source": "s", "format": "answer_only"}, inputs, folders["tokens"], quiet)
    vocab = Tokenizer.load(folders["tokenizer"]).vocab_size
    config = TinyConfig(vocab=vocab, width=8, layers=1, heads=2, kv_heads=1, ffn=12, max_tokens=64)
    model = init_tiny(config, 0)
    for folder in (folders["model"], folders["model"] / "checkpoints" / "step-000002"):
        save_tiny(folder, model, dict(model.named_parameters()))
        copy_tokenizer(folders["tokenizer"], folder)
    spec = {
        "modules": "linear",
        "fisher": "true",
        "damping": {"rule": "relative", "value": 1.0},
        "reduce": "sum",
        "queries": "aggregate",
        "level": "instance",
        "decompositions": [],
        "keep": 0,
        "baselines": ["gradient_dot", "tracin"],
        "baseline_settings": {"learning_rates": {"2": 0.5}},
        "seed": 0,
    }
    given = {"model": folders["model"], "tokens:s": folders["tokens"], "queries:s": folders["tokens"]}
    (tmp_path / "out").mkdir()
    attribute(spec, given, tmp_path / "out", quiet)
    table = read_table(tmp_path / "out" / "influence.parquet", INFLUENCE)
    dot, path = (table.filter(method=m).sort("example")["score"].to_numpy() for m in ("gradient_dot", "tracin"))
    np.testing.assert_allclose(path, 0.5 * dot, rtol=1e-5)  # the checkpoint is the model itself
    with pytest.raises(StudyError, match="less, checkpoint 2"):
        attribute(spec | {"baselines": ["less"]}, given, tmp_path / "out", quiet)
    with pytest.raises(DataError, match=r"curve\.parquet"):
        attribute(spec | {"baseline_settings": None}, given, tmp_path / "out", quiet)
    with pytest.raises(StudyError, match="'tracing'"):
        attribute(spec | {"baselines": ["tracing"]}, given, tmp_path / "out", quiet)


def test_names_are_known_without_loading_what_computes_them() -> None:
    assert list(BASELINES) == list(BUILT_IN)


def test_a_plugin_s_method_stands_beside_the_built_in_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "PLUGGED", {})
    monkeypatch.setattr(methods, "PLUGGED", known.PLUGGED)

    @known.baseline("halves", needs=(), passes=0, about="first half up")
    def halves(scene: Scene) -> np.ndarray:
        return np.tile(np.arange(len(scene.texts)) < len(scene.texts) / 2, (len(scene.queries), 1)).astype(float)

    scene = Scene(None, ["a", "b", "c"], ["q"])  # type: ignore[arg-type,list-item]
    assert baseline_scores(["halves"], scene)["halves"].tolist() == [[1.0, 1.0, 0.0]]
    with pytest.raises(StudyError, match="two attribution methods are called 'loss'"):
        known.baseline("loss")(halves)
    with pytest.raises(StudyError, match="Did you mean 'halves'"):
        check_baselines(["halvs"])
    known.baseline("flat")(lambda scene: np.zeros(3))
    with pytest.raises(StudyError, match=r"shape \(1, 3\)"):
        baseline_scores(["flat"], scene)
