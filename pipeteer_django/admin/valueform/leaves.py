"""The parts of a typed form that have one input: Django's own form fields, and what they make of plain JSON."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

from django import forms
from django.contrib.admin import widgets as admin_widgets
from django.core.exceptions import ValidationError
from django.db import models
from django.utils.dateparse import parse_duration
from django.utils.duration import duration_string
from django.utils.translation import gettext as _
from pydantic_core import to_jsonable_python

from pipeteer_django.admin.valueform.drafts import MAX_LINE, Draft, Sent
from pipeteer_django.admin.valueform.parts import Misfit, Part, Place, draw, unstorable, visible

Load = Callable[[Any], Any]


class Leaf(Part):
    """A part with one form field. `from_json` gives the field's value, or raises; `to_json` is the way back."""

    in_json = False

    def __init__(self, field: forms.Field, from_json: Load, to_json: Load, *, takes_blank: bool = False) -> None:
        self.field = field
        self.from_json, self.to_json = from_json, to_json
        self.takes_blank = takes_blank
        self.empty_text = ""

    @property
    def media(self) -> forms.Media:
        """The scripts and styles that its widget asks for."""
        media: forms.Media = self.field.widget.media
        return media

    @property
    def is_box(self) -> bool:
        """Whether it is a box to tick, which stands before its label."""
        return isinstance(self.field.widget, forms.CheckboxInput)

    def blank(self) -> Draft:
        """Empty."""
        return Draft(text=False if self.is_box else self.empty_text)

    def load(self, plain: Any) -> Draft:
        """The text that the widget shows."""
        try:
            value = self.field.prepare_value(self.from_json(plain))
        except Misfit:
            raise
        except Exception:  # the field may be the user's
            raise Misfit(_("The stored value is none of its type.")) from None
        if self.is_box:
            return Draft(text=bool(value))
        if isinstance(self.field.widget, forms.Select):
            return Draft(text=str(value))
        return Draft(text=self.field.widget.format_value(value) or "")

    def take(self, sent: Sent, name: str) -> Draft:
        """What the widget finds."""
        text = self.field.widget.value_from_datadict(sent.data, sent.files, name)
        if isinstance(text, str):
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        return Draft(text="" if text is None else text)

    def dump(self, draft: Draft) -> Any:
        """What the form field makes of it, as plain JSON."""
        if problem := refuse(draft.text, long=self.takes_blank and isinstance(self.field, forms.CharField)):
            draft.errors = [problem]
            return None
        try:
            return self.to_json(self.field.clean(draft.text))
        except ValidationError as error:
            draft.errors = list(error.messages)
        except (TypeError, ValueError, OverflowError) as error:
            draft.errors = [str(error)]
        return None

    def draw(self, draft: Draft, place: Place) -> str:
        """The widget, labelled."""
        shown = visible(draft.text) if isinstance(draft.text, str) else draft.text
        attrs = place.described(draft)
        if isinstance(self.field.widget, forms.Textarea):
            least = 3 if place.root else 1
            attrs["rows"] = min(24, max(least, shown.count("\n") + 1)) if isinstance(shown, str) else least
        control = self.field.widget.render(place.name, shown, attrs, place.renderer)
        return draw("leaf", draft, place, control=control, is_box=self.is_box)


def refuse(text: Any, *, long: bool) -> str:
    """What is wrong with a submitted text, before anything looks into it; empty if nothing is."""
    if isinstance(text, str) and unstorable(text):
        return _("This holds a character that no database stores (NUL or a lone surrogate).")
    if isinstance(text, str) and not long and len(text) > MAX_LINE:
        return _("This is longer than the %s characters that fit here.") % f"{MAX_LINE:,}"
    return ""


# The kinds


def integer_leaf(*, admin: bool) -> Leaf:
    """`int`"""
    widget = admin_widgets.AdminIntegerFieldWidget() if admin else forms.NumberInput()
    return Leaf(forms.IntegerField(widget=widget), _integer, int)


def _integer(plain: Any) -> int:
    if isinstance(plain, float) and plain.is_integer():
        return int(plain)
    return int(_expect(plain, int))


def number_leaf() -> Leaf:
    """`float`"""
    return Leaf(forms.FloatField(widget=forms.NumberInput(attrs={"step": "any"})), _number, float)


def _number(plain: Any) -> str:
    return repr(float(_expect(plain, int, float)))


def _expect(plain: Any, *types: type) -> Any:
    if isinstance(plain, bool) or not isinstance(plain, types):
        raise TypeError
    return plain


def text_leaf(*, admin: bool, root: bool) -> Leaf:
    """`str`"""
    attrs = {"class": "vLargeTextField" if root else "vTextField"} if admin else {}
    field = forms.CharField(required=False, strip=False, widget=forms.Textarea(attrs={**attrs, "rows": 1}))
    return Leaf(field, _text, str, takes_blank=True)


def _text(plain: Any) -> str:
    text = str(_expect(plain, str))
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text if character not in "\n\t"):
        raise Misfit(_("This text holds control characters, so it is shown as JSON."))
    return text


def decimal_leaf() -> Leaf:
    """`Decimal`, kept as it is written."""
    widget = forms.TextInput(attrs={"inputmode": "decimal"})
    return Leaf(forms.CharField(widget=widget, validators=[_check_decimal]), _line, str)


def _check_decimal(text: str) -> None:
    try:
        Decimal(text)
    except InvalidOperation:
        raise ValidationError(_("Enter a number.")) from None


def line_leaf(**attrs: str) -> Leaf:
    """A `time` and whatever else is JSON text and never empty."""
    return Leaf(forms.CharField(widget=forms.TextInput(attrs=attrs)), _line, str)


def _line(plain: Any) -> str:
    text = _text(plain)
    if text != text.strip() or not text or "\n" in text or len(text) > MAX_LINE:
        raise Misfit(_("This text does not fit into a line, so it is shown as JSON."))
    return text


def boolean_leaf() -> Leaf:
    """`bool`"""
    return Leaf(forms.BooleanField(required=False), _boolean, bool, takes_blank=True)


def _boolean(plain: Any) -> bool:
    if not isinstance(plain, bool):
        raise TypeError
    return plain


def date_leaf(*, admin: bool) -> Leaf:
    """`date`"""
    widget = admin_widgets.AdminDateWidget() if admin else forms.DateInput()
    return Leaf(forms.DateField(widget=widget), date.fromisoformat, date.isoformat)


def uuid_leaf() -> Leaf:
    """`UUID`"""
    return Leaf(forms.UUIDField(widget=forms.TextInput(attrs={"class": "vUUIDField"})), _uuid, str)


def _uuid(plain: Any) -> UUID:
    return UUID(_expect(plain, str))


def duration_leaf() -> Leaf:
    """`timedelta`"""
    widget = forms.TextInput(attrs={"placeholder": _("days hours:minutes:seconds")})
    return Leaf(forms.DurationField(widget=widget), _duration, to_jsonable_python)


def _duration(plain: Any) -> str:
    found: timedelta | None = parse_duration(_expect(plain, str))
    if found is None:
        raise ValueError
    return duration_string(found)


def choice_leaf(options: Sequence[tuple[Any, str]], *, optional: bool = False) -> Leaf:
    """An Enum, a Literal, a bool that may be missing. `options` are plain values and labels."""
    empty = _("no value") if optional else "---------"
    plains = [plain for plain, _label in options]
    keys = _option_keys(plains)
    choices = [("", empty), *((key, label) for key, (_plain, label) in zip(keys, options, strict=True))]
    by_key = dict(zip(keys, plains, strict=True))

    def key_of(plain: Any) -> str:
        for key, option in zip(keys, plains, strict=True):
            if type(option) is type(plain) and option == plain:
                return key
        raise ValueError

    alone = len(keys) == 1 and not optional
    leaf = Leaf(forms.ChoiceField(choices=choices), key_of, by_key.__getitem__, takes_blank=alone)
    leaf.names_empty = optional
    leaf.empty_text = keys[0] if alone else ""
    return leaf


def _option_keys(plains: Sequence[Any]) -> list[str]:
    """What the browser submits: a text as it is and the rest as JSON, or all as JSON where that could be confused."""
    keys = [plain if isinstance(plain, str) else json.dumps(plain) for plain in plains]
    plain_keys = all(keys) and len(set(keys)) == len(keys) and not any(map(_unfit_for_option, keys))
    return keys if plain_keys else [json.dumps(plain) for plain in plains]


def _unfit_for_option(key: str) -> bool:
    return any(unicodedata.category(character) in ("Cc", "Cs") for character in key)


class _To:
    """What the admin's widget for a foreign key wants to know of one; there may be none, as for a task's result."""

    limit_choices_to: dict[str, Any] = {}

    def __init__(self, model: Any) -> None:
        self.model = model

    def get_related_field(self) -> Any:
        """The primary key."""
        return self.model._meta.pk


def model_leaf(model: type[models.Model], admin_site: Any) -> Leaf:
    """A Django model: in the admin by its primary key with a lookup, elsewhere a choice of all rows."""
    widget: Any = forms.Select()
    if admin_site is not None:
        widget = admin_widgets.ForeignKeyRawIdWidget(_To(model), admin_site)  # type: ignore[arg-type]
    field = forms.ModelChoiceField(model._default_manager.all(), widget=widget)
    return Leaf(field, str, lambda row: row)


def given_leaf(given: models.Field[Any, Any]) -> Leaf | None:
    """The form field of `Annotated[..., models.SomeField(...)]`, unless a part of our own keeps more of its value."""
    if isinstance(given, (models.DateTimeField, models.TimeField, models.FileField, models.JSONField)):
        return None
    field = given.formfield()
    if not isinstance(field, forms.Field) or isinstance(field.widget, forms.MultiWidget):
        return None
    is_box = isinstance(field.widget, forms.CheckboxInput)
    takes_blank = is_box or (isinstance(field, forms.CharField) and not field.required)
    if isinstance(field, forms.CharField):
        field.strip, field.empty_value = False, ""
    return Leaf(field, given.to_python, lambda value: value, takes_blank=takes_blank)
