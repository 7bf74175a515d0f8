"""The training loop: what the loss means, determinism, exact resume, continuing, schedules and failures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from leaven.core.hashing import tree_digest
from leaven.core.step import Resources, StepContext
from leaven.core.tables import CURVE, read_table
from leaven.errors import BackendError, DataError, Interrupted, StudyError
from leaven.lm.checkpoints import read_json, read_tensors
from leaven.lm.loop import kept_steps
from leaven.lm.optimise import learning_rate

QUIET = StepContext(runtime=Resources(threads=1, checkpoint_seconds=1e9))


def curve(folder):
    return read_table(folder / "curve.parquet", CURVE)


def weights(folder):
    return read_tensors(folder / "model.safetensors")


def assert_close(a, b, atol=1e-5):
    for name, value in weights(a).items():
        assert torch.allclose(value, weights(b)[name], atol=atol), name


def stop_after(calls: int) -> StepContext:
    """Return a context whose stop flag rises at the given call."""
    left = iter(range(calls - 1))
    return replace(QUIET, stop=lambda: next(left, None) is None)


def test_trains_and_the_folder_loads_in_transformers(make_order, run_train, spec_of, toy):
    transformers = pytest.importorskip("transformers")
    out = run_train(make_order(60, 16), spec_of())
    losses = curve(out)["loss"].to_numpy()
    assert losses[-5:].mean() < 0.35 * losses[0]
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert transformers.AutoTokenizer.from_pretrained(out).eos_token == "<|end|>"
    facts = read_json(out / "training.json")
    assert facts["steps"] == 60 and facts["n_parameters"] == model.num_parameters() and facts["n_examples"] == 960
    assert facts["n_tokens"] == curve(out)["n_tokens"][-1]
    assert not (out / "_resume").exists()


def test_same_seed_same_curve_other_seed_other_curve(make_order, run_train, spec_of):
    order = make_order(5)
    a, b, c = (run_train(order, spec_of(seed=s), n) for s, n in ((1, "a"), (1, "b"), (2, "c")))
    assert curve(a).equals(curve(b)) and tree_digest(a) == tree_digest(b)
    assert not curve(a).equals(curve(c))


def test_loss_is_invariant_to_micro_batches_and_packing(make_order, run_train, spec_of):
    order, packed = make_order(3, 12), make_order(3, 12, pack_tokens=100, name="packed")
    whole = run_train(order, spec_of(), "whole")
    for name, folder, rows in (
        ("micro", order, 1),
        ("micro5", order, 5),
        ("packed", packed, 0),
        ("packed1", packed, 1),
    ):
        other = run_train(
            folder, spec_of(), f"out-{name}", StepContext(runtime=Resources(micro_batch=rows, checkpoint_seconds=1e9))
        )
        assert np.allclose(curve(whole)["loss"], curve(other)["loss"], atol=1e-5), name
        assert_close(whole, other, atol=1e-4)


def test_weight_zero_is_removal_and_weight_two_duplication(make_order, run_train, spec_of):
    zero = run_train(
        make_order(1, 4, weights=np.array([1, 0, 1, 1.0]), name="o1", examples=[0, 1, 2, 3]), spec_of(), "m1"
    )
    removed = run_train(make_order(1, 3, name="o2", examples=[0, 2, 3]), spec_of(), "m2")
    two = run_train(make_order(1, 3, weights=np.array([1, 2, 1.0]), name="o3", examples=[0, 2, 3]), spec_of(), "m3")
    doubled = run_train(make_order(1, 4, name="o4", examples=[0, 2, 2, 3]), spec_of(), "m4")
    assert_close(zero, removed)
    assert_close(two, doubled)
    assert curve(zero)["n_tokens"].to_list() == curve(removed)["n_tokens"].to_list()
    assert np.isclose(curve(two)["loss"][0], curve(doubled)["loss"][0], atol=1e-6)


def test_loss_matches_an_obvious_reference(make_order, run_train, spec_of, toy):
    from leaven.data.tokenise import load_tokens
    from leaven.lm.tiny_model import TinyConfig, init_tiny

    out = run_train(make_order(1, 4, examples=[5, 6, 7, 8], weights=np.array([1, 0.5, 2, 1])), spec_of())
    spec = spec_of()
    model = init_tiny(TinyConfig.from_spec(spec["model"], read_json(out / "config.json")["vocab_size"]), spec["seed"])
    tokens, top, bottom = load_tokens(toy.tokens), 0.0, 0.0
    for name, weight in zip(toy.lengths["example"][5:9], (1, 0.5, 2, 1), strict=True):
        ids, learn = torch.tensor(np.array(tokens.ids(name)), dtype=torch.long), tokens.learn(name)
        losses = torch.nn.functional.cross_entropy(model(ids[None])[0, :-1], ids[1:], reduction="none").detach().numpy()
        top, bottom = top + (weight * learn[1:] * losses).sum(), bottom + weight * learn[1:].sum()
    assert np.isclose(curve(out)["loss"][0], top / bottom, atol=1e-5)
    assert curve(out)["n_learned_tokens"][0] == toy.lengths["n_learned_tokens"][5:9].sum()


@pytest.mark.parametrize("cut", [2, 5, 9])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_resume_is_bit_identical(make_order, run_train, spec_of, cut, dtype):
    spec = spec_of(schedule="cosine", min_lr=1e-5, dtype=dtype, checkpoint_every=4)
    order = make_order(10)
    whole = run_train(order, spec, "whole")
    with pytest.raises(Interrupted):
        run_train(order, spec, "cut", stop_after(cut))
    resumed = run_train(order, spec, "cut")
    # the engine removes _resume when it publishes; names starting with "_" carry no identity
    assert tree_digest(whole) == tree_digest(resumed)
    assert sorted(p.name for p in (resumed / "checkpoints").iterdir()) == ["step-000004", "step-000008"]


def test_clock_checkpoints_survive_a_crash(make_order, run_train, spec_of):
    def crash(done, total, note=""):
        if done == 6:
            raise RuntimeError("power cut")

    order, spec = make_order(9), spec_of()
    whole = run_train(order, spec, "whole")
    with pytest.raises(RuntimeError, match="power cut"):
        run_train(order, spec, "cut", StepContext(runtime=Resources(checkpoint_seconds=0.0), progress=crash))
    assert tree_digest(run_train(order, spec, "cut")) == tree_digest(whole)


def test_continue_equals_one_uninterrupted_run(make_order, run_train, spec_of):
    short, long = make_order(6, name="short"), make_order(10, name="long")
    first = run_train(short, spec_of(), "first")
    rest = run_train(long, spec_of(), "rest", **{"continue": first})
    assert tree_digest(rest) == tree_digest(run_train(long, spec_of(), "whole"))


def test_continue_refuses_another_prefix_or_a_moving_schedule(make_order, run_train, spec_of):
    first = run_train(make_order(6, name="short"), spec_of(schedule="cosine"), "first")
    with pytest.raises(BackendError, match="schedule: constant"):
        run_train(make_order(10, name="long"), spec_of(schedule="cosine"), "rest", **{"continue": first})
    with pytest.raises(BackendError, match="first 6 steps"):
        run_train(
            make_order(10, name="other", examples=list(range(80))),
            spec_of(schedule="cosine"),
            "rest",
            **{"continue": first},
        )


def test_a_second_stage_starts_from_the_first(make_order, run_train, spec_of):
    pre = run_train(make_order(8), spec_of(), "pre")
    losses = {}
    for reset in (True, False):
        spec = spec_of(reset_optimizer=reset) | {"stage": "more"}
        out = run_train(make_order(4, stage="more", name=f"o{reset}"), spec, f"sft-{reset}", init=pre)
        losses[reset] = curve(out)["loss"].to_list()
        assert curve(out)["step"].to_list() == [0, 1, 2, 3]
    assert losses[True][0] == losses[False][0] < curve(pre)["loss"][0]
    assert losses[True][2] != losses[False][2]


def test_nan_names_step_and_examples(make_order, run_train, spec_of):
    with pytest.raises(BackendError, match=r"step \d+.*toy/p\d{4}"):
        run_train(make_order(8), spec_of(lr=1e30, clip=0, warmup_steps=0))


def test_learning_rates_match_the_closed_form():
    cosine = {"lr": 1e-4, "min_lr": 1e-6, "warmup_steps": 500, "schedule": "cosine"}
    assert np.isclose(learning_rate(cosine, 0, 2000), 1e-4 / 500)
    assert np.isclose(learning_rate(cosine, 499, 2000), 1e-4)
    assert np.isclose(learning_rate(cosine, 500, 2000), 1e-4)
    assert np.isclose(learning_rate(cosine, 1999, 2000), 1e-6)
    assert np.isclose(learning_rate(cosine, 1250, 2001), 1e-6 + 0.5 * (1e-4 - 1e-6))
    ratio = {"lr": 1e-5, "warmup_ratio": 0.1, "schedule": "cosine"}
    for at, expected in ((0, 1e-7), (49, 5e-6), (99, 1e-5), (100, 1e-5), (999, 0.0)):
        assert np.isclose(learning_rate(ratio, at, 1000), expected, atol=1e-12)
    linear = {"lr": 2.0, "schedule": "linear", "min_lr": 1.0}
    assert [learning_rate(linear, i, 5) for i in range(5)] == [2.0, 1.75, 1.5, 1.25, 1.0]
    with pytest.raises(StudyError, match="sine"):
        learning_rate({"lr": 1, "schedule": "sine"}, 0, 1)


def test_weight_decay_spares_vectors(make_order, run_train, spec_of):
    a = run_train(make_order(1), spec_of(weight_decay=0.0), "a")
    b = run_train(make_order(1, name="b"), spec_of(weight_decay=0.5), "b")
    for name, value in weights(a).items():
        assert torch.equal(value, weights(b)[name]) == (value.dim() < 2), name


def test_bf16_stays_near_fp32(make_order, run_train, spec_of):
    order = make_order(10)
    fp32, bf16 = run_train(order, spec_of(), "fp32"), run_train(order, spec_of(dtype="bf16"), "bf16")
    assert np.allclose(curve(fp32)["loss"], curve(bf16)["loss"], atol=5e-2)
    assert read_json(bf16 / "training.json")["dtype"] == "bfloat16"
    assert all(v.dtype == torch.float32 for v in weights(bf16).values())


def test_without_a_compiler_training_is_eager_and_says_so(make_order, run_train, spec_of, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    out = run_train(make_order(1), spec_of(), ctx=StepContext(runtime=Resources(compile="on")))
    facts = read_json(out / "training.json")
    assert not facts["compiled"] and "C++ compiler" in facts["notes"][0]


def test_wrong_stage_missing_tokens_and_long_rows_are_named(make_order, run_train, spec_of, toy):
    order = make_order(1)
    with pytest.raises(DataError, match="'pretrain'"):
        run_train(order, spec_of() | {"stage": "pretrain"})
    with pytest.raises(StudyError, match="max_tokens"):
        run_train(order, spec_of({"max_tokens": 8}))
    frame = pl.read_parquet(order / "order.parquet").with_columns(example=pl.lit("nobody"))
    frame.write_parquet(order / "order.parquet")
    with pytest.raises(DataError, match="toy/nobody"):
        run_train(order, spec_of())


def test_consumes_what_build_order_writes(toy, tmp_path, run_train, spec_of):
    from leaven.data.build import build_order

    spec = {"stage": "sft", "seed": 3, "mixture": {"toy": 1.0}, "formats": {"toy": "thought_code"},
            "budget": {"steps": 4}, "batch": 8, "max_tokens": 120, "truncate": "right", "pack": "best_fit"}  # fmt: skip
    (tmp_path / "built").mkdir()
    build_order(spec, {"toy|thought_code": toy.tokens}, tmp_path / "built", QUIET)
    out = run_train(tmp_path / "built", spec_of())
    order = pl.read_parquet(tmp_path / "built" / "order.parquet")
    assert order["n_tokens"].sum() == curve(out)["n_tokens"][-1]
    assert order["n_learned_tokens"].sum() == curve(out)["n_learned_tokens"][-1]


@pytest.mark.slow
@pytest.mark.parametrize("pack", [0, 120])
def test_compiled_training_follows_the_eager_curve(make_order, run_train, spec_of, pack):
    from leaven.lm.compiling import cpp_compiler

    if cpp_compiler() is None:
        pytest.skip("no C++ compiler")
    order = make_order(6, pack_tokens=pack)
    eager = run_train(order, spec_of(), "eager")
    compiled = run_train(order, spec_of(), "compiled", StepContext(runtime=Resources(compile="on")))
    assert read_json(compiled / "training.json")["compiled"]
    assert np.allclose(curve(eager)["loss"], curve(compiled)["loss"], atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, set()),
        ({"checkpoint_every": 4}, {4, 8}),
        ({"checkpoints": 5}, {2, 4, 6, 8, 10}),
        ({"checkpoints": 3}, {4, 7, 10}),
    ],
)
def test_kept_steps_are_every_n_or_evenly_spaced(settings: dict[str, int], expected: set[int]) -> None:
    assert kept_steps(10, settings) == expected
