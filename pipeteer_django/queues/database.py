"""Everything that differs between SQLite, PostgreSQL and MariaDB, and every statement the ORM cannot write.

Clock: leases are judged by the database's clock. On SQLite that is this host's. On MariaDB `Now()` follows the
server's time zone while Django stores UTC, so `UTC_TIMESTAMP` is asked; on PostgreSQL `statement_timestamp()` moves
within a long transaction and, unlike `clock_timestamp()`, may be used in an index condition.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import DatabaseError, InterfaceError, InternalError, OperationalError, connections, models, transaction
from django.utils import timezone

LOCK_TIMEOUT = 5
"""Seconds an engine transaction waits for a lock (a foreign key's row, a unique key) before it is rerun."""

_CONTENTION_STATES = {"40001", "40P01", "55P03"}
_READ_ONLY_STATE = "25006"
_NO_SUCH_THREAD = 1094
_CONTENTION_NUMBERS = {1020, 1205, 1213}
_NO_SUCH_SAVEPOINT = 1305


def binary_collation(connection: Any) -> str | None:
    """The collation under which keys are equal only if their bytes are, and sort as these do: SQLite's own is such."""
    return {"mysql": "utf8mb4_nopad_bin", "postgresql": "C"}.get(connection.vendor)


# Time


class DatabaseNow(models.Func):
    """The database's clock as an expression, right on all vendors."""

    output_field = models.DateTimeField()
    arity = 0

    def as_sql(self, compiler: Any, connection: Any, *args: Any, **kwargs: Any) -> tuple[str, tuple[Any, ...]]:
        """PostgreSQL's and MariaDB's function, or this host's time as a parameter."""
        if connection.vendor == "postgresql":
            return "statement_timestamp()", ()
        if connection.vendor == "mysql":
            return "UTC_TIMESTAMP(6)", ()
        return "%s", (connection.ops.adapt_datetimefield_value(timezone.now()),)


def aware(value: Any) -> datetime | None:
    """A datetime as a raw cursor returns it, made aware."""
    if value is None:
        return None
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    moment: datetime = value
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def time_of(using: str) -> datetime:
    """The database's time, nothing else: for transactions that are the user's."""
    connection = connections[using]
    moment = aware(fetch(using, f"SELECT {clock(connection)}")[0][0]) if connection.vendor != "sqlite" else None
    return moment or timezone.now()


def begin(using: str) -> datetime:
    """Call first in a transaction that is all the engine's: bounds its lock waits, and returns the database's time."""
    return _begin(using)[0]


def begin_with(using: str, column: str, source: str) -> tuple[datetime, set[str]]:
    """`begin`, and the names in a column of a small table: one statement where the database can do that."""
    if connections[using].vendor == "postgresql":
        now, names = _begin(using, f"(SELECT string_agg({column}, ' ') FROM {source})")
        return now, set((names or "").split())
    return begin(using), {row[0] for row in fetch(using, f"SELECT {column} FROM {source}")}


def _begin(using: str, also: str = "NULL") -> tuple[datetime, Any]:
    connection = connections[using]
    if connection.vendor == "sqlite":
        return timezone.now(), None
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(f"SELECT statement_timestamp(), {also}, {_PLANS}", [f"{LOCK_TIMEOUT}s"])
        else:
            _bound_lock_waits(connection, cursor)
            cursor.execute("SELECT UTC_TIMESTAMP(6), NULL")
        now, found = cursor.fetchone()[:2]
    moment = aware(now)
    assert moment is not None
    return moment, found


_PLANS = ", ".join(
    # Every statement of ours walks an index. Without statistics (a table just filled) the planner would sort the whole
    # backlog for each claim, and read all steps there ever were to write the results of a few. What is merely
    # discouraged looks so dear that it would be compiled, if it were used all the same: no jit.
    f"set_config('{name}', {value}, true)"
    for name, value in (
        ("lock_timeout", "%s"),
        *((name, "'off'") for name in ("enable_sort", "enable_seqscan", "enable_mergejoin", "jit")),
    )
)


def _bound_lock_waits(connection: Any, cursor: Any) -> None:
    """MariaDB knows no setting for one transaction, so once per connection."""
    raw = connection.connection
    if getattr(connection, "_pipeteer_bounded", None) is not raw:
        cursor.execute(f"SET SESSION innodb_lock_wait_timeout = {LOCK_TIMEOUT}")
        connection._pipeteer_bounded = raw


# Reading


def clock(connection: Any) -> str:
    """The database's clock in a statement of our own; NULL on SQLite, where this host's is meant."""
    return {"postgresql": "statement_timestamp()", "mysql": "UTC_TIMESTAMP(6)"}.get(connection.vendor, "NULL")


def ago(connection: Any, seconds: float) -> str:
    """A moment before the database's now, in a statement of our own."""
    if connection.vendor == "postgresql":
        return f"statement_timestamp() - INTERVAL '{seconds} seconds'"
    if connection.vendor == "mysql":
        return f"UTC_TIMESTAMP(6) - INTERVAL {seconds} SECOND"
    return literal(connection, timezone.now() - timedelta(seconds=seconds))


def literal(connection: Any, moment: datetime | None) -> str:
    """A moment in a statement of our own."""
    if connection.vendor == "postgresql":
        return f"TIMESTAMPTZ '{moment}'"
    return f"'{connection.ops.adapt_datetimefield_value(moment)}'"


def no_table(connection: Any) -> str:
    """What a SELECT without a table needs before its WHERE."""
    return " FROM DUAL" if connection.vendor == "mysql" else ""


def fetch(using: str, sql: str) -> list[tuple[Any, ...]]:
    """The rows of a statement without parameters."""
    with connections[using].cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


# Transactions


class Commit:
    """Proof that a transaction committed: leaving `atomic()` without an exception is none."""

    proved = False


@contextmanager
def durable(using: str) -> Any:
    """The outermost transaction of a worker. Yields a Commit whose `proved` is set by the database's own commit."""
    commit = Commit()
    with transaction.atomic(using=using, durable=True):
        # First of the hooks, and it cannot raise.
        transaction.on_commit(lambda: setattr(commit, "proved", True), using=using)
        yield commit


@contextmanager
def nested(using: str) -> Any:
    """The same inside somebody's transaction (a TestCase): leaving the savepoint is the only proof there can be."""
    commit = Commit()
    with transaction.atomic(using=using):
        yield commit
    commit.proved = True


Strategy = Callable[[str], AbstractContextManager[Commit]]


@contextmanager
def shielded(using: str) -> Any:
    """Inside a test's transaction: a block that leaves it unusable takes back what the block wrote, and nothing else.

    Without a transaction a statement that fails ends only itself.
    """
    block: Any = transaction.Atomic(using, savepoint=True, durable=False)
    block._from_testcase = True  # no transaction of the code inside: that may open its own, durable ones too
    with block:
        yield
        if aborted(using):
            transaction.set_rollback(True, using=using)


@contextmanager
def snapshot(using: str) -> Any:
    """A transaction for reading: all its statements see one moment, nobody waits for it. Inside another as that is."""
    connection = connections[using]
    fresh = not connection.in_atomic_block
    if fresh and connection.vendor == "sqlite":
        # Not `atomic()`, which begins as a writer and keeps all others waiting.
        with connection.cursor() as cursor:
            cursor.execute("BEGIN DEFERRED")
            try:
                yield
            finally:
                cursor.execute("ROLLBACK")
        return
    if fresh and connection.vendor == "mysql":
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")  # the next one's
    with transaction.atomic(using=using):
        if fresh and connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield


def keep_ids_above(using: str, model: type[models.Model], last: int) -> None:
    """See to it that ids up to `last` are not given to new rows of a table. Not inside a transaction."""
    connection = connections[using]
    table = model._meta.db_table
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            sequence = "pg_get_serial_sequence(%s, 'id')"
            name = connection.ops.quote_name(table)
            cursor.execute(f"SELECT nextval({sequence}) < %s", [name, last])
            if cursor.fetchone()[0]:
                cursor.execute(f"SELECT setval({sequence}, %s)", [name, last])
        elif connection.vendor == "mysql":
            cursor.execute(
                "SELECT auto_increment FROM information_schema.tables WHERE table_schema = DATABASE() "
                "AND table_name = %s", [table],
            )  # fmt: skip
            if cursor.fetchone()[0] <= last:  # or the next line would lower it
                cursor.execute(f"ALTER TABLE {connection.ops.quote_name(table)} AUTO_INCREMENT = {int(last) + 1}")
        else:
            cursor.execute("UPDATE sqlite_sequence SET seq = MAX(seq, %s) WHERE name = %s", [last, table])
            if not cursor.rowcount:
                cursor.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (%s, %s)", [table, last])


FENCE = "pipeteer_fence"


def set_fence(using: str) -> None:
    """Mark the transaction with a savepoint of a known name: it dies with the transaction, whoever ends it."""
    if connections[using].features.uses_savepoints:
        with connections[using].cursor() as cursor:
            cursor.execute(f"SAVEPOINT {FENCE}")


def fence_stands(using: str) -> bool:
    """Whether this is still the transaction in which `set_fence` was called (raw COMMIT and DDL end it silently).

    Raises OperationalError or InterfaceError if the connection is gone, and everything with it.
    """
    connection: Any = connections[using]
    # To an aborted transaction PostgreSQL answers only the one; it, too, fails where the savepoint is gone.
    verb = "ROLLBACK TO" if aborted(using) else "RELEASE"
    doomed, connection.needs_rollback = connection.needs_rollback, False
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"{verb} SAVEPOINT {FENCE}")
    except DatabaseError as error:
        if isinstance(error, OperationalError) and not _no_such_savepoint(connection, error):
            raise
        return False
    finally:
        connection.needs_rollback = doomed
    return True


def _no_such_savepoint(connection: Any, error: OperationalError) -> bool:
    if connection.vendor == "postgresql":
        return getattr(error.__cause__, "sqlstate", None) == "3B001"
    return bool(connection.vendor == "sqlite" or error.args[0] == _NO_SUCH_SAVEPOINT)


# Errors


def is_contention(error: BaseException) -> bool:
    """Deadlock, serialization failure, lock timeout: the transaction is gone, rerunning it is right."""
    cause = error.__cause__
    if getattr(cause, "sqlstate", None) in _CONTENTION_STATES:
        return True
    if cause is not None and cause.args and cause.args[0] in _CONTENTION_NUMBERS:
        return True
    return isinstance(error, OperationalError) and "database is locked" in str(error)


def is_by_server(error: BaseException) -> bool:
    """The server or the line to it is at fault, and not what was asked of it."""
    if isinstance(error, InternalError):
        # PostgreSQL's while it takes no writes, as a standby; or, without a code, the driver's, when an answer broke
        # off in the middle (PgBouncer, as its server dies).
        return getattr(error.__cause__, "sqlstate", None) in (None, _READ_ONLY_STATE)
    return isinstance(error, (OperationalError, InterfaceError))


def is_disconnect(error: BaseException) -> bool:
    """The server or the network went away; nothing is known about a COMMIT that was under way."""
    return is_by_server(error) and not is_contention(error)


def from_now(now: datetime, seconds: float) -> datetime:
    """`now` plus seconds, bounded so that no database's calendar ends."""
    return now + timedelta(seconds=min(seconds, 3.0e9))


def single_writer(using: str) -> bool:
    """Whether a transaction that writes keeps every other writer waiting."""
    return connections[using].vendor == "sqlite"


def aborted(using: str) -> bool:
    """Whether a swallowed error has left the transaction unusable (PostgreSQL; elsewhere it goes on)."""
    connection: Any = connections[using]
    return bool(connection.vendor == "postgresql" and connection.connection.info.transaction_status.name == "INERROR")


# Sessions


def session_id(using: str) -> Any:
    """What `end_session` needs to end this thread's connection: the server's name for it, on SQLite itself."""
    connection: Any = connections[using]
    if connection.vendor == "postgresql":
        return int(connection.connection.info.backend_pid)
    return int(connection.connection.thread_id()) if connection.vendor == "mysql" else connection.connection


def end_session(using: str, session: Any) -> None:
    """End another of our connections: its transaction rolls back and its locks are free."""
    connection = connections[using]
    if connection.vendor == "sqlite":
        session.close()
        return
    sql = "SELECT pg_terminate_backend(%s)" if connection.vendor == "postgresql" else "KILL CONNECTION %s"
    with connection.cursor() as cursor:
        try:
            cursor.execute(sql, [session])
        except OperationalError as error:
            if error.args[0] != _NO_SUCH_THREAD:
                raise


def tidy() -> None:
    """Before and after each unit of work on a worker's thread: replace connections that are broken.

    Not Django's `close_old_connections`: with CONN_MAX_AGE at its default that would reconnect for every entry.
    """
    connection: Any
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block:
            continue
        if not connection.settings_dict["CONN_MAX_AGE"]:
            connection.close_at = None
        connection.close_if_unusable_or_obsolete()
        connection.health_check_enabled = _rested(connection)


def _rested(connection: Any) -> bool:
    """Whether the connection was idle so long that somebody may have dropped it."""
    now = time.monotonic()
    last = getattr(connection, "_pipeteer_used", now)
    connection._pipeteer_used = now
    return bool(now - last > 5)
