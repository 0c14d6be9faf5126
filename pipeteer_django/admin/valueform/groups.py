"""The parts of a typed form that have parts: objects, tuples, lists and mappings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _

from pipeteer_django.admin.valueform.drafts import MAX_ROWS, Draft, Row, Sent
from pipeteer_django.admin.valueform.parts import OMITTED, Misfit, Part, Place, draw, unstorable, visible

UNKNOWN: Any = object()
"""There is no default, or none that can be shown."""


@dataclass(frozen=True)
class Member:
    """One field of an object, or one place of a tuple."""

    key: Any
    segment: str
    """Its part of the inputs' names."""
    part: Part
    label: str
    help_text: str = ""
    default: Any = UNKNOWN

    def blank(self) -> Draft:
        """Its default, as a new form shows it."""
        return self.part.blank() if self.default is UNKNOWN else self.part.draft(self.default)


class Group(Part):
    """A dataclass, a TypedDict, a pydantic model: one part for each field."""

    takes_blank = True
    is_group = True
    in_json = False

    def __init__(self, members: list[Member]) -> None:
        self.members = members

    def blank(self) -> Draft:
        """All fields with their defaults."""
        return Draft(children={member.segment: member.blank() for member in self.members})

    def load(self, plain: Any) -> Draft:
        """The fields. One that is not there yet, because the type has changed, shows its default."""
        if not isinstance(plain, dict) or set(plain) - {member.key for member in self.members}:
            raise Misfit(_("The stored value has not the fields of its type."))
        return Draft(children={member.segment: _member_draft(member, plain) for member in self.members})

    def take(self, sent: Sent, name: str) -> Draft:
        """The fields' inputs."""
        return Draft(
            children={member.segment: member.part.read(sent, f"{name}-{member.segment}") for member in self.members}
        )

    def dump(self, draft: Draft) -> Any:
        """An object without what is left out."""
        return {key: plain for key, plain in self._cleaned(draft) if plain is not OMITTED}

    def _cleaned(self, draft: Draft) -> Iterator[tuple[Any, Any]]:
        for member in self.members:
            child = draft.placed[member.key] = draft.children[member.segment]
            yield member.key, member.part.clean(child)

    def draw(self, draft: Draft, place: Place) -> str:
        """A fieldset."""
        children = [
            member.part.render(
                draft.children[member.segment], place.at(member.segment, member.label, help_text=member.help_text)
            )
            for member in self.members
        ]
        return draw("group", draft, place, children=children)


def _member_draft(member: Member, plain: dict[str, Any]) -> Draft:
    return member.part.draft(plain[member.key]) if member.key in plain else member.blank()


class Tuple(Group):
    """A tuple of so many parts, or a NamedTuple."""

    def load(self, plain: Any) -> Draft:
        """One part after the other."""
        if not isinstance(plain, list) or len(plain) != len(self.members):
            raise Misfit(_("The stored value has not the length of its type."))
        pairs = zip(self.members, plain, strict=True)
        return Draft(children={member.segment: member.part.draft(item) for member, item in pairs})

    def dump(self, draft: Draft) -> Any:
        """A list."""
        return [plain for _key, plain in self._cleaned(draft)]


class Rows(Part):
    """A list, a set or a tuple of any length: rows, and an empty one that a script uses as a pattern."""

    takes_blank = True
    is_group = True
    in_json = False
    keyed = False

    def __init__(self, item: Part) -> None:
        self.item = item

    def blank(self) -> Draft:
        """No rows."""
        return Draft()

    def load(self, plain: Any) -> Draft:
        """A row for each item."""
        if not isinstance(plain, list):
            raise Misfit(_("The stored value is no list."))
        _refuse_long(len(plain))
        return Draft(rows=[Row(self.item.draft(item)) for item in plain])

    def take(self, sent: Sent, name: str) -> Draft:
        """The rows that are to be kept, and new ones in which there is something."""
        rows = list(self._rows(sent, name))
        if len(rows) > MAX_ROWS:
            return Draft(rows=rows[:MAX_ROWS], refusal=_too_long(len(rows)))
        return Draft(rows=rows)

    def _rows(self, sent: Sent, name: str) -> Iterator[Row]:
        before = sent.text(f"{name}--rows") or ""
        first_new = int(before) if before.isascii() and before.isdigit() and len(before) <= 4 else 0
        for position, number in enumerate(sent.rows(name)):
            if position > 2 * MAX_ROWS:
                return
            inner = f"{name}-{number}"
            kept = f"{inner}--keep" in sent.data
            if kept or number >= first_new:
                row = self._row(sent, inner)
                if kept or not self._is_blank_row(row):
                    yield row

    def _row(self, sent: Sent, name: str) -> Row:
        return Row(self.item.read(sent, f"{name}-value"))

    def _is_blank_row(self, row: Row) -> bool:
        return self.item.is_blank(row.value)

    def dump(self, draft: Draft) -> Any:
        """A list."""
        draft.placed = {number: row.value for number, row in enumerate(draft.rows)}
        return [self.item.clean(row.value) for row in draft.rows]

    def draw(self, draft: Draft, place: Place) -> str:
        """A fieldset of rows."""
        blank = Row(self.item.blank())
        rows = [self._draw_row(row, number, place) for number, row in enumerate([*draft.rows, blank])]
        return draw(
            "rows", draft, place, rows=rows[:-1], extra=rows[-1], count=len(draft.rows), most=MAX_ROWS, keyed=self.keyed
        )

    def _draw_row(self, row: Row, number: int, place: Place) -> dict[str, Any]:
        at = place.at(number, place.label, index=number)
        inner = at.at("value", place.label, index=number)
        return {"place": at, "number": number, "html": self.item.render(row.value, inner), "group": self.item.is_group}


class Mapping(Rows):
    """A dict with texts as keys: rows of key and value."""

    keyed = True

    def load(self, plain: Any) -> Draft:
        """A row for each key."""
        if not isinstance(plain, dict) or any(not isinstance(key, str) or not key.isprintable() for key in plain):
            raise Misfit(_("The stored value is shown as JSON because of its keys."))
        _refuse_long(len(plain))
        return Draft(rows=[Row(self.item.draft(value), key) for key, value in plain.items()])

    def _row(self, sent: Sent, name: str) -> Row:
        return Row(self.item.read(sent, f"{name}-value"), sent.text(f"{name}--key") or "")

    def _is_blank_row(self, row: Row) -> bool:
        return not row.key and super()._is_blank_row(row)

    def dump(self, draft: Draft) -> Any:
        """An object."""
        found = {}
        for row in draft.rows:
            value = self.item.clean(row.value)
            if unstorable(row.key):
                row.value.errors.append(_("The key holds a character that no database stores."))
            if row.key in found:
                row.value.errors.append(_("The key appears twice."))
            place = row.key
            while place in draft.placed:
                place = f"{place} (2)"
            draft.placed[place] = row.value
            found[row.key] = value
        return found

    def _draw_row(self, row: Row, number: int, place: Place) -> dict[str, Any]:
        return super()._draw_row(row, number, place) | {"key": visible(row.key)}


def _refuse_long(length: int) -> None:
    if length > MAX_ROWS:
        raise Misfit(_too_long(length))


def _too_long(length: int) -> str:
    return _("%(length)s rows: more than %(most)s are edited as JSON.") % {
        "length": f"{length:,}",
        "most": f"{MAX_ROWS:,}",
    }
