"""Importing this package registers every built-in benchmark; one file each, named after it."""

from leaven.evals.benchmarks import answer, folio, gsm8k, humaneval, humaneval_plus, humanevalfix, mbpp, mbpp_plus, program

__all__ = ["answer", "folio", "gsm8k", "humaneval", "humaneval_plus", "humanevalfix", "mbpp", "mbpp_plus", "program"]
