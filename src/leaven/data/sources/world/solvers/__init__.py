"""Question text -> answer, for every family, written without sight of the generators (an import contract enforces it).

A solver reads the English of the question and nothing else; agreement with the generators on thousands of draws is the
evidence that questions are unambiguous and answers right (D36). New family: a function here under the same name.
"""

from __future__ import annotations

from collections.abc import Callable

from leaven.data.sources.world.solvers import list_programs

SOLVERS: dict[str, Callable[[str], str]] = {
    "list_program": list_programs.list_program,
}
