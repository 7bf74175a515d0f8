"""The three few-shot examples that leaven shows a teacher when a synthesis file names none.

Written by hand for leaven (no data set's text); each has ten asserts and passes them (tested). Liu et al. 2025 chose their three
out of several sampled replies by hand and did not publish them: to do the same, run a few seeds with `prompt.shots: none` and
`teacher.samples: 4`, copy three good rows of records.jsonl into a file and name it in `prompt.shots`.
"""

from __future__ import annotations

from leaven.core.types import Example

SHOTS: tuple[Example, ...] = (
    Example(
        id="shot-1",
        source="builtin",
        question="Write a function `run_lengths(text)` that returns the run-length encoding of a string as a list of (character, count) "
        "pairs in the order in which the runs occur.",
        thought="We walk over the string once and keep a list of finished and current runs.\n"
        "1. When the list is empty, or the character differs from that of the last run, a new run of length 1 begins.\n"
        "2. Otherwise the last run grows by one. Tuples cannot change, so the last pair is replaced by a longer one.\n"
        "3. An empty string has no runs, so the loop never starts and the empty list is right.\n"
        "Every character is looked at once: the time is linear in the length of the text.",
        code="def run_lengths(text):\n"
        "    runs = []\n"
        "    for character in text:\n"
        "        if runs and runs[-1][0] == character:\n"
        "            runs[-1] = (character, runs[-1][1] + 1)\n"
        "        else:\n"
        "            runs.append((character, 1))\n"
        "    return runs\n",
        answer="def run_lengths(text):\n    import itertools\n    return [(k, len(list(g))) for k, g in itertools.groupby(text)]\n",
        tests=(
            'assert run_lengths("") == []',
            'assert run_lengths("a") == [("a", 1)]',
            'assert run_lengths("aaa") == [("a", 3)]',
            'assert run_lengths("ab") == [("a", 1), ("b", 1)]',
            'assert run_lengths("aab") == [("a", 2), ("b", 1)]',
            'assert run_lengths("abb") == [("a", 1), ("b", 2)]',
            'assert run_lengths("aba") == [("a", 1), ("b", 1), ("a", 1)]',
            'assert run_lengths("aAa") == [("a", 1), ("A", 1), ("a", 1)]',
            'assert run_lengths("  x") == [(" ", 2), ("x", 1)]',
            'assert sum(n for _, n in run_lengths("mississippi")) == 11',
        ),
        entry_point="run_lengths",
    ),
    Example(
        id="shot-2",
        source="builtin",
        question="Given a list of closed intervals [start, end] in any order, merge all that overlap or touch and return the result sorted "
        "by start. Implement `merge_intervals(intervals)`.",
        thought="Overlap is easy to see when the intervals come in the order of their starts, so we sort a copy first.\n"
        "1. Take the intervals one after the other. Compare the start of each with the end of the last merged one.\n"
        "2. If it starts at or before that end, both belong together: the merged end is the larger of the two ends (the new one may lie "
        "completely inside).\n"
        "3. Otherwise there is a gap, and the interval opens a new merged one.\n"
        "The argument must not change, so new lists are built. Sorting dominates: O(n log n).",
        code="def merge_intervals(intervals):\n"
        "    merged = []\n"
        "    for start, end in sorted(intervals):\n"
        "        if merged and start <= merged[-1][1]:\n"
        "            merged[-1][1] = max(merged[-1][1], end)\n"
        "        else:\n"
        "            merged.append([start, end])\n"
        "    return merged\n",
        answer="def merge_intervals(intervals):\n"
        "    intervals = sorted(intervals)\n"
        "    out = []\n"
        "    for iv in intervals:\n"
        "        if not out or out[-1][1] < iv[0]:\n"
        "            out.append(list(iv))\n"
        "        else:\n"
        "            out[-1][1] = max(out[-1][1], iv[1])\n"
        "    return out\n",
        tests=(
            "assert merge_intervals([]) == []",
            "assert merge_intervals([[1, 2]]) == [[1, 2]]",
            "assert merge_intervals([[1, 3], [2, 4]]) == [[1, 4]]",
            "assert merge_intervals([[1, 2], [3, 4]]) == [[1, 2], [3, 4]]",
            "assert merge_intervals([[1, 2], [2, 3]]) == [[1, 3]]",
            "assert merge_intervals([[5, 6], [1, 2]]) == [[1, 2], [5, 6]]",
            "assert merge_intervals([[1, 9], [2, 3]]) == [[1, 9]]",
            "assert merge_intervals([[2, 3], [1, 9], [9, 10]]) == [[1, 10]]",
            "assert merge_intervals([[-3, -1], [-2, 0]]) == [[-3, 0]]",
            "given = [[3, 4], [1, 2]]\nmerge_intervals(given)\nassert given == [[3, 4], [1, 2]]",
        ),
        entry_point="merge_intervals",
    ),
    Example(
        id="shot-3",
        source="builtin",
        question="Create a class `Ledger` for bank accounts: `deposit(name, amount)` adds a positive amount, "
        "`transfer(a, b, amount)` moves money and returns whether it was possible, and "
        "`balance(name)` returns the current balance (0 for unknown names).",
        thought="The state is one dictionary from account name to balance.\n"
        "1. `balance` uses a default of 0, so that unknown names need no special case anywhere else.\n"
        "2. `deposit` must refuse amounts that are not positive; raising ValueError makes the mistake visible.\n"
        "3. `transfer` may fail for an ordinary reason (too little money), so it returns False then and changes nothing. An amount that "
        "is not positive is treated the same way.\n"
        "4. A transfer to oneself has to leave the balance as it is: subtracting first and adding afterwards does that.",
        code="class Ledger:\n"
        "    def __init__(self):\n"
        "        self._balances = {}\n"
        "\n"
        "    def balance(self, name):\n"
        "        return self._balances.get(name, 0)\n"
        "\n"
        "    def deposit(self, name, amount):\n"
        "        if amount <= 0:\n"
        '            raise ValueError("amount must be positive")\n'
        "        self._balances[name] = self.balance(name) + amount\n"
        "\n"
        "    def transfer(self, a, b, amount):\n"
        "        if amount <= 0 or self.balance(a) < amount:\n"
        "            return False\n"
        "        self._balances[a] = self.balance(a) - amount\n"
        "        self._balances[b] = self.balance(b) + amount\n"
        "        return True\n",
        answer="class Ledger:\n"
        "    def __init__(self):\n"
        "        self.data = {}\n"
        "    def deposit(self, name, amount):\n"
        "        if amount <= 0:\n"
        "            raise ValueError('amount')\n"
        "        self.data[name] = self.data.get(name, 0) + amount\n"
        "    def transfer(self, a, b, amount):\n"
        "        if amount <= 0 or self.data.get(a, 0) < amount:\n"
        "            return False\n"
        "        self.data[a] -= amount\n"
        "        self.data[b] = self.data.get(b, 0) + amount\n"
        "        return True\n"
        "    def balance(self, name):\n"
        "        return self.data.get(name, 0)\n",
        tests=(
            "ledger = Ledger()\nassert ledger.balance('ann') == 0",
            "ledger.deposit('ann', 50)\nassert ledger.balance('ann') == 50",
            "assert ledger.transfer('ann', 'bob', 20) is True",
            "assert ledger.balance('ann') == 30",
            "assert ledger.balance('bob') == 20",
            "assert ledger.transfer('bob', 'ann', 21) is False",
            "assert ledger.balance('bob') == 20",
            "assert ledger.transfer('ann', 'ann', 30) is True",
            "assert ledger.balance('ann') == 30",
            "assert ledger.transfer('eve', 'ann', 1) is False",
        ),
        entry_point="Ledger",
    ),
)
