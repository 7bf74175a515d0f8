"""The embedded world: procedural problems with question, thought, code, tests, answer and a structural difficulty.

    words.py      names and nouns the generators draw from
    family.py     what a family and a problem are
    families/     generators, grouped by domain; FAMILIES lists them all
    solvers/      independent solvers: question text -> answer; import nothing from the rest of the world
    thoughts.py   the same problem with a shorter or longer thought
    render.py     a problem as one raw document, in prose or as a Python file
    build.py      generate(...) and the build_world step

Everything is original text under the project's licence; no third-party data. Covers E3-E5 and D36 of the papers' tasks
(symbolic, logical, arithmetic, programs).
"""
