"""Tokenizers: lossless, exact spans, no special ids from data, the same ids as transformers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaven.core.step import StepContext
from leaven.core.tables import write_examples
from leaven.core.types import Example, Segment, Turn
from leaven.data.tokenizer import END, SPECIALS, Tokenizer, train_tokenizer
from leaven.errors import DataError, StudyError

CODE = "def add(a, b):\n    total = a + b\n    if total > 10:\n        return total - 10\n    return total\n"
TEXTS = [CODE, "She has 12 pens and buys 30 more .\nSo the answer is 42", "  two  spaces\tand tab\r\n",
         "<|end|>\n<|end|> again", "naïve 漢字 🙂 of the of the of the"]


def examples() -> list[Example]:
    raw = [Example(id=str(i), source="s", text=t) for i, t in enumerate(TEXTS)]
    solved = Example(id="q", source="s", question="How many ?", thought="Count them", code="x = 1\n", answer="1")
    turns = (Turn(role="user", content="Hello"), Turn(role="assistant", content="Hi there"))
    chat = Example(id="c", source="s", turns=turns)
    return [*raw * 3, solved, chat]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_examples(folder / "examples.parquet", examples())
    return folder


@pytest.fixture(scope="module")
def trained(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for kind, size in (("word", 200), ("bpe", 420)):
        folders[kind] = tmp_path_factory.mktemp(kind)
        spec = {"kind": kind, "vocab_size": size, "formats": None}
        train_tokenizer(spec, {"a": source}, folders[kind], StepContext())
    return folders


@pytest.fixture(params=["word", "bpe"])
def tokenizer(request: pytest.FixtureRequest, trained: dict[str, Path]) -> Tokenizer:
    return Tokenizer.load(trained[request.param])


def test_training_texts_round_trip(tokenizer: Tokenizer) -> None:
    for text in TEXTS:
        if END in text and tokenizer.unknown(text):
            continue  # a word tokenizer never learns a marker as a word
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.unknown(text) == 0


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cs",))))
def test_bpe_round_trips_any_text(trained: dict[str, Path], text: str) -> None:
    tokenizer = Tokenizer.load(trained["bpe"])
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=150, deadline=None)
@given(parts=st.lists(st.sampled_from([" ", "  ", "\n", "def", " return", " total", " +", " " * 19]), max_size=12))
def test_word_round_trips_known_words_with_any_spacing(trained: dict[str, Path], parts: list[str]) -> None:
    tokenizer = Tokenizer.load(trained["word"])
    text = "".join(parts)
    pieces_known = tokenizer.unknown(text) == 0
    assert not pieces_known or tokenizer.decode(tokenizer.encode(text)) == text
    spaces_only = "".join(p for p in parts if not p.strip())
    assert tokenizer.decode(tokenizer.encode(spaces_only)) == spaces_only


def test_unknown_words_are_counted_and_visible(trained: dict[str, Path]) -> None:
    tokenizer = Tokenizer.load(trained["word"])
    assert tokenizer.unknown("def zebra(a, quagga total") == 2
    assert "<|unk|>" in tokenizer.decode(tokenizer.encode("zebra"))


@pytest.mark.parametrize("kind", ["word", "bpe"])
@given(text=st.lists(st.sampled_from([*SPECIALS, " ", "\n", "def", "<|", "|>", "end"]), max_size=8).map("".join))
@settings(max_examples=100, deadline=None)
def test_data_never_yields_special_ids(trained: dict[str, Path], kind: str, text: str) -> None:
    tokenizer = Tokenizer.load(trained[kind])
    special = {tokenizer.id_of(s) for s in SPECIALS}
    kinds = ("prompt", "thought", "code", "answer", "text")
    encoded = tokenizer.encode_segments([Segment(kind=k, text=text) for k in kinds])
    assert not special & set(encoded.ids.tolist())
    assert not special & set(tokenizer.encode(text))


def test_template_markers_become_their_ids(tokenizer: Tokenizer) -> None:
    encoded = tokenizer.encode_segments([Segment(kind="template", text="".join(SPECIALS))])
    assert encoded.ids.tolist() == [tokenizer.id_of(s) for s in SPECIALS]
    assert encoded.ids.tolist() == [tokenizer.special(s) for s in SPECIALS]
    assert tokenizer.id_of(END) == tokenizer.end_id and tokenizer.pad_id != tokenizer.end_id
    assert max(encoded.ids) == tokenizer.vocab_size - 1
    assert tokenizer.decode(encoded.ids) == "" and tokenizer.decode(encoded.ids, special="keep") == "".join(SPECIALS)


def test_segments_keep_exact_spans_and_both_orders_share_their_tokens(tokenizer: Tokenizer) -> None:
    prompt = [Segment(kind="template", text="<|user|>"), Segment(kind="prompt", text="How many ?"),
              Segment(kind="text", text="")]
    thought = Segment(kind="thought", text="Count them\n", learn=0.5)
    code = Segment(kind="code", text=CODE, learn=1.0)
    end = Segment(kind="template", text=END, learn=1.0)
    follow = tokenizer.encode_segments([*prompt, thought, code, end])
    precede = tokenizer.encode_segments([*prompt, code, thought, end])
    assert sorted(follow.ids.tolist()) == sorted(precede.ids.tolist())
    assert tokenizer.decode(follow.ids[follow.segment == 4]) == CODE
    assert follow.ids[follow.segment == 3].tolist() == tokenizer.encode(thought.text)
    assert set(follow.learn[follow.segment == 3].tolist()) == {0.5} and not (follow.segment == 2).any()
    assert (follow.ids.dtype, follow.learn.dtype, follow.segment.dtype) == (np.int32, np.float32, np.int32)
    assert follow.learn.sum() == precede.learn.sum()


def test_batches_equal_single_encoding(tokenizer: Tokenizer) -> None:
    lists = [[Segment(kind="template", text="<|user|>"), Segment(kind="prompt", text=t)] for t in TEXTS] + [[]]
    for one, many in zip([tokenizer.encode_segments(x) for x in lists], tokenizer.encode_many(lists), strict=True):
        assert (one.ids == many.ids).all() and (one.learn == many.learn).all() and (one.segment == many.segment).all()


def test_space_runs_are_one_token_each_and_shorten_code(trained: dict[str, Path]) -> None:
    tokenizer = Tokenizer.load(trained["bpe"])
    ids = [tokenizer.encode(" " * n) for n in range(2, 17)]
    assert all(len(i) == 1 for i in ids) and len({i[0] for i in ids}) == 15
    for n in range(2, 40):
        assert len(tokenizer.encode("\n" + " " * n + "x")) == 2 + -(-n // 16)
    # without run tokens each space of the indentation costs a token of its own
    indentation = sum(len(line) - len(line.lstrip(" ")) for line in CODE.splitlines())
    lines = sum(line.startswith(" ") for line in CODE.splitlines())
    flat = "".join(line.lstrip(" ") + "\n" for line in CODE.splitlines())
    n_flat = len(tokenizer.encode(flat))
    assert len(tokenizer.encode(CODE)) == n_flat + lines < n_flat + indentation


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_training_is_deterministic_across_processes_and_threads(
        kind: str, source: Path, trained: dict[str, Path], tmp_path: Path) -> None:
    script = ("import sys; from pathlib import Path; from leaven.core.step import StepContext\n"
              "from leaven.data.tokenizer import train_tokenizer\n"
              f"spec = {{'kind': {kind!r}, 'vocab_size': {dict(word=200, bpe=420)[kind]}, 'formats': None}}\n"
              f"train_tokenizer(spec, {{'renamed': Path({str(source)!r})}}, Path({str(tmp_path)!r}), StepContext())")
    environment = {**os.environ, "RAYON_NUM_THREADS": "3", "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "report.json"):
        assert (tmp_path / name).read_bytes() == (trained[kind] / name).read_bytes()


def test_word_vocabulary_is_by_frequency_then_text(tmp_path: Path) -> None:
    write_examples(tmp_path / "in" / "examples.parquet", [Example(id="0", source="s", text="b b b\nc a\nd\nc a\nb")])
    spec = {"kind": "word", "vocab_size": 18 + 6 + 3, "formats": None}
    train_tokenizer(spec, {"a": tmp_path / "in"}, tmp_path / "out", StepContext())
    vocab = json.loads((tmp_path / "out" / "tokenizer.json").read_text())["model"]["vocab"]
    assert sorted(vocab, key=vocab.get)[18:] == [" a", " b", "b"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["unknown_pieces"] == 3 and report["pieces"] == 13


def test_formats_per_source_and_plugins_decide_what_is_learned(source: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from leaven.core.types import Segment\nfrom leaven.data.formats import FORMATS\n"
        "@FORMATS('shout_for_tokenizer_test')\n"
        "def shout(example, shots=()):\n"
        "    return [Segment(kind='template', text='<|user|>LOUD'), Segment(kind='text', text='hey you', learn=1.0)]\n")
    spec = {"kind": "word", "vocab_size": 60, "formats": {"a": ["shout_for_tokenizer_test"]}}
    train_tokenizer(spec, {"a": source, "plugin:mine.py": tmp_path / "mine.py"}, tmp_path / "out", StepContext())
    tokenizer = Tokenizer.load(tmp_path / "out")
    assert [tokenizer.unknown(t) for t in ("LOUD", "hey you", "def")] == [0, 0, 1]
    encoded = tokenizer.encode_segments([Segment(kind="template", text="<|user|>LOUD")])
    assert tokenizer.decode(encoded.ids, special="keep") == "<|user|>LOUD"


def test_wrong_requests_say_what_to_do(source: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="expected one of .*'bpe', 'word'"):
        train_tokenizer({"kind": "char", "vocab_size": 300}, {"a": source}, tmp_path, StepContext())
    with pytest.raises(StudyError, match="at least 277"):
        train_tokenizer({"kind": "bpe", "vocab_size": 100}, {"a": source}, tmp_path, StepContext())
    with pytest.raises(DataError, match="found none"):
        train_tokenizer({"kind": "word", "vocab_size": 100}, {}, tmp_path, StepContext())
    with pytest.raises(DataError, match="tokenizer.json"):
        Tokenizer.load(tmp_path / "absent")


def test_a_hugging_face_folder_loads_with_its_own_end_token(tmp_path: Path) -> None:
    """Another vocabulary, other specials, a post-processor that adds bos (none here); text for roles."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers, processors

    alphabet = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    library = Library(models.BPE(vocab=alphabet, merges=[]))
    library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    library.add_special_tokens(["<s>", "</s>"])
    library.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    library.enable_truncation(4)
    library.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="eos_token"):
        Tokenizer.load(tmp_path)
    config = {"eos_token": {"content": "</s>"}, "bos_token": "<s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.end_id, tokenizer.pad_id, tokenizer.bos_id, tokenizer.vocab_size) == (257, 257, 256, 258)
    user, end = Segment(kind="template", text="<|user|>"), Segment(kind="template", text=END)
    encoded = tokenizer.encode_segments([user, Segment(kind="prompt", text="a </s>"), end])
    assert encoded.ids[-1] == 257 and 257 not in encoded.ids[:-1] and 256 not in encoded.ids
    assert tokenizer.decode(encoded.ids) == "<|user|>a </s>"
    assert tokenizer.special("<|user|>") is None and tokenizer.id_of("<s>") == 256
    with pytest.raises(DataError, match="user"):
        tokenizer.id_of("<|user|>")


def test_transformers_gives_the_same_ids(tokenizer: Tokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(tokenizer.folder)
    for text in [t for t in TEXTS if END not in t] + [CODE * 3, "a  b   c\n\n"]:
        assert theirs.encode(text) == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == tokenizer.decode(tokenizer.encode(text))
    assert (theirs.eos_token_id, theirs.pad_token_id) == (tokenizer.end_id, tokenizer.pad_id)
    assert len(theirs) == tokenizer.vocab_size
