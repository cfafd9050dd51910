"""Reading JSON, YAML, XML, TOML and CSV that a model wrote, as plain values, safely.

What can't be read is a `DocumentError`, whatever the reason. Nothing expands (no YAML aliases, no
XML entities), nothing is looked up elsewhere, nesting is bounded, and time is linear in the text.
"""

from __future__ import annotations

import csv
import io
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal
from xml.parsers import expat

import orjson
import yaml

if TYPE_CHECKING:
    YamlLoader = yaml.SafeLoader
else:
    YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

__all__ = ["DocumentError", "DocumentKind", "parse_document", "typed_by_schema"]

DocumentKind = Literal["json", "yaml", "xml", "toml", "csv"]

DEEPEST = 64
_LONGEST_YAML_NUMBER = 100
# Dotted keys nest, and tomllib's time grows with the square of their depth.
_DEEP_TOML_KEY = re.compile(
    r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){64}"""
)
_WHOLE = re.compile(r"\s*+[-+]?[0-9]{1,300}\s*+")
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}


class DocumentError(ValueError):
    """A text that is not a document of its kind; the message says why, in at most 200 letters."""


def parse_document(text: str, kind: DocumentKind) -> object:
    """The value that the whole of `text` stands for.

    JSON, YAML and TOML give what they say; YAML's dates stay dates, which no JSON schema accepts.
    XML gives an object for the root element: attributes as ``@name``, text beside them as
    ``#text``, repeated children as a list, an empty element as ``None``, other text as a string.
    CSV gives a list of objects, one per row below the header, all values strings.

    Raises:
        DocumentError: If `text` is not a document of that kind.
    """
    try:
        return _READERS[kind](text)
    except DocumentError:
        raise
    except Exception as error:
        # Parsers raise what comes up in their depths: KeyError, AttributeError, RecursionError.
        raise DocumentError(f"{type(error).__name__}: {str(error)[:160]}") from error


def typed_by_schema(value: object, schema: object) -> object:
    """`value` with the strings of XML or CSV turned into what `schema` asks for at their place.

    What can't be turned stays as it is, for validation to reject. Where the schema has an array and
    XML one element or a wrapper around repeated ones, that becomes a list.
    """
    if not isinstance(schema, Mapping):
        return value
    declared = schema.get("type")
    types = declared if isinstance(declared, list) else [declared]
    if "object" in types and isinstance(value, dict):
        properties = schema.get("properties", {})
        return {name: typed_by_schema(part, properties.get(name)) for name, part in value.items()}
    if "array" in types and not (value is None and "null" in types):
        items = schema.get("items")
        return [typed_by_schema(item, items) for item in _elements(value, items)]
    if value is None and "string" in types and "null" not in types:
        return ""
    if isinstance(value, str):
        return _typed(value, types)
    return value


def _elements(value: object, items: object) -> list[object]:
    """The items that XML wrote as a list, a lone element, or a wrapper around either."""
    if isinstance(value, dict) and len(value) == 1:
        ((name, inner),) = value.items()
        own = items.get("properties", {}) if isinstance(items, Mapping) else {}
        # Strict items with one property may stand alone; otherwise a lone name is a wrapper's.
        if set(own) != {name}:
            value = inner
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _typed(text: str, types: list[Any]) -> object:
    if text == "" and "null" in types and "string" not in types:
        return None
    if "integer" in types and _WHOLE.fullmatch(text):
        return int(text)
    if "number" in types:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
    if "boolean" in types and text.strip().lower() in _TRUTHS:
        return _TRUTHS[text.strip().lower()]
    return text


class _PlainLoader(YamlLoader):
    """YAML's safe types; a plain scalar that is very long is text, never a number."""

    def resolve(self, kind: type[yaml.Node], value: str | None, implicit: Any) -> Any:
        if kind is yaml.ScalarNode and value is not None and len(value) > _LONGEST_YAML_NUMBER:
            return "tag:yaml.org,2002:str"
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]


def _read_json(text: str) -> object:
    value: object = orjson.loads(text)
    return value


def _read_yaml(text: str) -> object:
    depth = 0
    # Events come one by one, so a text that nests without end is refused before it is all read.
    for event in yaml.parse(text, Loader=_PlainLoader):
        if isinstance(event, yaml.AliasEvent):
            raise DocumentError("YAML aliases are not read")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                raise DocumentError(f"nested deeper than {DEEPEST} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    value: object = yaml.load(text, Loader=_PlainLoader)
    return value


def _read_toml(text: str) -> object:
    if _DEEP_TOML_KEY.search(text):
        raise DocumentError(f"a key nested deeper than {DEEPEST} levels")
    return tomllib.loads(text)


def _read_csv(text: str) -> object:
    return list(csv.DictReader(io.StringIO(text, newline="")))


class _XmlReader:
    """Builds the value of an XML document from expat's events."""

    def __init__(self) -> None:
        self.root: dict[str, object] = {}
        self._open: list[tuple[dict[str, object], list[str]]] = [(self.root, [])]

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._open) > DEEPEST:
            raise DocumentError(f"nested deeper than {DEEPEST} levels")
        self._open.append(({f"@{key}": value for key, value in attributes.items()}, []))

    def characters(self, text: str) -> None:
        self._open[-1][1].append(text)

    def end(self, name: str) -> None:
        children, pieces = self._open.pop()
        text = "".join(pieces).strip()
        value: object = children or text or None
        if children and text:
            children["#text"] = text
        parent = self._open[-1][0]
        if name not in parent:
            parent[name] = value
            return
        present = parent[name]
        if isinstance(present, list):
            present.append(value)
        else:
            parent[name] = [present, value]


def _refuse_doctype(*declaration: object) -> None:
    raise DocumentError("a DOCTYPE, and with it entities, is not read")


def _read_xml(text: str) -> object:
    reader = _XmlReader()
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.characters
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.Parse(text.encode("utf-8"), True)
    return reader.root


_READERS: Mapping[DocumentKind, Callable[[str], object]] = {
    "json": _read_json,
    "yaml": _read_yaml,
    "xml": _read_xml,
    "toml": _read_toml,
    "csv": _read_csv,
}
