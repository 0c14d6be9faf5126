"""The engine's statements: one for all rows of a turn, rows as tuples.

The ORM cannot write some of these on all three databases, and takes longer to compile the others than they run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

from django.conf import settings
from django.db import connections, models

from pipeteer_django.queues.database import literal


def id_list(ids: Iterable[int]) -> str:
    """Ids as they stand in `IN (...)`: in the text, because drivers are slow at replacing placeholders."""
    return ", ".join(str(int(id)) for id in ids) or "NULL"


def quoted(using: str, name: str) -> str:
    """A column's name as it stands in a statement."""
    return str(connections[using].ops.quote_name(name))


# Reading


def select_rows(
    using: str,
    model: type[models.Model],
    columns: tuple[str, ...],
    where: str,
    parameters: Sequence[Any] = (),
    *,
    order: str,
    limit: int | None = None,
    lock: bool = False,
    wait: bool = False,
) -> list[tuple[Any, ...]]:
    """Rows as tuples of what the ORM would have read. `lock` them, leaving out locked ones unless `wait`."""
    connection = connections[using]
    head, converters = _reading(using, model, columns)
    sql = f"{head} WHERE {where} ORDER BY {order}"
    if limit is not None:
        sql += f" LIMIT {int(limit)}"
    if lock:
        sql += _locking(connection, wait)
    cursor = _cursor(using)
    cursor.execute(sql, _times(parameters, connection))
    return _converted(cursor.fetchall(), converters, connection)


def select_from_each(
    using: str, queries: Sequence[tuple[type[models.Model], str]], columns: tuple[str, ...], *, order: str, wait: bool
) -> list[list[tuple[Any, ...]]]:
    """The same columns of several tables, their rows locked as by `select_rows`: one statement where that can be."""
    connection = connections[using]
    if wait or connection.vendor == "mysql" or len(queries) < 2:
        return [
            select_rows(using, model, columns, where, order=order, lock=True, wait=wait) for model, where in queries
        ]
    locking = _locking(connection, wait)
    parts = [
        f"SELECT * FROM (SELECT {number} AS n, {_reading(using, model, columns)[0].removeprefix('SELECT ')} "
        f"WHERE {where} ORDER BY {order}{locking}) AS q{number}"
        for number, (model, where) in enumerate(queries)
    ]
    cursor = _cursor(using)
    cursor.execute(" UNION ALL ".join(parts))
    found: list[list[tuple[Any, ...]]] = [[] for _ in queries]
    for row in cursor.fetchall():
        found[row[0]].append(row[1:])
    converters = [_reading(using, model, columns)[1] for model, _ in queries]
    return [_converted(rows, converter, connection) for rows, converter in zip(found, converters, strict=True)]


def _locking(connection: Any, wait: bool) -> str:
    if not connection.features.has_select_for_update:
        return ""
    return f" {connection.ops.for_update_sql(skip_locked=not wait)}"


def _cursor(using: str) -> Any:
    """This thread's cursor for the engine's statements: making one takes as long as many of them run."""
    connection: Any = connections[using]
    known = getattr(connection, "_pipeteer_cursor", None)
    if known is None or known[0] is not connection.connection or known[1] != connection.queries_logged:
        cursor = connection.cursor()
        _read_times_fast(connection, cursor)
        known = connection._pipeteer_cursor = (connection.connection, connection.queries_logged, cursor)
    return known[2]


def _read_times_fast(connection: Any, cursor: Any) -> None:
    """Django has psycopg call a function in Python for each moment, to change its time zone; the driver's own is C."""
    adapters = getattr(cursor.cursor, "adapters", None)
    if adapters is not None and connection.vendor == "postgresql" and settings.USE_TZ:
        known = connection.Database.adapters  # as the driver comes: Django changes a copy
        oid = known.types["timestamptz"].oid
        adapters.register_loader(oid, known.get_loader(oid, 0))


_Converters = list[tuple[int, list[Callable[..., Any]], Any]]
"""By position the functions that make values of raw columns, and the column's expression."""


@cache
def _reading(using: str, model: type[models.Model], columns: tuple[str, ...]) -> tuple[str, _Converters]:
    """The beginning of a SELECT, and what makes values of its raw columns."""
    connection = connections[using]
    expressions = [model._meta.get_field(name).get_col(model._meta.db_table) for name in columns]  # type: ignore[union-attr]
    converters = [(n, _functions(connection, column), column) for n, column in enumerate(expressions)]
    names = ", ".join(_columns(using, model, columns))
    head = f"SELECT {names} FROM {connection.ops.quote_name(model._meta.db_table)}"
    return head, [converter for converter in converters if converter[1]]


def _functions(connection: Any, column: Any) -> list[Callable[..., Any]]:
    functions = [*connection.ops.get_db_converters(column), *column.get_db_converters(connection)]
    of_times = getattr(connection.ops, "convert_datetimefield_value", None)
    return [_in_utc] if functions == [of_times] and connection.timezone is UTC else functions


def _in_utc(value: Any, column: Any, connection: Any) -> Any:
    """What Django does to a moment where the connection's time zone is UTC, in a fraction of the time."""
    return None if value is None else value.replace(tzinfo=UTC)


def _converted(rows: list[tuple[Any, ...]], converters: _Converters, connection: Any) -> list[tuple[Any, ...]]:
    if not (rows and converters):
        return rows
    values: list[Sequence[Any]] = list(zip(*rows, strict=True))
    for n, functions, column in converters:
        for function in functions:
            values[n] = [function(value, column, connection) for value in values[n]]
    return list(zip(*values, strict=True))


def _times(parameters: Sequence[Any], connection: Any) -> list[Any]:
    adapt = connection.ops.adapt_datetimefield_value
    return [adapt(value) if isinstance(value, datetime) else value for value in parameters]


# Writing


def _rendered(
    using: str, model: type[models.Model], columns: tuple[str, ...], rows: Sequence[Sequence[Any]]
) -> tuple[list[tuple[str, ...]], list[Any]]:
    """Each row's values as they stand in the text, and the parameters for what is not written out.

    Column by column: a column whose rows all have the same value is prepared once.
    """
    texts: list[list[str]] = []
    prepared: list[list[Any]] = []
    for prepare, values in zip(_preparing(using, model, columns), zip(*rows, strict=True), strict=True):
        first = values[0]
        alike = all(value is first for value in values)
        ready = [prepare(value) for value in (values[:1] if alike else values)]
        words = [_literal(value) for value in ready]
        texts.append(words * len(rows) if alike else words)
        prepared.append(ready * len(rows) if alike else ready)
    by_row = list(zip(*texts, strict=True))
    asked = [n for n, words in enumerate(texts) if "%s" in words]
    return by_row, [prepared[n][row] for row, words in enumerate(by_row) for n in asked if words[n] == "%s"]


@cache
def _preparing(using: str, model: type[models.Model], columns: tuple[str, ...]) -> list[Callable[[Any], Any]]:
    """What makes of each column's value what the driver takes: shorter for columns whose values the engine makes."""
    return [_prepares(connections[using], model._meta.get_field(name)) for name in columns]


def _prepares(connection: Any, field: Any) -> Callable[[Any], Any]:
    if isinstance(field, models.DateTimeField) and field.name != "value":
        return lambda moment: None if moment is None else _Text(literal(connection, moment))
    if type(field) in _AS_THEY_ARE and field.name != "value":
        return _same
    return partial(field.get_db_prep_save, connection=connection)


_AS_THEY_ARE = {
    models.BigAutoField, models.BigIntegerField, models.IntegerField, models.SmallIntegerField, models.FloatField,
    models.BooleanField, models.CharField, models.TextField,
}  # fmt: skip


def _same(value: Any) -> Any:
    return value


_LONGEST = 2**21
"""Characters of the parameters of one statement. MariaDB takes 16 MiB, unless told otherwise, and closes the connection
at more; a character is up to four bytes, or two where one is escaped."""


def _too_long(using: str, parameters: Iterable[Any]) -> bool:
    if connections[using].vendor != "mysql":
        return False
    return sum(len(value) for value in parameters if isinstance(value, (str, bytes))) > _LONGEST


class _Text(str):
    """A value as it stands in a statement."""

    __slots__ = ()


def _literal(value: Any) -> str:
    """What stands in the statement: the value itself where there is nothing to escape, else a placeholder."""
    kind = type(value)
    if kind is _Text:
        return value  # type: ignore[no-any-return]
    if kind is int:
        return str(value)
    if kind is str:
        return f"'{value}'" if _NOTHING_TO_ESCAPE(value) else "%s"
    if value is None:
        return "NULL"
    return str(value).upper() if kind is bool else "%s"


_NOTHING_TO_ESCAPE = re.compile(r"[A-Za-z0-9_.:-]{0,100}").fullmatch
"""Names that the engine makes are such, and most keys: drivers take longer for a placeholder than for the text."""


@cache
def _columns(using: str, model: type[models.Model], names: tuple[str, ...]) -> list[str]:
    return [quoted(using, model._meta.get_field(name).column) for name in names]  # type: ignore[union-attr,arg-type]


def update_where(using: str, model: type[models.Model], sets: str, where: str, parameters: Sequence[Any]) -> int:
    """One UPDATE of all rows that `where` names; returns how many."""
    connection = connections[using]
    table = connection.ops.quote_name(model._meta.db_table)
    cursor = _cursor(using)
    cursor.execute(f"UPDATE {table} SET {sets} WHERE {where}", _times(parameters, connection))
    return int(cursor.rowcount)


def delete_where(using: str, model: type[models.Model], where: str) -> int:
    """One DELETE of all rows that `where` names; returns how many."""
    cursor = _cursor(using)
    cursor.execute(f"DELETE FROM {quoted(using, model._meta.db_table)} WHERE {where}")
    return int(cursor.rowcount)


def insert_rows(
    using: str,
    model: type[models.Model],
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    returning: Sequence[str] = (),
) -> list[tuple[Any, ...]]:
    """One INSERT for all rows, several where it would be too long; returns the `returning` columns of each, in no
    promised order."""
    if not rows:
        return []
    texts, parameters = _rendered(using, model, tuple(columns), rows)
    if len(rows) > 1 and _too_long(using, parameters):
        parts = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        return [row for part in parts for row in insert_rows(using, model, columns, part, returning)]
    sql = _inserting(using, model, tuple(columns)) + ", ".join(f"({', '.join(words)})" for words in texts)
    if returning:
        sql += f" RETURNING {', '.join(_columns(using, model, tuple(returning)))}"
    cursor = _cursor(using)
    cursor.execute(sql, parameters)
    return list(cursor.fetchall()) if returning else []


@cache
def _inserting(using: str, model: type[models.Model], columns: tuple[str, ...]) -> str:
    return f"INSERT INTO {quoted(using, model._meta.db_table)} ({', '.join(_columns(using, model, columns))}) VALUES "


def update_rows(
    using: str,
    model: type[models.Model],
    columns: Sequence[str],
    rows: Mapping[int, Sequence[Any]],
    only_where_null: Sequence[str] = (),
) -> int:
    """One UPDATE that gives every row (by id) values of its own, several where these are too long; returns how many
    rows it changed.

    With `only_where_null`, rows in which one of these columns is set are left alone.
    """
    if not rows:
        return 0
    names = ("id", *columns)
    texts, parameters = _rendered(using, model, names, [(id, *row) for id, row in rows.items()])
    if len(rows) > 1 and _too_long(using, parameters):
        ids = list(rows)
        parts = ids[: len(ids) // 2], ids[len(ids) // 2 :]
        return sum(update_rows(using, model, columns, {id: rows[id] for id in p}, only_where_null) for p in parts)
    updating = _updating(using, model, names, tuple(only_where_null))
    cursor = _cursor(using)
    cursor.execute(updating.one(texts[0]) if len(texts) == 1 else updating.many(texts), parameters)
    return int(cursor.rowcount)


@dataclass(frozen=True, slots=True)
class _Update:
    """The parts of an UPDATE that stay the same. The first value of each row is its id."""

    table: str
    targets: Sequence[str]
    before: str
    row: str
    between: str
    after: str
    guards: str
    named: str = ""

    def one(self, words: Sequence[str]) -> str:
        """Planned in a fraction of the time that a join takes."""
        sets = ", ".join(f"{column} = {word}" for column, word in zip(self.targets, words[1:], strict=True))
        return f"UPDATE {self.table} SET {sets} WHERE id = {words[0]}{self.guards}"

    def many(self, rows: Sequence[Sequence[str]]) -> str:
        values = self.between.join(self.row % ", ".join(words) for words in rows)
        return self.before + values + self.after + self.guards + self.named.format(", ".join(row[0] for row in rows))


def _all_null(columns: Sequence[str]) -> str:
    """The end of a WHERE. As a CASE, of which planners make no guess: without statistics PostgreSQL takes rows with
    NULL for rare, and would look for them first."""
    nulls = " AND ".join(f"{column} IS NULL" for column in columns)
    return f" AND CASE WHEN {nulls} THEN TRUE ELSE FALSE END" if nulls else ""


@cache
def _updating(using: str, model: type[models.Model], names: tuple[str, ...], nulls: tuple[str, ...]) -> _Update:
    connection = connections[using]
    table = quoted(using, model._meta.db_table)
    targets = _columns(using, model, names[1:])
    guards = _all_null([f"{table}.{column}" for column in _columns(using, model, nulls)])
    values = [f"v{n}" for n in range(len(names))]
    if connection.vendor == "mysql":
        none = ", ".join(f"NULL AS {name}" for name in values)
        sets = ", ".join(f"{table}.{column} = v.{name}" for column, name in zip(targets, values[1:], strict=True))
        # Row by row: it would read all of a small table instead, and wait for each row that somebody has locked.
        primary = f"{table} FORCE INDEX (PRIMARY)"
        before = f"UPDATE (SELECT {none} FROM DUAL WHERE FALSE UNION ALL "
        after = f") AS v STRAIGHT_JOIN {primary} ON {table}.id = v.v0 SET {sets} WHERE TRUE"
        return _Update(table, targets, before, "SELECT %s", " UNION ALL ", after, guards)
    if connection.vendor == "postgresql":
        types = [model._meta.get_field(name).db_type(connection) for name in names[1:]]
        made = [f"v.{name}::{type}" for name, type in zip(values[1:], types, strict=True)]
        after = f") AS v({', '.join(values)}) WHERE {table}.id = v.v0"
        # By the statistics of a queue that was nearly empty when autovacuum came by, reading all of the primary key
        # for the join is cheap. A list has it look each id up, whatever it believes.
        named = f" AND {table}.id IN ({{}})"
    else:
        made = [f"v.column{n}" for n in range(2, len(names) + 1)]
        after = f") AS v WHERE {table}.id = v.column1"
        named = ""
    sets = ", ".join(f"{column} = {value}" for column, value in zip(targets, made, strict=True))
    return _Update(table, targets, f"UPDATE {table} SET {sets} FROM (VALUES ", "(%s)", ", ", after, guards, named)
