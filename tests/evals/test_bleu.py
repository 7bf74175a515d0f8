"""BLEU against checked-in numbers of sacrebleu, nltk and CodeXGLUE, against these packages where they are at hand, by hand."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaven.errors import DataError
from leaven.evals.bleu import concat_bleu, corpus_bleu, mean_sentence_bleu, words, words_13a

HERE = Path(__file__).parent
EXPECTED = json.loads((HERE / "bleu_reference.json").read_text())["scores"]
TOKENS = {"none": words, "13a": words_13a}


def _fixtures() -> ModuleType:
    module_spec = importlib.util.spec_from_file_location("bleu_reference", HERE / "bleu_reference.py")
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


FIXTURES = _fixtures()


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_equals_the_packages(name: str) -> None:
    what, smoothing, tokens = name.split("/")
    references = [[TOKENS[tokens](r) for r in several] for several in FIXTURES.REFERENCES]
    hypotheses = [TOKENS[tokens](h) for h in FIXTURES.HYPOTHESES]
    if what == "concat":
        found = concat_bleu([several[0] for several in references], hypotheses)
    else:
        found = (corpus_bleu if what == "corpus" else mean_sentence_bleu)(references, hypotheses, smoothing=smoothing)
    assert found == pytest.approx(EXPECTED[name], abs=1e-12)


def test_by_hand() -> None:
    # 1-grams 4 of 5, 2-grams 2 of 4, 3-grams 1 of 3, 4-grams 0 of 2; 5 words against 6
    reference, hypothesis = "a b c d e f".split(), "a b c x e".split()
    brevity = math.exp(1 - 6 / 5)
    assert corpus_bleu([[reference]], [hypothesis], smoothing="none") == 0
    assert corpus_bleu([[reference]], [hypothesis], smoothing="none", order=3) == pytest.approx(
        brevity * (4 / 5 * 2 / 4 * 1 / 3) ** (1 / 3)
    )
    for smoothing, last in (("exp", 1 / (2 * 2)), ("floor", 0.1 / 2), ("epsilon", 0.1 / 2)):
        wanted = brevity * (4 / 5 * 2 / 4 * 1 / 3 * last) ** (1 / 4)
        assert corpus_bleu([[reference]], [hypothesis], smoothing=smoothing) == pytest.approx(wanted)
    wanted = brevity * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** (1 / 4)
    assert corpus_bleu([[reference]], [hypothesis], smoothing="add_one") == pytest.approx(wanted)


def test_corpus_is_not_the_mean_and_concat_matches_across_problems() -> None:
    references, hypotheses = ["a b c d e".split(), "f g h i j".split()], ["f g h i j".split(), "a b c d e".split()]
    assert corpus_bleu([[r] for r in references], hypotheses, smoothing="none") == 0
    assert concat_bleu(references, hypotheses) > 0.8
    assert mean_sentence_bleu([[r] for r in references], references) == pytest.approx(1)
    assert corpus_bleu([[["a"]], [["b", "c"]]], [["a"], []]) == 0 and corpus_bleu([[["a"]]], [[]]) == 0


def test_faults_are_named() -> None:
    with pytest.raises(DataError, match="found 1 and 2"):
        corpus_bleu([[["a"]]], [["a"], ["b"]])
    with pytest.raises(DataError, match="none for number 1"):
        corpus_bleu([[["a"]], []], [["a"], ["b"]])


sentences = st.lists(st.sampled_from("abcd"), min_size=1, max_size=9)
corpora = st.lists(st.tuples(sentences, sentences, sentences), min_size=1, max_size=4)


@given(corpora, st.sampled_from(["none", "exp", "floor"]))
@settings(max_examples=200, deadline=None)
@pytest.mark.peers
def test_equals_sacrebleu_on_random_corpora(corpus: list, smoothing: str) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    first, second, texts = ([" ".join(row[i]) for row in corpus] for i in range(3))
    options = {"smooth_method": smoothing, "tokenize": "none", "force": True}
    references, hypotheses = [[a, b] for a, b, _ in corpus], [h for _, _, h in corpus]
    wanted = sacrebleu.corpus_bleu(texts, [first, second], **options).score / 100
    assert corpus_bleu(references, hypotheses, smoothing=smoothing) == pytest.approx(wanted, abs=1e-9)
    one = sacrebleu.sentence_bleu(texts[0], [first[0], second[0]], smooth_method=smoothing, tokenize="none").score / 100
    assert mean_sentence_bleu(references[:1], hypotheses[:1], smoothing=smoothing) == pytest.approx(one, abs=1e-9)


@given(corpora)
@settings(max_examples=200, deadline=None)
@pytest.mark.peers
def test_equals_nltk_on_random_corpora(corpus: list) -> None:
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    references, hypotheses = [[a, b] for a, b, _ in corpus], [h for _, _, h in corpus]
    wanted = bleu.corpus_bleu(references, hypotheses, smoothing_function=bleu.SmoothingFunction().method1)
    assert corpus_bleu(references, hypotheses, smoothing="epsilon") == pytest.approx(float(wanted), abs=1e-9)
