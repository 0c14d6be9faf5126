"""What the system check finds in a workflow's source, and what it leaves alone."""

from __future__ import annotations

import datetime
import functools
import linecache
import os
import random
import secrets
import socket
import subprocess
import textwrap
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.test import override_settings
from django.utils import timezone

from pipeteer_django import WorkflowContext
from pipeteer_django.purity import impurities
from tests.testapp.pipelines import double, quad

pytestmark = pytest.mark.once

Found = list[tuple[int, str]]

dt = datetime.datetime


class Stamp(dt):
    """A datetime of the user's own."""


MODULE = {
    "datetime": datetime, "os": os, "random": random, "secrets": secrets, "socket": socket, "subprocess": subprocess,
    "threading": threading, "time": time, "timezone": timezone, "urllib": urllib, "uuid": uuid, "double": double,
    # By other names
    "clock": datetime, "chance": random, "dt": dt, "date": datetime.date, "Stamp": Stamp, "t": time.time,
    "pick": random.choice, "Lock": threading.Lock, "uuid4": uuid.uuid4, "own_now": dt.now, "django_now": timezone.now,
}  # fmt: skip
"""What the workflows below find in their module."""


def found(function: Any) -> Found:
    """Lines, counted from the `def`, and constructs."""
    first = function.__code__.co_firstlineno
    return [(impurity.line - first, impurity.construct) for impurity in impurities(function)]


def of(source: str, **names: Any) -> list[str]:
    """What is found in the body of a workflow, whose module has these names."""
    return [impurity.construct for impurity in written(source, **names)]


def written(source: str, **names: Any) -> Any:
    # inspect finds the source by way of linecache, as it does that of doctests and notebooks.
    name = f"<workflow {next(_numbers)}>"
    text = f"async def f(x, ctx):\n{textwrap.indent(textwrap.dedent(source).strip(), '    ')}\n"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    scope: dict[str, Any] = MODULE | names
    exec(compile(text, name, "exec"), scope)
    return impurities(scope["f"])


_numbers = iter(range(10**6))


# Found


@pytest.mark.parametrize(
    ("source", "construct"),
    [
        ("time.time()", "time.time"),
        ("t()", "time.time"),
        ("time.monotonic()", "time.monotonic"),
        ("time.time_ns()", "time.time_ns"),
        ("time.sleep(1)", "time.sleep"),
        ("datetime.datetime.now()", "datetime.datetime.now"),
        ("datetime.datetime.now(datetime.UTC)", "datetime.datetime.now"),
        ("clock.datetime.utcnow()", "datetime.datetime.utcnow"),
        ("dt.today()", "datetime.datetime.today"),
        ("dt.now().date()", "datetime.datetime.now"),
        ("own_now()", "datetime.datetime.now"),
        ("Stamp.now()", "datetime.datetime.now"),
        ("date.today()", "datetime.date.today"),
        ("clock.date.today()", "datetime.date.today"),
        ("timezone.now()", "django.utils.timezone.now"),
        ("django_now()", "django.utils.timezone.now"),
        ("random.choice([1])", "random.choice"),
        ("chance.random()", "random.random"),
        ("pick([1])", "random.choice"),
        ("random.Random()", "random.Random"),
        ("random.SystemRandom(1)", "random.SystemRandom"),
        ("secrets.token_hex()", "secrets.token_hex"),
        ("uuid.uuid1()", "uuid.uuid1"),
        ("uuid4()", "uuid.uuid4"),
        ("os.urandom(1)", "os.urandom"),
        ("open('x')", "open"),
        ("with open('x') as file:\n    file.read()", "open"),
        ("urllib.request.urlopen('http://x')", "urllib.request.urlopen"),
        ("socket.create_connection(('x', 1))", "socket.create_connection"),
        ("threading.Thread(target=print)", "threading.Thread"),
        ("threading.Lock()", "threading.Lock"),
        ("subprocess.run(['ls'])", "subprocess.run"),
        ("import requests\nrequests.get('http://x')", "requests.get"),
        ("from requests import get as fetch\nfetch('http://x')", "requests.get"),
        ("import httpx\nasync with httpx.AsyncClient() as client:\n    await client.get(x)", "httpx.AsyncClient"),
        ("import random as r\nr.random()", "random.random"),
        ("import urllib.request\nurllib.request.urlopen('http://x')", "urllib.request.urlopen"),
        ("from time import sleep\nsleep(1)", "time.sleep"),
        ("await ctx.call(double, random.randint(1, 6))", "random.randint"),
        ("return sorted(x, key=lambda _: random.random())", "random.random"),
        ("def draw():\n    return random.random()\nreturn draw()", "random.random"),
        ("return [random.random() for _ in x]", "random.random"),
        ("return f'{time.time():.0f}'", "time.time"),
        ("return time.\\\n    time()", "time.time"),
    ],
    ids=str,
)  # fmt: skip
def test_found(source: str, construct: str) -> None:
    assert of(source) == [construct]


def test_a_name_that_is_another_inside() -> None:
    assert of("Lock()")[0].startswith("_thread.")


def test_every_call_by_line() -> None:
    async def f(x: int, ctx: WorkflowContext) -> float:
        a = time.time()
        b = [
            random.random(),
            a,
        ]
        return b[0] + time.time()

    assert found(f) == [(1, "time.time"), (3, "random.random"), (6, "time.time")]


def test_a_closure() -> None:
    from time import time as inner

    async def f(x: int, ctx: WorkflowContext) -> float:
        return inner()

    assert found(f) == [(1, "time.time")]


def test_behind_decorators() -> None:
    def decorated(function: Any) -> Any:
        @functools.wraps(function)
        async def wrapper(*args: Any) -> Any:
            return await function(*args)

        return wrapper

    @decorated
    async def f(x: int, ctx: WorkflowContext) -> float:
        return time.time()

    assert [impurity.construct for impurity in impurities(f)] == ["time.time"]
    (impurity,) = impurities(f)
    assert "time.time()" in Path(__file__).read_text().splitlines()[impurity.line - 1]


# Left alone


@pytest.mark.parametrize(
    "source",
    [
        "ctx.now(); ctx.random.random(); ctx.uuid(); await ctx.sleep(1)",
        "await ctx.call(double, x)",
        "await ctx.call(time.time, x)",
        "await ctx.map(random.choice, [x])",
        "time = x\ntime.time()",
        "for random in x:\n    random.choice()",
        "with x as open:\n    open()",
        "try:\n    pass\nexcept ValueError as time:\n    time.time()",
        "return [time.time() for time in x]",
        "return (lambda time: time.time())(x)",
        "if (time := x):\n    time.time()",
        "match x:\n    case {'a': time, **random}:\n        time.time(); random.choice()",
        "match x:\n    case [*time]:\n        time.time()",
        "def open(x):\n    return x\nopen(x)",
        "class random:\n    choice = int\nrandom.choice(x)",
        "x.time.time(); x.random(); x.open(); x.now(); ctx.uuid4()",
        "dt(2024, 1, 1); dt.fromisoformat('2024-01-01'); date(2024, 1, 1); date.fromtimestamp(0)",
        "datetime.timedelta(1); timezone.make_aware(dt(2024, 1, 1)); time.strftime('%Y', x)",
        "random.Random(ctx.run_id).random(); random.Random(x=1)",
        "uuid.uuid5(uuid.NAMESPACE_URL, 'x'); uuid.UUID(x); os.path.join('a', 'b')",
        "import math\nmath.log(2); math.cos(1); sum(x); len(x); print(x)",
        "secrets.compare_digest('a', 'a')",
        "raise subprocess.CalledProcessError(1, 'x')",
        "raise socket.gaierror(1)",
        "import requests\nreturn requests",
        "from elsewhere import time\ntime()",
        "from . import random\nrandom.choice([1])",
        "import os.path\nos.path.join('a')",
        "missing.time(); missing()",
        "x()(); x[0](); (x or time.time)()",
    ],
    ids=str,
)
def test_left_alone(source: str) -> None:
    assert of(source) == []


def test_a_module_of_the_users_with_the_same_name() -> None:
    class Random:
        choice = staticmethod(max)

    assert of("random.choice(x)", random=Random) == []
    assert of("random.choice(x)", random=Random()) == []


def test_parameters_and_what_runs_when_the_module_is_imported() -> None:
    def stamped(moment: float) -> Callable[[Any], Any]:
        return lambda function: function

    @stamped(time.time())
    async def f(time: Any, random: Any = random.random(), *open: Any) -> Any:  # noqa: B008
        return time.time(), random.choice(), open()  # type: ignore[operator]

    assert found(f) == []


def test_an_empty_cell() -> None:
    async def f(x: int, ctx: WorkflowContext) -> Any:
        return later()

    assert found(f) == []
    later = time.time
    assert found(f) == [(1, "time.time")]


def test_no_source() -> None:
    scope: dict[str, Any] = {"time": time}
    exec("async def f(x, ctx):\n    return time.time()", scope)
    assert impurities(scope["f"]) == []
    assert impurities(functools.partial(scope["f"], 1)) == []


def test_source_that_is_another_by_now(monkeypatch: pytest.MonkeyPatch) -> None:
    for lines in (["async def broken(:\n"], ["x = 1\n"], []):
        monkeypatch.setattr("inspect.getsourcelines", lambda function, lines=lines: (lines, 1))
        assert impurities(quad.function) == []


# The check


def warnings() -> list[Any]:
    return [problem for problem in run_checks() if problem.id == "pipeteer.W301"]


async def impure(x: int, ctx: WorkflowContext) -> int:
    """Put in a workflow's place."""
    return x + random.randint(1, 6)


@pytest.mark.django_db
def test_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    assert warnings() == []
    monkeypatch.setattr(quad, "function", impure)
    (problem,) = warnings()
    line = impure.__code__.co_firstlineno + 2
    assert f"tests.test_purity.impure ({__file__}:{line}) calls random.randint()" in problem.msg
    assert "ctx.random" in problem.hint
    with override_settings(SILENCED_SYSTEM_CHECKS=["pipeteer.W301"]):
        assert [problem.is_silenced() for problem in warnings()] == [True]


@pytest.mark.django_db
def test_activities_may_do_as_they_like(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(double, "function", impure)
    assert warnings() == []


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("time.time()", "ctx.now()"),
        ("timezone.now()", "ctx.now()"),
        ("random.random()", "ctx.random "),
        ("os.urandom(1)", "ctx.random"),
        ("uuid.uuid4()", "ctx.uuid()"),
        ("time.sleep(1)", "ctx.sleep("),
        ("open('x')", "activity"),
        ("subprocess.run('x')", "activity"),
    ],
)
def test_the_durable_way(source: str, hint: str) -> None:
    (impurity,) = written(source)
    assert hint in impurity.hint
