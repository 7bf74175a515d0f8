"""Verdicts of all runs -> scores, effects with intervals over seeds and items, and the answer by one declared rule."""
