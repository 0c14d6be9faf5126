"""A value as people read it: fields with their names, lists as lists, no brackets and quotes."""

from __future__ import annotations

import json
from datetime import datetime
from enum import Enum
from typing import Any

from django.db import models
from django.utils import timezone
from django.utils.formats import localize
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import Truncator, capfirst
from django.utils.translation import gettext as _

from pipeteer_django.admin.links import page_of
from pipeteer_django.admin.words import Text, json_text
from pipeteer_django.exceptions import InvalidValue

LEVELS = 6
"""Lists and objects within each other; what is deeper is shown as JSON."""
ITEMS = 100
"""Items of one list, or fields of one object, that are shown."""
LENGTH = 5000
"""Characters of one text."""


def readable(plain: Any, level: int = 0) -> SafeString:
    """Plain JSON as HTML."""
    if isinstance(plain, (dict, list)) and level >= LEVELS:
        return format_html("<code>{}</code>", Truncator(json.dumps(plain, ensure_ascii=False)).chars(LENGTH))
    if isinstance(plain, dict) and plain:
        fields = ((_named(key), readable(value, level + 1)) for key, value in list(plain.items())[:ITEMS])
        rows = format_html_join("", "<div><dt>{}</dt><dd>{}</dd></div>", fields)
        return format_html('<dl class="pipeteer-value">{}</dl>{}', rows, _rest(plain))
    if isinstance(plain, list) and plain:
        items = format_html_join("", "<li>{}</li>", ((readable(item, level + 1),) for item in plain[:ITEMS]))
        return format_html('<ol class="pipeteer-value" start="0">{}</ol>{}', items, _rest(plain))
    return _leaf(plain)


def _named(key: str) -> str:
    """A field's name as its form has it: "Unit price"."""
    return capfirst(key.replace("_", " ").strip()) or key


def _rest(plain: Any) -> str:
    more = len(plain) - ITEMS
    return _("and %(count)s more") % {"count": f"{more:,}"} if more > 0 else ""


def _leaf(value: Any) -> SafeString:
    if value is None or value == "" or value == [] or value == {}:
        words = {type(None): _("no value"), str: _("empty text")}
        return format_html('<span class="quiet">{}</span>', words.get(type(value), _("empty")))
    if isinstance(value, bool):
        return format_html("{}", _("Yes") if value else _("No"))
    if isinstance(value, datetime):
        return format_html("{}", localize(timezone.localtime(value) if timezone.is_aware(value) else value))
    said = value if isinstance(value, str) else localize(value)
    return format_html('<span class="pipeteer-text">{}</span>', Truncator(str(said)).chars(LENGTH))


def of_text(text: Text) -> SafeString:
    """A value of which there may be only the beginning."""
    if text.plain is None and text.text != "null":
        return format_html("<pre>{}{}</pre>", text.text, "…" if text.cut else "")
    return readable(text.plain)


def of_column(row: Any, name: str, value_type: Any, site: Any) -> SafeString:
    """A row's typed column. A model's row is named, with a link to its page."""
    if value_type.kind == "model":
        return _of_row(getattr(row, name), site)
    value = getattr(row, name)
    if value_type.kind == "json":
        return of_text(column_text(value_type, row, name))
    labels = dict(value_type.options)
    plain = value.value if isinstance(value, Enum) else value
    return _leaf(labels.get(plain, plain))


def _of_row(instance: models.Model | None, site: Any) -> SafeString:
    if instance is None:
        return _leaf(None)
    address = page_of(site, type(instance), "change", instance.pk)
    name = Truncator(str(instance)).chars(LENGTH)
    return format_html('<a href="{}">{}</a>', address, name) if address else format_html("{}", name)


def column_text(value_type: Any, row: Any, name: str = "value") -> Text:
    """A typed column as JSON text, or as it is where it no longer fits its type."""
    stored = getattr(row, row._meta.get_field(name).attname)
    try:
        return json_text(value_type.to_json(value_type.from_stored(stored)))
    except InvalidValue:
        return Text(str(stored))
