"""What a browser without scripts does with a form: reads the HTML and submits what stands in it."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from django import forms
from django.http import QueryDict

from pipeteer_django.admin.valueform.field import ValueField
from pipeteer_django.pipelines.valuetype import ValueType


class Page(HTMLParser):
    """The controls of a page, as pairs of name and value; `tags` are all elements with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.pairs: list[tuple[str, str]] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self._textarea: tuple[str, list[str]] | None = None
        self._select: tuple[str, list[str]] | None = None
        # A browser decodes UTF-8 and knows one line break.
        self.feed(html.encode().decode().replace("\r\n", "\n").replace("\r", "\n"))

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append((tag, found))
        if tag == "input" and found.get("name"):
            self._input(found)
        elif tag == "textarea":
            self._textarea = (found["name"], [])
        elif tag == "select":
            self._select = (found["name"], [])
        elif tag == "option" and self._select and ("selected" in found or not self._select[1]):
            self._select[1][:] = [found["value"]]

    def _input(self, found: dict[str, str]) -> None:
        kind = found.get("type", "text")
        if (kind == "checkbox" and "checked" not in found) or kind == "submit":
            return
        self.pairs.append((found["name"], found.get("value", "on" if kind == "checkbox" else "").replace("\n", "")))

    def handle_data(self, data: str) -> None:
        if self._textarea:
            self._textarea[1].append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea" and self._textarea:
            name, parts = self._textarea
            self.pairs.append((name, "".join(parts).removeprefix("\n").replace("\n", "\r\n")))
            self._textarea = None
        elif tag == "select" and self._select:
            self.pairs.extend((self._select[0], value) for value in self._select[1])
            self._select = None

    def submit(self, **changes: str | None) -> QueryDict:
        """What is sent. `changes` are names (`__` for a dash) and what is typed there; None leaves it out."""
        data = QueryDict(mutable=True)
        for name, value in self.pairs:
            data.appendlist(name, value)
        for name, value in changes.items():
            if value is None:
                data.pop(name, None)
            else:
                data[name] = value
        return data


def form_class(annotation: Any, **options: Any) -> type[forms.Form]:
    """A form with one field, `value`."""
    return type("F", (forms.Form,), {"value": ValueField(ValueType.of(annotation), **options)})


def shown(annotation: Any, value: Any = None, **options: Any) -> str:
    """The HTML of a form that shows a value."""
    form = form_class(annotation, **options)(initial={} if value is None else {"value": value})
    return str(form["value"])


def submitted(annotation: Any, data: Any, **options: Any) -> forms.Form:
    """A form to which `data` were submitted."""
    return form_class(annotation, **options)(data)
