"""Inputs on the order of thought and code -> the sections of a report, in reading order; those without data are left out.

Not covered: what each section shows (the files beside), where the page puts them (template.html).
"""

from __future__ import annotations

from leaven.reporting.sections.attention import attention_section
from leaven.reporting.sections.distributions import distribution_sections
from leaven.reporting.sections.errata import errata_section
from leaven.reporting.sections.gradients import gradient_section
from leaven.reporting.sections.inputs import OrderInputs
from leaven.reporting.sections.paper import paper_section
from leaven.reporting.sections.sampling import sampling_section
from leaven.reporting.sections.section import Section
from leaven.reporting.sections.strategies import strategy_section
from leaven.reporting.sections.sweeps import sweep_sections
from leaven.reporting.sections.synthesis import funnel_section, perturbation_section


def order_sections(inputs: OrderInputs) -> list[Section]:
    """Return the sections that have data: strategies, sweeps, probes, synthesis, then the paper and its errata."""
    found = [
        strategy_section(inputs),
        *sweep_sections(inputs),
        sampling_section(inputs),
        *distribution_sections(inputs),
        attention_section(inputs),
        gradient_section(inputs),
        funnel_section(inputs),
        perturbation_section(inputs),
        paper_section(inputs),
        errata_section(inputs),
    ]
    return [section for section in found if section is not None]
