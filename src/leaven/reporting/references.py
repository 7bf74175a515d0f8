"""Citation keys -> readable references and BibTeX: the four papers whose questions leaven asks, and leaven itself.

A study may name the ones it rests on; naming none shows all four. leaven is always last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reference:
    """One work: its BibTeX key, what readers may also call it, one line of text and the BibTeX entry."""

    key: str
    aliases: tuple[str, ...]
    text: str
    bibtex: str


def _entry(kind: str, key: str, **fields: str) -> str:
    width = max(len(name) for name in fields)
    return f"@{kind}{{{key},\n" + "".join(f"  {name:<{width}} = {{{value}}},\n" for name, value in fields.items()) + "}"


def _leaven(version: str) -> Reference:
    title = "leaven: Which Training Data Makes a Language Model Reason and Code Better?"
    stated = {"version": version} if version else {}
    return Reference(
        "leaven",
        (),
        f"{title} Software{', version ' + version if version else ''}, 2026.",
        _entry("software", "leaven", title=title, **stated, year="2026", license="Apache-2.0"),
    )


REFERENCES: tuple[Reference, ...] = (
    Reference(
        "zhang2025coding",
        ("2405.20535", "zhang2025", "P1"),
        "X. Zhang, Z. Z. Chen, X. Ye, X. Yang, L. Chen, W. Y. Wang, L. R. Petzold. Unveiling the Impact of Coding "
        "Data Instruction "
        "Fine-Tuning on Large Language Models Reasoning. AAAI 2025. arXiv:2405.20535.",
        _entry(
            "inproceedings",
            "zhang2025coding",
            title="Unveiling the Impact of Coding Data Instruction Fine-Tuning on Large Language Models Reasoning",
            author="Zhang, Xinlu and Chen, Zhiyu Zoey and Ye, Xi and Yang, Xianjun and Chen, "
            "Lichang and Wang, William Yang and "
            "Petzold, Linda Ruth",
            booktitle="Proceedings of the AAAI Conference on Artificial Intelligence",
            volume="39",
            pages="25949--25957",
            year="2025",
            eprint="2405.20535",
            archiveprefix="arXiv",
        ),
    ),
    Reference(
        "ma2024stage",
        ("2309.16298", "ma2024", "P2"),
        "Y. Ma, Y. Liu, Y. Yu, Y. Zhang, Y. Jiang, C. Wang, S. Li. At Which Training Stage Does Code Data Help LLMs "
        "Reasoning? "
        "ICLR 2024. arXiv:2309.16298.",
        _entry(
            "inproceedings",
            "ma2024stage",
            title="At Which Training Stage Does Code Data Help {LLMs} Reasoning?",
            author="Ma, Yingwei and Liu, Yue and Yu, Yue and Zhang, Yuanliang and Jiang, Yu and "
            "Wang, Changjian and Li, Shanshan",
            booktitle="International Conference on Learning Representations",
            year="2024",
            eprint="2309.16298",
            archiveprefix="arXiv",
        ),
    ),
    Reference(
        "kou2025attributes",
        ("2505.19949", "kou2025", "P3"),
        "S. Kou, Q. Tian, H. Xu, Z. Zeng, Z. Deng. Which Data Attributes Stimulate Math and Code Reasoning? An "
        "Investigation via "
        "Influence Functions. NeurIPS 2025. arXiv:2505.19949.",
        _entry(
            "inproceedings",
            "kou2025attributes",
            title="Which Data Attributes Stimulate Math and Code Reasoning? An Investigation via Influence Functions",
            author="Kou, Siqi and Tian, Qingyuan and Xu, Hanwen and Zeng, Zihao and Deng, Zhijie",
            booktitle="Advances in Neural Information Processing Systems",
            year="2025",
            eprint="2505.19949",
            archiveprefix="arXiv",
        ),
    ),
    Reference(
        "liu2025revisiting",
        ("liu25ah", "liu2025", "P4"),
        "R.-B. Liu, A. Li, C. Yang, H. Sun, M. Li. Revisiting Chain-of-Thought in Code Generation: Do Language "
        "Models Need to Learn "
        "Reasoning before Coding? ICML 2025, PMLR 267.",
        _entry(
            "inproceedings",
            "liu2025revisiting",
            title="Revisiting Chain-of-Thought in Code Generation: Do Language Models Need to "
            "Learn Reasoning before Coding?",
            author="Liu, Ren-Biao and Li, Anqi and Yang, Chaoding and Sun, Hui and Li, Ming",
            booktitle="Proceedings of the 42nd International Conference on Machine Learning",
            series="Proceedings of Machine Learning Research",
            volume="267",
            year="2025",
        ),
    ),
)


def cited(keys: Sequence[str], version: str = "") -> tuple[Reference, ...]:
    """Return the references that `keys` name (all four when none does), then leaven at `version`.

    A key that is not one of ours is kept as its own line, so that a study's own citation is never lost.
    """
    known = [r for r in REFERENCES if r.key in keys or any(a in keys for a in r.aliases)]
    names = {"leaven"} | {n for r in REFERENCES for n in (r.key, *r.aliases)}
    own = [Reference(k, (), k, "") for k in keys if k not in names]
    return (*(known or (REFERENCES if not own else ())), *own, _leaven(version))
