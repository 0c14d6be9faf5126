"""The example site, served in a process of its own, and a browser that looks at it.

Debian's packages `chromium` and `chromium-driver` bring the browser. Where they are missing these tests are skipped,
unless REQUIRE_BROWSER=1 says that this is an error.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from example_project import processes
from tests.conftest import ROOT

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PATIENCE = 40.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here runs once, on SQLite."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.once)


def eventually(condition: Callable[[], Any], what: str, within: float = PATIENCE) -> Any:
    """Look until `condition()` is true and return what it was."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within:.0f} s: {what}"
        time.sleep(0.05)
    return found


class Site:
    """The example project on a database of its own. `kind` is "asgi" (daphne) or "wsgi"."""

    def __init__(self, kind: str, database: Path) -> None:
        self.kind = kind
        (self.port,) = processes.free_ports(1)
        pub, sub = processes.free_ports(2)
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = database.parent / "log.txt"
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "PIPETEER_"))}
        self.env |= {
            "DATABASE_URL": f"sqlite:///{database}",
            "DJANGO_SETTINGS_MODULE": "example_project.settings",
            "DJANGO_SUPERUSER_PASSWORD": "admin",
            "PIPETEER_PUB_URL": f"tcp://127.0.0.1:{pub}",
            "PIPETEER_SUB_URL": f"tcp://127.0.0.1:{sub}",
            "PYTHONUNBUFFERED": "1",
        }
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A Python process with these arguments."""
        with self.log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, *arguments], cwd=ROOT, env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        self._started.append(process)
        return process

    def manage(self, *arguments: str) -> None:
        """A command that ends."""
        assert self.start("manage.py", *arguments).wait(120) == 0, self.log.read_text()

    def shell(self, code: str) -> None:
        """Python in the project."""
        self.manage("shell", "--command", code)

    def serve(self) -> None:
        """Start the server, and the proxy, so that hints travel also where no worker is up."""
        self.start("manage.py", "pipeteer_proxy")
        if self.kind == "asgi":
            self.start("manage.py", "runserver", "--noreload", f"127.0.0.1:{self.port}")
        else:
            self.start("-m", "tests.browser.wsgi_server", str(self.port))
        eventually(self._answers, "the site answers")

    def _answers(self) -> bool:
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", self.port)) == 0

    def work(self) -> subprocess.Popen[bytes]:
        """Start a worker."""
        return self.start("manage.py", "pipeteer_worker")

    def stop(self) -> None:
        """End everything."""
        for process in self._started:
            process.kill()
            process.wait()
        print(self.log.read_text())


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with tables, an administrator and full shelves."""
    path = tmp_path_factory.mktemp("site") / "db.sqlite3"
    site = Site("", path)
    site.manage("migrate", "--verbosity", "0")
    site.manage("createsuperuser", "--noinput", "--username", "admin", "--email", "admin@example.com")
    site.shell("from example_project.shop.ordering import open_shop; open_shop(stock=100)")
    return path


@pytest.fixture
def served(request: pytest.FixtureRequest, migrated: Path, tmp_path: Path) -> Iterator[Site]:
    """The site; `request.param`, if there is one, is its kind."""
    shutil.copy(migrated, tmp_path / "db.sqlite3")
    site = Site(getattr(request, "param", "asgi"), tmp_path / "db.sqlite3")
    try:
        site.serve()
        yield site
    finally:
        site.stop()


class Browser:
    """What the tests do with a browser."""

    def __init__(self, site: Site) -> None:
        self.site = site
        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER or ""
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options, Service(DRIVER))

    def open(self, path: str) -> None:
        """Go there, and leave a mark that a reload would wipe away."""
        self.driver.get(self.site.url + path)
        self.driver.execute_script("window.unharmed = true")

    @property
    def unharmed(self) -> bool:
        """Whether the page was not loaded again."""
        return bool(self.driver.execute_script("return window.unharmed === true"))

    def log_in(self) -> None:
        """As the administrator."""
        self.open("/admin/login/?next=/admin/")
        self.find("#id_username").send_keys("admin")
        self.find("#id_password").send_keys("admin")
        self.find("[type=submit]").click()
        eventually(lambda: self.driver.find_elements(By.ID, "user-tools"), "logged in")

    def find(self, selector: str) -> Any:
        """The first element."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def count(self, selector: str) -> int:
        """How many elements there are."""
        return len(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def text(self, selector: str) -> str:
        """What an element says, or "" where there is none."""
        script = "const found = document.querySelector(arguments[0]); return found ? found.innerText : ''"
        return str(self.driver.execute_script(script, selector))

    def says(self, selector: str, text: str, within: float = PATIENCE) -> None:
        """Wait until it says this."""
        eventually(lambda: text in self.text(selector), f"{selector} says {text!r}", within)


@pytest.fixture
def open_browser(served: Site) -> Iterator[Callable[[], Browser]]:
    """`open_browser()` opens one more, with cookies of its own."""
    if not (BROWSER and DRIVER):
        said = "NO CHROMIUM HERE: live pages are not seen by a browser. Debian: apt install chromium chromium-driver"
        pytest.fail(said) if os.environ.get("REQUIRE_BROWSER") == "1" else pytest.skip(said)
    opened: list[Browser] = []

    def start() -> Browser:
        opened.append(Browser(served))
        return opened[-1]

    yield start
    for browser in opened:
        for entry in browser.driver.get_log("browser"):
            print(entry["level"], entry["message"])
        browser.driver.quit()


@pytest.fixture
def browser(open_browser: Callable[[], Browser]) -> Browser:
    """One, logged in to the admin."""
    found = open_browser()
    found.log_in()
    return found
