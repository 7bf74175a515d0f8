"""The exception tree and its exit codes. Imports nothing.

    LeavenError                 exit 1
    |-- StudyError              exit 2   the study file, a --set value or the command line is wrong
    |-- DataError               exit 2   a data file or row is not what was declared
    |-- StepError               exit 1   a step failed; the rest of the study went on
    |-- RefusedError            exit 3   refused on purpose: sandbox too weak, over budget, unequal seeds
    |-- BackendError            exit 1   a model could not be loaded, trained or queried
    |-- MissingExtraError       exit 2   an optional dependency is not installed
    `-- Interrupted             exit 130 stopped by Ctrl-C; the same command resumes

Every message says four things: what was expected, what was found, where, and what to do.
"""

from __future__ import annotations


class LeavenError(Exception):
    """Any error leaven raises on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class StudyError(LeavenError):
    """The study file or the command line asks for something that does not exist or does not fit."""

    exit_code = 2


class DataError(LeavenError):
    """A data file, row or table is not what was declared."""

    exit_code = 2


class StepError(LeavenError):
    """A step failed; the message names step, reason and the command that resumes."""


class RefusedError(LeavenError):
    """leaven could do this but will not unless asked for explicitly."""

    exit_code = 3


class BackendError(LeavenError):
    """A model could not be loaded, trained or queried."""


class MissingExtraError(LeavenError):
    """An optional dependency is missing; the message names the extra that brings it."""

    exit_code = 2

    def __init__(self, package: str, extra: str, enables: str) -> None:
        super().__init__(f"{enables} needs the package {package!r}, which is not installed. "
                         f"Install it with: pip install 'leaven[{extra}]'")


class Interrupted(LeavenError):
    """Work stopped at a safe point after Ctrl-C or SIGTERM; the same command resumes it."""

    exit_code = 130


def did_you_mean(found: str, known: list[str] | tuple[str, ...]) -> str:
    """Return " Did you mean 'x'?" for the known name closest to `found`, or "" when none is close."""
    import difflib

    close = difflib.get_close_matches(found, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""
