"""The least value that fits a strict schema, and how it is written in each format."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping
from xml.sax.saxutils import escape

import orjson
import yaml

from gym_adapters.errors import Unsupported
from gym_adapters.verifiers.documents import DocumentKind

__all__ = ["sample", "written"]


def sample(schema: object) -> object:
    """The least value that fits `schema`, with every property present.

    Raises:
        Unsupported: If the schema says what a value must not be like, or gives a pattern.
    """
    if not isinstance(schema, Mapping):
        return "x"
    refused = sorted(schema.keys() & {"pattern", "not", "allOf", "$ref", "if", "contains"})
    if refused:
        raise Unsupported(f"no sample is made for a schema with {', '.join(refused)}")
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for alternatives in ("anyOf", "oneOf"):
        if alternatives in schema:
            return sample(schema[alternatives][0])
    declared = schema.get("type", "object" if "properties" in schema else "string")
    kinds = declared if isinstance(declared, list) else [declared]
    # A null says least, but TOML and CSV have no word for it.
    return _SAMPLES[next((kind for kind in kinds if kind != "null"), "null")](schema)


def _number(schema: Mapping[str, object], step: float) -> float:
    least = schema.get("minimum")
    above = schema.get("exclusiveMinimum")
    most = schema.get("maximum", schema.get("exclusiveMaximum"))
    multiple = schema.get("multipleOf")
    unit = multiple if isinstance(multiple, int | float) else step
    if isinstance(least, int | float):
        return math.ceil(least / unit) * unit
    if isinstance(above, int | float):
        return (math.floor(above / unit) + 1) * unit
    if isinstance(most, int | float) and most <= 0:
        return (math.ceil(most / unit) - 1) * unit
    return 0


def _integer(schema: Mapping[str, object]) -> object:
    return int(_number(schema, 1))


def _any_number(schema: Mapping[str, object]) -> object:
    most = schema.get("maximum")
    value = float(_number(schema, 1e-3))
    return min(value, float(most)) if isinstance(most, int | float) else value


def _text(schema: Mapping[str, object]) -> object:
    least = schema.get("minLength", 1)
    return "x" * max(1, least if isinstance(least, int) else 1)


def _array(schema: Mapping[str, object]) -> object:
    least = schema.get("minItems", 0)
    count = max(1, least if isinstance(least, int) else 0)
    item = sample(schema.get("items", {"type": "string"}))
    if schema.get("uniqueItems") and count > 1:
        if not isinstance(item, str):
            raise Unsupported("no sample is made for several unique items that are no strings")
        return [f"{item}{index}" for index in range(count)]
    return [item] * count


def _object(schema: Mapping[str, object]) -> object:
    properties = schema.get("properties", {})
    if not isinstance(properties, Mapping):
        return {}
    return {name: sample(part) for name, part in properties.items()}


_SAMPLES: Mapping[str, Callable[[Mapping[str, object]], object]] = {
    "object": _object,
    "array": _array,
    "string": _text,
    "integer": _integer,
    "number": _any_number,
    "boolean": lambda schema: True,
    "null": lambda schema: None,
}


def written(value: object, kind: DocumentKind) -> str:
    """`value` as a document of `kind`.

    Raises:
        Unsupported: If the format has no way to write it.
    """
    return _WRITERS[kind](value)


def _write_json(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def _write_yaml(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def _write_toml(value: object) -> str:
    if not isinstance(value, Mapping):
        raise Unsupported("a TOML document is a table")
    return "".join(f"{_toml_key(key)} = {_toml_value(part)}\n" for key, part in value.items())


def _toml_key(key: str) -> str:
    return orjson.dumps(key).decode()


def _toml_value(value: object) -> str:
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{_toml_key(key)} = {_toml_value(part)}" for key, part in value.items())
        return f"{{{pairs}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    if value is None:
        raise Unsupported("TOML has no null")
    if isinstance(value, float):
        return repr(value)
    return orjson.dumps(value).decode()


def _write_xml(value: object) -> str:
    if not isinstance(value, Mapping) or len(value) != 1:
        raise Unsupported("an XML document has one root element")
    return "".join(_xml_element(name, part) for name, part in value.items())


def _xml_element(name: str, value: object) -> str:
    if isinstance(value, list):
        inner = "".join(_xml_element("item", part) for part in value)
    elif isinstance(value, Mapping):
        inner = "".join(_xml_element(key, part) for key, part in value.items())
    else:
        inner = escape(_plain(value))
    return f"<{name}>{inner}</{name}>"


def _write_csv(value: object) -> str:
    rows = value if isinstance(value, list) else []
    if not rows or not isinstance(rows[0], Mapping):
        raise Unsupported("a CSV document is a list of flat objects")
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _plain(part) for key, part in row.items()} for row in rows)
    return file.getvalue()


def _plain(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


_WRITERS: Mapping[DocumentKind, Callable[[object], str]] = {
    "json": _write_json,
    "yaml": _write_yaml,
    "xml": _write_xml,
    "toml": _write_toml,
    "csv": _write_csv,
}
