"""README.md and docs/ cannot rot: their examples run, their links resolve, their tables agree with the code.

What a fenced block is for stands in an HTML comment before it, which no rendered page shows:

    <!-- file: shop/pipelines.py -->   the block is appended to this file of the page's scratch project
    <!-- run -->                       executed with Django set up, tables migrated; a ```pycon block is a doctest
    <!-- sh -->                        executed by bash in the scratch project
    <!-- shown: why -->                not executed

A comment that holds the code itself (`<!-- run`, the code, `-->` on a line of its own) is a step that readers do not
see. The steps of a page run in order, in one bash session; run blocks with no other step between them share their
names. A page starts with a small Django project (settings `config.settings`, app `shop`), or, if its first step is
`sh`, in an empty folder. Every block in one of the languages below needs such a comment.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from example_project.processes import free_ports
from pipeteer_django.conf import Settings
from pipeteer_django.management.commands.pipeteer_worker import Command
from pipeteer_django.models import Queue, Worker
from pipeteer_django.queues import models as tables

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXECUTABLE = {"python", "pycon", "sh"}
PATIENCE = 240.0
"""Seconds that one page may take on a machine that does ten other things."""

_DIRECTIVE = re.compile(r"<!-- (?P<verb>file|run|sh|shown)(?:: (?P<about>[^>]*?))?(?P<end> -->)?")
_FENCE = re.compile(r"```(?P<language>\w*)")

DRIVER = """
import doctest, json, os, sys
import django
sys.path.insert(0, os.getcwd())
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django.setup()
if "migrate" in sys.argv:
    from django.core.management import call_command
    call_command("makemigrations", verbosity=0)
    call_command("migrate", verbosity=0)
names = {"__name__": "__docs__"}
for page, line, language, code in json.load(open(sys.argv[1])):
    if language == "pycon":
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        test = doctest.DocTestParser().get_doctest(code, names, page, page, line)
        if runner.run(test, clear_globs=False).failed:
            sys.exit(1)
        names.update(test.globs)
    else:
        exec(compile("\\n" * line + code, page, "exec"), names)
"""

SETTINGS = """
SECRET_KEY = "only for the documentation"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "pipeteer_django", "shop"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": "db.sqlite3",
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
        },
    }
}
ROOT_URLCONF = "config.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
"""

MANAGE = """
import os, sys
from django.core.management import execute_from_command_line
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
execute_from_command_line(sys.argv)
"""


# Reading pages


@dataclasses.dataclass(frozen=True)
class Step:
    """One thing that a page does: what, about which file, and the code with its place."""

    verb: str
    about: str
    language: str
    code: str
    line: int


def steps(text: str) -> list[Step]:
    """The steps of a page in order. Raises ValueError for a block without a comment, or a comment without a block."""
    found: list[Step] = []
    lines = text.split("\n")
    number = 0
    directive: re.Match[str] | None = None
    while number < len(lines):
        line = lines[number].strip()
        number += 1
        if said := _DIRECTIVE.fullmatch(line):
            if directive:
                raise ValueError(f"line {number}: two comments in a row; the first has no block")
            if said["end"]:
                directive = said
            else:
                end = _find(lines, number, "-->")
                found.append(_step(said, "", lines[number:end], number))
                number = end + 1
        elif fence := _FENCE.fullmatch(line):
            end = _find(lines, number, "```")
            if directive:
                found.append(_step(directive, fence["language"], lines[number:end], number))
            elif fence["language"] in EXECUTABLE:
                raise ValueError(f"line {number}: no comment says what this {fence['language']} block is for")
            directive, number = None, end + 1
        elif line and directive:
            raise ValueError(f"line {number}: the comment before has no block")
    return found


def _find(lines: list[str], start: int, end: str) -> int:
    for number in range(start, len(lines)):
        if lines[number].strip() == end:
            return number
    raise ValueError(f"line {start}: not closed by {end}")


def _step(said: re.Match[str], language: str, lines: list[str], line: int) -> Step:
    return Step(said["verb"], said["about"] or "", language or "python", "\n".join(lines) + "\n", line)


# Running pages


def script(page: str, todo: list[Step], folder: Path, ports: list[int]) -> str:
    """The bash script that does these steps; writes what it needs into `folder`."""
    (folder / "run.py").write_text(DRIVER)
    commands = ["set -eu"]
    migrated = False
    for number, step in enumerate(todo):
        commands.append(f"echo {shlex.quote(f'--- {page}:{step.line} {step.verb} {step.about}')}")
        if step.verb == "file":
            commands += _append(step, folder / str(number), ports)
            migrated = False
        elif step.verb == "sh":
            commands.append(step.code)
        elif number == 0 or todo[number - 1].verb != "run":
            together = _together(todo[number:])
            plan = folder / f"{number}.json"
            plan.write_text(json.dumps([(page, each.line, each.language, each.code) for each in together]))
            commands.append(f"python {folder / 'run.py'} {plan}" + ("" if migrated else " migrate"))
            migrated = True
    return "\n".join(commands) + "\n"


def _together(todo: list[Step]) -> list[Step]:
    end = next((number for number, step in enumerate(todo) if step.verb != "run"), len(todo))
    return todo[:end]


def _append(step: Step, content: Path, ports: list[int]) -> list[str]:
    content.write_text(step.code + (_ports(ports) if step.about.endswith("settings.py") else ""))
    target = shlex.quote(step.about)
    return [f"mkdir -p $(dirname {target})", f"cat {content} >> {target}"]


def _ports(ports: list[int]) -> str:
    """Two runs of these tests, and whatever else is on this machine, do not wake each other."""
    urls = {"PUB_URL": f"tcp://127.0.0.1:{ports[0]}", "SUB_URL": f"tcp://127.0.0.1:{ports[1]}"}
    return f"\nPIPETEER = globals().get('PIPETEER', {{}}) | {urls!r}\n"


def prepare(folder: Path, ports: list[int]) -> None:
    """The project in which a page's examples live."""
    for name, text in {
        "manage.py": MANAGE,
        "config/__init__.py": "",
        "config/settings.py": SETTINGS + _ports(ports),
        "config/urls.py": "urlpatterns = []\n",
        "shop/__init__.py": "",
        "shop/migrations/__init__.py": "",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def environment(folder: Path) -> dict[str, str]:
    """Where `python` is this Python and finds this package, and nothing is left of the tests' own settings."""
    (folder / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / "python").chmod(0o755)
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "PIPETEER_", "PYTEST"))
    }
    return kept | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_run(page: Path, tmp_path: Path) -> None:
    """Each page in a project, and a bash, of its own."""
    todo = [step for step in steps(page.read_text()) if step.verb != "shown"]
    if not todo:
        return
    project, tools, ports = tmp_path / "project", tmp_path / "tools", free_ports(2)
    project.mkdir()
    tools.mkdir()
    if todo[0].verb != "sh":
        prepare(project, ports)
    (tools / "script").write_text(script(page.name, todo, tools, ports))
    log = tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            ["bash", str(tools / "script")],
            cwd=project,
            env=environment(tools),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(PATIENCE)
        finally:
            if process.poll() is None or _anything_left(process.pid):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert status == 0, f"{page.name} failed:\n{log.read_text()}"


def _anything_left(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_reader_of_pages_bites() -> None:
    """A block without a comment, a comment without a block and an unclosed one are errors."""
    for bad in ("```python\nx = 1\n```\n", "<!-- run -->\ntext\n", "<!-- run -->\n<!-- run -->\n", "<!-- run\nx\n"):
        with pytest.raises(ValueError, match=r"line [12]"):
            steps(bad)
    one, hidden, two = steps("<!-- file: a.py -->\n```python\nx\n```\n<!-- run\ny\n-->\n<!-- sh -->\n```sh\nls\n```\n")
    assert (one.verb, one.about, one.code, one.line) == ("file", "a.py", "x\n", 2)
    assert (hidden.verb, hidden.code, hidden.language) == ("run", "y\n", "python")
    assert (two.verb, two.code) == ("sh", "ls\n")


# Links


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", lambda match: match[1] or "", heading)
    return re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    """The anchors of all headings of a page, code blocks left out."""
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.stem)
def test_links_resolve(page: Path) -> None:
    """Relative links name files and headings that exist."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name} links to {target}, which does not exist"
        assert not anchor or anchor in anchors(there), f"{page.name} links to {target}: no such heading"


def test_every_page_can_be_reached() -> None:
    """README links to each page under docs/."""
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in PAGES[1:] if f"](docs/{page.name})" not in readme] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_named_files_exist(page: Path) -> None:
    """`queues/settle.py` in backticks names a file of the package, of this repository or of its tests."""
    prose = re.sub(r"```.*?```|<!--.*?-->", "", page.read_text(), flags=re.DOTALL)
    written = {step.about for step in steps(page.read_text())}
    for name in re.findall(r"`((?:\w+/)+\w+\.py|test_\w+\.py)`", prose):
        places = [ROOT / name, ROOT / "pipeteer_django" / name, ROOT / "tests" / name]
        assert name in written or any(place.exists() for place in places), f"{page.name} names {name}"


# Tables that repeat what the code says


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its first two lines."""
    section = (ROOT / "docs" / page).read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = [line for line in section.split("\n") if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[2:]]


def test_settings_page_names_every_key_and_default() -> None:
    """`settings.md` and `conf.Settings` agree."""
    documented = {key.strip("`"): default.strip("`") for key, default, *_ in rows("settings.md", "Keys of `PIPETEER`")}
    defaults = {field.name: _shown(field.default) for field in dataclasses.fields(Settings)}
    assert documented == defaults


def _shown(value: object) -> str:
    return re.sub(r"^datetime\.", "", repr(value)).replace("'", '"')


def test_settings_page_names_every_check() -> None:
    """The ids under "System checks" are those in the sources."""
    sources = "".join(path.read_text() for path in (ROOT / "pipeteer_django").rglob("*.py"))
    known = set(re.findall(r"pipeteer\.[EWI]\d{3}", sources))
    assert {row[0].strip("`") for row in rows("settings.md", "System checks")} == known


def test_worker_page_names_every_option() -> None:
    """`run-workers.md` and the command's parser agree."""
    parser = Command().create_parser("manage.py", "pipeteer_worker")
    base = {option for action in _django_options() for option in action}
    own = {option for action in parser._actions for option in action.option_strings} - base
    documented = {row[0].strip("`").split()[0] for row in rows("run-workers.md", "Options")}
    assert documented == own | {"id"}


def _django_options() -> list[list[str]]:
    from django.core.management.base import BaseCommand

    return [action.option_strings for action in BaseCommand().create_parser("manage.py", "any")._actions]


@pytest.mark.parametrize(
    ("heading", "model", "given"),
    [
        ("Input", tables.Input, {"value"}),
        ("Output", tables.Output, {"value"}),
        ("Step", tables.Step, set()),
        ("Message", tables.Message, set()),
    ],
)
def test_architecture_page_names_every_column(heading: str, model: type, given: set[str]) -> None:
    """The tables of columns under "Tables and columns" are those of the models; `value` is made for each pipeline."""
    section = (ROOT / "docs" / "architecture.md").read_text().split(f"\n### {heading}\n")[1].split("\n##")[0]
    named = {
        column
        for line in section.split("\n")
        if line.startswith("| `")
        for column in re.findall(r"`(\w+)`", line.split(" | ")[0])
    }
    assert named == {field.name for field in model._meta.get_fields()} | given  # type: ignore[attr-defined]


def test_architecture_page_names_the_packages_own_tables() -> None:
    """Worker and Queue, with all their columns."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    for model in (Worker, Queue):
        line = next(line for line in text.split("\n") if line.startswith(f"| `{model.__name__}`"))
        assert {field.name for field in model._meta.get_fields()} <= set(re.findall(r"`(\w+)`", line))
