"""Public test doubles: scripted models and generators, and a policy small enough for any machine.

Names load on first use, so that importing this package costs nothing and pulls in no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gym_adapters.testing.gold import gold_conversations
    from gym_adapters.testing.scripted_chat import (
        ScriptedChatCall,
        ScriptedChatModel,
        empty_model,
        garbage_model,
        gold_model,
    )
    from gym_adapters.testing.scripted_generator import ScriptedCall, ScriptedGenerator
    from gym_adapters.testing.tiny_model import Conversation, TinyPolicy, WarmUp, tiny_policy

__all__ = [
    "Conversation",
    "ScriptedCall",
    "ScriptedChatCall",
    "ScriptedChatModel",
    "ScriptedGenerator",
    "TinyPolicy",
    "WarmUp",
    "empty_model",
    "garbage_model",
    "gold_conversations",
    "gold_model",
    "tiny_policy",
]

_MODULES = {
    "Conversation": "tiny_model",
    "ScriptedCall": "scripted_generator",
    "ScriptedChatCall": "scripted_chat",
    "ScriptedChatModel": "scripted_chat",
    "ScriptedGenerator": "scripted_generator",
    "TinyPolicy": "tiny_model",
    "WarmUp": "tiny_model",
    "empty_model": "scripted_chat",
    "garbage_model": "scripted_chat",
    "gold_conversations": "gold",
    "gold_model": "scripted_chat",
    "tiny_policy": "tiny_model",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
