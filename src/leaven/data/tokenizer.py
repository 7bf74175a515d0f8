"""Training texts -> a tokenizer folder; segments -> token ids with exact spans.

Two kinds are trained here: `word` (lossless whitespace words, closed vocabulary) for procedural tasks, and `bpe`
(byte-level BPE, one token per run of 2..16 spaces: Ma et al. 2024, "L spaces -> one token") for real text and code.
Either is written as tokenizer.json + tokenizer_config.json, so `transformers.AutoTokenizer` and this class give the
same ids for plain text. Each segment is encoded on its own: spans are exact and both orders of thought and code have
the same multiset of tokens.

Markers ("<|end|>", "<|user|>", ...) become special ids in template segments only; the same characters in data stay
ordinary text. The special tokens live outside the learned vocabulary (highest ids), so no learned piece can share an
id with them. With a tokenizer brought along (a Hugging Face folder), "<|end|>" is its eos and "<|pad|>" its pad (or
eos). If it has a chat template, dialogues are rendered with it (chat_template.py) and "<|end|>" is the token that ends
a turn, where the configuration declares that as an eos; only a folder without one has missing role markers spelled in
ordinary tokens. Outside replies, template text and content are then encoded as one stretch, as transformers does. The
space that SentencePiece-like tokenizers put before a text is put before an example, never before its later segments.
Not covered: which text a format yields (formats.py), packing and truncation (tokenise.py).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from leaven.core.registry import load_plugins
from leaven.core.step import StepContext, step
from leaven.core.tables import read_examples
from leaven.core.types import Example, Segment
from leaven.data.tokenizer_folder import (
    END,
    PAD,
    SPECIALS,
    chat_template_of,
    declared_all,
    quiet,
    special_ids_of,
    special_pattern,
    without_prefix,
)
from leaven.errors import DataError, StudyError

if TYPE_CHECKING:
    from leaven.data.chat_template import ChatTemplate, Run

UNKNOWN = "<|unk|>"
LONGEST_RUN = 16

# "\n" | a word with at most one space before it | spaces left over (the last of a run goes with the next word)
_WORDS = rf"\n| ?[^ \n]+| {{1,{LONGEST_RUN}}}(?= [^ \n])| {{1,{LONGEST_RUN}}}"
_RUNS = rf" {{2,{LONGEST_RUN}}}"
# a word takes one character before it (" x", ".get"), punctuation the line end after it (":\n"), digits stand alone;
# "<|end|>" in data is always at least "<|", "end", "|>" and can never become one learned token
_BYTES = rf"{_RUNS}|\t+|[^\r\n\t\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+\n*|\n+|\s"
_MARKERS = re.compile("(" + "|".join(map(re.escape, SPECIALS)) + ")")
_BATCH = 8192


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Tokens of one example: `ids` int32[N], `learn` float32[N] loss weights, `segment` int32[N] indices."""

    ids: np.ndarray
    learn: np.ndarray
    segment: np.ndarray


class Tokenizer:
    """A loaded tokenizer folder; immutable, safe to share between threads."""

    def __init__(self, folder: Path, special_ids: Mapping[str, int], bos_id: int | None,
                 chat: ChatTemplate | None = None) -> None:
        """Use `load`; `special_ids` maps markers to ids and holds at least "<|end|>" and "<|pad|>"."""
        text = (folder / "tokenizer.json").read_text(encoding="utf-8")
        self.folder = folder
        self._template = quiet(tokenizers.Tokenizer.from_str(text))
        self._plain = quiet(tokenizers.Tokenizer.from_str(text))
        self._plain.encode_special_tokens = True  # special tokens spelled out in data are data
        self._special = dict(special_ids)
        # what goes on after other text must not get the space that SentencePiece-like tokenizers put before a text
        bare = without_prefix(text)
        self._inner = self._plain if bare is None else quiet(tokenizers.Tokenizer.from_str(bare))
        self._inner.encode_special_tokens = True
        self._inner_template = self._template if bare is None else quiet(tokenizers.Tokenizer.from_str(bare))
        self._prefix_after_special = bare is not None and self._puts_prefix_after_special()
        self._unknown = self._plain.token_to_id(UNKNOWN)
        self._cache: dict[tuple[str, bool], list[int]] = {}
        self._chat = chat
        self._added, self._added_pattern = special_pattern(self._plain)
        self.pad_id, self.end_id, self.bos_id = self._special[PAD], self._special[END], bos_id
        self.vocab_size = max(self._plain.get_vocab(with_added_tokens=True).values()) + 1

    @classmethod
    def load(cls, folder: Path | str) -> Tokenizer:
        """Load a folder with tokenizer.json, written by `train_tokenizer` or by Hugging Face tools.

        Raises:
            DataError: no readable tokenizer.json, or none of its configuration files names an end-of-sequence token.
        """
        folder = Path(folder)
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise DataError(f"{folder}: expected a tokenizer folder holding tokenizer.json, found none. Give "
                            "the folder of a trained tokenizer, or of a Hugging Face model saved with a fast tokenizer "
                            "(save_pretrained writes tokenizer.json)")
        try:
            loaded = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise DataError(f"{path}: expected a tokenizer.json of the tokenizers library, found: {error}") from error
        special_ids, bos_id = special_ids_of(folder, loaded)
        chat = chat_template_of(folder, loaded)
        ends = declared_all(folder, loaded, "eos")
        if chat is not None and (turn_end := loaded.token_to_id(chat.turn_end() or "")) in ends:
            special_ids[END] = turn_end
        return cls(folder, special_ids, bos_id, chat)

    def encode(self, text: str) -> list[int]:
        """Return the ids of plain text; never a special id."""
        return self._plain.encode(text, add_special_tokens=False).ids

    def encode_segments(self, segments: Sequence[Segment]) -> Encoded:
        """Return ids, loss weights and segment indices of one example; only template segments may yield special ids."""
        return self.encode_many([segments])[0]

    def encode_many(self, examples: Iterable[Sequence[Segment]]) -> list[Encoded]:
        """Encode many segment lists in batches; the same result as `encode_segments` on each."""
        examples = [tuple(segments) for segments in examples]
        if self._chat is None:
            return self._encode_apart(examples)
        runs = [self._chat.runs(segments) for segments in examples]
        apart = iter(self._encode_apart([s for s, r in zip(examples, runs, strict=True) if r is None]))
        return [next(apart) if r is None else self._encode_runs(r) for r in runs]

    def _encode_apart(self, examples: Sequence[Sequence[Segment]]) -> list[Encoded]:
        """Encode every segment on its own, markers as special ids."""
        plain = [(s.text, i == 0) for segments in examples for i, s in enumerate(segments) if s.kind != "template"]
        ids = self._encode_batch(plain)
        result = []
        for segments in examples:
            pieces = [self._encode_template(s.text, i == 0) if s.kind == "template" else next(ids)
                      for i, s in enumerate(segments)]
            counts = [len(p) for p in pieces]
            result.append(Encoded(
                ids=np.fromiter((i for p in pieces for i in p), np.int32, sum(counts)),
                learn=np.repeat(np.array([s.learn for s in segments], np.float32), counts),
                segment=np.repeat(np.arange(len(segments), dtype=np.int32), counts)))
        return result

    def decode(self, ids: Iterable[int], special: Literal["drop", "keep"] = "drop") -> str:
        """Return the text of ids; special tokens are dropped unless `special="keep"`."""
        return self._plain.decode([int(i) for i in ids], skip_special_tokens=special == "drop")

    def special(self, name: str) -> int | None:
        """Return the id a marker such as "<|user|>" becomes in template segments; None = spelled in ordinary tokens."""
        return self._special.get(name)

    def id_of(self, special: str) -> int:
        """Return the id of a special token; raise DataError when this tokenizer has none of that name."""
        found = self._special.get(special)
        found = self._plain.token_to_id(special) if found is None else found
        if found is None:
            raise DataError(f"{self.folder}: expected a special token {special!r}, found "
                            f"{sorted(self._special)}. This tokenizer spells missing role markers in ordinary tokens; "
                            "ask special() first")
        return found

    def unknown(self, text: str) -> int:
        """Return how many pieces of `text` are outside the vocabulary (always 0 for byte-level tokenizers)."""
        return 0 if self._unknown is None else self.encode(text).count(self._unknown)

    def _encode_runs(self, runs: Sequence[Run]) -> Encoded:
        """Encode a rendered conversation: stretches of joined runs, cut at special tokens of template text."""
        parts: list[tuple[list[int], list[int], float]] = []  # ids, their segments, loss weight
        stretch: list[Run] = []
        for run in runs:
            if stretch and not (run.joined and run.learn == stretch[-1].learn):
                parts += self._encode_stretch(stretch, fresh=self._is_fresh(parts))
                stretch = []
            stretch.append(run)
        parts += self._encode_stretch(stretch, fresh=self._is_fresh(parts))
        return Encoded(ids=np.array([i for ids, _, _ in parts for i in ids], np.int32),
                       learn=np.repeat(np.array([w for _, _, w in parts], np.float32), [len(p[0]) for p in parts]),
                       segment=np.array([s for _, owners, _ in parts for s in owners], np.int32))

    def _is_fresh(self, parts: Sequence[tuple[list[int], list[int], float]]) -> bool:
        """Return whether the next text gets the prefix: at the start, with some tokenizers after special tokens."""
        last = next((ids[-1] for ids, _, _ in reversed(parts) if ids), None)
        return last is None or (self._prefix_after_special and last in self._added.values())

    def _encode_stretch(self, stretch: Sequence[Run], fresh: bool) -> list[tuple[list[int], list[int], float]]:
        parts: list[tuple[list[int], list[int], float]] = []
        texts: list[tuple[str, int]] = []
        for run in stretch:
            at = 0
            for match in self._added_pattern.finditer(run.text) if run.template else ():
                texts.append((run.text[at:match.start()], run.segment))
                parts.append((*self._encode_shared(texts, fresh), run.learn))
                parts.append(([self._added[match[0].strip()]], [run.segment], run.learn))
                texts, at, fresh = [], match.end(), self._prefix_after_special
            texts.append((run.text[at:], run.segment))
        return [*parts, (*self._encode_shared(texts, fresh), stretch[-1].learn)]

    def _encode_shared(self, texts: Sequence[tuple[str, int]], fresh: bool) -> tuple[list[int], list[int]]:
        """Return the ids of texts encoded as one, and for each id the segment that holds its last character."""
        texts = [(text, segment) for text, segment in texts if text]
        if not texts:
            return [], []
        whole = "".join(text for text, _ in texts)
        encoding = (self._plain if fresh else self._inner).encode(whole, add_special_tokens=False)
        if len(texts) == 1:
            return encoding.ids, [texts[0][1]] * len(encoding.ids)
        owner = np.repeat([segment for _, segment in texts], [len(text) for text, _ in texts])
        last = [min(max(begin, end - 1), len(whole) - 1) for begin, end in encoding.offsets]
        return encoding.ids, np.maximum.accumulate(owner[last]).tolist() if last else []

    def _puts_prefix_after_special(self) -> bool:
        end = self._plain.id_to_token(self._special[END])
        return self._template.encode(f"{end}a", add_special_tokens=False).ids[1:] == self.encode("a")

    def _encode_batch(self, texts: Sequence[tuple[str, bool]]) -> Iterator[list[int]]:
        """Yield the ids of (text, whether it is the first of its example)."""
        for start in range(0, len(texts), _BATCH):
            batch = texts[start:start + _BATCH]
            found = self._inner.encode_batch_fast([text for text, _ in batch], add_special_tokens=False)
            for (text, first), encoding in zip(batch, found, strict=True):
                yield self.encode(text) if first and self._inner is not self._plain else encoding.ids

    def _encode_template(self, text: str, first: bool) -> list[int]:
        first = first and self._inner_template is not self._template
        tokenizer = self._template if first else self._inner_template
        if (text, first) not in self._cache:
            ids: list[int] = []
            for piece in _MARKERS.split(text):
                found = self._special.get(piece)
                ids += tokenizer.encode(piece, add_special_tokens=False).ids if found is None else [found]
            if len(self._cache) > 65536:  # templates are few; a format that varies them must not eat the memory
                self._cache.clear()
            self._cache[text, first] = ids
        return list(self._cache[text, first])


@step(version=1)
def train_tokenizer(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Train a tokenizer on the texts of every input folder's examples.parquet and write it to `out`.

    `spec`: {"kind": "word" | "bpe", "vocab_size": int (upper bound, specials included), "formats": [names], {input:
    [names]} or None}. With formats, the texts are those of all segments each format yields (template text included,
    markers excluded); without, all text fields of the examples. Inputs called "plugin:..." are Python files that
    register formats.

    Raises:
        StudyError: unknown kind or a vocabulary too small for its fixed tokens.
        DataError: no input, or inputs without any text.
    """
    kind, size = spec["kind"], int(spec["vocab_size"])
    if kind not in _TRAINERS:
        raise StudyError(f"tokenizer.kind: expected one of {sorted(_TRAINERS)}, found {kind!r}")
    smallest = {"word": LONGEST_RUN + 2, "bpe": 256 + LONGEST_RUN - 1}[kind] + len(SPECIALS)
    if size < smallest:
        raise StudyError(f"tokenizer.vocab_size: expected at least {smallest} (the fixed tokens of kind {kind}), "
                         f"found {size}; raise it")
    load_plugins(inputs)
    sources = {name: path for name, path in inputs.items() if not name.startswith("plugin:")}
    texts = _Texts(sources, spec.get("formats"), ctx)
    trained, facts = _TRAINERS[kind](texts, size - len(SPECIALS))
    if not texts.characters:
        raise DataError(f"train_tokenizer: expected texts in {sorted(sources)}, found none; "
                        "give sources with at least one example")
    trained.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    _write_folder(trained, kind, out)
    report = {"kind": kind, "vocab_size": trained.get_vocab_size(), "texts": texts.count,
              "characters": texts.characters, **facts}
    (out / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")


class _Texts:
    """One pass over the training texts, counted."""

    def __init__(self, inputs: Mapping[str, Path], formats: Sequence[str] | Mapping[str, Sequence[str]] | None,
                 ctx: StepContext) -> None:
        self.count = self.characters = 0
        self._inputs, self._formats, self._ctx = inputs, formats, ctx

    def __iter__(self) -> Iterator[str]:
        for done, name in enumerate(sorted(self._inputs)):
            self._ctx.progress(done, len(self._inputs), f"reading {name}")
            formats = self._formats.get(name) if isinstance(self._formats, Mapping) else self._formats
            for example in read_examples(Path(self._inputs[name]) / "examples.parquet"):
                self._ctx.check_stop()
                for text in _texts_of(example, formats):
                    self.count += 1
                    self.characters += len(text)
                    yield text


def _texts_of(example: Example, formats: Sequence[str] | None) -> Iterator[str]:
    """Yield the non-empty texts a tokenizer learns from one example."""
    if formats is None:
        turns = (turn.content for turn in example.turns)
        yield from filter(None, (example.question, example.thought, example.code, example.answer, example.text, *turns))
        return
    from leaven.data.formats import FORMATS

    for name in formats:
        for segment in FORMATS.get(name, "tokenizer.formats")(example):
            if segment.kind == "template":
                yield from (piece for piece in _MARKERS.split(segment.text) if piece and piece not in SPECIALS)
            elif segment.text:
                yield segment.text


def _train_word(texts: Iterable[str], size: int) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """Return a closed word vocabulary of at most `size` pieces, most frequent first, and its coverage."""
    words, counts = re.compile(_WORDS), Counter[str]()
    for text in texts:
        counts.update(words.findall(text))
    fixed = [UNKNOWN, "\n", *(" " * n for n in range(1, LONGEST_RUN + 1))]
    ranked = sorted((w for w in counts if w not in {*fixed, *SPECIALS}), key=lambda w: (-counts[w], w))
    kept = fixed + ranked[:size - len(fixed)]
    trained = tokenizers.Tokenizer(models.WordLevel({w: i for i, w in enumerate(kept)}, unk_token=UNKNOWN))
    trained.pre_tokenizer = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    trained.decoder = decoders.Fuse()
    known = sum(counts[w] for w in kept)
    return trained, {"distinct_pieces": len(counts), "pieces": counts.total(), "unknown_pieces": counts.total() - known}


def _train_bpe(texts: Iterable[str], size: int) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """Return byte-level BPE with at most `size` tokens, of which 15 are runs of spaces beyond all merges."""
    runs = ["Ġ" * n for n in range(2, LONGEST_RUN + 1)]
    learner = tokenizers.Tokenizer(models.BPE())
    # runs are taken out before learning: their tokens exist anyway, and merges of spaces would waste the vocabulary
    learner.pre_tokenizer = _byte_pieces(pre_tokenizers.Split(Regex(_RUNS), "removed"))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size - len(runs), initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator(texts, trainer)
    learned = json.loads(learner.to_str())["model"]
    vocab = learned["vocab"] | {run: len(learned["vocab"]) + i for i, run in enumerate(runs)}
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in learned["merges"]]
    # ignore_merges: a piece that is a token as a whole (a run of spaces) is taken as it is
    trained = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    trained.pre_tokenizer = _byte_pieces()
    trained.decoder = decoders.ByteLevel()
    return trained, {"merges": len(merges)}


def _byte_pieces(*first: pre_tokenizers.PreTokenizer) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([*first, pre_tokenizers.Split(Regex(_BYTES), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


_TRAINERS = {"word": _train_word, "bpe": _train_bpe}


def _write_folder(trained: tokenizers.Tokenizer, kind: str, out: Path) -> None:
    """Write tokenizer.json and the two small files that let transformers.AutoTokenizer load the folder."""
    out.mkdir(parents=True, exist_ok=True)
    named = {"eos_token": END, "pad_token": PAD, **({"unk_token": UNKNOWN} if kind == "word" else {}),
             "additional_special_tokens": list(SPECIALS[2:])}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named}
    (out / "tokenizer.json").write_text(trained.to_str(pretty=True), encoding="utf-8")
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    (out / "special_tokens_map.json").write_text(json.dumps(named, indent=1) + "\n")
