"""The shared words: digests, random streams, registries and tables behave as identities must."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaven.core.hashing import canonical, digest, tree_digest
from leaven.core.registry import Registry, load_plugin
from leaven.core.rng import rng, stream_seed
from leaven.core.tables import EXAMPLES, LENGTHS, example_row, read_examples, read_table, write_examples, write_table
from leaven.core.types import Example, Turn
from leaven.errors import DataError, StudyError

plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), plain_values))
def test_digest_ignores_key_order(value: dict) -> None:  # type: ignore[type-arg]
    assert digest(value) == digest(dict(reversed(value.items())))


@given(plain_values, plain_values)
def test_digest_tells_values_apart(a: object, b: object) -> None:
    assert (digest(a) == digest(b)) == (canonical(a) == canonical(b))


@pytest.mark.parametrize("value", [float("nan"), object(), {1: 2}, {"a": [lambda: 0]}, {1, 2}])
def test_values_without_one_form_are_refused_by_field(value: object) -> None:
    with pytest.raises(StudyError, match="train.spec"):
        canonical(value, "train.spec")


def test_dataclasses_hash_by_fields() -> None:
    @dataclass(frozen=True)
    class Point:
        x: int
        y: tuple[int, ...]

    assert digest(Point(1, (2, 3))) == digest({"x": 1, "y": [2, 3]})


def test_table_identity_is_rows_not_bytes(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1, 2, 3], "b": ["x", "y", None]})
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    frame.write_parquet(tmp_path / "one/t.parquet", compression="zstd")
    frame.write_parquet(tmp_path / "two/t.parquet", compression="snappy", row_group_size=1)
    (tmp_path / "two/timings.parquet").write_bytes(b"differs every time")
    (tmp_path / "two/_manifest.json").write_text("{}")
    assert tree_digest(tmp_path / "one") == tree_digest(tmp_path / "two")
    frame.reverse().write_parquet(tmp_path / "two/t.parquet")
    assert tree_digest(tmp_path / "one") != tree_digest(tmp_path / "two")


def test_streams_depend_on_every_name_and_nothing_else() -> None:
    assert rng(1, "order", "sft").integers(0, 2**62) == rng(1, "order", "sft").integers(0, 2**62)
    assert (
        len(
            {
                stream_seed(1, "order", "sft"),
                stream_seed(2, "order", "sft"),
                stream_seed(1, "ordersft"),
                stream_seed(1, "order", "pt"),
            }
        )
        == 4
    )


def test_registry_suggests_and_refuses_duplicates(tmp_path: Path) -> None:
    formats: Registry = Registry("format")  # type: ignore[type-arg]
    formats("code_only")(len)
    with pytest.raises(StudyError, match="Did you mean 'code_only'"):
        formats.get("code_onyl", "study.yaml:3")
    with pytest.raises(StudyError, match="two formats"):
        formats("code_only")(max)


def test_broken_and_missing_plugins_are_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="expected a Python file"):
        load_plugin(tmp_path / "none.py")
    (tmp_path / "bad.py").write_text("1 / 0")
    with pytest.raises(StudyError, match="ZeroDivisionError"):
        load_plugin(tmp_path / "bad.py")


@given(
    st.lists(
        st.builds(
            Example,
            id=st.uuids().map(str),
            source=st.text(max_size=5),
            question=st.text(),
            tests=st.lists(st.text()).map(tuple),
            turns=st.lists(st.builds(Turn, role=st.sampled_from(["user", "assistant"]), content=st.text())).map(tuple),
            difficulty=st.none() | st.integers(0, 9),
            meta=st.dictionaries(st.text(), st.integers()),
        ),
        max_size=4,
    )
)
def test_examples_round_trip(tmp_path_factory: pytest.TempPathFactory, examples: list[Example]) -> None:
    path = tmp_path_factory.mktemp("t") / "examples.parquet"
    write_examples(path, examples)
    assert list(read_examples(path)) == examples


def test_tables_name_missing_columns_and_misfits(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", [example_row(Example(id="1", source="s"))], EXAMPLES)
    with pytest.raises(DataError, match="n_tokens"):
        read_table(tmp_path / "t.parquet", LENGTHS)
    with pytest.raises(DataError, match="does not fit"):
        write_table(
            tmp_path / "u.parquet", [{**example_row(Example(id="1", source="s")), "difficulty": "hard"}], EXAMPLES
        )
    with pytest.raises(DataError, match="expected a Parquet table"):
        read_table(tmp_path / "none.parquet")
