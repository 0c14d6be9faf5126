"""Set-based writes: one statement for all rows of a turn, which the ORM cannot write on all three databases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.db import connections, models


def _parameters(
    model: type[models.Model], columns: Sequence[str], rows: Iterable[Sequence[Any]], connection: Any
) -> list[Any]:
    """All values in the form the database takes; a column's value that is the previous row's is prepared once."""
    prepare = [model._meta.get_field(name).get_db_prep_save for name in columns]  # type: ignore[union-attr]
    last: list[Any] = [_NO_VALUE] * len(columns)
    ready: list[Any] = [None] * len(columns)
    parameters = []
    for row in rows:
        for n, value in enumerate(row):
            if value is not last[n]:
                last[n], ready[n] = value, prepare[n](value, connection)
            parameters.append(ready[n])
    return parameters


_NO_VALUE = object()


def _columns(model: type[models.Model], names: Iterable[str], connection: Any) -> list[str]:
    return [connection.ops.quote_name(model._meta.get_field(name).column) for name in names]  # type: ignore[union-attr]


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
    one = f"({', '.join(['%s'] * len(columns))})"
    sql = (
        f"INSERT INTO {connection.ops.quote_name(model._meta.db_table)} "
        f"({', '.join(_columns(model, columns, connection))}) VALUES {', '.join([one] * len(rows))}"
    )
    if returning:
        sql += f" RETURNING {', '.join(_columns(model, returning, connection))}"
    with connection.cursor() as cursor:
        cursor.execute(sql, _parameters(model, columns, rows, connection))
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
    parameters = _parameters(model, ("id", *columns), ((id, *row) for id, row in rows.items()), connection)
    with connection.cursor() as cursor:
        cursor.execute(_update_sql(connection, model, columns, len(rows), only_where_null), parameters)
        return int(cursor.rowcount)


def _update_sql(
    connection: Any, model: type[models.Model], columns: Sequence[str], count: int, nulls: Sequence[str]
) -> str:
    table = connection.ops.quote_name(model._meta.db_table)
    targets = _columns(model, columns, connection)
    one = ", ".join(["%s"] * (len(columns) + 1))
    guards = "".join(f" AND {table}.{column} IS NULL" for column in _columns(model, nulls, connection))
    if connection.vendor == "mysql":
        names = ", ".join(f"%s AS v{n}" for n in range(len(columns) + 1))
        values = " UNION ALL ".join([f"SELECT {names}", *[f"SELECT {one}"] * (count - 1)])
        sets = ", ".join(f"{table}.{column} = v.v{n}" for n, column in enumerate(targets, 1))
        return f"UPDATE {table} JOIN ({values}) AS v ON {table}.id = v.v0 SET {sets} WHERE TRUE{guards}"
    values = ", ".join([f"({one})"] * count)
    if connection.vendor == "postgresql":
        names = ", ".join(f"v{n}" for n in range(len(columns) + 1))
        types = [model._meta.get_field(name).db_type(connection) for name in columns]
        sets = ", ".join(f"{c} = v.v{n}::{t}" for n, (c, t) in enumerate(zip(targets, types, strict=True), 1))
        return f"UPDATE {table} SET {sets} FROM (VALUES {values}) AS v({names}) WHERE {table}.id = v.v0{guards}"
    sets = ", ".join(f"{column} = v.column{n + 1}" for n, column in enumerate(targets, 1))
    return f"UPDATE {table} SET {sets} FROM (VALUES {values}) AS v WHERE {table}.id = v.column1{guards}"
