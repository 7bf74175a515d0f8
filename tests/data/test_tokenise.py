"""Tokenise: arrays and spans against encoding each example alone; what is refused; previews."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from leaven.core.hashing import tree_digest
from leaven.core.step import StepContext
from leaven.core.tables import write_examples
from leaven.core.types import Example, Turn
from leaven.data.formats import FORMATS
from leaven.data.tokenise import KINDS, load_tokens, preview, tokenise
from leaven.data.tokenizer import Tokenizer, train_tokenizer
from leaven.errors import DataError

EXAMPLES = [
    Example(
        id=f"e{i}", source="s", question=f"question {i}", thought="so it is\n" * (i % 4 + 1), code=f"x = {i}\n# done\n"
    )
    for i in range(1100)
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tokens")
    paths = {name: folder / name for name in ("examples", "tokenizer", "tokens")}
    for path in paths.values():
        path.mkdir()
    write_examples(paths["examples"] / "examples.parquet", EXAMPLES)
    train_tokenizer(
        {"kind": "bpe", "vocab_size": 300, "formats": None}, {"s": paths["examples"]}, paths["tokenizer"], StepContext()
    )
    tokenise(
        {"format": "mixed", "source": "s"},
        {k: paths[k] for k in ("examples", "tokenizer")},
        paths["tokens"],
        StepContext(),
    )
    return paths


def run(folder: Path, folders: dict[str, Path], examples: list[Example], form: str) -> None:
    (folder / "in").mkdir()
    (folder / "out").mkdir()
    write_examples(folder / "in" / "examples.parquet", examples)
    inputs = {"examples": folder / "in", "tokenizer": folders["tokenizer"]}
    tokenise({"format": form, "source": "mine"}, inputs, folder / "out", StepContext())


def test_arrays_and_spans_equal_encoding_each_example_alone(folders: dict[str, Path]) -> None:
    tokenizer, table = Tokenizer.load(folders["tokenizer"]), load_tokens(folders["tokens"])
    spans = table.segments()
    for example in EXAMPLES[::97]:
        segments = FORMATS.get("mixed")(example)
        own = spans.filter(pl.col("example") == example.id)
        ids, learn, kinds = table.ids(example.id), table.learn(example.id), table.kinds(example.id)
        assert own["end"].to_list()[-1] == len(ids) == len(learn) == len(kinds)
        for segment, row in zip(segments, own.iter_rows(named=True), strict=True):
            inside = slice(row["start"], row["end"])
            assert ids[inside].tolist() == tokenizer.encode_segments([segment]).ids.tolist()
            assert set(learn[inside].tolist()) <= {segment.learn} and {KINDS[k] for k in kinds[inside]} == {
                segment.kind
            }
            assert (row["kind"], row["part"], row["turn"]) == (segment.kind, segment.part, segment.turn)


def test_lengths_count_tokens_by_kind(folders: dict[str, Path]) -> None:
    table = load_tokens(folders["tokens"])
    for row in table.lengths.gather_every(113).iter_rows(named=True):
        kinds, learn = table.kinds(row["example"]), table.learn(row["example"])
        assert row["n_tokens"] == len(kinds) and row["n_learned_tokens"] == int((learn > 0).sum())
        assert row["n_code_tokens"] == int((kinds == KINDS.index("code")).sum())
        assert row["n_thought_tokens"] == int((kinds == KINDS.index("thought")).sum())
    assert (
        table.flat_ids.dtype == np.int32 and table.flat_learn.dtype == np.float32 and table.flat_kinds.dtype == np.int8
    )


def test_the_first_token_of_a_document_cannot_be_learned(tmp_path: Path, folders: dict[str, Path]) -> None:
    run(tmp_path, folders, [Example(id="d", source="mine", text="once upon a time")], "document")
    learn = load_tokens(tmp_path / "out").learn("d")
    assert learn[0] == 0 and set(learn[1:].tolist()) == {1.0}


def test_rows_without_a_learned_token_are_refused_by_name(tmp_path: Path, folders: dict[str, Path]) -> None:
    silent = Example(id="silent", source="mine", turns=(Turn(role="user", content="Hello?"),))
    spoken = Example(id="spoken", source="mine", turns=(Turn(role="assistant", content="Hello!"),))
    with pytest.raises(DataError, match=r"'mine'.*1 of 2.*'silent': no segment is learned"):
        run(tmp_path, folders, [silent, spoken], "chat")


def test_repeated_ids_and_missing_fields_are_refused(tmp_path: Path, folders: dict[str, Path]) -> None:
    with pytest.raises(DataError, match="unique example ids.*'e1'"):
        run(tmp_path, folders, [EXAMPLES[1], EXAMPLES[2], EXAMPLES[1]], "code_only")
    (tmp_path / "again").mkdir()
    with pytest.raises(DataError, match="'answer'"):
        run(tmp_path / "again", folders, EXAMPLES[:3], "answer_only")


def test_a_damaged_artifact_or_a_foreign_example_is_named(tmp_path: Path, folders: dict[str, Path]) -> None:
    run(tmp_path, folders, EXAMPLES[:3], "code_only")
    with pytest.raises(DataError, match="'nobody'"):
        load_tokens(tmp_path / "out").ids("nobody")
    np.save(tmp_path / "out" / "kind.npy", np.zeros(1, dtype=np.int8))
    with pytest.raises(DataError, match="damaged"):
        load_tokens(tmp_path / "out")
    (tmp_path / "out" / "ids.npy").unlink()
    with pytest.raises(DataError, match="tokenise artifact"):
        load_tokens(tmp_path / "out")


@pytest.mark.parametrize("truncate", ["right", "keep_code", "drop"])
def test_preview_shows_text_learned_parts_and_cuts(folders: dict[str, Path], truncate: str) -> None:
    tokenizer = Tokenizer.load(folders["tokenizer"])
    (whole,) = preview(EXAMPLES, "thought_code", tokenizer, n=1)
    assert "".join(p.text for p in whole.pieces) == "".join(s.text for s in FORMATS.get("thought_code")(EXAMPLES[0]))
    assert not any(p.cut for p in whole.pieces) and sum(p.n_tokens for p in whole.pieces) == whole.n_tokens
    assert sum(p.n_tokens for p in whole.pieces if p.learned) == whole.n_learned_tokens
    limit = whole.n_tokens - 9
    (cut,) = preview(EXAMPLES, "thought_code", tokenizer, n=1, max_tokens=limit, truncate=truncate)  # type: ignore[arg-type]
    assert "".join(p.text for p in cut.pieces) == "".join(p.text for p in whole.pieces)
    kept = [p for p in cut.pieces if not p.cut]
    assert sum(p.n_tokens for p in kept) == (0 if truncate == "drop" else limit)
    if truncate == "keep_code":
        assert not any(p.cut for p in cut.pieces if p.kind == "code")


def test_golden_tokens(tmp_path: Path) -> None:
    """Fails when the same examples give other tokens: bump `@step(version=...)` of tokenise, then renew the digest."""
    for name in ("tokenizer", "out"):
        (tmp_path / name).mkdir()
    write_examples(tmp_path / "examples.parquet", EXAMPLES[:8])
    settings = {"kind": "word", "vocab_size": 200, "formats": ["thought_code"]}
    train_tokenizer(settings, {"s": tmp_path}, tmp_path / "tokenizer", StepContext())
    inputs = {"examples": tmp_path, "tokenizer": tmp_path / "tokenizer"}
    tokenise({"format": "mixed", "source": "s"}, inputs, tmp_path / "out", StepContext())
    assert tokenise.step_version == 2  # type: ignore[attr-defined]
    assert tree_digest(tmp_path / "out")[:16] == "35d2fe6ca09e5f33"
