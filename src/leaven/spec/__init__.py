"""WHAT is compared (study, data, train, measure: hashed) and WHERE it runs (runtime: never hashed); load.py reads both from YAML."""
