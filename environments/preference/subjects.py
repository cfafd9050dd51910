"""What texts are asked for, and plain sentences about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["SUBJECTS", "text_on"]

SUBJECTS: Mapping[str, Sequence[str]] = {
    "how bread rises": ("yeast", "sugar", "gas", "dough", "oven"),
    "why there are tides": ("moon", "water", "gravity", "coast", "turning"),
    "how a bicycle stays up": ("wheel", "steering", "speed", "balance", "lean"),
    "how a lock on a canal works": ("gate", "level", "boat", "sluice", "chamber"),
    "why leaves change colour": ("green", "light", "autumn", "cold", "tree"),
    "how a rainbow appears": ("sun", "drop", "bend", "colour", "rain"),
}
# One sentence for each word, so that a text on any of them can be put together.
_SENTENCES: Mapping[str, str] = {
    "yeast": "Tiny living yeast starts everything.",
    "sugar": "It feeds on sugar.",
    "gas": "While eating, it breathes out gas.",
    "dough": "Bubbles swell inside soft dough.",
    "oven": "Finally, heat from an oven fixes that shape.",
    "moon": "Far above us, our moon pulls.",
    "water": "Loose water follows more easily than rock.",
    "gravity": "This pull has a name, gravity.",
    "coast": "Along any coast you can watch it happen.",
    "turning": "Because Earth keeps turning, high sea comes twice daily.",
    "wheel": "Each spinning wheel resists tipping over.",
    "steering": "Small steering moves bring you back.",
    "speed": "More speed makes that easier.",
    "balance": "Riders learn balance without knowing how.",
    "lean": "In bends, everyone must lean inward.",
    "gate": "A heavy gate closes behind you.",
    "level": "Then one level slowly meets another.",
    "boat": "Your boat floats up or down meanwhile.",
    "sluice": "Opening a sluice lets flow begin.",
    "chamber": "All this takes place inside one chamber.",
    "green": "Summer foliage looks green for good reason.",
    "light": "That dye catches light and makes food.",
    "autumn": "When autumn comes, days get short.",
    "cold": "With cold nights, making dye no longer pays.",
    "tree": "So every tree takes it back, and yellow shows.",
    "sun": "Stand with bright sun behind your back.",
    "drop": "Each falling drop acts like glass.",
    "bend": "Rays bend as they enter.",
    "colour": "Every colour leaves at another angle.",
    "rain": "You need rain ahead, too.",
}


def text_on(words: Sequence[str]) -> str:
    """A short text that speaks of `words`."""
    return " ".join(
        _SENTENCES.get(word, f"One more thing matters here, namely {word}.") for word in words
    )
