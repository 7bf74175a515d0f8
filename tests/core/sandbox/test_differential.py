"""Programs and tests drawn at random: the sandbox passes what a plain interpreter passes, in every way of running, and nothing else."""

from __future__ import annotations

import contextlib
import io
import random
import re

import pytest

from leaven.core.sandbox import Job, Limits, execute


def lines(text: str) -> list[str]:
    """Return one snippet per line; " / " is a line break in it."""
    return [line.replace(" / ", "\n") for line in text.strip().splitlines()]


BODIES = lines("""
return x + 1
return [x]
return (x, 1)
return {x: 1}
return None
x.append(1) /  return x
return x * 2
print(x) /  return x
raise ValueError('a')
return sorted(x)
return {1, 2}
global N /  N = x /  return N
return str(x)
return 1 % 0
return float('nan')
return True
return x == 1
return [x, [x]]
return 'a' * 5
return max(x, 1)
return len(x)
x.sort()
return x[0]
return dict(a=x)
""")
ARGUMENTS = lines("""
1
[1]
'a'
(1, 2)
None
2.5
{'a': 1}
[3, 1, 2]
""")
EXPECTED = lines("""
2
[1]
(1, 1)
{1: 1}
None
4
True
'1'
3
[1, 2, 3]
""")
TESTS = lines("""
assert f(A) == E
assert f(A) != E
x = f(A) / assert x == E
f(A)
assert f(A)
assert not f(A)
assert f(A) is None
assert isinstance(f(A), int)
assert len(f(A)) == 1
assert list(f(A)) == E
try: /  f(A) /  assert False / except ValueError: /  pass
try: /  f(A) / except Exception as e: /  assert str(e) == 'a'
for i in range(3): /  assert f(i) == i + 1
l = [1] / f(l) / assert l == [1, 1]
assert f(f(A)) == E
assert f(A) == f(A)
assert [f(i) for i in range(2)] == [1, 2]
assert f(A) in (E, 3)
assert abs(f(A) - E) < 1e-3
assert f(A)[0] == E
assert str(f(A)) == str(E)
assert any(f(A) == k for k in (1, 2, 3))
d = {f(A): 1} / assert d
assert f(A) > E
import math / assert math.isnan(f(A))
assert set(f(A)) == set([1])
assert type(f(A)) is int
assert f(A) == E or True
assert f(x=A) == E
assert sum(f(A)) == 6
if f(A): /  assert False
assert f(A) == E, f(A)
r = [f(A)] / r.append(1) / assert r[1] == 1
assert -f(A) == -2
assert f(A) * 2 == 4
assert 3 >= f(A) >= 1
a, b = f(A), f(A) / assert a == b
assert E == f(A)
def check(g): /  assert g(A) == E / check(f)
assert all(f(i) for i in range(3))
""")


def drawn(n: int) -> list[Job]:
    """Return jobs whose answers, where there are any, are plain data."""
    draw = random.Random(7)
    jobs = []
    for k in range(n):
        tests = []
        for _ in range(draw.choice((1, 1, 2, 3))):
            value = {"A": draw.choice(ARGUMENTS), "E": draw.choice(EXPECTED)}
            tests.append(re.sub(r"\b[AE]\b", lambda found, value=value: value[found[0]], draw.choice(TESTS)))
        jobs.append(Job(str(k), f"N = 0\ndef f(x):\n {draw.choice(BODIES)}", tuple(tests), limits=Limits(cpu_s=3)))
    return jobs


def plain(job: Job) -> str:
    """Return what an interpreter without any sandbox finds."""
    space: dict = {}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            for text in (job.program, *job.tests):
                exec(compile(text, "<plain>", "exec"), space)
    except AssertionError:
        return "fail"
    except Exception:
        return "error"
    return "pass"


@pytest.mark.parametrize("options", [{}, {"share": 1}, {"strict": False}])
def test_verdicts_are_those_of_a_plain_interpreter(options):
    jobs = drawn(1200)
    wanted = {j.id: plain(j) for j in jobs}
    assert sum(w == "pass" for w in wanted.values()) > 100
    for result in execute(jobs, workers=2, **options):
        job = jobs[int(result.id)]
        assert result.status == wanted[result.id], (job.program, job.tests, result.detail)
