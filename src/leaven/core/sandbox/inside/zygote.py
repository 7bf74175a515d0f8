"""Exec'ed as the main program of a worker, `python -I -S zygote.py ...`: imports forker.py and hands over to it.

Nothing else is in this file because a main program is compiled at every start, and what compiling leaves behind in
memory is copied for every child.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
os.register_at_fork = lambda **_: None  # type: ignore[assignment]  # else random and threading run Python code in every child

import forker  # noqa: E402

forker.main()
