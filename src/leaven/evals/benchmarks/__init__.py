"""Importing this package registers every built-in benchmark; one file each, named after it."""

from leaven.evals.benchmarks import (
    answer,
    bigcodebench,
    evalperf,
    folio,
    gsm8k,
    humaneval,
    humaneval_plus,
    humanevalfix,
    leetcode,
    livecodebench,
    mbpp,
    mbpp_plus,
    multipl_e,
    program,
)

__all__ = [
    "answer",
    "bigcodebench",
    "evalperf",
    "folio",
    "gsm8k",
    "humaneval",
    "humaneval_plus",
    "humanevalfix",
    "leetcode",
    "livecodebench",
    "mbpp",
    "mbpp_plus",
    "multipl_e",
    "program",
]
