"""WHAT is compared (study, data, train, measure: hashed) and WHERE it runs (runtime: not); load.py reads both."""
