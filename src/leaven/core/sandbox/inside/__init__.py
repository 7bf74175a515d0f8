"""What runs inside the fresh interpreter of a worker: standard library only, nothing of leaven.

zygote.py (exec'ed; forks and limits children) -> candidate.py (one child: runs programs, answers calls) and judge.py
(another child: runs the tests, asks the candidate). plaindata.py is the only language the two speak; allow.py says
which programs are harmless enough to share a child; cage.py takes rights away.
"""
