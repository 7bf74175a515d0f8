"""Every task family by name; a new family is a generator in one of these files and a line in its FAMILIES tuple."""

from __future__ import annotations

from leaven.data.sources.world.families import (
    arithmetic,
    kinship,
    list_formulas,
    list_programs,
    logical,
    pipelines,
    programs,
    symbolic,
)
from leaven.data.sources.world.family import Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for module in (list_programs, list_formulas, pipelines, programs, symbolic, logical, kinship, arithmetic)
    for family in module.FAMILIES
}
