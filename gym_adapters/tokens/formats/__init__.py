"""How model families write thinking and tool calls: one small module each."""

from __future__ import annotations

from collections.abc import Callable

from gym_adapters.tokens.formats.harmony import HarmonyFormat
from gym_adapters.tokens.formats.hermes import hermes_format
from gym_adapters.tokens.formats.llama import LlamaFormat
from gym_adapters.tokens.formats.mistral import MistralFormat
from gym_adapters.tokens.formats.plain import plain_format
from gym_adapters.tokens.formats.pythonic import PythonicFormat
from gym_adapters.tokens.formats.sections import deepseek_format, kimi_format
from gym_adapters.tokens.formats.turn import Call, Lexeme, OutputFormat, Turn
from gym_adapters.tokens.formats.xml_calls import glm_format, qwen_xml_format

__all__ = ["FORMATS", "Call", "Lexeme", "OutputFormat", "Turn"]

FORMATS: dict[str, Callable[[], OutputFormat]] = {
    "hermes": hermes_format,
    "qwen_xml": qwen_xml_format,
    "glm": glm_format,
    "llama_json": LlamaFormat,
    "pythonic": PythonicFormat,
    "mistral": MistralFormat,
    "harmony": HarmonyFormat,
    "deepseek": deepseek_format,
    "kimi": kimi_format,
    "plain": plain_format,
}
