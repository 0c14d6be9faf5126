"""The engine's statements: one for all rows of a turn, rows as tuples.

The ORM cannot write some of these on all three databases, and takes longer to compile the others than they run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from django.db import connections, models


def id_list(ids: Iterable[int]) -> str:
    """Ids as they stand in `IN (...)`: in the text, because drivers are slow at replacing placeholders."""
    return ", ".join(str(int(id)) for id in ids) or "NULL"


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
    if lock and connection.features.has_select_for_update:
        sql += f" {connection.ops.for_update_sql(skip_locked=not wait)}"
    with connection.cursor() as cursor:
        cursor.execute(sql, _times(parameters, connection))
        return [_converted(row, converters, connection) for row in cursor.fetchall()]


@cache
def _reading(using: str, model: type[models.Model], columns: tuple[str, ...]) -> tuple[str, list[Any]]:
    """The beginning of a SELECT, and by position the functions that make values of its raw columns."""
    connection = connections[using]
    expressions = [model._meta.get_field(name).get_col(model._meta.db_table) for name in columns]  # type: ignore[union-attr]
    converters = [
        (n, [*connection.ops.get_db_converters(column), *column.get_db_converters(connection)], column)
        for n, column in enumerate(expressions)
    ]
    names = ", ".join(_columns(model, columns, connection))
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
    model: type[models.Model], columns: Sequence[str], rows: Iterable[Sequence[Any]], connection: Any
) -> tuple[list[str], list[Any]]:
    """Each row's values as text between parentheses, and the parameters for what is not written out.

    A column's value that is the previous row's is prepared once.
    """
    prepare = [model._meta.get_field(name).get_db_prep_save for name in columns]  # type: ignore[union-attr]
    last: list[Any] = [_NO_VALUE] * len(columns)
    ready: list[Any] = [None] * len(columns)
    literal = [""] * len(columns)
    texts, parameters = [], []
    for row in rows:
        words = []
        for n, value in enumerate(row):
            if value is not last[n]:
                last[n], ready[n] = value, prepare[n](value, connection)
                literal[n] = _literal(ready[n])
            words.append(literal[n])
            if literal[n] == "%s":
                parameters.append(ready[n])
        texts.append(", ".join(words))
    return texts, parameters


_NO_VALUE = object()


def _literal(value: Any) -> str:
    """What stands in the statement: a placeholder, or the value itself where there is nothing to quote."""
    if type(value) is int:
        return str(value)
    if value is None:
        return "NULL"
    if value is True or value is False:
        return str(value).upper()
    return "''" if type(value) is str and not value else "%s"


def _columns(model: type[models.Model], names: Iterable[str], connection: Any) -> list[str]:
    return [connection.ops.quote_name(model._meta.get_field(name).column) for name in names]  # type: ignore[union-attr]


def update_where(using: str, model: type[models.Model], sets: str, where: str, parameters: Sequence[Any]) -> int:
    """One UPDATE of all rows that `where` names; returns how many."""
    connection = connections[using]
    with connection.cursor() as cursor:
        table = connection.ops.quote_name(model._meta.db_table)
        cursor.execute(f"UPDATE {table} SET {sets} WHERE {where}", _times(parameters, connection))
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
    connection = connections[using]
    texts, parameters = _rendered(model, columns, rows, connection)
    sql = (
        f"INSERT INTO {connection.ops.quote_name(model._meta.db_table)} "
        f"({', '.join(_columns(model, columns, connection))}) VALUES {', '.join(f'({text})' for text in texts)}"
    )
    if returning:
        sql += f" RETURNING {', '.join(_columns(model, returning, connection))}"
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall()) if returning else []


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
    connection = connections[using]
    texts, parameters = _rendered(model, ("id", *columns), ((id, *row) for id, row in rows.items()), connection)
    with connection.cursor() as cursor:
        cursor.execute(_update_sql(connection, model, columns, texts, only_where_null), parameters)
        return int(cursor.rowcount)


def _update_sql(
    connection: Any, model: type[models.Model], columns: Sequence[str], rows: Sequence[str], nulls: Sequence[str]
) -> str:
    table = connection.ops.quote_name(model._meta.db_table)
    targets = _columns(model, columns, connection)
    guards = "".join(f" AND {table}.{column} IS NULL" for column in _columns(model, nulls, connection))
    if connection.vendor == "mysql":
        names = ", ".join(f"NULL AS v{n}" for n in range(len(columns) + 1))
        values = " UNION ALL ".join([f"SELECT {names} FROM DUAL WHERE FALSE", *(f"SELECT {row}" for row in rows)])
        sets = ", ".join(f"{table}.{column} = v.v{n}" for n, column in enumerate(targets, 1))
        return f"UPDATE {table} JOIN ({values}) AS v ON {table}.id = v.v0 SET {sets} WHERE TRUE{guards}"
    values = ", ".join(f"({row})" for row in rows)
    if connection.vendor == "postgresql":
        names = ", ".join(f"v{n}" for n in range(len(columns) + 1))
        types = [model._meta.get_field(name).db_type(connection) for name in columns]
        sets = ", ".join(f"{c} = v.v{n}::{t}" for n, (c, t) in enumerate(zip(targets, types, strict=True), 1))
        return f"UPDATE {table} SET {sets} FROM (VALUES {values}) AS v({names}) WHERE {table}.id = v.v0{guards}"
    sets = ", ".join(f"{column} = v.column{n + 1}" for n, column in enumerate(targets, 1))
    return f"UPDATE {table} SET {sets} FROM (VALUES {values}) AS v WHERE {table}.id = v.column1{guards}"
