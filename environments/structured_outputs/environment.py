"""Answers that must parse, and fit a schema to the letter."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Literal, Self

import orjson
from pydantic import model_validator

from gym_adapters import Environment, Reward, StopReason, Task, Tool, Transcript, UsageError
from gym_adapters.items import FunctionTool, Item, assistant_message, function_call
from gym_adapters.verifiers.documents import (
    DocumentError,
    DocumentKind,
    parse_document,
    typed_by_schema,
)
from gym_adapters.verifiers.json_schema import compiled_schema

from .samples import sample, written
from .synthesis import generated_row

__all__ = ["StructuredOutputs", "StructuredOutputsTask"]

# Reading longer texts than this takes milliseconds, and so a thread.
_LONG = 20_000


class StructuredOutputsTask(Task):
    """A schema, and where the answer that must fit it stands.

    Attributes:
        schema_str: The JSON schema, as JSON text; it is read strictly (see the README).
        schema_type: Format of the answer; a tool call's arguments are always JSON.
        response_mode: ``text``, the final message as a whole, or ``tool_call``, the arguments.
        tool_name: The tool to call; ``None`` for any.
        tool_payload_key: The argument that holds the answer; ``None`` when all of them do.
    """

    schema_str: str
    schema_type: DocumentKind = "json"
    response_mode: Literal["text", "tool_call"] | None = "text"
    tool_name: str | None = None
    tool_payload_key: str | None = None

    @model_validator(mode="after")
    def _schema_can_be_compiled(self) -> Self:
        compiled_schema(self.schema_str)
        return self


class _Fault(Exception):
    """What is wrong with an answer: one of NeMo Gym's error types, and words."""

    def __init__(self, kind: str, text: str = "") -> None:
        self.kind, self.text = kind, text
        super().__init__(kind)


class StructuredOutputs(Environment[StructuredOutputsTask]):
    """Answer in JSON, YAML, XML, TOML or CSV that fits a JSON schema.

    The reward is 1 if the whole final message, or the arguments of the one tool call, parse and fit
    the strict schema; else 0, with ``error_type`` and ``error_message`` in the reward's info.
    """

    name = "structured_outputs"

    def available_tools(self) -> Sequence[Tool]:
        """The row's tools; a call is the answer, and ends the episode."""
        return [
            Tool.from_declaration(declared, self._take_answer) for declared in self.task.tools or ()
        ]

    def _take_answer(self, /, **arguments: object) -> dict[str, bool]:
        self.end_episode()
        return {"received": True}

    async def verify(self, transcript: Transcript) -> Reward:
        """1 for an answer that parses and fits."""
        try:
            if transcript.stop_reason is StopReason.LENGTH:
                raise _Fault("incomplete_response", "the answer was cut by its token budget")
            if self.task.response_mode == "tool_call":
                self._check(_payload(transcript, self.task))
            else:
                await self._check_text(transcript.final_text)
        except _Fault as fault:
            return Reward(0.0, info={"error_type": fault.kind, "error_message": fault.text})
        return Reward(1.0, info={"error_type": None, "error_message": None})

    async def _check_text(self, text: str) -> None:
        if len(text) > _LONG:
            await asyncio.to_thread(self._check_document, text)
        else:
            self._check_document(text)

    def _check_document(self, text: str) -> None:
        if not text.strip():
            raise _Fault("empty_response", "the final message is empty")
        kind = self.task.schema_type
        try:
            value = parse_document(text, kind)
        except DocumentError as error:
            raise _Fault("parse_error", str(error)) from error
        if kind in ("xml", "csv"):
            value = typed_by_schema(value, compiled_schema(self.task.schema_str).schema)
        self._check(value)

    def _check(self, value: object) -> None:
        fault = compiled_schema(self.task.schema_str).fault(value)
        if fault is not None:
            raise _Fault("validation_error", fault)

    @classmethod
    def generate_tasks(
        cls, count: int, *, seed: int = 0, difficulty: float = 0.5
    ) -> Iterator[StructuredOutputsTask]:
        """Records to put into a given form.

        Args:
            count: How many.
            seed: Seed of the generator.
            difficulty: Below 0.3 flat JSON as text; above it also YAML, TOML and CSV and tool
                calls; from 0.6 on nested records, lists of them, XML, and tools that are decoys.
        """
        for position in range(count):
            yield StructuredOutputsTask.from_row(generated_row(seed, position, difficulty))

    @classmethod
    def gold_turns(cls, task: StructuredOutputsTask) -> Sequence[Sequence[Item]]:
        """The least answer that fits the schema."""
        answer = sample(compiled_schema(task.schema_str).schema)
        if task.response_mode != "tool_call":
            return [[assistant_message(written(answer, task.schema_type))]]
        arguments = {task.tool_payload_key: answer} if task.tool_payload_key else answer
        tool_name = task.tool_name or _first_tool(task.tools)
        return [[function_call(tool_name, orjson.dumps(arguments).decode(), "call_0")]]


def _first_tool(tools: Sequence[FunctionTool] | None) -> str:
    if not tools:
        raise UsageError("a row with response_mode tool_call must declare a tool")
    return tools[0]["name"]


def _payload(transcript: Transcript, task: StructuredOutputsTask) -> object:
    """What the one tool call holds where the answer should be."""
    calls = transcript.tool_calls
    if not calls:
        raise _Fault("missing_tool_call", "no tool was called")
    names = ", ".join(call.name for call in calls)
    if len(calls) > 1:
        raise _Fault("multiple_tool_calls", f"expected one call, got {names}"[:200])
    if task.tool_name and calls[0].name != task.tool_name:
        raise _Fault("wrong_tool_name", f"expected {task.tool_name}, got {names}"[:200])
    try:
        arguments = parse_document(calls[0].arguments, "json")
    except DocumentError as error:
        raise _Fault("tool_arguments_parse_error", str(error)) from error
    if not task.tool_payload_key:
        return arguments
    if not isinstance(arguments, dict) or task.tool_payload_key not in arguments:
        raise _Fault("missing_tool_payload_key", f"no argument {task.tool_payload_key}")
    return arguments[task.tool_payload_key]
