"""Named list operations in a question -> the list expression for all of them, by moving labelled items."""

from __future__ import annotations


def list_program(question: str) -> str:
    """Return the expression over x that the named operations amount to."""
    head, _, names = question.partition(":\n")
    items = [f"x[{i}]" for i in range(int(head.split()[-2]))]
    for name in names.split():
        first, last = items[0], items[-1]
        match name:
            case "reverse":
                items.reverse()
            case "rotate_left":
                items = [*items[1:], first]
            case "rotate_right":
                items = [last, *items[:-1]]
            case "swap_first":
                items[:2] = items[1::-1]
            case "swap_last":
                items[-2:] = items[:-3:-1]
            case "swap_ends":
                items[0], items[-1] = last, first
            case "reverse_head":
                items[:3] = items[2::-1]
            case "reverse_tail":
                items[-3:] = items[:-4:-1]
            case _:
                raise ValueError(f"no operation is called {name!r}")
    return f"[{', '.join(items)}]"
