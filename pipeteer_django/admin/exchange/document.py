"""Entries as a JSON document: written from a queue, and read for one.

The document is data. What is read is held against the rules of `enqueue`, entry by entry, and nothing is written here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from django.core.exceptions import ValidationError
from django.db import connections
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from pydantic_core import to_jsonable_python

from pipeteer_django.admin.states import state_of
from pipeteer_django.exceptions import InvalidValue
from pipeteer_django.pipelines.values import check_text, shown, to_text
from pipeteer_django.pipelines.valuetype import ValueType
from pipeteer_django.queues.chunks import CHUNK, pages, taken
from pipeteer_django.queues.guards import USER_COLUMNS, check_columns

VERSION = 1
ABOUT = ("state", "attempt", "caller")
"""What a document tells of an entry besides: for who reads it, and not read back."""
MAX_ERRORS = 20
SHOWN = 10
"""Entries that a preview shows."""

_TOGETHER = 50
_PLAIN = [name for name in USER_COLUMNS if name != "value"]
_MOMENT = ValueType.of(datetime)


# Writing


def written(rows: Any, every: Any, most: int) -> Iterator[str]:
    """The document of `rows`, a piece at a time. `every` are the same and others, as their admin reads them."""
    pipeline, count = rows.model.pipeline, 0
    heading = {"version": VERSION, "pipeline": pipeline.id, "exported_at": timezone.now().isoformat()}
    yield f'{to_text(heading)[:-1]},"entries":['
    for entry in _entries(rows, every, most):
        yield f"{',' if count else ''}\n{_line(entry, pipeline.input)}"
        count += 1
    yield f'\n],"count":{count},"truncated":{to_text(rows.order_by("pk")[most : most + 1].exists())}}}\n'


def _entries(rows: Any, every: Any, most: int) -> Iterator[Any]:
    for keys in pages(rows, most):
        for start in range(0, len(keys), _TOGETHER):
            yield from every.filter(pk__in=keys[start : start + _TOGETHER]).defer("error").order_by("pk")


def _line(entry: Any, value_type: ValueType) -> str:
    # The engine's lease, alarm clock or nothing is no wish of the user's.
    engines = entry.reserved_by or entry.suspended or entry.failed_at
    due = None if engines or entry.available_at is None else entry.available_at.isoformat()
    user = {"key": entry.key, "value": _plain(entry, value_type), "output": entry.output, "priority": entry.priority}
    about = {"state": state_of(entry), "attempt": entry.attempt, "caller": entry.caller}
    return to_text(user | {"available_at": due} | about)


def _plain(entry: Any, value_type: ValueType) -> Any:
    """The value as plain JSON; one that no longer fits its type as it is stored."""
    stored = getattr(entry, entry._meta.get_field("value").attname)
    try:
        return value_type.to_json(value_type.from_stored(stored))
    except (InvalidValue, OverflowError):
        pass
    try:
        return json.loads(to_text(to_jsonable_python(stored, by_alias=False, fallback=shown, inf_nan_mode="strings")))
    except Exception:  # what nobody can write is shown all the same
        return shown(stored)


# Reading


@dataclass
class Plan:
    """What a document would add to a queue."""

    entries: list[Any] = field(default_factory=list)
    """Of the queue's model, not saved."""
    preview: list[dict[str, Any]] = field(default_factory=list)
    children: int = 0
    """Entries that a workflow has called, and that are left out: nobody would wait for their results."""
    truncated: bool = False
    there: set[str] = field(default_factory=set)
    """Keys that entries in the queue have already."""

    def add(self, entry: Any, row: dict[str, Any]) -> None:
        """One entry more; the preview has what the document said of the first of them."""
        self.entries.append(entry)
        if len(self.preview) < SHOWN:
            value = Truncator(json.dumps(row.get("value"), ensure_ascii=False)).chars(200)
            self.preview.append({name: getattr(entry, name) for name in _PLAIN} | {"value": value})

    @property
    def adds(self) -> int:
        """How many there are to add."""
        return len(self.entries) - len(self.there)


def read(text: str, model: Any, using: str, most: int) -> Plan:
    """What `text` would add. Raises ValidationError where it is no document for this queue, or its entries misfit."""
    document = _document(text, model.pipeline.id)
    rows = document["entries"]
    if len(rows) > most:
        limits = {"count": f"{len(rows):,}", "most": f"{most:,}"}
        raise ValidationError(_("There are %(count)s entries in it; one import takes no more than %(most)s.") % limits)
    plan = Plan(truncated=document.get("truncated") is True)
    problems = _read_entries(rows, plan, model, using)
    if problems:
        raise ValidationError(_first(problems))
    plan.there = taken(model, using, [entry.key for entry in plan.entries])
    return plan


def _read_entries(rows: list[Any], plan: Plan, model: Any, using: str) -> list[str]:
    """Put the entries into the plan; returns what is wrong with them, in words."""
    problems: list[str] = []
    numbers: dict[str, int] = {}
    about: list[tuple[int, Any]] = []
    for number, row in enumerate(rows, 1):
        if isinstance(row, dict) and row.get("caller"):
            plan.children += 1
            continue
        columns, wrong = _columns(row, model, using)
        key = columns.get("key", "")
        if first := numbers.get(key):
            wrong.append(_("key: %(key)s is the key of entry %(other)s, too") % {"key": shown(key), "other": first})
        problems += [_entry_says(number, problem) for problem in wrong]
        if key:
            numbers.setdefault(key, number)
        if not wrong:
            about.append((number, columns.get("value_id")))
            plan.add(model(**columns), row)
    return problems + (list(_missing(about, model, using)) if model.pipeline.input.kind == "model" else [])


def _entry_says(number: int, problem: str) -> str:
    return _("Entry %(number)s: %(problem)s") % {"number": number, "problem": _short(problem)}


def _first(problems: list[str]) -> list[str]:
    more = len(problems) - MAX_ERRORS
    return [*problems[:MAX_ERRORS], *([_("... and %s more errors.") % f"{more:,}"] if more > 0 else [])]


def _short(text: str) -> str:
    return str(Truncator(text).chars(500))


def _document(text: str, pipeline: str) -> dict[str, Any]:
    try:
        document = json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise ValidationError(_("This is nested too deeply to be read.")) from None
    except ValueError as error:
        raise ValidationError(_("This is no JSON: %s") % _short(str(error))) from None
    if not isinstance(document, dict) or not isinstance(document.get("entries"), list):
        raise ValidationError(_("This is no export of a queue: it has no list of “entries”."))
    if document.get("pipeline") != pipeline:
        names = {"theirs": _short(shown(document.get("pipeline"))), "ours": repr(pipeline)}
        raise ValidationError(
            _("This is an export of the pipeline %(theirs)s; this queue is that of %(ours)s.") % names
        )
    if document.get("version", VERSION) != VERSION:
        versions = {"theirs": _short(shown(document["version"])), "ours": VERSION}
        raise ValidationError(_("This has the format %(theirs)s; only %(ours)s is known here.") % versions)
    return document


def _no_number(name: str) -> None:
    raise ValueError(_("%s is no number that JSON has") % name)


def _columns(row: Any, model: Any, using: str) -> tuple[dict[str, Any], list[str]]:
    """The columns of an entry by their attributes, and what is wrong with them."""
    if not isinstance(row, dict):
        return {}, [_("%s is no object with the columns of an entry") % shown(row)]
    strangers = [name for name in row if name not in (*USER_COLUMNS, *ABOUT)]
    problems = [_("%s is no column of an entry") % shown(name) for name in strangers]
    columns: dict[str, Any] = {}
    for name, reader in _READERS.items():
        column = model._meta.get_field(name)
        try:
            value = reader(row, model)
            check_columns({name: value})
            if name != "available_at":
                column.get_db_prep_save(value, connections[using])
            columns[column.attname] = value
        except InvalidValue as error:
            problems.append(str(error) if str(error).startswith(name) else f"{name}: {error}")
    return columns, problems


def _name(name: str, default: str | None) -> Callable[[dict[str, Any], Any], str]:
    def read_name(row: dict[str, Any], model: Any) -> str:
        text = row.get(name, default)
        if not isinstance(text, str):
            raise InvalidValue(_("is missing") if text is None else _("%s is no text") % shown(text))
        return text

    return read_name


def _value(row: dict[str, Any], model: Any) -> Any:
    """The typed value; of a model's row its primary key, as the column has it."""
    value_type: ValueType = model.pipeline.input
    if "value" not in row and not value_type.nullable:
        raise InvalidValue(_("is missing"))
    typed = value_type.from_json(row.get("value"))
    return value_type.to_stored(typed) if value_type.kind == "model" else typed


def _priority(row: dict[str, Any], model: Any) -> int:
    priority = row.get("priority", 0)
    if type(priority) is not int or not -100 <= priority <= 100:
        raise InvalidValue(_("%s is no whole number from -100 to 100") % shown(priority))
    return priority


def _available_at(row: dict[str, Any], model: Any) -> datetime | None:
    text = row.get("available_at")
    if text is None:
        return None
    try:
        moment = parse_datetime(text) if isinstance(text, str) else None
    except ValueError as error:
        raise InvalidValue(f"{error}") from error
    if moment is None:
        raise InvalidValue(_("%s is no time such as 2030-12-24T18:30:00Z") % shown(text))
    try:
        return cast(datetime, _MOMENT.check(moment))
    except InvalidValue as error:
        raise InvalidValue(str(error).removeprefix("value: ")) from error


_READERS: dict[str, Callable[[dict[str, Any], Any], Any]] = {
    "key": _name("key", None),
    "value": _value,
    "output": _name("output", "output"),
    "priority": _priority,
    "available_at": _available_at,
}


def _missing(about: list[tuple[int, Any]], model: Any, using: str) -> Iterator[str]:
    """What is wrong with entries about rows that do not exist."""
    related = model.pipeline.input.model
    for start in range(0, len(about), CHUNK):
        some = [(number, pk) for number, pk in about[start : start + CHUNK] if pk is not None]
        wanted = {pk for _number, pk in some if _possible(pk)}
        there = set(related._base_manager.using(using).filter(pk__in=wanted).values_list("pk", flat=True))
        for number, pk in some:
            if pk not in there:
                names = {"name": related._meta.verbose_name, "pk": shown(pk)}
                yield _entry_says(number, _("value: there is no %(name)s with the primary key %(pk)s") % names)


def _possible(pk: Any) -> bool:
    """Whether a database can be asked for this at all."""
    if isinstance(pk, int):
        return -(2**63) <= pk < 2**63
    try:
        check_text(pk if isinstance(pk, str) else "")
    except InvalidValue:
        return False
    return True
