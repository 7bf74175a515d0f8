"""The numbers and claims that Liu et al. 2025 (ICML, PMLR 267) print, as data: the one place that holds them.

Tables 1-9 and 11-13 for the comparison, table 10 for the funnel, and the statements that a study can hold its own
results against. Percentages are written as printed, misprints included; errata.py recomputes them.
`n` is the number of items behind a percentage where the paper or its code states it: HumanEval 164, MBPP 378 (the text
says 974: see the errata), BigCodeBench 1140 and 148, LeetCode 45, 91, 44 and 180, MultiPL-E 161, 158, 161 and 158.
Not covered: figures, whose values are printed nowhere; judging a claim (sections/paper.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KEY = "liu2025revisiting"
MODEL = "deepseek-coder-6.7b-base"
TRAIN_EXAMPLES, VALIDATION_EXAMPLES, EXAMPLES = 51_200, 1_093, 52_293
PRINTED_MBPP_TASKS = 974
HEADLINE_RELATIVE_PERCENT = 9.86
TABLE10_MISPRINT = ("CodeExercise-Python", "147,36", 14_736)
"""Source, what table 10 prints as its filtered rows, and the number that is meant."""
TABLE13_PRINTED = {"code_only": (70.17, 0.62), "thought_code": (65.93, 0.65), "code_thought": (71.31, 0.34)}
"""Mean and standard deviation as printed."""


@dataclass(frozen=True, slots=True)
class PaperColumn:
    """A column: its key, its name, how many items a percentage is of, and the kind of benchmark it belongs to.

    `n` is None where no count is known or the value is no percentage; `kind` is the kind in a study's benchmarks, ""
    where no benchmark of a study can be put beside it.
    """

    key: str
    name: str
    n: int | None = None
    kind: str = ""


@dataclass(frozen=True, slots=True)
class PaperTable:
    """One table: rows are strategies, except in tables 8 (parts of a response) and 10 (sources)."""

    number: int
    title: str
    columns: tuple[PaperColumn, ...]
    rows: dict[str, tuple[float, ...]]

    def value(self, row: str, column: str) -> float:
        """Return one printed number; KeyError for a row or column that the table does not have."""
        return self.rows[row][next(i for i, c in enumerate(self.columns) if c.key == column)]

    def column(self, key: str) -> PaperColumn:
        """Return a column by its key."""
        return next(c for c in self.columns if c.key == key)


_EVALPLUS = (
    PaperColumn("humaneval", "HumanEval", 164, "humaneval"),
    PaperColumn("humaneval_plus", "HumanEval+", 164, "humaneval_plus"),
    PaperColumn("mbpp", "MBPP", 378, "mbpp"),
    PaperColumn("mbpp_plus", "MBPP+", 378, "mbpp_plus"),
    PaperColumn("average", "Average"),
)

_TABLES = (
    PaperTable(
        1,
        "EvalPlus, pass@1 in %",
        _EVALPLUS,
        {
            "seed": (68.29, 62.20, 77.51, 65.61, 68.40),
            "code_only": (70.73, 64.63, 80.42, 67.72, 70.88),
            "thought_code": (67.07, 59.75, 74.33, 60.58, 65.43),
            "code_thought": (71.95, 67.68, 80.69, 67.20, 71.88),
        },
    ),
    PaperTable(
        2,
        "LiveCodeBench by contest start date, pass@1 in %",
        (
            PaperColumn("from_2023_09", "from 2023-09-01", None, "livecodebench"),
            PaperColumn("from_2023_07", "from 2023-07-01", None, "livecodebench"),
            PaperColumn("from_2023_05", "from 2023-05-01", None, "livecodebench"),
        ),
        {
            "seed": (20.12, 21.77, 23.89),
            "code_only": (20.47, 21.67, 23.51),
            "thought_code": (20.69, 22.31, 23.07),
            "code_thought": (21.08, 22.56, 24.16),
        },
    ),
    PaperTable(
        3,
        "BigCodeBench-Instruct, pass@1 in %",
        (PaperColumn("full", "Full", 1140, "bigcodebench"), PaperColumn("hard", "Hard", 148, "bigcodebench_hard")),
        {
            "seed": (37.71, 13.51),
            "code_only": (38.25, 15.54),
            "thought_code": (36.05, 15.54),
            "code_thought": (38.33, 16.22),
        },
    ),
    PaperTable(
        4,
        "EvalPlus, data by another teacher (GPT-4o-0806)",
        _EVALPLUS,
        {
            "code_only": (71.95, 65.85, 77.77, 67.46, 70.76),
            "thought_code": (65.24, 59.14, 76.45, 62.96, 65.95),
            "code_thought": (72.56, 66.46, 78.57, 67.72, 71.33),
        },
    ),
    PaperTable(
        5,
        "EvalPlus, thoughts written without the reference code",
        _EVALPLUS,
        {
            "code_only": (67.07, 60.97, 76.71, 60.31, 66.27),
            "thought_code": (62.19, 54.87, 71.95, 57.93, 61.74),
            "code_thought": (68.29, 60.36, 78.57, 62.16, 67.35),
        },
    ),
    PaperTable(
        6,
        "EvalPlus, data made from The Stack",
        _EVALPLUS,
        {
            "code_only": (68.29, 61.58, 76.98, 62.43, 67.32),
            "thought_code": (61.58, 55.48, 75.13, 60.31, 63.13),
            "code_thought": (69.51, 64.63, 77.24, 63.22, 68.65),
        },
    ),
    PaperTable(
        7,
        "LeetCode contest, problems solved",
        (
            PaperColumn("easy", "Easy of 45", 45, "leetcode"),
            PaperColumn("medium", "Medium of 91", 91, "leetcode"),
            PaperColumn("hard", "Hard of 44", 44, "leetcode"),
            PaperColumn("all", "All of 180", 180, "leetcode"),
        ),
        {
            "seed": (19, 14, 4, 37),
            "code_only": (19, 15, 1, 35),
            "thought_code": (14, 13, 2, 29),
            "code_thought": (20, 22, 3, 45),
        },
    ),
    PaperTable(
        8,
        "Pairwise judgements by GPT-4o-0806: wins of either order and ties, with the percentages as printed",
        (
            PaperColumn("thought_code", "thought then code"),
            PaperColumn("tie", "tie"),
            PaperColumn("code_thought", "code then thought"),
            PaperColumn("thought_code_percent", "thought then code, %"),
            PaperColumn("tie_percent", "tie, %"),
            PaperColumn("code_thought_percent", "code then thought, %"),
        ),
        {
            "thought": (242, 577, 274, 22.1, 52.8, 25.1),
            "code": (228, 557, 308, 20.1, 51.0, 28.2),
            "total": (254, 560, 279, 23.2, 51.2, 25.5),
        },
    ),
    PaperTable(
        9,
        "Length and quality of the responses",
        (
            PaperColumn("thought_steps", "Thought steps"),
            PaperColumn("thought_tokens", "Thought tokens"),
            PaperColumn("bleu", "BLEU of the thought"),
            PaperColumn("code_steps", "Code steps"),
            PaperColumn("code_tokens", "Code tokens"),
            PaperColumn("codebleu", "CodeBLEU of the code"),
        ),
        {
            "thought_code": (5.05, 197.99, 60.34, 13.02, 258.94, 68.19),
            "code_thought": (5.02, 195.46, 60.22, 12.02, 256.97, 68.96),
        },
    ),
    PaperTable(
        10,
        "Rows of each source through synthesis, with the ratio as printed",
        (
            PaperColumn("total", "Total"),
            PaperColumn("filtered", "Filtered"),
            PaperColumn("consistent", "Self-consistent"),
            PaperColumn("ratio", "Ratio, %"),
        ),
        {
            "CodeExercise-Python": (27_224, 14_736, 6_963, 27.56),
            "Codefuse-Evol-Instruct": (66_862, 16_176, 8_000, 11.96),
            "Evol-Instruct-Code": (78_264, 23_175, 12_003, 15.34),
            "Evol-CodeAlpaca": (111_272, 27_566, 13_529, 12.16),
            "Python ShareGPT": (22_608, 14_061, 6_131, 27.11),
            "Magicoder-OSS-Instruct": (75_197, 14_499, 5_667, 7.54),
        },
    ),
    PaperTable(
        11,
        "EvalPerf at temperature 1, in %",
        (
            PaperColumn("dps", "DPS"),
            PaperColumn("pass_at_1", "Pass@1"),
            PaperColumn("task_win_rate", "Task win rate"),
            PaperColumn("model_win_rate", "Model win rate"),
        ),
        {
            "seed": (81.8, 69.4, 45.1, 40.5),
            "code_only": (82.5, 67.8, 46.2, 45.9),
            "thought_code": (80.8, 70.9, 44.0, 16.2),
            "code_thought": (84.0, 69.8, 50.2, 70.3),
        },
    ),
    PaperTable(
        12,
        "MultiPL-E, pass@1 in %",
        (
            PaperColumn("cpp", "C++", 161, "multipl_e_cpp"),
            PaperColumn("java", "Java", 158, "multipl_e_java"),
            PaperColumn("php", "PHP", 161, "multipl_e_php"),
            PaperColumn("bash", "Bash", 158, "multipl_e_bash"),
            PaperColumn("average", "Average"),
        ),
        {
            "seed": (54.04, 51.90, 50.93, 26.58, 45.86),
            "code_only": (54.04, 52.53, 52.17, 32.28, 47.76),
            "thought_code": (53.42, 52.53, 51.55, 31.65, 47.29),
            "code_thought": (54.66, 54.43, 56.52, 34.81, 50.11),
        },
    ),
    PaperTable(
        13,
        "EvalPlus average of five seeds, %",
        tuple(PaperColumn(f"seed_{s}", f"Seed {s}") for s in range(5)),
        {
            "code_only": (69.19, 70.06, 70.34, 70.48, 70.83),
            "thought_code": (64.88, 66.54, 66.03, 66.38, 65.84),
            "code_thought": (71.49, 71.18, 71.82, 71.14, 70.96),
        },
    ),
)
TABLES = {table.number: table for table in _TABLES}

CLAIM_MEASURES = {
    "pass_rate": "pass rate",
    "pass_at_k": "pass@k at the largest k",
    "temperature_drop": "loss of pass rate from the lowest to the highest temperature",
    "perplexity_gap": "gap between the perplexities of the two parts",
    "kl": "KL divergence from the base model",
    "validation_loss": "validation loss",
    "attention_to_code": "attention that goes to code",
    "gradient_norm": "gradient norm",
    "generated_tokens": "tokens written per answer",
    "bleu": "BLEU of the thought",
    "codebleu": "CodeBLEU of the code",
    "efficiency": "DPS of passing programs",
    "preference": "wins in pairwise judgement",
}
"""What an Effect may measure, in words."""

Expectation = Literal["higher", "lower", "no_difference", "not_higher"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One statement of the paper about treatment against control, which a result of ours can agree with or oppose.

    `scope` is "" for all items, or the first word of the scopes it speaks of (difficulty, level, language, condition); with
    `each`, every such result has to agree. `printed` lists (table, column) where the paper prints both sides; with
    none of them the claim rests on a figure.
    """

    id: str
    text: str
    where: str
    treatment: str
    control: str
    expects: Expectation
    measure: str = "pass_rate"
    scope: str = ""
    each: bool = False
    printed: tuple[tuple[int, str], ...] = ()


FOLLOW, PRECEDE, ALONE = "thought_code", "code_thought", "code_only"
_FOUR = ("humaneval", "humaneval_plus", "mbpp", "mbpp_plus")

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="code-first",
        text="Code before thought does better than thought before code.",
        where="section 5.1, tables 1 and 13",
        treatment=PRECEDE,
        control=FOLLOW,
        expects="higher",
        printed=(*((1, c) for c in _FOUR), (13, "seeds")),
    ),
    Claim(
        id="thought-first-no-help",
        text="Thought before code does not help.",
        where="section 5.1, tables 1 and 13",
        treatment=FOLLOW,
        control=ALONE,
        expects="not_higher",
        printed=(*((1, c) for c in _FOUR), (13, "seeds")),
    ),
    Claim(
        id="explanation-helps",
        text="A thought that explains the code after it helps over code alone.",
        where="section 5.1, tables 1 and 13",
        treatment=PRECEDE,
        control=ALONE,
        expects="higher",
        printed=(*((1, c) for c in _FOUR), (13, "seeds")),
    ),
    Claim(
        id="over-seed",
        text="Synthesised code and thought do better than the original responses.",
        where="table 1",
        treatment=PRECEDE,
        control="seed",
        expects="higher",
        printed=tuple((1, c) for c in _FOUR),
    ),
    Claim(
        id="every-difficulty",
        text="Adding thoughts as explanation consistently improves performance over difficulties.",
        where="section 6.3, table 7",
        treatment=PRECEDE,
        control=ALONE,
        expects="higher",
        scope="difficulty",
        each=True,
        printed=tuple((7, c) for c in ("easy", "medium", "hard")),
    ),
    Claim(
        id="libraries",
        text="Code first is best on tasks that call libraries.",
        where="section 5.1, table 3",
        treatment=PRECEDE,
        control=FOLLOW,
        expects="higher",
        scope="libraries",
        printed=((3, "full"), (3, "hard")),
    ),
    Claim(
        id="other-languages",
        text="The order matters alike in other programming languages.",
        where="appendix F, table 12",
        treatment=PRECEDE,
        control=FOLLOW,
        expects="higher",
        scope="language",
        each=True,
        printed=tuple((12, c) for c in ("cpp", "java", "php", "bash")),
    ),
    Claim(
        id="other-settings",
        text="The order matters alike for other base models, sizes, batch sizes, epochs and learning rates.",
        where="section 5.2, appendix H, figures 2, 9 and 13-15",
        treatment=PRECEDE,
        control=FOLLOW,
        expects="higher",
        scope="level",
        each=True,
    ),
    Claim(
        id="other-teacher",
        text="The order matters alike with another teacher.",
        where="section 5.3, table 4",
        treatment=PRECEDE,
        control=FOLLOW,
        expects="higher",
        scope="teacher",
        printed=tuple((4, c) for c in _FOUR),
    ),
    Claim(
        id="other-synthesis",
        text="The order matters alike when the thought was written without seeing the code.",
        where="section 5.4, table 5",
        treatment=PRECEDE,
        control=FOLLOW,
        expects="higher",
        scope="synthesis",
        printed=tuple((5, c) for c in _FOUR),
    ),
    Claim(
        id="other-source",
        text="The order matters alike with data made from raw code.",
        where="section 5.5, table 6",
        treatment=PRECEDE,
        control=FOLLOW,
        expects="higher",
        scope="source",
        printed=tuple((6, c) for c in _FOUR),
    ),
    Claim(
        id="perplexity-gap",
        text="Placing code first reduces the gap between the perplexities of the two parts.",
        where="section 6.1, figure 3",
        treatment=PRECEDE,
        control=FOLLOW,
        expects="lower",
        measure="perplexity_gap",
    ),
    Claim(
        id="kl-alike",
        text="Both orders move the base model alike.",
        where="section 6.1, figure 4",
        treatment=PRECEDE,
        control=FOLLOW,
        expects="no_difference",
        measure="kl",
    ),
    Claim(
        id="validation-loss",
        text="Code first has the lower validation loss.",
        where="section 6.1, figure 4",
        treatment=PRECEDE,
        control=FOLLOW,
        expects="lower",
        measure="validation_loss",
    ),
    Claim(
        id="attention-to-code",
        text="With code first, more attention goes to the code.",
        where="section 6.1, figure 5",
        treatment=PRECEDE,
        control=FOLLOW,
        expects="higher",
        measure="attention_to_code",
    ),
    Claim(
        id="code-gradient-weak",
        text="The gradient of code tokens is weaker than that of thought tokens.",
        where="section 6.1, figure 6",
        treatment="part:code",
        control="part:thought",
        expects="lower",
        measure="gradient_norm",
        scope="condition",
    ),
    Claim(
        id="inconsistent-marginal",
        text="Code that fails its own tests lowers performance only marginally.",
        where="section 6.2, figure 7",
        treatment=f"{PRECEDE}+inconsistent",
        control=PRECEDE,
        expects="no_difference",
    ),
    Claim(
        id="inconsistent-order",
        text="With inconsistent code the order matters alike.",
        where="section 6.2, figure 7",
        treatment=f"{PRECEDE}+inconsistent",
        control=f"{FOLLOW}+inconsistent",
        expects="higher",
    ),
    Claim(
        id="signatures",
        text="Removing signatures lowers performance.",
        where="section 6.2, figure 7",
        treatment=f"{PRECEDE}+no_signature",
        control=PRECEDE,
        expects="lower",
    ),
    Claim(
        id="signatures-most",
        text="Removing signatures costs more than removing comments.",
        where="section 6.2, figure 7",
        treatment=f"{PRECEDE}+no_signature",
        control=f"{PRECEDE}+no_comments",
        expects="lower",
    ),
    Claim(
        id="comments",
        text="Removing comments has no significant effect.",
        where="section 6.2, figure 7",
        treatment=f"{PRECEDE}+no_comments",
        control=PRECEDE,
        expects="no_difference",
    ),
    Claim(
        id="mixed",
        text="Mixing both orders does worse than code first alone at equal steps.",
        where="section 6.2, figure 8",
        treatment="mixed",
        control=PRECEDE,
        expects="lower",
    ),
    Claim(
        id="mixed-follow",
        text="Mixing both orders does worse than thought first alone at equal steps.",
        where="section 6.2, figure 8",
        treatment="mixed",
        control=FOLLOW,
        expects="lower",
    ),
    Claim(
        id="renamed",
        text="Meaningless identifiers keep performance lower.",
        where="section 6.2, figure 8",
        treatment=f"{PRECEDE}+renamed",
        control=PRECEDE,
        expects="lower",
    ),
    Claim(
        id="pass-at-k",
        text="Code first stays ahead for larger k.",
        where="section 6.3, figure 10",
        treatment=PRECEDE,
        control=FOLLOW,
        expects="higher",
        measure="pass_at_k",
    ),
    Claim(
        id="temperature",
        text="Code first loses most as the temperature rises.",
        where="section 6.3, figure 10 (the next sentence calls it relatively stable)",
        treatment=PRECEDE,
        control=FOLLOW,
        expects="higher",
        measure="temperature_drop",
    ),
    Claim(
        id="judge",
        text="A judge prefers the responses of code first.",
        where="section 6.4, table 8",
        treatment=PRECEDE,
        control=FOLLOW,
        expects="higher",
        measure="preference",
        printed=((8, "total"),),
    ),
    Claim(
        id="cheaper",
        text="Code first writes fewer tokens.",
        where="section 6.4, table 9",
        treatment=PRECEDE,
        control=FOLLOW,
        expects="lower",
        measure="generated_tokens",
        printed=((9, "thought_tokens"), (9, "code_tokens")),
    ),
    Claim(
        id="bleu",
        text="The thoughts of both orders are as close to the teacher's.",
        where="section 6.4, table 9",
        treatment=PRECEDE,
        control=FOLLOW,
        expects="no_difference",
        measure="bleu",
        printed=((9, "bleu"),),
    ),
    Claim(
        id="codebleu",
        text="The code of code first is closer to the teacher's.",
        where="section 6.4, table 9",
        treatment=PRECEDE,
        control=FOLLOW,
        expects="higher",
        measure="codebleu",
        printed=((9, "codebleu"),),
    ),
    Claim(
        id="efficiency",
        text="Code first writes more efficient programs.",
        where="appendix F, table 11",
        treatment=PRECEDE,
        control=FOLLOW,
        expects="higher",
        measure="efficiency",
        printed=((11, "dps"),),
    ),
)
