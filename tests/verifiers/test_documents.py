"""Documents are read as what they say, safely, whatever a model wrote."""

from __future__ import annotations

import datetime
import json
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, strategies as st

from gym_adapters.verifiers.documents import (
    DocumentError,
    DocumentKind,
    parse_document,
    typed_by_schema,
)

KINDS: tuple[DocumentKind, ...] = get_args(DocumentKind)
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON_VALUES)
def test_json_is_read_as_it_was_written(value: Any) -> None:
    assert parse_document(json.dumps(value), "json") == value
    assert parse_document(f" \n{json.dumps(value, indent=1)}\n", "json") == value


PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)


@given(
    st.dictionaries(PRINTABLE, PRINTABLE | st.integers() | st.booleans() | st.none(), max_size=4)
)
def test_yaml_is_read_as_it_was_written(value: dict[str, Any]) -> None:
    assert parse_document(yaml.safe_dump(value), "yaml") == value


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("a: 1\nb: [x, 2.5, null]\n", "yaml", {"a": 1, "b": ["x", 2.5, None]}),
        ("d: 2024-05-01", "yaml", {"d": datetime.date(2024, 5, 1)}),
        ('a = 1\n[b]\nc = "x"\n', "toml", {"a": 1, "b": {"c": "x"}}),
        ("a,b\n1,x\n2,\n", "csv", [{"a": "1", "b": "x"}, {"a": "2", "b": ""}]),
        ('a,b\n"1,5","x\ny"\n', "csv", [{"a": "1,5", "b": "x\ny"}]),
        ("<r><a>1</a><a>2</a><b/></r>", "xml", {"r": {"a": ["1", "2"], "b": None}}),
        ('<r k="v">t</r>', "xml", {"r": {"@k": "v", "#text": "t"}}),
        ("<?xml version='1.0'?>\n<r> a &lt; b </r>", "xml", {"r": "a < b"}),
        ("<r><a>1</a><a/><a>3</a></r>", "xml", {"r": {"a": ["1", None, "3"]}}),
        ("<r><![CDATA[<x>]]></r>", "xml", {"r": "<x>"}),
    ],
)
def test_documents_are_read(text: str, kind: DocumentKind, value: object) -> None:
    assert parse_document(text, kind) == value


@pytest.mark.parametrize(
    ("text", "kind", "why"),
    [
        ('{"a": 1', "json", "JSONDecodeError"),
        ('```json\n{"a": 1}\n```', "json", "JSONDecodeError"),
        ("NaN", "json", "JSONDecodeError"),
        ("a: &x [1]\nb: *x", "yaml", "aliases"),
        ("a: 1\n---\nb: 2", "yaml", "single document"),
        ("!!python/object/apply:os.system ['true']", "yaml", "could not determine a constructor"),
        ("!!int ''", "yaml", "IndexError"),
        ("2024-99-01", "yaml", "month"),
        ("[" * 100, "yaml", "nested deeper"),
        ("a = ", "toml", "Invalid value"),
        ("a." * 100 + "b = 1", "toml", "nested deeper"),
        ("a = " + "[" * 5000, "toml", "RecursionError"),
        ("<a><b></a>", "xml", "mismatched tag"),
        ("<a>" * 100 + "</a>" * 100, "xml", "nested deeper"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "xml", "DOCTYPE"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "xml", "DOCTYPE"),
        ("<a>&b;</a>", "xml", "undefined entity"),
        ("", "xml", "no element found"),
        ("<a>\ud800</a>", "xml", "UnicodeEncodeError"),
    ],
)
def test_what_is_no_document_is_refused_and_why(text: str, kind: DocumentKind, why: str) -> None:
    with pytest.raises(DocumentError, match=why) as caught:
        parse_document(text, kind)
    assert len(str(caught.value)) <= 200


@given(
    st.text(alphabet="[]{}<>/!&*?:-=.,\"'#|\n a1\\x", max_size=120) | st.text(max_size=60),
    st.sampled_from(KINDS),
)
def test_no_text_raises_anything_but_a_document_error(text: str, kind: DocumentKind) -> None:
    try:
        parse_document(text, kind)
    except DocumentError:
        return


PERSON = {
    "type": "object",
    "properties": {
        "age": {"type": "integer"},
        "score": {"type": ["number", "null"]},
        "member": {"type": "boolean"},
        "name": {"type": "string"},
    },
}

NAMED = {"type": "object", "properties": {"name": {"type": "string"}}}


@pytest.mark.parametrize(
    ("value", "schema", "expected"),
    [
        ("5", {"type": "integer"}, 5),
        ("5.0", {"type": "integer"}, "5.0"),
        ("5.5", {"type": "number"}, 5.5),
        ("inf", {"type": "number"}, "inf"),
        ("nan", {"type": "number"}, "nan"),
        ("TRUE", {"type": "boolean"}, True),
        ("0", {"type": "boolean"}, False),
        ("yes", {"type": "boolean"}, "yes"),
        ("5", {"type": "string"}, "5"),
        ("5", {"type": ["string", "integer"]}, 5),
        ("x", {"type": ["string", "integer"]}, "x"),
        ("", {"type": ["integer", "null"]}, None),
        (None, {"type": "string"}, ""),
        (None, {"type": ["string", "null"]}, None),
        (None, {"type": "integer"}, None),
        (None, {"type": "array"}, []),
        (None, {"type": ["array", "null"]}, None),
        ("a", {"type": "array", "items": {"type": "string"}}, ["a"]),
        ({"item": ["1", "2"]}, {"type": "array", "items": {"type": "integer"}}, [1, 2]),
        ({"item": "1"}, {"type": "array", "items": {"type": "integer"}}, [1]),
        ({"name": "a"}, {"type": "array", "items": NAMED}, [{"name": "a"}]),
        ({"person": {"name": "a"}}, {"type": "array", "items": PERSON}, [{"name": "a"}]),
        (
            {"age": "3", "score": "", "member": "false", "other": "1"},
            PERSON,
            {"age": 3, "score": None, "member": False, "other": "1"},
        ),
        ("9" * 400, {"type": "integer"}, "9" * 400),
    ],
)
def test_strings_become_what_the_schema_asks_for(value: Any, schema: Any, expected: object) -> None:
    assert typed_by_schema(value, schema) == expected
