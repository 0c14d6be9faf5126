"""The engine's statements: one for all rows of a turn, rows as tuples.

The ORM cannot write some of these on all three databases, and takes longer to compile the others than they run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from typing import Any

from django.db import connections, models


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
    return [_converted(row, converters, connection) for row in cursor.fetchall()]


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
    for number, *row in cursor.fetchall():
        found[number].append(_converted(row, _reading(using, queries[number][0], columns)[1], connection))
    return found


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
        known = connection._pipeteer_cursor = (connection.connection, connection.queries_logged, cursor)
    return known[2]


@cache
def _reading(using: str, model: type[models.Model], columns: tuple[str, ...]) -> tuple[str, list[Any]]:
    """The beginning of a SELECT, and by position the functions that make values of its raw columns."""
    connection = connections[using]
    expressions = [model._meta.get_field(name).get_col(model._meta.db_table) for name in columns]  # type: ignore[union-attr]
    converters = [
        (n, [*connection.ops.get_db_converters(column), *column.get_db_converters(connection)], column)
        for n, column in enumerate(expressions)
    ]
    names = ", ".join(_columns(using, model, columns))
    head = f"SELECT {names} FROM {connection.ops.quote_name(model._meta.db_table)}"
    return head, [converter for converter in converters if converter[1]]


def _converted(row: Sequence[Any], converters: list[Any], connection: Any) -> tuple[Any, ...]:
    values = list(row)
    for n, functions, column in converters:
        for function in functions:
            values[n] = function(values[n], column, connection)
    return tuple(values)


def _times(parameters: Sequence[Any], connection: Any) -> list[Any]:
    adapt = connection.ops.adapt_datetimefield_value
    return [adapt(value) if isinstance(value, datetime) else value for value in parameters]


# Writing


def _rendered(
    using: str, model: type[models.Model], columns: tuple[str, ...], rows: Iterable[Sequence[Any]]
) -> tuple[list[list[str]], list[Any]]:
    """Each row's values as they stand in the text, and the parameters for what is not written out.

    A column's value that is the previous row's is prepared once.
    """
    prepare = _preparing(using, model, columns)
    last: list[Any] = [_NO_VALUE] * len(columns)
    ready: list[Any] = [None] * len(columns)
    literal = [""] * len(columns)
    texts, parameters = [], []
    for row in rows:
        words = []
        for n, value in enumerate(row):
            if value is not last[n]:
                last[n], ready[n] = value, prepare[n](value)
                literal[n] = _literal(ready[n])
            words.append(literal[n])
            if literal[n] == "%s":
                parameters.append(ready[n])
        texts.append(words)
    return texts, parameters


_NO_VALUE = object()


@cache
def _preparing(using: str, model: type[models.Model], columns: tuple[str, ...]) -> list[Callable[[Any], Any]]:
    """What makes of each column's value what the driver takes: shorter for columns whose values the engine makes."""
    return [_prepares(connections[using], model._meta.get_field(name)) for name in columns]


def _prepares(connection: Any, field: Any) -> Callable[[Any], Any]:
    if isinstance(field, models.DateTimeField) and field.name != "value":
        return connection.ops.adapt_datetimefield_value  # type: ignore[no-any-return]
    if type(field) in _AS_THEY_ARE and field.name != "value":
        return _same
    return partial(field.get_db_prep_save, connection=connection)


_AS_THEY_ARE = {
    models.BigAutoField, models.BigIntegerField, models.IntegerField, models.SmallIntegerField, models.FloatField,
    models.BooleanField, models.CharField, models.TextField,
}  # fmt: skip


def _same(value: Any) -> Any:
    return value


def _literal(value: Any) -> str:
    """What stands in the statement: a placeholder, or the value itself where there is nothing to quote."""
    if type(value) is int:
        return str(value)
    if value is None:
        return "NULL"
    if value is True or value is False:
        return str(value).upper()
    return "''" if type(value) is str and not value else "%s"


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
    """One INSERT for all rows; returns the `returning` columns of each, in no promised order."""
    if not rows:
        return []
    texts, parameters = _rendered(using, model, tuple(columns), rows)
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
    """One UPDATE that gives every row (by id) values of its own; returns how many rows it changed.

    With `only_where_null`, rows in which one of these columns is set are left alone.
    """
    if not rows:
        return 0
    names = ("id", *columns)
    texts, parameters = _rendered(using, model, names, ((id, *row) for id, row in rows.items()))
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

    def one(self, words: Sequence[str]) -> str:
        """Planned in a fraction of the time that a join takes."""
        sets = ", ".join(f"{column} = {word}" for column, word in zip(self.targets, words[1:], strict=True))
        return f"UPDATE {self.table} SET {sets} WHERE id = {words[0]}{self.guards}"

    def many(self, rows: Iterable[Sequence[str]]) -> str:
        values = self.between.join(self.row % ", ".join(words) for words in rows)
        return self.before + values + self.after + self.guards


@cache
def _updating(using: str, model: type[models.Model], names: tuple[str, ...], nulls: tuple[str, ...]) -> _Update:
    connection = connections[using]
    table = quoted(using, model._meta.db_table)
    targets = _columns(using, model, names[1:])
    guards = "".join(f" AND {table}.{column} IS NULL" for column in _columns(using, model, nulls))
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
    else:
        made = [f"v.column{n}" for n in range(2, len(names) + 1)]
        after = f") AS v WHERE {table}.id = v.column1"
    sets = ", ".join(f"{column} = {value}" for column, value in zip(targets, made, strict=True))
    return _Update(table, targets, f"UPDATE {table} SET {sets} FROM (VALUES ", "(%s)", ", ", after, guards)
