"""Sections of a report that appear only when a study has their data; order.py names those of thought and code."""
