"""Pipelines become tables of the app they are written in; what cannot become one says so, and how to mend it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from django.apps import apps
from django.conf import settings
from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import Permission
from django.db import models
from django.test import modify_settings

from pipeteer_django.pipelines.registry import registry
from tests.bareapp.pipelines import bare
from tests.conftest import ROOT
from tests.testapp.models import Item
from tests.testapp.pipelines import approve, double, item_flow, process_item, quad
from tests.trouble.pipelines import deliver_parcel

WORDS = """
from __future__ import annotations
import pipeteer_django as pipeteer
from pipeteer_django import Context, InputT, Push, WorkflowContext
"""
SETTINGS = """
import os
from tests import databases

DATABASES = {{"default": databases.entry(os.environ["TEST_DATABASE"])}}
INSTALLED_APPS = {apps!r}
PIPETEER = {{"WAKEUPS": False}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
SECRET_KEY = "only for tests"
"""
USUAL = ("django.contrib.contenttypes", "django.contrib.auth", "pipeteer_django", "shop")

Project = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """`project("commands", pipelines="...")`: the commands run in a fresh project with the app `shop`."""

    def run(
        script: str = "", *, pipelines: str, models: str | None = None, apps: tuple[str, ...] = USUAL, **files: str
    ) -> subprocess.CompletedProcess[str]:
        sources = {"shop/__init__": "", "shop/pipelines": WORDS + pipelines, **files}
        if models is not None:
            sources["shop/models"] = models
        sources["project_settings"] = SETTINGS.format(apps=list(apps))
        sources["script"] = "import django\ndjango.setup()\n" + textwrap.dedent(script)
        for name, source in sources.items():
            file = tmp_path / f"{name}.py"
            file.parent.mkdir(exist_ok=True)
            file.write_text(textwrap.dedent(source))
        environment = os.environ | {
            "DJANGO_SETTINGS_MODULE": "project_settings",
            "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
            "TEST_DATABASE": settings.TEST_DATABASE,
        }
        return subprocess.run(
            [sys.executable, "-W", "error::RuntimeWarning", "script.py"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    return run


def last_words(process: subprocess.CompletedProcess[str]) -> str:
    assert process.returncode != 0, process.stdout
    return process.stderr.strip().rsplit("\n", 1)[-1]


# The models


def test_models_live_in_the_app_of_the_function() -> None:
    models = {pipeline.Input for pipeline in (double, quad, approve)} | {double.Output, quad.Step, quad.Message}
    assert {model._meta.app_label for model in models} == {"testapp"}
    assert {model.__module__ for model in models} == {"tests.testapp.pipelines"}
    assert models <= set(apps.get_app_config("testapp").get_models())


@pytest.mark.parametrize(
    ("model", "name", "table", "readable"),
    [
        (double.Input, "DoubleInput", "testapp_doubleinput", "double input"),
        (process_item.Output, "ProcessItemOutput", "testapp_processitemoutput", "process item output"),
        (quad.Step, "QuadStep", "testapp_quadstep", "quad step"),
        (bare.Input, "BareInput", "bareapp_bareinput", "bare input"),
    ],
)
def test_names(model: type[models.Model], name: str, table: str, readable: str) -> None:
    assert (model.__name__, model._meta.db_table, str(model._meta.verbose_name)) == (name, table, readable)


def test_every_pipeline_has_its_tables_and_no_more() -> None:
    assert all(pipeline.attached for pipeline in registry)
    assert not hasattr(double, "Step")
    assert len({pipeline.Input for pipeline in registry}) == len(list(registry))


def test_a_models_row_is_a_foreign_key() -> None:
    field = process_item.Input._meta.get_field("value")
    assert (field.related_model, field.remote_field.on_delete) == (Item, models.PROTECT)
    assert process_item.Output._meta.get_field("value").remote_field.on_delete is models.CASCADE
    assert item_flow.Input._meta.get_field("value").related_model is Item


def test_a_foreign_key_of_the_users_own() -> None:
    assert deliver_parcel.Input._meta.get_field("value").remote_field.on_delete is models.CASCADE


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("app", "model"), [("bareapp", "bareinput"), ("testapp", "quadstep"), ("testapp", "quadinput")]
)
def test_permissions_exist(app: str, model: str) -> None:
    create_permissions(apps.get_app_config(app), verbosity=0)  # as after migrate
    names = Permission.objects.filter(content_type__app_label=app, content_type__model=model)
    assert set(names.values_list("codename", flat=True)) == {
        f"{verb}_{model}" for verb in ("add", "change", "delete", "view")
    }


def test_the_pass_may_be_repeated() -> None:
    before = double.Input
    with modify_settings(INSTALLED_APPS={"remove": "tests.bareapp"}):
        assert apps.get_model("testapp", "DoubleInput") is before
    assert (double.Input, apps.get_app_config("bareapp").models_module.__name__) == (before, "tests.bareapp.pipelines")  # type: ignore[union-attr]


# A whole project, from makemigrations to a result

WHOLE = """
import dataclasses, datetime, decimal, enum, uuid
from typing import Annotated, Literal
from django.db import models
from shop.models import Order

class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"

@pipeteer.activity()
def sized(x: Size) -> Literal["up", "down"]: return "up"

@pipeteer.activity()
def priced(x: Annotated[decimal.Decimal, models.DecimalField(max_digits=9, decimal_places=2)]) -> decimal.Decimal:
    return x

@pipeteer.activity()
def timed(x: datetime.datetime) -> datetime.timedelta | None: return None

@pipeteer.activity(atomic=True)
def shipped(order: Order) -> Parcel: return Parcel(order.pk)

@dataclasses.dataclass
class Parcel:
    number: int

@pipeteer.task()
def approve(Input: type[InputT[Annotated[Order, models.ForeignKey(Order, models.CASCADE)]]], push: Push[bool]): ...

@pipeteer.workflow()
async def fulfil(order: Order, ctx: WorkflowContext) -> None:
    await ctx.call(shipped, order)

@pipeteer.activity()
def none() -> None: ...
"""
ORDER = """
from django.db import models

class Order(models.Model):
    name = models.CharField(max_length=10)
"""
FROM_NOTHING = """
from django.core.management import call_command
from django.db import connection
import shop.pipelines as pipelines
from shop.models import Order

call_command("makemigrations", "shop", verbosity=0)
call_command("makemigrations", check_changes=True, dry_run=True)
source = open("shop/migrations/0001_initial.py").read()
assert "pipeteer_django.pipelines" not in source and "shop.pipelines" not in source, source
connection.creation.create_test_db(verbosity=0, autoclobber=True)
try:
    from django.contrib.auth.models import Permission
    assert Permission.objects.filter(codename="view_fulfilinput").exists()
    from pipeteer_django.testing import drain
    order = Order.objects.create(name="first")
    run = pipelines.fulfil.enqueue(order)
    drain()
    assert run.result(timeout=0) is None
    assert pipelines.sized.enqueue(pipelines.Size.LARGE)
    drain()
    assert pipelines.sized.Output.objects.get().value == "up"
    call_command("makemigrations", check_changes=True, dry_run=True)
    call_command("check", databases=["default"])
    print("all is well")
finally:
    connection.creation.destroy_test_db("gone", verbosity=0)
"""


@pytest.mark.parametrize("order", ["last", "first"])
def test_from_nothing_to_a_result(project: Project, order: str) -> None:
    *others, ours, shop = USUAL
    listed = (*others, ours, shop) if order == "first" else (shop, *others, ours)
    migrations = {"shop/migrations/__init__": ""}
    process = project(FROM_NOTHING, pipelines=WHOLE, models=ORDER, apps=listed, **migrations)
    assert "all is well" in process.stdout, process.stderr


def test_an_app_without_models_has_permissions_whatever_the_order(project: Project) -> None:
    script = """
    from django.apps import apps
    config = apps.get_app_config("shop")
    print(config.models_module.__name__, sorted(config.models), "permissions")
    """
    one = "@pipeteer.activity()\ndef one(x: int) -> int: return x"
    for listed in (USUAL, (USUAL[-1], *USUAL[:-1])):
        process = project(script, pipelines=one, apps=listed)
        assert process.stdout.strip() == "shop.pipelines ['oneinput', 'oneoutput'] permissions", process.stderr


# What cannot be a pipeline


@pytest.mark.once
@pytest.mark.parametrize(
    ("pipelines", "words"),
    [
        (
            "@pipeteer.activity()\ndef one(x): return x",
            ["shop.pipelines.one", "pipelines.py:", "annotat"],
        ),
        (
            "@pipeteer.activity()\ndef one(x: int): return x",
            ["shop.pipelines.one", "pipelines.py:", "->"],
        ),
        (
            "@pipeteer.activity()\ndef one(x: 'Missing') -> int: return x",
            ["shop.pipelines.one", "pipelines.py:", "Missing"],
        ),
        (
            "@pipeteer.workflow()\ndef one(x: int, ctx: WorkflowContext) -> int: return x",
            ["shop.pipelines.one", "pipelines.py:", "async def"],
        ),
        (
            "@pipeteer.activity(id='no-dashes')\ndef one(x: int) -> int: return x",
            ["shop.pipelines.one", "pipelines.py:", "'no-dashes'", "letters, digits and underscores"],
        ),
        (
            f"@pipeteer.activity(id='{'x' * 64}')\ndef one(x: int) -> int: return x",
            ["shop.pipelines.one", "63"],
        ),
        (
            "@pipeteer.activity()\ndef one(x: int) -> int: return x\n@pipeteer.task(id='one')\n"
            "def two(Input: type[InputT[int]], push: Push[int]): ...",
            ["Two pipelines are called 'one'", "shop.pipelines.one", "shop.pipelines.two", "@pipeteer.task(id=...)"],
        ),
        (
            "@pipeteer.activity()\ndef a_b(x: int) -> int: return x\n"
            "@pipeteer.activity()\ndef aB(x: int) -> int: return x",
            ["shop.pipelines.aB", "pipelines.py:", "ABInput", "id=..."],
        ),
        (
            "import elsewhere",
            ["elsewhere.one", "elsewhere.py:", "INSTALLED_APPS"],
        ),
    ],
    ids=["parameter", "result", "name", "sync workflow", "id", "long id", "one id", "one model", "elsewhere"],
)  # fmt: skip
def test_what_cannot_be(project: Project, pipelines: str, words: list[str]) -> None:
    elsewhere = WORDS + "@pipeteer.activity()\ndef one(x: int) -> int: return x\n"
    said = last_words(project(pipelines=pipelines, elsewhere=elsewhere))
    assert said.startswith("pipeteer_django.exceptions.DefinitionError")
    assert [word for word in words if word not in said] == [], said


@pytest.mark.once
@pytest.mark.parametrize("apps", [USUAL, (USUAL[-1], *USUAL[:-1])], ids=["first", "last"])
def test_a_name_that_a_users_model_has(project: Project, apps: tuple[str, ...]) -> None:
    models = "from django.db import models\nclass OrderInput(models.Model): pass\n"
    order = "@pipeteer.activity()\ndef order(x: int) -> int: return x"
    said = last_words(project(pipelines=order, models=models, apps=apps))
    words = ["DefinitionError: shop.pipelines.order", "pipelines.py:", "OrderInput", "'shop' already has", "id=..."]
    assert [word for word in words if word not in said] == [], said


@pytest.mark.once
def test_too_late(project: Project) -> None:
    late = WORDS + "@pipeteer.activity()\ndef one(x: int) -> int: return x\n"
    said = last_words(project("import late", pipelines="", late=late))
    assert "LateRegistration: late.one (" in said
    assert "late.py:" in said
    assert "Move it to the pipelines.py of an installed app" in said


@pytest.mark.once
def test_without_the_app(project: Project) -> None:
    one = "@pipeteer.activity()\ndef one(x: int) -> int: return x"
    said = last_words(project("import shop.pipelines\nshop.pipelines.one.enqueue(1)", pipelines=one, apps=("shop",)))
    assert 'Is "pipeteer_django" in INSTALLED_APPS' in said


@pytest.mark.once
def test_an_error_in_pipelines_is_not_swallowed(project: Project) -> None:
    assert "ZeroDivisionError" in last_words(project(pipelines="1 / 0"))
    assert "no_such_module" in last_words(project(pipelines="import no_such_module"))
