"""The app, and a log of every statement where one is wanted."""

import os
from typing import Any

from django.apps import AppConfig
from django.db.backends.signals import connection_created


class LoadConfig(AppConfig):
    """With `BENCH_STATEMENTS` set, a line per statement is appended to that file."""

    name = "benchmarks.site.load"

    def ready(self) -> None:
        """Hook into every connection."""
        if path := os.environ.get("BENCH_STATEMENTS"):
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

            def write(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
                os.write(file, f"{' '.join(sql.split())[:400]}\n".encode())
                return execute(sql, params, many, context)

            def hook(connection: Any, **kwargs: Any) -> None:
                connection.execute_wrappers.append(write)

            connection_created.connect(hook, weak=False)
