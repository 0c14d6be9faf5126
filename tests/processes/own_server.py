"""A database server of a test's own, which it may crash, starve or fill."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connection, connections

from example_project.database_url import database
from tests.databases import URL_VARIABLES, Unavailable
from tests.prove import servers

_ENTRY = ("NAME", "USER", "PASSWORD", "HOST", "PORT")


class Own:
    """The server, and how this process and its workers reach it."""

    def __init__(self, server: servers.Server, folder: Path) -> None:
        self.server, self.folder = server, folder

    def environment(self, user: str = "") -> dict[str, str]:
        """For a worker; as another user, if one is named."""
        given = dict(self.server.environment)
        if user:
            variable = URL_VARIABLES[settings.TEST_DATABASE]
            scheme, _, rest = given[variable].partition("://")
            given[variable] = f"{scheme}://{user}@{rest.partition('@')[2]}"
        return given

    @contextmanager
    def used(self) -> Iterator[None]:
        """Meanwhile the models of this process are there."""
        mine: Any = connections["default"]
        given = self.server.environment
        there = {"NAME": given["PIPETEER_TEST_DATABASE_NAME"]}
        if mine.vendor != "sqlite":
            there = database(given[URL_VARIABLES[settings.TEST_DATABASE]]) | there
        before = {key: mine.settings_dict[key] for key in _ENTRY}
        mine.close()
        mine.settings_dict.update({key: there[key] for key in _ENTRY if key in there})
        try:
            yield
        finally:
            mine.close()
            mine.settings_dict.update(before)


def execute(*statements: str) -> None:
    """On whatever server this process uses."""
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


@contextmanager
def own_server(make: Callable[[str], AbstractContextManager[Any]] = servers.server) -> Iterator[Own]:
    """One with our tables. Skips, loudly, where none can be had."""
    try:
        with ExitStack() as stack:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # an embedded PostgreSQL warns about a folder that it then makes
                server, folder = stack.enter_context(make(settings.TEST_DATABASE))
            if not server.can_crash:
                pytest.skip(f"NOT RUN: {server.remark}")
            own = Own(server, folder)
            with own.used():
                call_command("migrate", run_syncdb=True, verbosity=0)
            yield own
    except Unavailable as error:
        pytest.skip(f"NOT RUN: {error}")


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A folder that has no more room than this. Skips, loudly, where none can be made."""
    folder = Path(tempfile.mkdtemp(prefix="pipeteer-small-"))
    try:
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "pipeteer", str(folder)]
        mounted = shutil.which("mount") and subprocess.run(command, capture_output=True, text=True)
        if not mounted or mounted.returncode:
            pytest.skip(f"NOT RUN: no small disk can be mounted here: {mounted and mounted.stderr.strip()}")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
    finally:
        folder.rmdir()


def fill(folder: Path) -> Path:
    """Leave no room there. Returns the file that takes it."""
    file = folder / "filler"
    with file.open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))
    return file
