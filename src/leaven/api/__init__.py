"""The verbs: running.py (load, run), planning.py (plan), inspect.py (status, why, results, compare, report, gc, schema), new.py, doctor.py."""
