"""Token lists -> what sacrebleu, nltk and CodeXGLUE say of them: `python bleu_reference.py BLEU_PY > bleu_reference.json`.

Needs `pip install sacrebleu nltk`; BLEU_PY is Text-Code/text-to-code/evaluator/bleu.py of github.com/microsoft/CodeXGLUE.
Not covered: running in the tests; they read the JSON.
"""

from __future__ import annotations

import importlib.util
import json
import sys

REFERENCES = [
    ["the cat is on the mat", "there is a cat on the mat"],
    ["x = x + 1 ; return x", "return x + 1"],
    ["It costs $1,000.50 -- roughly 3-4% more, doesn't it?", "It cost 1,000.50 dollars."],
    ["first reverse the list then take its head", "reverse then head"],
    ["a b", "b a c"],
    ["for i in range ( n ) : print ( i )", "print ( * range ( n ) )"],
]
HYPOTHESES = [
    "the the the the the the the",
    "x = x + 2 ; return x",
    "It costs 1,000.50 -- roughly 4% more, does it?",
    "take the head of the reversed list",
    "c",
    "for i in range ( n ) : print ( i )",
]


def main() -> None:
    """Print the numbers of the three packages, as shares of 1."""
    import nltk
    import sacrebleu
    from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu

    module_spec = importlib.util.spec_from_file_location("codexglue_bleu", sys.argv[1])
    codexglue = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(codexglue)
    streams = [[several[i] for several in REFERENCES] for i in range(2)]
    found: dict[str, float] = {}
    for smoothing in ("none", "exp", "floor"):
        for tokens in ("none", "13a"):
            options = {"smooth_method": smoothing, "tokenize": tokens, "force": True}
            found[f"corpus/{smoothing}/{tokens}"] = sacrebleu.corpus_bleu(HYPOTHESES, streams, **options).score / 100
            sentences = [
                sacrebleu.sentence_bleu(h, r, smooth_method=smoothing, tokenize=tokens).score / 100
                for h, r in zip(HYPOTHESES, REFERENCES, strict=True)
            ]
            found[f"sentences/{smoothing}/{tokens}"] = sum(sentences) / len(sentences)
    references, hypotheses = [[r.split() for r in several] for several in REFERENCES], [h.split() for h in HYPOTHESES]
    found["corpus/epsilon/none"] = corpus_bleu(references, hypotheses, smoothing_function=SmoothingFunction().method1)
    found["corpus/add_one/none"] = codexglue.compute_bleu(references, hypotheses, smooth=True)[0]
    whole = [t for several in references for t in several[0]], [t for h in hypotheses for t in h]
    found["concat/add_one/none"] = codexglue.compute_bleu([[whole[0]]], [whole[1]], smooth=True)[0]
    made = f"sacrebleu {sacrebleu.__version__}, nltk {nltk.__version__}, CodeXGLUE bleu.py of commit 534e5c09"
    print(json.dumps({"made_with": made, "scores": found}, indent=1))


if __name__ == "__main__":
    main()
