"""An order table + labels of its examples -> an order table in which other examples, or other weights, stand in the slots.

Files: settings.py (what a study may ask for), targets.py (how many slots or how much weight each group should get),
influence.py (scores of `leaven attribute`), slots.py (which slots change and what comes in), apply.py (all together).
Kou et al. 2025's difficulty flip and its matched variants; papers: their replacement examples came from other sources,
with other lengths, and without a control.
"""

from leaven.data.reweigh.apply import Reweighing, load_reweighing
from leaven.data.reweigh.settings import check_reweigh

__all__ = ["Reweighing", "check_reweigh", "load_reweighing"]
