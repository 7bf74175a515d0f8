"""What contest benchmarks (LeetCode, LiveCodeBench) share: the names their solutions take for granted, and windows of start dates."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from leaven.errors import StudyError


def _library() -> dict[str, str]:
    """Return name -> import line, for modules and for names out of them."""
    modules = "bisect collections copy datetime functools heapq io itertools json math operator os queue random re".split()
    modules += "statistics string sys time typing".split()
    names = {
        "typing": "Any Callable DefaultDict Deque Dict FrozenSet Generator Iterable Iterator List Optional Sequence Set Tuple Union",
        "collections": "ChainMap Counter OrderedDict defaultdict deque namedtuple",
        "functools": "cache cached_property cmp_to_key lru_cache partial reduce",
        "itertools": "accumulate chain combinations combinations_with_replacement count cycle groupby islice pairwise permutations product "
        "repeat starmap takewhile dropwhile tee zip_longest",
        "heapq": "heapify heappop heappush heappushpop heapreplace merge nlargest nsmallest",
        "bisect": "bisect_left bisect_right insort insort_left insort_right",
        "math": "ceil comb cos dist e exp factorial floor gcd hypot inf isqrt lcm log log10 log2 perm pi prod sin sqrt tan",
        "operator": "add and_ floordiv itemgetter mul or_ sub truediv xor",
        "string": "ascii_letters ascii_lowercase ascii_uppercase digits punctuation",
        "random": "choice randint shuffle",
        "copy": "deepcopy",
        "datetime": "timedelta",
        "sys": "maxsize setrecursionlimit stdin stdout",
    }
    found = {name: f"from {module} import {name}" for module, listed in names.items() for name in listed.split()}
    return {**found, **{module: f"import {module}" for module in modules}}


LIBRARY = _library()
"""Names contest sites bring with them (both official harnesses import them all) -> the import that gives one of them."""


def day(text: str, what: str) -> datetime.date:
    """Return the date that an ISO text starts with; raise StudyError naming `what` for another text."""
    try:
        return datetime.date.fromisoformat(str(text)[:10])
    except ValueError:
        raise StudyError(f"{what}: expected a date such as 2023-05-01, found {text!r}") from None


def in_window(date: datetime.date, options: Mapping[str, Any], benchmark: str) -> bool:
    """Return whether a contest that started on `date` lies in the window of the options `start` and `end` (both inclusive)."""
    start, end = (options.get(name) for name in ("start", "end"))
    after = start is None or date >= day(str(start), f"benchmark {benchmark}, option start")
    return after and (end is None or date <= day(str(end), f"benchmark {benchmark}, option end"))
