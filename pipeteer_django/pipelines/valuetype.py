"""Annotations as types of values: how a value is checked, stored, written as JSON, and read back.

No ORM here: a Django model or field in an annotation is recognised by what it has.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from functools import cached_property
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from uuid import UUID

from django.conf import settings as django_settings
from django.core.exceptions import ValidationError as DjangoValidationError
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import to_jsonable_python

from pipeteer_django.conf import settings
from pipeteer_django.exceptions import DefinitionError, InvalidValue
from pipeteer_django.pipelines.references import ModelReference
from pipeteer_django.pipelines.values import check_portable, explain, faithful, shown, to_text

Kind = Literal["native", "model", "json", "none"]

NATIVE = (int, str, bool, float, date, datetime, timedelta, UUID)
"""The types that have a column type of their own."""
MAX_OPTION = 100
"""Characters of an Enum's or Literal's longest string; longer ones are kept as JSON."""

_SHORTEST, _LONGEST = timedelta(microseconds=-(2**63)), timedelta(microseconds=2**63 - 1)


# Annotations


def _is_model(annotation: object) -> bool:
    return isinstance(annotation, type) and hasattr(annotation, "_meta") and hasattr(annotation, "_default_manager")


@dataclass(slots=True)
class _Parts:
    """An annotation taken apart."""

    base: Any
    nullable: bool = False
    given_field: Any = None

    @classmethod
    def of(cls, annotation: Any) -> _Parts:
        parts = cls(annotation)
        while parts._peel():
            pass
        return parts

    def _peel(self) -> bool:
        """Take off one layer of Annotated, Optional, `type` alias or NewType; False at the core."""
        origin, args = get_origin(self.base), get_args(self.base)
        if origin is Annotated:
            given = (item for item in args[1:] if hasattr(item, "contribute_to_class"))
            self.given_field = self.given_field or next(given, None)
            self.base = args[0]
        elif origin in (Union, UnionType, Literal) and (NoneType in args or None in args):
            self.nullable = True
            self.base = _without_none(origin, args)
        elif hasattr(self.base, "__value__"):
            self.base = self.base.__value__
        elif hasattr(self.base, "__supertype__"):
            self.base = self.base.__supertype__
        else:
            return False
        return True


def _without_none(origin: Any, args: tuple[Any, ...]) -> Any:
    rest = tuple(arg for arg in args if arg not in (None, NoneType))
    return (Literal if origin is Literal else Union)[rest] if rest else NoneType


def _options(base: Any) -> tuple[tuple[Any, Any], ...]:
    """What an Enum or Literal allows, as (stored value, label) pairs; empty where it needs JSON or is neither."""
    if get_origin(base) is Literal:
        pairs = tuple((value, str(value)) for value in get_args(base))
    elif isinstance(base, type) and issubclass(base, Enum):
        pairs = tuple((member.value, _label(member)) for member in base)
    else:
        return ()
    types = {type(value) for value, _ in pairs}
    return pairs if len(types) == 1 and types <= {int, str, bool} and all(_fits_column(p[0]) for p in pairs) else ()


def _label(member: Enum) -> Any:
    return getattr(member, "label", None) or member.name.replace("_", " ").capitalize()


def _fits_column(value: str | int) -> bool:
    return len(value) <= MAX_OPTION if isinstance(value, str) else _is_64_bit(value)


def _kind(parts: _Parts, native: type | None) -> Kind:
    if parts.base is NoneType:
        return "none"
    if _is_model(parts.base):
        return "model"
    if parts.given_field is not None:
        return "json" if parts.given_field.get_internal_type() == "JSONField" else "native"
    return "native" if native else "json"


def _adapter(annotation: Any, *, any_class: bool) -> TypeAdapter[Any]:
    if any_class:
        try:
            return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
        except PydanticUserError:  # pydantic models and dataclasses have a config of their own
            pass
    adapter = TypeAdapter(annotation)
    if not adapter.pydantic_complete:
        adapter.rebuild(raise_errors=True)  # names the name that is missing
    return adapter


# Value types


@dataclass(frozen=True, eq=False, repr=False)
class ValueType:
    """The type of a pipeline's input or output: checks values, and turns them into what is stored and back.

    Make one with `ValueType.of`. Its methods raise InvalidValue with the path inside the value and what was expected
    there.
    """

    annotation: Any
    kind: Kind
    base: Any
    """The annotation without Optional, Annotated and aliases."""
    optional: bool
    """Whether the annotation itself names None."""
    native: type | None = None
    """The type of its own column, for an Enum that of its values; None where there is none."""
    options: tuple[tuple[Any, Any], ...] = ()
    """An Enum's or Literal's stored values and labels."""
    given_field: Any = None
    """The Django field found in `Annotated[...]`."""

    @classmethod
    def of(cls, annotation: Any) -> ValueType:
        """Read an annotation. Raises DefinitionError where pydantic knows no way to validate it."""
        parts = _Parts.of(NoneType if annotation is None else annotation)
        options = _options(parts.base)
        native = type(options[0][0]) if options else parts.base if parts.base in NATIVE else None
        kind = _kind(parts, native)
        value_type = cls(annotation, kind, parts.base, parts.nullable, native, options, parts.given_field)
        if kind == "json" or parts.given_field is not None:
            value_type._prove()
        return value_type

    def __repr__(self) -> str:
        return f"<{self.kind} {inspect.formatannotation(self.annotation)}>"

    def _prove(self) -> None:
        try:
            _ = self.kind == "model" or self.nullable
        except Exception as error:
            name, reason = inspect.formatannotation(self.annotation), str(error).partition("\n")[0].partition(". ")[0]
            hint = "Use a dataclass, a pydantic model, or for a row its primary key (only a whole value can be a row)."
            if getattr(error, "code", None) == "typed-dict-version":
                hint = ""  # pydantic's reason is the remedy
            raise DefinitionError(f"{name} cannot be validated: {reason.rstrip('.')}. {hint}".strip()) from error

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """The pydantic adapter of the whole annotation."""
        return _adapter(self.annotation, any_class=self.given_field is not None)

    @cached_property
    def nullable(self) -> bool:
        """Whether None is one of its values. Of `Any` or a custom type only pydantic can tell."""
        if self.kind == "none" or self.optional or self.kind == "model":
            return self.kind == "none" or self.optional
        if self.annotation in NATIVE:
            return False  # known without an adapter, whose making costs each start of Django some milliseconds
        adapter = self.adapter
        try:
            return adapter.validate_python(None) is None
        except PydanticUserError:
            raise
        except Exception:
            return False

    @property
    def model(self) -> Any:
        """The Django model, where `kind` is model, else None."""
        return self.base if self.kind == "model" else None

    # The four directions

    def check(self, value: Any) -> Any:
        """The value as the annotated type, converted where that is safe: "1" to an int, a dict to a dataclass.

        JSON comes back as a copy that went through JSON: who gets the value now has what a reader will have later.
        A row may be a saved instance, a ModelReference, or a primary key, which becomes a ModelReference.
        """
        if self.kind == "model":
            return self._check_row(value)
        if self.kind == "json":
            return self._read(self._write(value))
        checked = value if self._is_plain(value) else self._validate(value)
        _check_native(_raw(checked))
        return checked + 0.0 if type(checked) is float else checked  # MariaDB and jsonb know no -0.0

    def to_stored(self, value: Any) -> Any:
        """Check `value` and give it the form its column takes: an Enum's value, a row's pk, plain JSON objects.

        What has that form already stays as it is.
        """
        if self.kind == "json":
            return json.loads(self._write(value))
        checked = self.check(value)
        return getattr(checked, "pk", None) if self.kind == "model" else _raw(checked)

    def from_stored(self, stored: Any) -> Any:
        """The typed value of what a column holds, whether or not the ORM decoded it; a row becomes a ModelReference."""
        if self.kind == "model":
            return self._reference(stored)
        if self.kind != "json":
            return self.check(stored)
        try:
            text = to_text(stored)
        except (TypeError, ValueError):  # decoded by the ORM: dates, dataclasses and the like are no JSON
            return self.check(stored)
        return self._read(text)

    def to_json(self, value: Any) -> Any:
        """Check `value` and write it as plain JSON objects: dates as ISO text, a row as its pk."""
        if self.kind == "json":
            return self.to_stored(value)
        if self._is_plain(value):
            return self.check(value)
        plain = to_jsonable_python(self.to_stored(value)) if self.kind == "model" else self._dump(self.check(value))
        check_portable(plain, max_bytes=settings().MAX_VALUE_BYTES)
        return plain

    def from_json(self, plain: Any) -> Any:
        """The typed value of what `to_json` wrote; a row becomes a ModelReference."""
        if self.kind == "model":
            return self._reference(plain)
        if self._is_plain(plain):
            return plain
        try:
            text = to_text(plain)
        except (TypeError, ValueError) as error:
            raise InvalidValue(f"value: is no JSON ({error}); pass what to_json returned.") from error
        return self._read(text)

    def from_text(self, text: str | bytes) -> Any:
        """The typed value of a JSON text, as a JSON column holds it."""
        return self._read(text)

    def _is_plain(self, value: Any) -> bool:
        """Whether the value needs no conversion in any direction, so that pydantic need not be asked."""
        return type(value) is self.annotation and self.annotation in (int, bool)

    # Pydantic

    def _validate(self, value: Any) -> Any:
        if isinstance(value, memoryview):  # what PostgreSQL and fixtures give for bytes
            value = bytes(value)
        try:
            return self.adapter.validate_python(value, by_alias=True, by_name=True)
        except ValidationError as error:
            message = explain(error, value)
        except Exception as error:
            raise _unreadable(error) from error
        try:  # a strict model takes a date's ISO text, but only from JSON
            return self.adapter.validate_json(to_text(value), by_alias=True, by_name=True)
        except Exception:
            raise InvalidValue(message) from None

    def _read(self, text: str | bytes) -> Any:
        try:
            return self.adapter.validate_json(text, by_alias=True, by_name=True)
        except ValidationError as error:
            message = explain(error, _loaded(text))
        except Exception as error:
            raise _unreadable(error) from error
        raise InvalidValue(message)

    def _write(self, value: Any) -> str:
        """The JSON text of a checked value, proved to be readable again."""
        checked = self._validate(value)
        plain = faithful(self._dump(checked), checked)
        check_portable(plain, max_bytes=settings().MAX_VALUE_BYTES)
        text = to_text(plain)
        self._read(text)
        return text

    def _dump(self, value: Any) -> Any:
        # Field names, not aliases: an alias may be for one direction only. Without what a model computes.
        try:
            return self.adapter.dump_python(value, mode="json", by_alias=False, round_trip=True, warnings=False)
        except Exception as error:
            raise InvalidValue(f"value: cannot be written as JSON: {error}") from error

    # Rows

    def _check_row(self, value: Any) -> Any:
        if not isinstance(value, self.base._meta.concrete_model):
            return self._reference(value)
        if value.pk is None or value._state.adding:
            raise InvalidValue(f"value: this {self.base._meta.label} is not saved yet; save it first.")
        return value

    def _reference(self, value: Any) -> ModelReference | None:
        if value is None and self.nullable:
            return None
        meta = self.base._meta
        pk = value.pk if _is_row_of(meta.concrete_model, value) else value
        try:
            if pk is None or isinstance(pk, (bool, float, ModelReference)):
                raise TypeError
            return ModelReference(self.base, meta.pk.to_python(pk))
        except (DjangoValidationError, TypeError, ValueError, OverflowError):
            raise InvalidValue(
                f"value: expected a saved {meta.label}, a reference to one, or its primary key (got {shown(value)})"
            ) from None


def _is_row_of(model: Any, value: Any) -> bool:
    if isinstance(value, ModelReference):
        return issubclass(value.model, model)
    return isinstance(value, model)


def _raw(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _loaded(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _unreadable(error: Exception) -> InvalidValue:
    """A validator of the user's raised what pydantic does not take for a ValidationError."""
    return InvalidValue(f"value: its type's validation raised {type(error).__name__}: {error}")


# What native columns can hold


def _check_native(value: Any) -> None:
    if isinstance(value, datetime):
        _check_datetime(value)
    elif isinstance(value, timedelta):
        if not _SHORTEST <= value <= _LONGEST:
            raise InvalidValue(f"value: {value} is longer than 292,471 years, more than a column holds.")
    elif isinstance(value, int):
        if not _is_64_bit(value):
            raise InvalidValue("value: the integer does not fit a column's 64 bits; annotate it as str or list[int].")
    elif isinstance(value, UUID):
        _check_uuid(value)
    elif isinstance(value, (str, float)):
        check_portable(value, max_bytes=settings().MAX_VALUE_BYTES)


def _is_64_bit(value: int) -> bool:
    return -(2**63) <= value < 2**63


def _check_datetime(value: datetime) -> None:
    aware = value.utcoffset() is not None
    if aware != django_settings.USE_TZ:
        has, use = ("a", "make_naive()") if aware else ("no", "now() or make_aware()")
        raise InvalidValue(
            f"value: {value} has {has} time zone while USE_TZ is {django_settings.USE_TZ}; "
            f"use {use} of django.utils.timezone."
        )
    try:
        _ = value.astimezone(UTC) if aware else value
    except OverflowError:
        raise InvalidValue(f"value: {value} lies outside the calendar once converted to UTC.") from None


def _check_uuid(value: UUID) -> None:
    # Measured on MariaDB 10.11, which keeps the halves of some versions swapped and refuses what it could confuse.
    # All that uuid1 to uuid7 make is accepted everywhere; a quarter of arbitrary 128 bits is not.
    if value.bytes[6] >= 0x80 and value.bytes[8] <= 0x80:
        raise InvalidValue(
            f"value: {value} is a UUID that MariaDB refuses; use uuid.uuid4() or uuid5(), or annotate it as str."
        )
