"""Matrix-free products and solvers against dense matrices; the guard never returns a larger residual than
EK-FAC's; a stopped refinement goes on."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from leaven.attribution import exact, refine
from leaven.attribution.factors import Damping, fit_factors
from leaven.attribution.passes import Tracked
from leaven.attribution.products import gauss_newton, in_fp64
from leaven.attribution.queries import query_gradients, single_queries
from leaven.attribution.refine import Refinement
from leaven.attribution.texts import make_batches
from leaven.core.step import Resources, StepContext
from leaven.errors import BackendError, Interrupted, StudyError


@pytest.fixture(scope="module")
def problem(make_model, make_texts):
    """Return a trained model, texts, query gradients, factors, damping 1 x mean eigenvalue, and the dense matrix."""
    texts, queries = make_texts(96, prompts=False), make_texts(6, seed=4, prompts=False)
    tracked = Tracked(make_model(texts, steps=100), "linear")
    factors = fit_factors(tracked, texts)
    damping = factors.damping(Damping("relative", 1.0))
    ggn = exact.curvature(tracked, texts)
    return tracked, texts, query_gradients(tracked, single_queries(queries)), factors, damping, ggn


def matrix(tracked, ggn, damping):
    added = {n: torch.full(tracked.shape(n), damping[n]) for n in tracked.names()}
    return ggn + exact.flatten(tracked, added).diag()


def agreement(problem, vectors):
    """Mean Spearman over queries with exact full damped Gauss-Newton scores."""
    tracked, texts, gradients, _, damping, ggn = problem
    g_n = exact.gradients(tracked, texts)
    wanted = exact.exact_scores(tracked, ggn, damping, exact.flatten(tracked, gradients), g_n)
    found = exact.flatten(tracked, vectors) @ g_n.t()
    return float(np.mean([spearmanr(a, b).statistic for a, b in zip(found, wanted, strict=True)]))


def product(tracked, texts, x, **layout):
    """Return the product of all texts with flat directions."""
    batches = make_batches(texts, tracked.model.max_tokens, **layout)
    return sum(exact.flatten(tracked, gauss_newton(tracked, b, exact.unflatten(tracked, x))) for b in batches)


@pytest.mark.parametrize("layout", [{}, {"pack_tokens": 30}, {"batch_tokens": 25}])
def test_products_equal_the_dense_matrix(make_model, make_texts, layout, monkeypatch):
    texts = make_texts(6)
    tracked = Tracked(make_model(), "linear+head")
    x = torch.randn(3, len(exact.parameters(tracked)), generator=torch.Generator().manual_seed(0))
    wanted = x @ exact.curvature(tracked, texts) * len(texts)
    largest = float(wanted.abs().max())
    torch.testing.assert_close(product(tracked, texts, x, **layout), wanted, rtol=1e-3, atol=1e-4 * largest)
    double = product(in_fp64(tracked), texts, x.double(), **layout)
    torch.testing.assert_close(double.float(), wanted, rtol=1e-3, atol=1e-5 * largest)
    low = Tracked(tracked.model, "linear+head", dtype="bf16")
    torch.testing.assert_close(product(low, texts, x, **layout), wanted, rtol=1e-3, atol=1e-4 * largest)
    monkeypatch.setattr("leaven.attribution.products.HELD_NUMBERS", 1)  # one direction at a time
    torch.testing.assert_close(product(tracked, texts, x, **layout), wanted, rtol=1e-3, atol=1e-4 * largest)


def test_krylov_reaches_the_full_matrix_in_four_passes(problem):
    tracked, texts, gradients, factors, damping, _ = problem
    before = agreement(problem, factors.precondition(gradients, damping))
    after = refine.refine(tracked, texts, gradients, factors, damping, Refinement(passes=4))
    assert agreement(problem, after.vectors) >= 0.9 > before + 0.1
    assert (after.residual < 1).all() and (after.kept == 1).all()
    assert after.passes == 4  # the guard is among them


def test_krylov_converges_to_the_dense_solution(problem):
    tracked, texts, gradients, factors, damping, ggn = problem
    wanted = torch.linalg.solve(matrix(tracked, ggn, damping).double(), exact.flatten(tracked, gradients).double().t()).t()
    one = {n: g[:1] for n, g in gradients.items()}  # a single query: preconditioned minimal residuals
    for vectors, rows in ((gradients, slice(None)), (one, slice(0, 1))):
        found = refine.refine(tracked, texts, vectors, factors, damping, Refinement(passes=10))
        error = (exact.flatten(tracked, found.vectors).double() - wanted[rows]).norm(dim=1) / wanted[rows].norm(dim=1)
        assert float(error.max()) < 0.05


def test_stochastic_steps_improve_and_repeat(problem):
    tracked, texts, gradients, factors, damping, _ = problem
    one = {n: g[:2] for n, g in gradients.items()}
    small = (tracked, texts, one, *problem[3:])
    how = Refinement("stochastic", steps=48, batch_texts=8)
    found = refine.refine(tracked, texts, one, factors, damping, how)
    assert agreement(small, found.vectors) > agreement(small, factors.precondition(one, damping)) + 0.1
    assert (found.residual < 1).all()
    assert found.passes == (48 * 8 + 2 * 32) / 96  # the guard's two products are among them
    again = refine.refine(tracked, texts, one, factors, damping, how)
    assert all(torch.equal(found.vectors[n], again.vectors[n]) for n in found.vectors)


def test_stochastic_reaches_the_full_matrix_in_three_passes(problem):
    tracked, texts, gradients, factors, damping, _ = problem
    found = refine.refine(tracked, texts, gradients, factors, damping, Refinement("stochastic", steps=36))
    assert agreement(problem, found.vectors) >= 0.9 and found.passes < 3


def test_what_minibatches_showed_lies_below_their_matrices_and_equals_them_where_they_were_asked(problem):
    tracked, texts, gradients, factors, damping, _ = problem
    system = refine.System(tracked, texts, factors, damping, 4096, StepContext())
    b, how = system.whiten(gradients), Refinement("stochastic", steps=48, batch_texts=16)
    known, asked = refine.Minibatches(system, b, how), {}
    assert sorted(n for group in known.groups for n in group) == list(range(len(texts)))
    for k in range(2 * len(known.groups)):
        asked[known.at(k)] = known.solve(b)
        known.learn(known.at(k), asked[known.at(k)])
    assert set(asked) == set(range(len(known.groups)))
    for group, y in asked.items():
        rows = known.rows[[r for r, origin in enumerate(known.origin) if origin == group]]
        wanted = system.total(y, known.groups[group])
        torch.testing.assert_close((y @ rows.t()) @ rows, wanted, rtol=1e-2, atol=1e-3 * float(wanted.abs().max()))
        x = torch.randn(4, b.shape[1], generator=torch.Generator().manual_seed(group))
        whole = (x * system.total(x, known.groups[group])).sum(1)
        assert bool(((x @ rows.t()).square().sum(1) <= whole * (1 + 1e-3)).all())


def test_memory_sets_fewer_steps_with_larger_minibatches(problem, monkeypatch):
    tracked, texts, gradients, factors, damping, _ = problem
    system = refine.System(tracked, texts, factors, damping, 4096, StepContext())
    b, how = system.whiten(gradients), Refinement("stochastic", steps=64, batch_texts=4)
    monkeypatch.setattr(refine, "HELD_PRODUCTS", 16 * b.numel())
    known = refine.Minibatches(system, b, how)
    assert known.steps == 16 and {len(g) for g in known.groups} == {16}
    found = refine.refine(tracked, texts, gradients, factors, damping, how)
    assert agreement(problem, found.vectors) > agreement(problem, factors.precondition(gradients, damping))


def test_the_guard_of_stochastic_asks_texts_that_were_not_drawn_yet(problem):
    tracked, texts, gradients, factors, damping, _ = problem
    system = refine.System(tracked, texts, factors, damping, 4096, StepContext())
    known = refine.Minibatches(system, system.whiten(gradients), Refinement("stochastic", steps=8, batch_texts=8))
    drawn = [n for k in range(known.steps) for n in known.groups[known.at(k)]]
    assert len(drawn) == 64 and len(known.guard) == 32 and not set(drawn) & set(known.guard)


@pytest.mark.parametrize("spoil", [0.0, -3.0, 100.0, float("nan")])
def test_guard_never_returns_more_than_the_first_residual(problem, monkeypatch, spoil):
    tracked, texts, gradients, factors, damping, _ = problem
    monkeypatch.setattr(refine.Minibatches, "solve", lambda self, b: b * spoil)
    monkeypatch.setattr(refine.Minibatches, "learn", lambda self, group, y: None)
    how = Refinement("stochastic", steps=4)
    found = refine.refine(tracked, texts, gradients, factors, damping, how)
    assert (found.residual <= 1 + 1e-5).all()
    system = refine.System(tracked, texts, factors, damping, 4096, StepContext())
    b = system.whiten(gradients)
    guard = refine.Minibatches(system, b, how).guard
    y = system.whiten(found.vectors) / system.root.square()
    norms = [(system.apply(x, guard) - b).norm(dim=1) for x in (y, b)]
    assert bool((norms[0] <= norms[1] * (1 + 1e-4)).all())


@pytest.mark.parametrize("spoil", [100.0, float("nan")])
def test_guard_of_krylov_shortens_or_refuses_what_other_texts_speak_against(problem, monkeypatch, spoil):
    tracked, texts, gradients, factors, damping, _ = problem
    least = refine._least
    monkeypatch.setattr(refine, "_least", lambda images, b: least(images, b) * spoil)
    found = refine.refine(tracked, texts, gradients, factors, damping, Refinement(passes=1))
    assert (found.residual <= 1 + 1e-5).all() and (found.kept < 1).all()
    if spoil != spoil:  # nothing of it is kept
        plain = factors.precondition(gradients, damping)
        assert all(torch.allclose(found.vectors[n], plain[n], rtol=1e-3, atol=1e-5) for n in plain)


@pytest.mark.parametrize("how", [Refinement(passes=3), Refinement("stochastic", steps=24)])
def test_a_stopped_refinement_goes_on_to_the_same_result(problem, tmp_path, how):
    tracked, texts, gradients, factors, damping, _ = problem
    whole = refine.refine(tracked, texts, gradients, factors, damping, how)
    resources = Resources(checkpoint_seconds=0.0)
    limit, asked = 45 if how.solver == "krylov" else 15, []

    def stop():
        asked.append(1)
        return len(asked) > limit

    with pytest.raises(Interrupted):
        refine.refine(
            tracked, texts, gradients, factors, damping, how, batch_tokens=200, resume=tmp_path, ctx=StepContext(resources, stop=stop)
        )
    assert len(list(tmp_path.iterdir())) == 1
    done = []
    context = StepContext(resources, progress=lambda now, total, note: done.append((now, total)))
    again = refine.refine(tracked, texts, gradients, factors, damping, how, resume=tmp_path, ctx=context)
    assert done[0][0] > len(texts) and done[-1][0] == done[-1][1] and not list(tmp_path.iterdir())
    assert again.passes == whole.passes
    for name, vector in whole.vectors.items():
        torch.testing.assert_close(again.vectors[name], vector, rtol=1e-3, atol=1e-4 * float(vector.abs().max()))


def test_refuses_nothing_to_do():
    with pytest.raises(StudyError, match="krylov or stochastic"):
        Refinement("newton")
    with pytest.raises(StudyError, match="at least 1"):
        Refinement(passes=0)


HF_SIZES = {
    "vocab_size": 13,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,
}


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_refines_hugging_face_architectures(name, make_texts):
    transformers = pytest.importorskip("transformers")
    from leaven.lm.hf import HfTrainable

    if name == "llama":
        config = transformers.LlamaConfig(**HF_SIZES)
    else:
        config = transformers.GPT2Config(vocab_size=13, n_embd=8, n_layer=2, n_head=2, n_positions=32, n_inner=12, initializer_range=0.3)
    torch.manual_seed(0)
    model = HfTrainable(transformers.AutoModelForCausalLM.from_config(config), SimpleNamespace(vocab_size=13))
    texts = make_texts(24, prompts=False)
    tracked = Tracked(model, "linear")
    factors = fit_factors(tracked, texts)
    gradients = query_gradients(tracked, single_queries(make_texts(3, seed=4)))
    damping = factors.damping(Damping("relative", 1.0))
    problem = (tracked, texts, gradients, factors, damping, exact.curvature(tracked, texts))
    found = refine.refine(tracked, texts, gradients, factors, damping, Refinement(passes=6))
    before = agreement(problem, factors.precondition(gradients, damping))
    assert agreement(problem, found.vectors) > max(0.85, before)


def test_attention_without_forward_mode_is_refused(make_model, make_texts):
    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1.0

        @staticmethod
        def backward(ctx, grad):
            return grad

    model = make_model()
    inner = model.module.norm.forward
    model.module.norm.forward = lambda x, kernels: inner(Fused.apply(x), kernels)
    tracked = Tracked(model, "linear")
    with pytest.raises(BackendError, match="forward-mode"):
        product(tracked, make_texts(2), torch.zeros(1, len(exact.parameters(tracked))))


@pytest.mark.slow
def test_the_bar_at_five_thousand_parameters(tmp_path):
    """One corpus and seed of benchmarks/refinement.py: about 40 CPU-seconds."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    import refinement

    rows = {r["method"]: r for r in refinement.run_case("planted", "5k", 0, tmp_path)}
    ours, plain = rows["krylov 4"], rows["ekfac"]
    assert ours["spearman"] >= 0.90 and ours["spearman"] > plain["spearman"] + 0.2
    assert ours["passes"] <= 4 and ours["worst_residual_against_ekfac"] <= 1


@pytest.mark.slow
def test_the_bars_at_fifty_thousand_parameters(tmp_path):
    """One corpus and seed of benchmarks/refinement.py: about 90 CPU-seconds."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    import refinement

    rows = {r["method"]: r for r in refinement.run_case("arithmetic", "50k", 0, tmp_path)}
    assert rows["krylov 8"]["spearman"] >= 0.85 and rows["krylov 8"]["passes"] <= 8
    assert rows["stochastic 160 x 6"]["spearman"] >= 0.80 and rows["stochastic 160 x 6"]["passes"] <= 10
