"""Whether a value is accepted, and what comes back of it, on any number of databases at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import hypothesis
from django.apps import apps
from django.db import connections, models
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as how

from pipeteer_django.exceptions import InvalidValue
from pipeteer_django.pipelines.valuetype import ValueType
from pipeteer_django.queues.fields import field_for
from pipeteer_django.queues.statements import delete_where, id_list, insert_rows, select_rows
from tests.prove.values_types import TYPES, examples
from tests.testapp.pipelines import quad

TOGETHER = 500
"""Rows of one INSERT. One that is as long as may be comes alone: escaped it is three times as long, and MariaDB takes
no statement of more than 16 MiB unless it is told to."""
_APP = "prove_values"
_COLUMNS = ("id", "value", "result")


@dataclass(frozen=True, slots=True)
class Table:
    """Where values of one type are put: as a queue does, and as a step does with results."""

    type: ValueType
    model: Any


@contextmanager
def tables(aliases: Sequence[str]) -> Iterator[dict[str, Table]]:
    """A table for each type, on all these databases."""
    made = {name: _table(name, annotation) for name, (annotation, _) in TYPES.items()}
    with ExitStack() as stack:
        stack.callback(apps.all_models.pop, _APP, None)
        for alias in aliases:
            for table in made.values():
                with connections[alias].schema_editor() as editor:
                    editor.create_model(table.model)
                stack.callback(_drop, alias, table.model)
        yield made


def _table(name: str, annotation: Any) -> Table:
    value_type = ValueType.of(annotation)
    columns = {
        "value": field_for(value_type, pipeline_id=f"prove_{name}", role="input"),
        "result": quad.models["Step"]._meta.get_field("result").clone(),
    }
    meta = type("Meta", (), {"app_label": _APP})
    model = type(f"Values_{name}", (models.Model,), {"__module__": __name__, "Meta": meta, **columns})
    return Table(value_type, model)


def _drop(alias: str, model: Any) -> None:
    with connections[alias].schema_editor() as editor:
        editor.delete_model(model)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A value that is to be stored."""

    name: str
    value: Any
    stored: Any
    plain: Any
    """As JSON, which is what a step records."""


class Values:
    """Judges values, stores what was accepted on all databases, and compares what comes back."""

    def __init__(self, tables: Mapping[str, Table], aliases: Sequence[str]) -> None:
        self.done = 0
        self.accepted: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._tables, self._aliases = tables, aliases
        self._waiting: dict[str, list[Accepted]] = {name: [] for name in tables}
        self._false: list[str] = []

    @property
    def report(self) -> str:
        """What was tried."""
        kept, refused = self.accepted.total(), self.refused.total()
        where = f"{len(self._aliases)} databases" if len(self._aliases) > 1 else "1 database"
        return f"{self.done:,} values of {len(self._tables)} types on {where}: {kept:,} kept, {refused:,} refused"

    def round(self, number: int, seed: int) -> None:
        """Many at a time; where one is false, once more and one by one, so that Hypothesis can make it small."""
        _try(self._gather, number, seed)
        for name in self._waiting:
            self._flush(name)
        if self._false:
            _try(self._alone, number, seed)
            raise AssertionError(f"Only beside others: {self._false[0]}")
        self.done += number

    def _gather(self, example: tuple[str, Any]) -> None:
        accepted = self.judge(*example)
        if accepted is None:
            self.refused[example[0]] += 1
            return
        self.accepted[accepted.name] += 1
        waiting = self._waiting[accepted.name]
        waiting.append(accepted)
        if len(waiting) >= TOGETHER or accepted.name == "large":
            self._flush(accepted.name)

    def _flush(self, name: str) -> None:
        together, self._waiting[name] = self._waiting[name], []
        try:
            self.compare(name, together)
        except Exception as error:
            self._false.append(f"{type(error).__name__}: {error}")

    def _alone(self, example: tuple[str, Any]) -> None:
        accepted = self.judge(*example)
        if accepted is not None:
            self.compare(accepted.name, [accepted])

    # One value

    def judge(self, name: str, value: Any) -> Accepted | None:
        """The same verdict, by the same words, whatever it is for; and no database is asked for it."""
        table = self._tables[name]
        field = table.model._meta.get_field("value")
        with self._silence():
            words, stored = _verdict(lambda: table.type.to_stored(value))
            of_json, plain = _verdict(lambda: table.type.to_json(value))
            assert words == of_json, "one verdict for its column, another as JSON"
            for alias in self._aliases:
                of_column, _ = _verdict(lambda alias=alias: field.get_db_prep_save(value, connections[alias]))
                assert words == of_column, f"another verdict on {connections[alias].vendor}"
        return None if words else Accepted(name, value, stored, plain)

    @contextmanager
    def _silence(self) -> Iterator[None]:
        with ExitStack() as stack:
            for alias in self._aliases:
                stack.enter_context(connections[alias].execute_wrapper(_refuse))
            yield

    # Many

    def compare(self, name: str, together: Sequence[Accepted]) -> None:
        """Store them everywhere, read them back, and hold them against what they were."""
        if not together:
            return
        table = self._tables[name]
        expected = {
            number: (_text(table.type.check(each.value)), _text(table.type.from_json(each.plain)))
            for number, each in enumerate(together, 1)
        }
        for alias in self._aliases:
            for number, value, result in _there_and_back(alias, table.model, together):
                found = (_text(table.type.from_stored(value)), _text(table.type.from_json(result)))
                what = f"{connections[alias].vendor}, {name}: {together[number - 1].value!r}"
                assert found == expected[number], f"{what}\n  is    {found}\n  not   {expected[number]}"


def _there_and_back(alias: str, model: Any, together: Sequence[Accepted]) -> list[tuple[Any, ...]]:
    rows = [(number, each.stored, each.plain) for number, each in enumerate(together, 1)]
    ids = f"id IN ({id_list(row[0] for row in rows)})"
    insert_rows(alias, model, _COLUMNS, rows)
    found = select_rows(alias, model, _COLUMNS, ids, order="id")
    assert delete_where(alias, model, ids) == len(rows) == len(found)
    return found


def _text(value: Any) -> str:
    """A typed value as text, by which it is compared: to the letter, names in the same order, 1 not 1.0."""
    if isinstance(value, datetime):
        value = value.astimezone(UTC).replace(fold=0)  # a column keeps the moment, not the zone
    return repr(sorted(value) if isinstance(value, (set, frozenset)) else value)


def _verdict(check: Callable[[], Any]) -> tuple[str, Any]:
    """Why it was refused, or "" and what was made of it. No other exception may come of it."""
    try:
        return "", check()
    except InvalidValue as error:
        return str(error), None


def _refuse(*arguments: Any) -> None:
    raise AssertionError("a database was asked for a verdict")


def _try(check: Callable[[tuple[str, Any]], None], number: int, seed: int) -> None:
    """Run `check` with so many examples. They depend on the seed alone, so long as it raises nothing."""
    given_examples = given(examples)(check)
    options = how(
        max_examples=number,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    hypothesis.seed(seed)(options(given_examples))()
