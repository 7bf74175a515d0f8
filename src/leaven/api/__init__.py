"""The verbs: running.py (load, run), planning.py, inspect.py (status, why, results, compare, report, gc, schema), new.py, doctor.py,
executing.py, evaluating.py, attributing.py; shown.py turns what they bring back into text."""
