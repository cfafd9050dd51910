"""Validating values against JSON schemas, compiled once (``jsonschema-rs``)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Protocol, cast

import orjson

from gym_adapters.errors import InvalidRow
from gym_adapters.extras import require

__all__ = ["JsonSchema", "compiled_schema", "strictified"]

# Keywords whose values are data, not schemas.
_DATA = frozenset({"const", "default", "enum", "examples"})
# Keywords whose values map names of the author's choosing to schemas.
_MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})


class _Validator(Protocol):
    def is_valid(self, instance: object) -> bool: ...

    def validate(self, instance: object) -> None: ...


class JsonSchema:
    """A compiled schema. Formats are not checked, references outside the schema are refused.

    Args:
        schema: The schema.

    Raises:
        ValueError: If it is not a JSON schema.
        MissingExtra: Without ``jsonschema-rs``.
    """

    def __init__(self, schema: Mapping[str, object]) -> None:
        library = require("jsonschema_rs", "verifiers", "validation against a JSON schema")
        self.schema = schema
        self._validator = cast(
            "_Validator",
            library.validator_for(
                dict(schema),
                validate_formats=False,
                retriever=_refuse_reference,
                # Linear-time matching: a row's pattern meets text that a model wrote.
                pattern_options=library.RegexOptions(),
            ),
        )

    def fault(self, value: object) -> str | None:
        """Why `value` does not fit, in at most 200 characters; ``None`` if it does."""
        try:
            if self._validator.is_valid(value):
                return None
            self._validator.validate(value)
        except ValueError as error:
            # Also for values that JSON has no place for: dates, keys that are no strings.
            return str(getattr(error, "message", error))[:200]
        return None


def _refuse_reference(uri: str) -> object:
    raise ValueError(f"the reference {uri} leads out of the schema")


def strictified(schema: object) -> object:
    """`schema` with every object that lists properties closed: all required, no others.

    Alternatives in lists (``anyOf``, ``oneOf``, ``allOf``) are left as they are, as NeMo Gym's
    ``structured_outputs`` leaves them.
    """
    if not isinstance(schema, dict):
        return schema
    strict = {
        key: {name: strictified(part) for name, part in value.items()}
        if key in _MAPS and isinstance(value, dict)
        else value
        if key in _DATA
        else strictified(value)
        for key, value in schema.items()
    }
    properties = strict.get("properties")
    if isinstance(properties, dict):
        strict["required"] = list(properties)
        strict["additionalProperties"] = False
    return strict


@lru_cache(maxsize=1024)
def compiled_schema(schema_text: str, field: str = "schema_str") -> JsonSchema:
    """The strict form of a row's schema, given as JSON text; compiled once for each text.

    Raises:
        InvalidRow: Naming `field`, if the text is not JSON or not a JSON schema.
        MissingExtra: Without ``jsonschema-rs``.
    """
    try:
        schema = strictified(orjson.loads(schema_text))
    except orjson.JSONDecodeError as error:
        raise InvalidRow(
            f"the schema is not valid JSON: {error}.", field=field, fix="write it as JSON text."
        ) from error
    if not isinstance(schema, dict):
        raise InvalidRow(
            f"a schema must be a JSON object, not {type(schema).__name__}.",
            field=field,
            fix='write it as {"type": "object", "properties": {...}}.',
        )
    try:
        return JsonSchema(schema)
    except ValueError as error:
        problem = str(getattr(error, "message", error))[:200]
        raise InvalidRow(
            f"not a JSON schema: {problem}.",
            field=field,
            fix="correct the schema; references must stay inside it, patterns need no lookaround.",
        ) from error
