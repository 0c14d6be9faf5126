"""The parts of a typed form: where one stands on the page (Place), and what each can do (Part).

A Part belongs to one place of a type. It makes a Draft of a stored value or of submitted data, turns a Draft back into
plain JSON, and renders it. Errors are kept in the Draft, beside what was typed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

from django.forms import Media
from django.forms.renderers import BaseRenderer, get_default_renderer
from django.utils.translation import gettext as _

from pipeteer_django.admin.valueform.drafts import Draft, Sent
from pipeteer_django.conf import settings

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_NOT_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")

OMITTED: Any = object()
"""What `Part.clean` gives for a field that is left out, so that its type's default applies."""


class Misfit(Exception):
    """A stored value has not the shape that its part expects; it is shown as JSON."""


@dataclass(frozen=True)
class Place:
    """Where a part stands on the page."""

    name: str
    id: str
    renderer: BaseRenderer = field(default_factory=get_default_renderer)
    label: str = ""
    index: int | None = None
    """Its number, for a row."""
    help_text: str = ""
    attrs: dict[str, Any] = field(default_factory=dict)
    """HTML attributes for its control."""
    root: bool = False
    """The form itself shows its label, help and errors."""

    def at(self, segment: str | int, label: str, *, index: int | None = None, help_text: str = "") -> Place:
        """The place of a part inside this one."""
        return Place(
            f"{self.name}-{segment}", f"{self.id}-{segment}", self.renderer, label, index=index, help_text=help_text
        )

    def described(self, draft: Draft) -> dict[str, Any]:
        """The attributes of a control here: its id, and what tells more about it."""
        if self.root:
            return {**self.attrs, "id": self.id}
        about = [f"{self.id}--help"] * bool(self.help_text or draft.note) + [f"{self.id}--error"] * bool(draft.errors)
        attrs = {**self.attrs, "id": self.id}
        if about:
            attrs["aria-describedby"] = " ".join(about)
        if draft.errors:
            attrs["aria-invalid"] = "true"
        return attrs


class Part:
    """One place of a type. This class is also the JSON editor, which takes what no other part does."""

    takes_blank: bool = False
    """Whether what is left empty is a value of the type, as with texts and lists."""
    names_empty: bool = False
    """Whether its input says what leaving it empty means."""
    is_group: bool = False
    """Whether it is drawn as a fieldset with parts of its own."""
    in_json: bool = True
    """Whether it is always edited as JSON."""

    @property
    def media(self) -> Media:
        """The scripts and styles that its own input asks for."""
        return Media()

    # The public verbs: each may find JSON text in place of inputs.

    def blank(self) -> Draft:
        """What a new form shows."""
        return Draft(json="")

    def is_blank(self, draft: Draft) -> bool:
        """Whether nothing was filled in."""
        return not draft.json.strip() if draft.json is not None else draft == self.blank()

    def draft(self, plain: Any) -> Draft:
        """What shows a stored value, given as plain JSON."""
        try:
            return self.load(plain)
        except Misfit as misfit:
            return as_json(plain, str(misfit))

    def read(self, sent: Sent, name: str) -> Draft:
        """What was submitted."""
        text = sent.text(f"{name}--json")
        return self.take(sent, name) if text is None else Draft(json=text)

    def clean(self, draft: Draft) -> Any:
        """The plain JSON of a draft. Errors go into the draft; what is returned beside them means nothing."""
        draft.errors, draft.placed = [], {}
        if draft.refusal:
            draft.errors = [draft.refusal]
            return None
        return self.dump(draft) if draft.json is None else _parse(draft)

    def render(self, draft: Draft, place: Place) -> str:
        """Its HTML, with its label, help and errors."""
        if draft.json is not None:
            return self._editor(draft, place)
        return self.draw(draft, place)

    # What each kind of part does in its own way

    def load(self, plain: Any) -> Draft:
        """`draft`; raises Misfit for a value that it cannot show."""
        return as_json(plain)

    def take(self, sent: Sent, name: str) -> Draft:
        """`read`, of inputs."""
        return Draft(json=sent.text(name) or "")

    def dump(self, draft: Draft) -> Any:
        """`clean`, of inputs."""
        return _parse(draft)

    def draw(self, draft: Draft, place: Place) -> str:
        """`render`, of inputs."""
        return self._editor(draft, place)

    def _editor(self, draft: Draft, place: Place) -> str:
        text = draft.json or ""
        name = place.name if self.in_json else f"{place.name}--json"
        rows = min(24, max(3 if place.root else 1, text.count("\n") + 1))
        widget = {"attrs": place.described(draft)}
        return draw(
            "json", draft, place, text=visible(text), control=name, lines=rows, hint=not draft.note, widget=widget
        )


def draw(template: str, draft: Draft, place: Place, **context: Any) -> str:
    """Fill in one of our templates."""
    context |= {"draft": draft, "place": place, "described": place.described(draft).get("aria-describedby")}
    return str(place.renderer.render(f"pipeteer_django/values/{template}.html", context))


def visible(text: str) -> str:
    """A text as a page can carry it: without what UTF-8 or HTML does not know."""
    return _UNSTORABLE.sub("\ufffd", text)


def unstorable(text: str) -> bool:
    """Whether a text holds what no database stores."""
    return _UNSTORABLE.search(text) is not None


# JSON


def as_json(plain: Any, note: str = "") -> Draft:
    """A draft that is the value's JSON text."""
    try:
        text = json.dumps(plain, indent=2, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        return Draft(json="", note=_("The stored value cannot be shown: %s") % visible(str(error))[:200])
    return Draft(json=_NOT_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text), note=note)


def _parse(draft: Draft) -> Any:
    text = draft.json or ""
    try:
        if not text.strip():
            raise ValueError(_("Enter JSON; for no value, null."))
        if len(text) > settings().MAX_VALUE_BYTES:
            raise ValueError(_("This is longer than the %(limit)s bytes that a value may have.") % _limit())
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        draft.errors = [_json_error(error)]
    except RecursionError:
        draft.errors = [_("This is nested too deeply.")]
    except ValueError as error:
        draft.errors = [str(error)]
    return None


def _limit() -> dict[str, str]:
    return {"limit": f"{settings().MAX_VALUE_BYTES:,}"}


def _json_error(error: json.JSONDecodeError) -> str:
    where = {"line": error.lineno, "column": error.colno, "reason": error.msg}
    return _("Line %(line)s, column %(column)s: this is no JSON: %(reason)s.") % where


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _value in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(_("The key %r appears twice in one object.") % visible(twice)[:100])
    return found


def _no_number(text: str) -> Any:
    raise ValueError(_("%s does not exist in JSON.") % text)


# Nothing, and perhaps nothing


class Nothing(Part):
    """The value of a pipeline that takes or gives none."""

    takes_blank = True
    in_json = False

    def blank(self) -> Draft:
        """Nothing."""
        return Draft()

    def load(self, plain: Any) -> Draft:
        """Nothing, or whatever else was stored."""
        if plain is not None:
            raise Misfit
        return Draft()

    def take(self, sent: Sent, name: str) -> Draft:
        """Nothing is submitted."""
        return Draft()

    def dump(self, draft: Draft) -> Any:
        """None."""
        return None

    def draw(self, draft: Draft, place: Place) -> str:
        """A sentence that says so."""
        return draw("nothing", draft, place)


class Perhaps(Part):
    """A part that may have no value: an input left empty, or, where empty is a value, a box to tick."""

    takes_blank = True
    in_json = False

    def __init__(self, inner: Part, empty: Any = None) -> None:
        self.inner = inner
        self.empty = empty
        self.has_box = inner.takes_blank
        self.is_group = inner.is_group
        self.control = "omit" if empty is OMITTED else "none"

    def blank(self) -> Draft:
        """No value."""
        return Draft(none=self.has_box, inner=self.inner.blank())

    def load(self, plain: Any) -> Draft:
        """No value, or one."""
        if plain is self.empty:
            return self.blank()
        return Draft(inner=self.inner.draft(plain))

    def read(self, sent: Sent, name: str) -> Draft:
        """Its JSON text, if there is one, is that of the part inside."""
        return self.take(sent, name)

    def take(self, sent: Sent, name: str) -> Draft:
        """Without its inputs, which a script has switched off, it is as blank as a ticked box says."""
        none = self.has_box and f"{name}--{self.control}" in sent.data
        if none and not sent.has(name):
            return self.blank()
        return Draft(none=none, inner=self.inner.read(sent, name))

    def dump(self, draft: Draft) -> Any:
        """The value; without one None, or OMITTED."""
        inner = draft.inner or self.inner.blank()
        if draft.none and not self.inner.is_blank(inner):
            draft.errors = [_("There is a value here while “%s” is ticked: untick it, or clear the value.") % self.word]
            return None
        if draft.none or (not self.has_box and self.inner.is_blank(inner)):
            return self.empty
        return self.inner.clean(inner)

    @property
    def word(self) -> str:
        """What a person calls the absence of a value."""
        return _("left out") if self.empty is OMITTED else _("no value")

    def draw(self, draft: Draft, place: Place) -> str:
        """The part; with a box where empty is a value, with a hint where it means no value."""
        inner = draft.inner or self.inner.blank()
        if not self.has_box:
            hint = "" if self.inner.names_empty else _("Empty: %s.") % self.word
            if draft.errors:
                inner = replace(inner, errors=[*draft.errors, *inner.errors])
            return self.inner.render(inner, replace(place, help_text=f"{place.help_text} {hint}".strip()))
        if self.is_group:
            body = self.inner.render(inner, replace(place, label="", index=None, help_text="", root=False))
            return draw("perhaps_group", draft, place, body=body, word=self.word, control=self.control)
        body = self.inner.render(replace(inner, errors=[*draft.errors, *inner.errors]), place)
        return draw("perhaps", draft, place, body=body, word=self.word, control=self.control)
