"""The closed word lists that generators draw from: names, everyday words, things, animals, colors, traits.

Animals and things have regular plurals and start with a consonant, so that "a" and "-s" are always right.
"""

from __future__ import annotations

WOMEN = tuple(
    "Alice Anna Beth Carla Clara Diana Donna Ella Emma Erin Fiona Grace Hanna Helen Irene Ivy Jane Julia Karen Kate "
    "Laura Lena Lily Lucy Maria Mary Nadia Nina Nora Olga Paula Rosa Ruth Sara Sofia Tara Tina Vera Wendy Zoe".split()
)
MEN = tuple(
    "Adam Alan Ben Boris Carl Chris Dan David Eric Felix Frank George Greg Harry Hugo Ivan Jack James John Karl "
    "Kevin Leo Lewis Luke Mark Martin Max Nick Noah Oscar Otto Paul Peter Ralph Rob Sam Simon Tom Victor Walter".split()
)
NAMES = tuple(sorted(WOMEN + MEN))

WORDS = tuple(
    "anchor apple arrow autumn bamboo banana basket beach bottle branch bridge bucket butter button cabin candle "
    "canyon carpet castle cherry circle cliff cloud coffee copper corner cotton cradle desert dinner doctor "
    "dragon engine eraser falcon farmer feather fence flower forest fossil garden ginger glass guitar hammer "
    "harbor helmet honey island jacket jungle kettle kitten ladder lantern lemon letter library linen magnet "
    "maple marble market meadow melon mirror monkey morning mountain museum needle night number ocean office "
    "olive onion orange orchard oven paddle paper pencil pepper piano pillow planet pocket pond potato powder "
    "prairie puzzle quarry quilt rabbit radio ribbon river rocket saddle salmon school shadow silver spider "
    "spring stone storm summer sunset table tailor temple thread ticket tiger timber tomato train tunnel turtle "
    "valley velvet village violin wagon walnut water whale wheel window winter wizard wooden yellow yogurt zebra "
    "zipper".split()
)

THINGS = tuple(
    "bananas books bottles buttons cards coins cookies cups flowers lemons marbles mugs pencils pens plums postcards "
    "ribbons shells stamps stickers stones tickets tomatoes toys".split()
)

ANIMALS = tuple(
    "bear beaver camel cat cow dog dolphin frog goat hamster hawk horse lion lizard monkey parrot pigeon rabbit shark "
    "snake swan tiger turtle whale zebra".split()
)

COLORS = tuple("black blue brown gray green orange pink purple red white yellow".split())

TRAITS = tuple(
    "blue bold brave calm clever cold cruel fast furry gentle green happy heavy honest kind lazy loud nice old proud "
    "quiet rich rough round sad sharp shy slow smart strong tall tired warm weak wise young".split()
)


def listing(parts: list[str]) -> str:
    """Join words as English does: "a", "a and b", "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def sentence(text: str) -> str:
    """Return the text with a capital first letter and a full stop."""
    return f"{text[0].upper()}{text[1:]}."
