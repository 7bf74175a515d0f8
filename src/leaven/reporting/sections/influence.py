"""Inputs on influence -> the sections of a report, in reading order; those without data are left out.

How well the scores predict retraining comes first, since everything after it is worth no more than that.
Not covered: what each section shows (influence_*.py beside), where the page puts them (template.html).
"""

from __future__ import annotations

from leaven.reporting.sections.influence_changes import change_section
from leaven.reporting.sections.influence_checks import check_section
from leaven.reporting.sections.influence_examples import example_section
from leaven.reporting.sections.influence_groups import difficulty_section, domain_section
from leaven.reporting.sections.influence_inputs import InfluenceInputs
from leaven.reporting.sections.influence_paper import influence_paper_sections
from leaven.reporting.sections.influence_parts import part_section
from leaven.reporting.sections.influence_validation import validation_section
from leaven.reporting.sections.section import Section


def influence_sections(inputs: InfluenceInputs) -> list[Section]:
    """Return the sections that have data: validation, domains, difficulty, parts, texts, interventions, checks, the paper."""
    if not inputs.models:
        return []
    found = [
        validation_section(inputs),
        domain_section(inputs),
        difficulty_section(inputs),
        part_section(inputs),
        example_section(inputs),
        change_section(inputs),
        check_section(inputs),
        *influence_paper_sections(inputs),
    ]
    return [section for section in found if section is not None]
