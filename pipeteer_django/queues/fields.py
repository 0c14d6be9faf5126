"""The model fields of values and keys: what a ValueType is as a column.

Values are validated in `get_db_prep_save`, the one place that `save`, `create`, `bulk_create`, `update` and fixtures
all pass. Migrations see plain Django fields, KeyField excepted.
"""

from __future__ import annotations

import copy
import unicodedata
from datetime import date, datetime, timedelta
from enum import Enum
from functools import partialmethod
from typing import Any, Literal, cast
from uuid import UUID

from django import forms
from django.core.checks import CheckMessage
from django.core.exceptions import ValidationError
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.fields.json import KeyTransform
from pydantic_core import to_jsonable_python

from pipeteer_django.exceptions import DefinitionError, InvalidValue
from pipeteer_django.pipelines.values import PortableEncoder, faithful, shown
from pipeteer_django.pipelines.valuetype import MAX_OPTION, ValueType
from pipeteer_django.queues.database import binary_collation
from pipeteer_django.queues.relations import ABOUT_REVERSE_NAMES, GuardedReverse, way_out

Role = Literal["input", "output"]

_COLUMNS: dict[type, type[models.Field[Any, Any]]] = {
    int: models.BigIntegerField,
    str: models.TextField,
    bool: models.BooleanField,
    float: models.FloatField,
    date: models.DateField,
    datetime: models.DateTimeField,
    timedelta: models.DurationField,
    UUID: models.UUIDField,
}
_NOT_IN_MIGRATIONS = ("choices", "encoder", "validators", "help_text")


def field_for(value_type: ValueType, *, pipeline_id: str, role: Role) -> models.Field[Any, Any]:
    """The model field of a pipeline's input or output. Raises DefinitionError for a given field that cannot hold it."""
    if value_type.given_field is not None:
        return _given(value_type)
    options: dict[str, Any] = {"value_type": value_type}
    if value_type.nullable:
        options |= {"null": True, "blank": True}
    if value_type.kind == "none":
        return _typed(TypedJSON, models.JSONField)(editable=False, **options)
    if value_type.kind == "json":
        return _typed(TypedJSON, models.JSONField)(**options)
    if value_type.kind == "model":
        return _foreign_key(pipeline_id, role, options)
    return _native(value_type, options)


def _foreign_key(pipeline_id: str, role: Role, options: dict[str, Any]) -> models.Field[Any, Any]:
    """Pending work is not deleted by accident; a result goes with what it is about."""
    on_delete = models.PROTECT if role == "input" else models.CASCADE
    related_name = f"{pipeline_id}_{role}s"
    model = options["value_type"].model
    if model._meta.abstract:
        raise DefinitionError(
            f"pipeline {pipeline_id!r}: {model.__name__} is abstract, so it has no rows; annotate with one of its "
            "subclasses."
        )
    return _typed(TypedKey, models.ForeignKey)(model, on_delete=on_delete, related_name=related_name, **options)


def _native(value_type: ValueType, options: dict[str, Any]) -> models.Field[Any, Any]:
    native = cast(type, value_type.native)
    if not value_type.options:
        return _typed(TypedText if native is str else Typed, _COLUMNS[native])(**options)
    if native is str:
        return _typed(_mixin(value_type), models.CharField)(max_length=MAX_OPTION, **options)
    return _typed(_mixin(value_type), _COLUMNS[native])(**options)


def _given(value_type: ValueType) -> models.Field[Any, Any]:
    given = value_type.given_field
    _refuse_unfit(value_type)
    args, kwargs = _options(given)
    return _typed(_mixin(value_type), type(given))(*args, value_type=value_type, **kwargs)


def _options(given: models.Field[Any, Any]) -> tuple[Any, Any]:
    """What it was made with. A ForeignKey is asked not to look through all models to see if its own is swapped."""
    if not isinstance(given, models.ForeignKey):
        return given.deconstruct()[2:]
    unswapped: Any = copy.copy(given)
    unswapped.swappable = False
    _, _, args, kwargs = unswapped.deconstruct()
    return args, kwargs | {"swappable": given.swappable}  # type: ignore[attr-defined]


def _refuse_unfit(value_type: ValueType) -> None:
    given, name = value_type.given_field, type(value_type.given_field).__name__
    if value_type.nullable and not given.null:
        raise DefinitionError(f"{value_type}: the type allows None but the {name} does not; give the field null=True.")
    target = getattr(given.remote_field, "field_name", None)
    if target and target != value_type.model._meta.pk.name:
        raise DefinitionError(f"{value_type}: the {name} must point to the primary key; leave to_field out.")


def _mixin(value_type: ValueType) -> type[Typed]:
    given = value_type.given_field
    if isinstance(given, models.JSONField):
        return TypedJSON
    if isinstance(given, models.ForeignKey) and not isinstance(given, models.OneToOneField):
        return TypedKey
    is_enum = isinstance(value_type.base, type) and issubclass(value_type.base, Enum)
    return TypedEnum if is_enum else Typed


def _typed(mixin: type[Typed], column: type[models.Field[Any, Any]]) -> type[Typed]:
    """`column` with `mixin` before it. It bears the column's name, so that deconstruct() names Django's field."""
    names = {"__module__": column.__module__, "__qualname__": column.__qualname__}
    return cast("type[Typed]", type(column.__name__, (mixin, column), names))


class Typed(models.Field):  # type: ignore[type-arg]
    """Mixin for the field of a value: validates what is saved, and is Django's own field in migrations."""

    empty_strings_allowed = False  # a value left out is None, hence an error, and not ""
    empty_values = [None]

    def __init__(self, *args: Any, value_type: ValueType, **kwargs: Any) -> None:
        self.value_type = value_type
        if value_type.given_field is None and value_type.options and value_type.native is not bool:
            kwargs["choices"] = value_type.options
        super().__init__(*args, **kwargs)

    def deconstruct(self) -> tuple[str, str, Any, Any]:
        """Without what may change with the annotation: a new member of an Enum is no migration."""
        name, path, args, kwargs = super().deconstruct()
        if self.value_type.given_field is None:
            kwargs = {key: value for key, value in kwargs.items() if key not in _NOT_IN_MIGRATIONS}
        return name, path, args, kwargs

    def clone(self) -> Typed:
        """A copy not bound to a model. Django's own goes through deconstruct(), which leaves the type out."""
        _, _, args, kwargs = self.deconstruct()
        return type(self)(*args, value_type=self.value_type, **kwargs)

    def get_db_prep_save(self, value: Any, connection: BaseDatabaseWrapper) -> Any:
        """Validate what is about to be written; raises InvalidValue. Expressions are the database's business."""
        if hasattr(value, "as_sql") or hasattr(value, "resolve_expression"):
            return super().get_db_prep_save(value, connection)
        stored = self.value_type.to_stored(value)
        if self.value_type.given_field is not None:
            self._validate_as_given(stored)
        return super().get_db_prep_save(stored, connection)

    def _validate_as_given(self, stored: Any) -> None:
        # Digits and lengths: PostgreSQL refuses what does not fit, SQLite stores it and MariaDB rounds it.
        try:
            self.run_validators(stored)
        except ValidationError as error:
            raise InvalidValue(f"value: {' '.join(error.messages)} (got {shown(stored)})") from error

    def clean(self, value: Any, model_instance: models.Model | None) -> Any:
        """For forms: the typed value, or ValidationError with the path inside it."""
        cleaned = super().clean(value, model_instance)
        try:
            checked = self.value_type.check(cleaned)
        except InvalidValue as error:
            raise _form_error(error) from error
        return cleaned if self.value_type.kind == "model" else checked


def _form_error(error: InvalidValue) -> ValidationError:
    # Not with the code "invalid": for that a form shows its own message, which knows no path.
    return ValidationError(str(error), code="invalid_value")


class TypedKey(Typed):
    """Mixin for a ForeignKey, whose reverse name (`order.ship_inputs`) the pipeline's id has made."""

    related_accessor_class = GuardedReverse

    def check(self, **kwargs: Any) -> list[CheckMessage]:
        """Django's checks; where the reverse name is the problem, the hint says what to do about a pipeline."""
        found: list[CheckMessage] = super().check(**kwargs)
        for problem in found:
            if self.value_type.given_field is None and problem.id in ABOUT_REVERSE_NAMES:
                problem.hint = way_out(self.remote_field)
        return found


class TypedText(Typed):
    """Mixin for a TextField whose form leaves blanks at the ends alone and knows None from the empty string."""

    def formfield(self, *args: Any, **kwargs: Any) -> Any:
        """A form field that changes nothing of the text."""
        return super().formfield(*args, **{"strip": False, "empty_value": None if self.null else "", **kwargs})


class Decoded(Typed):
    """Mixin for a field whose attribute is another object than what is stored."""

    def plain(self, value: Any) -> Any:
        """What is stored for `value`; itself where it does not fit the type (any more)."""
        try:
            return self.value_type.to_stored(value)
        except InvalidValue:
            return value

    def validate(self, value: Any, model_instance: models.Model | None) -> None:
        """Django's own rules (choices, null) are about what is stored."""
        super().validate(self.plain(value), model_instance)

    def run_validators(self, value: Any) -> None:
        """So are its validators (length)."""
        super().run_validators(self.plain(value))

    def value_from_object(self, obj: models.Model) -> Any:
        """What forms show and serializers dump."""
        return self.plain(super().value_from_object(obj))


class TypedEnum(Decoded):
    """Mixin for the column of an Enum: stores a member's value, gives the member, keeps what is no member's value."""

    def _member(self, value: Any, *_: Any) -> Any:
        try:
            return None if value is None else self.value_type.base(value)
        except ValueError:
            return value

    def get_db_converters(self, connection: BaseDatabaseWrapper) -> list[Any]:
        """The column's own, then the member."""
        return [*super().get_db_converters(connection), self._member]

    def to_python(self, value: Any) -> Any:
        """The member of a form's or fixture's value."""
        return self._member(super().to_python(_raw(value)))

    def get_prep_value(self, value: Any) -> Any:
        """Members are welcome in lookups."""
        return _raw(super().get_prep_value(_raw(value)))  # a CharField's calls to_python

    def contribute_to_class(self, cls: type[models.Model], name: str, private_only: bool = False) -> None:
        """Django's get_..._display looks the attribute up among the choices, where a plain Enum's member is not."""
        super().contribute_to_class(cls, name, private_only)
        setattr(cls, f"get_{name}_display", partialmethod(_display, field=self))


def _raw(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _display(instance: models.Model, field: TypedEnum) -> str:
    plain = field.value_from_object(instance)
    return str(dict(field.flatchoices).get(plain, plain))


class JSONFormField(forms.JSONField):
    """A JSON form field to which `[]` and `{}` are values, not "nothing entered"."""

    empty_values = [None, ""]


class TypedJSON(Decoded):
    """Mixin for a JSONField that gives typed values: dataclasses, pydantic models, dates within lists."""

    def __init__(self, *args: Any, value_type: ValueType, **kwargs: Any) -> None:
        kwargs.setdefault("encoder", PortableEncoder)
        super().__init__(*args, value_type=value_type, **kwargs)

    def from_db_value(self, value: Any, expression: Any, connection: BaseDatabaseWrapper) -> Any:
        """The typed value, or the raw JSON if that no longer fits the type.

        It never raises: a worker reads many rows at once, and one bad value must not keep it from the others.
        """
        whole = isinstance(value, str) and not isinstance(expression, KeyTransform)
        try:
            return self.value_type.from_text(value) if whole else self._untyped(value, expression, connection)
        except InvalidValue:
            return self._untyped(value, expression, connection)

    def _untyped(self, value: Any, expression: Any, connection: BaseDatabaseWrapper) -> Any:
        try:
            return super().from_db_value(value, expression, connection)  # type: ignore[misc]
        except (ValueError, RecursionError):  # deeper or longer than Python reads, so nothing that we wrote
            return value

    def get_prep_value(self, value: Any) -> Any:
        """Dataclasses and the like are welcome in lookups, also within lists; their text is that of what is stored."""
        prepared = super().get_prep_value(value)
        if hasattr(prepared, "resolve_expression"):
            return prepared
        return faithful(to_jsonable_python(prepared, by_alias=False), prepared)

    def formfield(self, *args: Any, **kwargs: Any) -> Any:
        """A form field for the JSON text."""
        return super().formfield(*args, **{"form_class": JSONFormField, **kwargs})


class PortableJSON(models.JSONField):
    """JSON that the engine records: a float comes back as a float. In migrations it is Django's own field."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("encoder", PortableEncoder)
        super().__init__(*args, **kwargs)

    def deconstruct(self) -> tuple[str, str, Any, Any]:
        """As Django's, so that there is nothing to migrate."""
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.JSONField", args, {key: kwargs[key] for key in kwargs if key != "encoder"}


class KeyField(models.CharField):  # type: ignore[type-arg]
    """A name that people give to an entry, an output or a message: 1 to 200 characters, no control characters.

    Keys differ as soon as one character differs, and those with one beginning stand side by side in an index. MariaDB's
    usual collations take `a` for `A`, and even its binary ones ignore blanks at the end; PostgreSQL sorts by the
    database's locale. So there the column gets a collation of its own.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("max_length", 200)
        super().__init__(*args, **kwargs)

    def db_parameters(self, connection: BaseDatabaseWrapper) -> dict[str, Any]:
        """With the collation that the database needs."""
        parameters: dict[str, Any] = {**super().db_parameters(connection)}
        if collation := binary_collation(connection):
            parameters["collation"] = collation
        return parameters

    def get_db_prep_save(self, value: Any, connection: BaseDatabaseWrapper) -> Any:
        """Validate what is about to be written; raises InvalidValue. Expressions are the database's business."""
        if not (hasattr(value, "as_sql") or hasattr(value, "resolve_expression") or (value is None and self.null)):
            self._check(self.to_python(value))
        return super().get_db_prep_save(value, connection)

    def clean(self, value: Any, model_instance: models.Model | None) -> Any:
        """For forms: the same rules as ValidationError."""
        cleaned = super().clean(value, model_instance)
        try:
            if cleaned not in self.empty_values:
                self._check(cleaned)
        except InvalidValue as error:
            raise _form_error(error) from error
        return cleaned

    def _check(self, key: Any) -> None:
        limit = self.max_length or 200
        if not isinstance(key, str) or not 1 <= len(key) <= limit:
            length = f", this one has {len(key):,}" if isinstance(key, str) else ""
            raise InvalidValue(f"{self.name}: {shown(key)} must have 1 to {limit} characters{length}.")
        if key.isprintable():
            return
        for position, character in enumerate(key):
            if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
                raise InvalidValue(
                    f"{self.name}: {shown(key)} holds the unprintable character U+{ord(character):04X} at {position}; "
                    "leave control characters and line breaks out."
                )

    def formfield(self, *args: Any, **kwargs: Any) -> Any:
        """A form field that leaves blanks at the ends alone: they are part of the key."""
        return super().formfield(*args, **{"strip": False, **kwargs})
