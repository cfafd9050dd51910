"""What it takes to speak to the model in training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gym_adapters.errors import Unsupported
from gym_adapters.rollout import Rollout
from gym_adapters.tokens.protocol import ChatRenderer, OutputParser

__all__ = ["Speech", "check_template", "speech_of"]

_TEMPLATE_ERRORS = ("TemplateRewritesHistory", "TemplateRefuses", "Unsupported")


@dataclass(frozen=True, slots=True)
class Speech:
    """How items become tokens, and tokens items."""

    renderer: ChatRenderer
    parser: OutputParser


def speech_of(
    tokenizer: Any, template_kwargs: Mapping[str, Any] | None, chat_format: str | None
) -> Speech:
    """The speech of a model.

    Args:
        tokenizer: The trainer's.
        template_kwargs: Variables for its chat template.
        chat_format: How the model writes tool calls; ``None`` to detect it.

    Raises:
        UsageError: If the tokenizer has no chat template.
    """
    from gym_adapters.tokens.output_parser import output_parser
    from gym_adapters.tokens.template_renderer import TemplateRenderer

    variables = dict(template_kwargs or {})
    return Speech(
        renderer=TemplateRenderer(tokenizer, template_kwargs=variables),
        parser=output_parser(tokenizer, chat_format, template_kwargs=variables),
    )


def check_template(rollouts: Iterable[Rollout]) -> None:
    """Raise where a rollout failed because the chat template can't be trained on.

    Raises:
        Unsupported: Naming the template.
    """
    for rollout in rollouts:
        failure = rollout.outcome.failure
        if failure is not None and failure.error in _TEMPLATE_ERRORS:
            raise Unsupported(failure.message)
