"""Question text -> answer, for every family, written without sight of the generators (an import contract enforces it).

A solver reads the English of the question and nothing else; agreement with the generators on thousands of draws is the
evidence that questions are unambiguous and answers right (D36). New family: a function here under the same name.
"""

from __future__ import annotations

from collections.abc import Callable

from leaven.data.sources.world.solvers import arithmetic, kinship, list_formulas, list_programs, logical, programs, symbolic

Solver = Callable[[str], str]

SOLVERS: dict[str, Solver] = {
    solver.__name__: solver
    for solver in (
        list_programs.list_program, list_formulas.list_formula,
        programs.number_pipeline, programs.text_pipeline, programs.accumulator, programs.branching,
        symbolic.first_letters, symbolic.last_letters, symbolic.reverse_words, symbolic.coin_flip,
        symbolic.tracking_swaps, symbolic.letter_edits,
        logical.deduction, logical.induction, logical.rule_chain, logical.ordering, logical.web_of_lies,
        kinship.kinship,
        arithmetic.word_problem, arithmetic.comparison, arithmetic.variables, arithmetic.clock, arithmetic.shopping,
        arithmetic.remainders,
    )
}
