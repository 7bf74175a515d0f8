"""An order table + labels of its examples -> an order table in which other examples, or other weights, stand in the slots.

Files: settings.py (what a study may ask for), targets.py (how many slots or how much weight each group should get),
influence.py (scores of `leaven attribute`), slots.py (which slots change and what comes in), matching.py (what comes in
when tokens are kept), apply.py (all together); leave_out.py (examples that are not drawn at all).
Kou et al. 2025's difficulty flip and its matched variants; papers: their replacement examples came from other sources,
with other lengths, and without a control.
"""

from leaven.data.reweigh.apply import Reweighing, load_reweighing
from leaven.data.reweigh.leave_out import choose_left_out
from leaven.data.reweigh.settings import SECTIONS, check_intervention

__all__ = ["SECTIONS", "Reweighing", "check_intervention", "choose_left_out", "load_reweighing"]
