"""The store alone: keys, publication, damage, locks, garbage."""

from __future__ import annotations

import multiprocessing
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaven.core.hashing import tree_digest
from leaven.engine.collect import Root, collect
from leaven.engine.store import Cost, Recipe, Source, Store
from leaven.errors import RefusedError, StudyError

leaf = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
plain = st.recursive(leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
                     max_leaves=8)


def recipe(spec=None, **inputs: str) -> Recipe:
    sources = {name: Source("n", "", digest) for name, digest in inputs.items()}
    return Recipe("toy_steps:write", 1, True, spec or {}, sources)


def publish(store: Store, made: Recipe, **files: str) -> str:
    out = store.prepare(made.key)
    for name, text in files.items():
        (out / name).write_text(text)
    store.publish("n", made, Cost(), {})
    return made.key


@given(st.dictionaries(st.text(), plain, max_size=4))
def test_key_ignores_the_order_of_fields_and_nothing_else(spec):
    key = Store.key("m:f", 1, spec, {"a": "1", "b": "2"})
    assert key == Store.key("m:f", 1, dict(reversed(spec.items())), {"b": "2", "a": "1"})
    others = [Store.key("m:g", 1, spec, {"a": "1", "b": "2"}), Store.key("m:f", 2, spec, {"a": "1", "b": "2"}),
              Store.key("m:f", 1, {**spec, "new field": 0}, {"a": "1", "b": "2"}),
              Store.key("m:f", 1, spec, {"a": "2", "b": "1"})]
    assert len({key, *others}) == 5


def test_a_value_without_one_form_is_refused_by_name():
    with pytest.raises(StudyError, match=r"spec\.train\.lr"):
        Store.key("m:f", 1, {"train": {"lr": float("nan")}}, {})


def test_published_content_is_what_was_written(store):
    made = recipe({"x": 1})
    out = store.prepare(made.key)
    (out / "sub").mkdir()
    (out / "sub/a.txt").write_text("a")
    (out / "_notes.txt").write_text("not part of the identity")
    (out / "_resume").mkdir()
    (out / "_resume/state").write_text("checkpoint")
    assert store.lookup(made.key) is None
    manifest = store.publish("n", made, Cost(1.5, 2.5, 3), {"python": "3"})
    found = store.lookup(made.key)
    assert found == manifest and found.recipe == made and found.cost == Cost(1.5, 2.5, 3)
    assert set(found.files) == {"sub/a.txt", "_notes.txt"}
    assert tree_digest(store.path(made.key)) == manifest.digest == manifest.identity
    assert not (store.path(made.key) / "_resume").exists() and not store.work(made.key).exists()


def test_work_survives_only_with_something_to_resume_from(store):
    out = store.prepare("k")
    (out / "rubbish.txt").write_text("half")
    assert not list(store.prepare("k").iterdir())
    (out / "_resume").mkdir()
    (out / "_resume/state").write_text("tick 3")
    (out / "checkpoint-3.txt").write_text("kept")
    (out / "table.parquet.part").write_text("half a table")
    assert sorted(p.name for p in store.prepare("k").iterdir()) == ["_resume", "checkpoint-3.txt"]


def test_damage_is_named(store):
    key = publish(store, recipe(), a="aaa", b="bbb")
    assert store.damage(key, deep=True) == "" and store.damage("0" * 64) == ""
    path = store.path(key)
    times = (path / "a").stat()
    os.utime(path / "b")  # written again with the same bytes: sound
    assert store.lookup(key) is not None
    (path / "a").write_text("aXa")
    assert store.lookup(key) is None and "content of a changed" in store.damage(key)
    os.utime(path / "a", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert store.lookup(key) is not None and "content of a changed" in store.damage(key, deep=True)
    (path / "a").write_text("aaaa")
    assert store.lookup(key) is None and "a has 4 bytes instead of 3" in store.damage(key)
    (path / "a").unlink()
    assert "a is missing" in store.damage(key)
    (path / "_manifest.json").unlink()
    assert "manifest" in store.damage(key)


def hold(root: str, ready, release) -> None:
    with Store(root).lock("key"):
        ready.set()
        release.wait(30)


def test_a_lock_has_one_holder_and_dies_with_it(store):
    spawn = multiprocessing.get_context("fork")
    ready, release = spawn.Event(), spawn.Event()
    other = spawn.Process(target=hold, args=(str(store.root), ready, release))
    other.start()
    assert ready.wait(30)
    with store.lock("key", wait=False) as held:
        assert not held
    other.kill()
    other.join()
    with store.lock("key", wait=True) as held:
        assert held


def test_collect_frees_what_no_run_folder_names(store, tmp_path):
    keys = [publish(store, recipe({"i": i}), text="x" * 100) for i in range(4)]
    for name, named in (("one", keys[:2]), ("two", keys[1:3])):
        (tmp_path / name).mkdir()
        root = Root.open(store, tmp_path / name)
        for key in named:
            root.name(key)
        root.close(set(), complete=True)
    stale, fresh = store.prepare("s"), store.prepare("f")
    os.utime(stale, (0, 0))
    looked = collect(store)
    assert looked.artifacts == (keys[3],) and looked.work == ("s",) and looked.size_bytes > 100 and not looked.removed
    assert sorted(store.keys()) == sorted(keys)
    with store.in_use(), pytest.raises(RefusedError, match="a run is using the store"):
        collect(store, dry_run=False)
    (tmp_path / "one").rename(tmp_path / "gone")
    assert set(collect(store, dry_run=False).artifacts) == {keys[0], keys[3]}
    assert store.keys() == sorted(keys[1:3]) and fresh.exists() and not stale.exists()


def test_an_unfinished_run_keeps_what_it_named_before(store, tmp_path):
    keys = [publish(store, recipe({"i": i}), text="x") for i in range(2)]
    for key, complete in ((keys[0], True), (keys[1], False)):
        root = Root.open(store, tmp_path)
        root.name(key)
        root.save()
        root.close(set(), complete=complete)
    assert collect(store).artifacts == ()
    root = Root.open(store, tmp_path)
    root.name(keys[1])
    root.close(set(), complete=True)
    assert collect(store).artifacts == (keys[0],)
