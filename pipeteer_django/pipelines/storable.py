"""Whether values of a type can be kept as JSON at all, as far as the type tells."""

from __future__ import annotations

from typing import Any

from pydantic.errors import PydanticUserError

from pipeteer_django.pipelines.valuetype import ValueType

_WRAPPERS = ("definitions", "nullable", "default", "function-before", "function-after", "function-wrap")
_REASONS = {
    "callable": "functions have no JSON",
    "is-instance": "JSON makes no instances of that class",
    "is-subclass": "JSON makes no classes",
    "generator": "an iterator can be read only once",
}


def unstorable(value_type: ValueType) -> str:
    """Why no value of this type comes back from JSON, or "". A part of the type may still be such: None may fill it."""
    if value_type.kind != "json":
        return ""
    try:
        schema: Any = value_type.adapter.core_schema
    except PydanticUserError as error:
        return str(error).partition("\n")[0]
    while schema["type"] in _WRAPPERS and "schema" in schema:
        schema = schema["schema"]
    return _REASONS.get(schema["type"], "")
