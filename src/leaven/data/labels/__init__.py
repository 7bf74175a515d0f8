"""Examples -> labels: code or mathematics, language, difficulty on a named scale, kind of mathematics.

One file per kind of label; attach.py is the step that gives them to the examples of a source. Behaviours in thoughts
are labels of segments (data/behaviours.py).
"""

from leaven.data.labels.domain import LANGUAGES, THRESHOLD, Domain, Label, label_of, language_of
from leaven.data.labels.scales import SCALES, Scale, parse_grade

__all__ = ["LANGUAGES", "SCALES", "THRESHOLD", "Domain", "Label", "Scale", "label_of", "language_of", "parse_grade"]
