"""A value as a typed form field, built from its annotation.

`ValueField(value_type)` shows inputs for each part of the type and gives what `create()` and `enqueue()` take.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import pydantic
from django import forms
from django.contrib.admin import AdminSite
from django.core.exceptions import ValidationError
from django.db import models
from django.forms.renderers import BaseRenderer, get_default_renderer
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from pydantic_core import to_jsonable_python

from pipeteer_django.admin.valueform.drafts import MAX_INPUTS, MAX_KEYS, Draft, Sent
from pipeteer_django.admin.valueform.leaves import Leaf
from pipeteer_django.admin.valueform.parts import Place, as_json, visible
from pipeteer_django.admin.valueform.schema import form_of
from pipeteer_django.exceptions import InvalidValue
from pipeteer_django.pipelines.values import canonical, path_text, shown
from pipeteer_django.pipelines.valuetype import ValueType

MAX_ERRORS = 20
"""Errors of one value that are listed above it."""


class ValueWidget(forms.Widget):
    """The inputs of a value, one for each part of its type."""

    def __init__(self, value_type: ValueType, admin_site: AdminSite | None = None, attrs: Any = None) -> None:
        super().__init__(attrs)
        self.value_type = value_type
        self.form = form_of(value_type, admin_site)
        self.label: Any = ""
        self.use_fieldset = not isinstance(self.form.root, Leaf)

    @property
    def media(self) -> forms.Media:
        """Our own style and script, and those of the parts' widgets."""
        own = forms.Media(css={"all": ["pipeteer_django/values.css"]}, js=["pipeteer_django/values.js"])
        core = forms.Media(js=["admin/js/core.js"] if self.form.media.render_js() else [])
        return core + self.form.media + own

    def id_for_label(self, id_: str) -> str:
        """A group has no one input for a label."""
        return "" if self.form.root.is_group else id_

    def use_required_attribute(self, initial: Any) -> bool:
        """The parts know what they require."""
        return False

    def value_omitted_from_data(self, data: Any, files: Any, name: str) -> bool:
        """Whether the form that was submitted did not have this field."""
        if isinstance(self.form.root, Leaf):
            return bool(self.form.root.field.widget.value_omitted_from_data(data, files, name)) and (
                f"{name}--json" not in data
            )
        return not Sent(data, files, name).present

    def value_from_datadict(self, data: Any, files: Any, name: str) -> Draft:
        """What was submitted, as a draft."""
        sent = Sent(data, files, name)
        if sent.too_many:
            limit = f"{MAX_KEYS:,}"
            return Draft(json="", refusal=_("More than %s inputs were submitted; edit this value as JSON.") % limit)
        return self.form.root.read(sent, name)

    def draft_of(self, value: Any) -> Draft:
        """What shows a stored value; as JSON where the form could not give it back as it is."""
        root = self.form.root
        if isinstance(value, Draft):
            return value
        if value is None and not self.value_type.nullable:
            return root.blank()
        fits, plain = self.plain_of(value)
        draft = root.draft(plain)
        if draft.json is None and draft.inputs() > MAX_INPUTS:
            return as_json(plain, _("This value has more parts than a form can show; it is shown as JSON."))
        if fits and self.value_type.kind != "model" and not self._gives_back(draft, plain):
            return as_json(plain)
        return draft

    def plain_of(self, value: Any) -> tuple[bool, Any]:
        """A stored value as plain JSON, and whether it fits the type (any more)."""
        try:
            if self.value_type.kind == "native" and isinstance(value, datetime) and value.utcoffset() is not None:
                value = value.astimezone(UTC)  # JSON would drop the seconds of an old zone's offset
            return True, self.value_type.to_json(value)
        except (InvalidValue, OverflowError):
            pass
        try:
            return False, to_jsonable_python(value, by_alias=False, fallback=shown)
        except Exception:  # cyclic, too deep, or a repr that raises: shown all the same
            return False, shown(value)

    def _gives_back(self, draft: Draft, plain: Any) -> bool:
        cleaned = self.form.root.clean(draft)
        if any(draft.problems()):
            return False
        fits, again = self.plain_of(cleaned)
        return fits and canonical(again) == canonical(plain)

    def render(
        self, name: str, value: Any, attrs: dict[str, Any] | None = None, renderer: BaseRenderer | None = None
    ) -> SafeString:
        """The HTML of all parts."""
        attrs = self.build_attrs(self.attrs, attrs)
        renderer = renderer or get_default_renderer()
        place = Place(name, str(attrs.pop("id", f"id_{name}")), renderer, str(self.label), attrs=attrs, root=True)
        html = self.form.root.render(self.draft_of(value), place)
        group = self.form.root.is_group
        context = {
            "html": html,
            "place": place,
            "group": group,
            "described": attrs.get("aria-describedby"),
            "disabled": attrs.get("disabled"),
        }
        return mark_safe(renderer.render("pipeteer_django/values/value.html", context))


class ValueField(forms.Field):
    """A form field for a value of a pipeline, typed by its annotation.

    `clean` gives what `create()`, `enqueue()` and `push()` take. With an `admin_site` it uses the admin's widgets.
    """

    empty_values = [None]
    widget: ValueWidget

    def __init__(self, value_type: ValueType, *, admin_site: AdminSite | None = None, **kwargs: Any) -> None:
        self.value_type = value_type
        kwargs.setdefault("required", not value_type.nullable)
        super().__init__(**{**kwargs, "widget": ValueWidget(value_type, admin_site)})
        self.widget.label = self.label or _("Value")

    def prepare_value(self, value: Any) -> Any:
        """A draft; one that was submitted with its errors."""
        if isinstance(value, Draft):
            self._examine(value)
            return value
        return self.widget.draft_of(value)

    def clean(self, value: Any) -> Any:
        """The typed value of what was submitted. Raises ValidationError, an error for each part that has one."""
        draft = value if isinstance(value, Draft) else self.widget.draft_of(value)
        checked = self._examine(draft)
        problems = list(_messages(draft))
        if problems:
            raise ValidationError([ValidationError(problem, code="invalid_value") for problem in problems])
        return checked

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Whether what was submitted is another value than `initial`."""
        if self.disabled:
            return False
        draft = data if isinstance(data, Draft) else self.widget.draft_of(data)
        checked = self._examine(draft)
        if any(draft.problems()):
            return True
        try:
            return canonical(self.widget.plain_of(checked)[1]) != canonical(self.widget.plain_of(initial)[1])
        except (TypeError, ValueError, RecursionError):
            return True

    def _examine(self, draft: Draft) -> Any:
        """Clean and check a draft; errors are put where they belong."""
        plain = self.widget.form.root.clean(draft)
        if any(draft.problems()):
            return None
        try:
            checked = self.value_type.check(plain)
            if self.value_type.given_field is not None:
                self.value_type.given_field.run_validators(self.value_type.to_stored(checked))
            return plain if self.value_type.kind == "model" else checked
        except InvalidValue as error:
            self._place(draft, plain, str(error))
        except ValidationError as error:
            draft.errors.extend(error.messages)
        return None

    def _place(self, draft: Draft, plain: Any, message: str) -> None:
        """Errors of the type's own checks, at their parts; `message` says all of them where pydantic cannot tell."""
        try:
            self.value_type.adapter.validate_python(plain, by_alias=True, by_name=True)
        except pydantic.ValidationError as error:
            for detail in error.errors(include_url=False, include_context=False, include_input=False):
                draft.place(detail["loc"], visible(detail["msg"]))
        except Exception:  # a validator of the user's: the message tells
            pass
        if not any(draft.problems()):
            draft.errors.append(visible(message.removeprefix("value: ")))


def _messages(draft: Draft) -> Iterator[str]:
    """The errors with their places: `items[2].price: Enter a number.`"""
    seen = list(islice(draft.problems(), 1000))
    for path, message in seen[:MAX_ERRORS]:
        place = visible(path_text(path, root="").lstrip("."))
        yield f"{place}: {message}" if place else message
    if len(seen) > MAX_ERRORS:
        yield _("... and %s more errors.") % (len(seen) - MAX_ERRORS)


def value_field(db_field: models.Field[Any, Any], **options: Any) -> ValueField:
    """The form field of a generated model's `value`. `options` are those of ValueField, such as `admin_site`."""
    value_type: ValueType = db_field.value_type  # type: ignore[attr-defined]
    return ValueField(
        value_type, **{"label": capfirst(db_field.verbose_name), "help_text": db_field.help_text, **options}
    )
