"""Results of a study -> the report: one HTML page with its figures and tables."""
