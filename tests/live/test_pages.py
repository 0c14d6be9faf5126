"""What the server puts into pages, and what it takes care of when the script fetches them."""

from __future__ import annotations

import subprocess
import sys

import pytest
from django.contrib.auth.models import User
from django.contrib.messages import get_messages
from django.template import Context, Template
from django.test import Client, RequestFactory
from django.urls import set_script_prefix

from pipeteer_django.models import Queue, Worker
from tests.admin.conftest import page_of, url
from tests.conftest import ROOT
from tests.testapp.pipelines import double, quad

FETCHED = {"X-Requested-With": "pipeteer"}


@pytest.fixture
def boss(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("boss"))
    return client


def test_lists_name_their_queue(boss: Client) -> None:
    for model, queues in [(quad.Input, "quad"), (quad.Step, "quad"), (double.Output, "double"), (Worker, "*")]:
        page = page_of(boss.get(url(model)))
        assert f'id="pipeteer-results" data-pipeteer-live="{queues}"' in page, model
        assert page.count("pipeteer_django/live.js") == page.count('id="pipeteer-live"') == 1
    assert "data-pipeteer-live" not in page_of(boss.get(url(quad.Input), {"_popup": 1}))


def test_pages_of_runs_name_their_workflows(boss: Client) -> None:
    run = quad.enqueue(1)
    page = page_of(boss.get(url(quad.Input, "run", run.id)))
    assert 'id="pipeteer-run" data-pipeteer-live="quad"' in page


def test_no_script_and_no_style_stand_in_the_page(boss: Client) -> None:
    """A content security policy may forbid both."""
    page = page_of(boss.get(url(quad.Input, "run", quad.enqueue(1).id)))
    start = page.index('id="pipeteer-live"')
    mine = page[page.rindex("<link", 0, start) : page.index("</p>", start)]
    assert "<script>" not in mine
    assert "style=" not in mine
    assert "onclick" not in mine


def test_messages_wait_for_somebody_who_reads_them(boss: Client) -> None:
    """What the script fetches shows none, and so uses up none."""
    Queue.objects.create(pipeline="quad", held=True)
    boss.post(url(quad.Input, "hold"), {"held": "0"})
    fetched = boss.get(url(quad.Input), headers=FETCHED)
    assert fetched.status_code == 200
    assert "The queue goes on." in page_of(boss.get(url(quad.Input)))
    assert not list(get_messages(boss.get(url(quad.Input)).wsgi_request))


def test_a_site_without_messages() -> None:
    request = RequestFactory().get("/", headers=FETCHED)
    assert "live.js" in Template("{% load pipeteer %}{% live_status %}").render(Context({"request": request}))


def test_what_is_fetched_answers_as_everywhere(boss: Client) -> None:
    """Who may not see it is told so, and the script stops."""
    User.objects.create_user("nobody", is_staff=True)
    nobody = Client()
    nobody.force_login(User.objects.get(username="nobody"))
    assert nobody.get(url(quad.Input), headers=FETCHED).status_code == 403
    assert Client().get(url(quad.Input), headers=FETCHED).status_code == 302


def test_region() -> None:
    page = Template(
        '{% load pipeteer %}{% live_region "a" socket="/ws/a/" url=url %}<b>{{ x }}</b>{% endlive_region %}'
    ).render(Context({"x": "<x>", "url": '"><script>'}))
    assert page == (
        '<div id="a" data-pipeteer-live data-pipeteer-socket="/ws/a/" data-pipeteer-url="&quot;&gt;&lt;script&gt;">'
        "<b>&lt;x&gt;</b></div>"
    )


def test_a_site_below_a_path() -> None:
    template = '{% load pipeteer %}{% live_status %}{% live_region "a" socket="ws/a/" %}{% endlive_region %}'
    set_script_prefix("/shop/")
    try:
        page = Template(template).render(Context({"request": RequestFactory().get("/")}))
    finally:
        set_script_prefix("/")
    assert 'data-pipeteer-socket="/shop/ws/pipeteer/"' in page
    assert 'data-pipeteer-socket="/shop/ws/a/"' in page


def test_without_channels_it_is_said_what_to_install() -> None:
    code = "import sys; sys.modules['channels'] = None; import pipeteer_django.live"
    failed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert 'pip install "pipeteer-django[live]"' in failed.stderr


def test_nothing_else_needs_channels() -> None:
    code = (
        "import os, sys; sys.modules['channels'] = sys.modules['daphne'] = None\n"
        "os.environ['DJANGO_SETTINGS_MODULE'] = 'example_project.settings'\n"
        "import django; django.setup()\n"
        "from django.template import Context, Template\n"
        "assert 'live.js' in Template('{% load pipeteer %}{% live_status %}').render(Context())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
