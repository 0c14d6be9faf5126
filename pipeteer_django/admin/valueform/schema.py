"""From a type to the parts of its form, by the JSON schema that pydantic gives for what is stored."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from django import forms
from django.utils.translation import gettext as _
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema, to_jsonable_python

from pipeteer_django.admin.valueform.groups import UNKNOWN, Group, Mapping, Member, Rows, Tuple
from pipeteer_django.admin.valueform.leaves import (
    boolean_leaf,
    choice_leaf,
    date_leaf,
    decimal_leaf,
    duration_leaf,
    given_leaf,
    integer_leaf,
    line_leaf,
    model_leaf,
    number_leaf,
    text_leaf,
    uuid_leaf,
)
from pipeteer_django.admin.valueform.moments import Moment
from pipeteer_django.admin.valueform.parts import OMITTED, Nothing, Part, Perhaps
from pipeteer_django.pipelines.valuetype import ValueType

MAX_LEVELS = 6
"""Groups within each other; what is deeper is edited as JSON."""
MAX_PARTS = 400
"""Parts of one form; what is more is edited as JSON."""

_SEGMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,60}")
_LABELS, _DECIMAL = "x-pipeteer-labels", "x-pipeteer-decimal"


class FormSchema(GenerateJsonSchema):
    """Pydantic's JSON schema, with what a form wants to know besides."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default", "skipped-discriminator"}

    def enum_schema(self, schema: core_schema.EnumSchema) -> JsonSchemaValue:
        """With labels."""
        return {**super().enum_schema(schema), _LABELS: [_enum_label(member) for member in schema["members"]]}

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        """Told from other texts."""
        return {"type": "string", "format": _DECIMAL}

    def get_title_from_name(self, name: str) -> str:
        """A label as Django makes it: "Unit price"."""
        return _label(name)

    def get_default_value(self, schema: core_schema.WithDefaultSchema) -> Any:
        """What a factory makes too, if that is always the same."""
        factory: Any = schema.get("default_factory")
        if factory is None or schema.get("default_factory_takes_data"):
            return super().get_default_value(schema)
        try:
            first, second = to_jsonable_python(factory()), to_jsonable_python(factory())
        except Exception:  # the user's code: its default is simply not shown
            return super().get_default_value(schema)
        return factory() if first == second else super().get_default_value(schema)

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
        """Anything, hence the JSON editor."""
        return {}


def _enum_label(member: Any) -> str:
    return str(getattr(member, "label", None) or member.name.replace("_", " ").capitalize())


def _label(name: str) -> str:
    text = name.replace("_", " ").strip()
    return text[:1].upper() + text[1:]


@dataclass(frozen=True)
class ValueForm:
    """The parts of a type's form, and the scripts and styles of their widgets."""

    root: Part
    media: forms.Media


def form_of(value_type: ValueType, admin_site: Any = None) -> ValueForm:
    """The form of a type, with the admin's widgets if a site is given. What has no inputs is edited as JSON."""
    builder = _Builder(value_type, admin_site)
    root = builder.root()
    return ValueForm(root, builder.media)


class _Builder:
    def __init__(self, value_type: ValueType, admin_site: Any) -> None:
        self.value_type, self.admin_site = value_type, admin_site
        self.admin = admin_site is not None
        self.media = forms.Media()
        self.definitions: dict[str, Any] = {}
        self.count = 0

    def root(self) -> Part:
        """The part of the whole value."""
        value_type, leaf = self.value_type, None
        if value_type.kind == "none":
            return Nothing()
        if value_type.kind == "model":
            leaf = model_leaf(value_type.model, self.admin_site)
        elif value_type.given_field is not None:
            leaf = given_leaf(value_type.given_field)
        if leaf is None:
            return self._by_schema()
        self._register(leaf)
        return Perhaps(leaf) if value_type.optional else leaf

    def _by_schema(self) -> Part:
        try:
            schema = self.value_type.adapter.json_schema(
                by_alias=False, mode="serialization", schema_generator=FormSchema
            )
            self.definitions = schema.get("$defs", {})
            return self._part(schema, _Inside())
        except Exception:  # a type may bring a schema of its own, which may be anything
            return Part()

    def _register(self, part: Part) -> Part:
        self.media += part.media
        return part

    def _part(self, schema: Any, inside: _Inside) -> Part:
        self.count += 1
        if not isinstance(schema, dict) or self.count > MAX_PARTS or inside.level > MAX_LEVELS:
            return Part()
        if "$ref" in schema:
            name = schema["$ref"].removeprefix("#/$defs/")
            again = name in inside.names
            return Part() if again else self._part(self.definitions[name], inside.within(name))
        if "enum" in schema or "const" in schema:
            return self._choice(schema)
        if "anyOf" in schema:
            return self._any_of(schema["anyOf"], inside)
        if len(whole := schema.get("allOf", ())) == 1:
            return self._part(whole[0], inside)
        kind = schema.get("type")
        if kind == "object":
            return self._object(schema, inside.deeper())
        if kind == "array":
            return self._array(schema, inside.deeper())
        return self._register(self._simple(schema, inside))

    def _choice(self, schema: dict[str, Any], *, optional: bool = False) -> Part:
        plains = schema["enum"] if "enum" in schema else [schema["const"]]
        labels = schema.get(_LABELS, plains)
        options = [(plain, str(label)) for plain, label in zip(plains, labels, strict=True) if plain is not None]
        if any(not isinstance(plain, (str, int, float)) for plain, _label in options):
            return Part()
        optional = optional or None in plains
        return Perhaps(choice_leaf(options, optional=True)) if optional else choice_leaf(options)

    def _any_of(self, branches: list[Any], inside: _Inside) -> Part:
        """X or None; a union of unlike shapes is edited as JSON."""
        rest = [branch for branch in branches if branch != {"type": "null"}]
        if len(rest) != 1 or len(rest) == len(branches):
            return Part()
        branch = self._followed(rest[0])
        if branch.get("type") == "boolean":
            return Perhaps(choice_leaf([(True, _("Yes")), (False, _("No"))], optional=True))
        if "enum" in branch or "const" in branch:
            return self._choice(branch, optional=True)
        part = self._part(rest[0], inside)
        return part if part.in_json else Perhaps(part)

    def _followed(self, schema: dict[str, Any]) -> dict[str, Any]:
        found = self.definitions.get(schema.get("$ref", "").removeprefix("#/$defs/"), schema)
        return found if isinstance(found, dict) else {}

    def _object(self, schema: dict[str, Any], inside: _Inside) -> Part:
        if "properties" in schema:
            required = schema.get("required", ())
            shown = {key: value for key, value in schema["properties"].items() if not value.get("readOnly")}
            return Group(
                [
                    self._member(number, key, value, inside, required=key in required)
                    for number, (key, value) in enumerate(shown.items())
                ]
            )
        values = [schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()]
        item = self._part(next((value for value in values if isinstance(value, dict)), None), inside)
        return Part() if item.in_json else Mapping(item)

    def _member(self, number: int, key: str, schema: dict[str, Any], inside: _Inside, *, required: bool) -> Member:
        part = self._part(schema, inside)
        default = schema.get("default", UNKNOWN)
        if not required and default is UNKNOWN:
            part = Perhaps(part, OMITTED)
        segment = key if _SEGMENT.fullmatch(key) else str(number)
        label = schema.get("title") or _label(key)
        return Member(key, segment, part, str(label), str(schema.get("description", "")), default)

    def _array(self, schema: dict[str, Any], inside: _Inside) -> Part:
        if "prefixItems" in schema:
            return Part() if "items" in schema else self._tuple(schema["prefixItems"], inside)
        item = self._part(schema.get("items"), inside)
        return Part() if item.in_json else Rows(item)

    def _tuple(self, items: list[dict[str, Any]], inside: _Inside) -> Part:
        return Tuple(
            [
                Member(
                    number,
                    str(number),
                    self._part(item, inside),
                    str(item.get("title") or f"[{number}]"),
                    default=item.get("default", UNKNOWN),
                )
                for number, item in enumerate(items)
            ]
        )

    def _simple(self, schema: dict[str, Any], inside: _Inside) -> Part:
        kind, text_format = schema.get("type"), schema.get("format")
        if kind == "string":
            return self._text(text_format, inside)
        if kind == "integer":
            return integer_leaf(admin=self.admin)
        if kind == "number":
            return number_leaf()
        if kind == "boolean":
            return boolean_leaf()
        return Nothing() if kind == "null" else Part()

    def _text(self, text_format: str | None, inside: _Inside) -> Part:
        if text_format == "date-time":
            return Moment(admin=self.admin, column=self.value_type.kind == "native")
        if text_format == "date":
            return date_leaf(admin=self.admin)
        if text_format == "uuid":
            return uuid_leaf()
        if text_format == "duration":
            return duration_leaf()
        if text_format == _DECIMAL:
            return decimal_leaf()
        if text_format == "time":
            return line_leaf(placeholder="hh:mm:ss")
        return text_leaf(admin=self.admin, root=inside.level == 0)


@dataclass(frozen=True)
class _Inside:
    """The groups that a part stands in."""

    names: frozenset[str] = frozenset()
    level: int = 0

    def within(self, name: str) -> _Inside:
        return _Inside(self.names | {name}, self.level)

    def deeper(self) -> _Inside:
        return _Inside(self.names, self.level + 1)
