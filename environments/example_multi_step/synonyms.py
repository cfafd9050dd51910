"""Terms, their synonyms, and a question that is about each term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

__all__ = ["QUESTIONS", "SYNONYMS"]

SYNONYMS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "Hot": ("Scorching", "Sweltering", "Torrid"),
        "Cold": ("Frosty", "Wintry"),
        "Loud": ("Deafening", "Thunderous", "Noisy"),
        "Quiet": ("Muted", "Soundless"),
        "Rich": ("Wealthy", "Affluent", "Prosperous"),
        "Poor": ("Penniless", "Destitute"),
        "Brave": ("Valiant", "Fearless", "Daring"),
        "Fast": ("Rapid", "Speedy"),
        "Slow": ("Sluggish", "Unhurried", "Plodding"),
        "Bright": ("Radiant", "Gleaming"),
        "Dark": ("Unlit", "Murky", "Shadowy"),
        "Old": ("Ancient", "Elderly"),
        "New": ("Recent", "Novel", "Unused"),
        "Happy": ("Cheerful", "Joyous"),
        "Sad": ("Sorrowful", "Gloomy", "Tearful"),
        "Strong": ("Sturdy", "Powerful"),
        "Wet": ("Damp", "Soggy", "Drenched"),
        "Dry": ("Parched", "Waterless"),
        "Heavy": ("Weighty", "Hefty", "Leaden"),
        "Clean": ("Spotless", "Immaculate"),
    }
)

QUESTIONS: Mapping[str, str] = MappingProxyType(
    {
        "Hot": "How do people in desert towns keep their homes pleasant at 45 degrees in July?",
        "Cold": "What should I wear when it is twenty below zero in January?",
        "Loud": "Which earplugs help beside a jet engine?",
        "Quiet": "Where in the library can I study without hearing a single sound?",
        "Rich": "What do billionaires usually do with their fortunes?",
        "Poor": "How did families get by who could not afford a loaf of bread?",
        "Brave": "Why did the firefighter run into the burning house without hesitating?",
        "Fast": "Which train covers three hundred kilometres in an hour?",
        "Slow": "Why does it take a snail all day to cross the garden?",
        "Bright": "Why do I have to squint when sunlight falls on fresh snow?",
        "Dark": "How do cave fish find food where no light ever reaches?",
        "Old": "Who built the temple that was already standing three thousand years ago?",
        "New": "What changed in the model that came out this morning?",
        "Happy": "Why does everybody smile and laugh at a good wedding?",
        "Sad": "How can I comfort a friend who has been crying since the funeral?",
        "Strong": "How can an ant lift fifty times its own weight?",
        "Wet": "My coat is soaked through from the rain; how do I hang it?",
        "Dry": "What grows in a valley where it has not rained for a year?",
        "Heavy": "How do movers carry a grand piano that weighs half a tonne?",
        "Clean": "How do they keep dust and germs out of an operating theatre?",
    }
)
