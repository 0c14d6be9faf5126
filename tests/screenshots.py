"""`make screenshots`: the pictures of the documentation, made anew with the example shop, real workers and Chromium.

    python -m tests.screenshots [folder]        without a folder: docs/images

It needs Debian's packages `chromium` and `chromium-driver`.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import django

from tests.browser.conftest import Browser, Site, eventually
from tests.conftest import ROOT

WIDTH, NARROW = 1200, 400
LEAST, MOST = 360, 1080
"""How high a picture may be."""
IMPORTED = """{"version": 1, "pipeline": "double", "entries": [
{"key": "from-another-site-1", "value": 21, "priority": 5},
{"key": "from-another-site-2", "value": 34},
{"key": "from-another-site-3", "value": 55, "output": "late", "available_at": "2030-12-24T18:30:00+00:00"}
]}"""

BOTTOM = """
const parts = [...document.querySelectorAll("#content > *, main > *")];
return Math.max(...parts.map((part) => part.getBoundingClientRect().bottom));
"""
FOLDED = "localStorage.setItem('django.admin.navSidebarIsOpen', 'false')"


@dataclass(frozen=True)
class Picture:
    """A page, and how it is looked at. `wanted` is on it when it can be taken."""

    name: str
    path: str
    wanted: str
    width: int = WIDTH
    dark: bool = False


DASHBOARD = ("/admin/pipeteer_django/queue/dashboard/", "#pipeteer-dashboard svg")
PICTURES = [
    Picture("dashboard", *DASHBOARD),
    Picture("dashboard-dark", *DASHBOARD, dark=True),
    Picture("dashboard-narrow", *DASHBOARD, width=NARROW),
    Picture("queue", "/admin/shop/sellinput/", "#result_list"),
    Picture("entry", "/admin/shop/concludeinput/{conclude}/change/", ".pv"),
    Picture("run", "/admin/shop/fulfilinput/run/{fulfil}/", ".timeline"),
    Picture("run-dark", "/admin/shop/fulfilinput/run/{fulfil}/", ".timeline", dark=True),
    Picture("correction", "/admin/shop/sellinput/run/{sell}/?step=0&do=correct", ".pv"),
    Picture("inbox", "/admin/shop/approveinput/inbox/", ".pipeteer-waiting"),
    Picture("answer", "/admin/shop/approveinput/{approve}/answer/", ".whole"),
    Picture("import", "/admin/arithmetic/doubleinput/import/", "#content form"),
    Picture("order", "/shop/{order}/", "progress"),
]


class Shop(Site):
    """The example site with a worker, on a database of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__("asgi", folder / "db.sqlite3")

    def stop(self) -> None:
        """Without a word, unless something went wrong."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            super().stop()
        if sys.exc_info()[0]:
            print(said.getvalue())


def busy_minute() -> dict[str, int]:
    """What is in the pictures; returns the numbers of some rows. Everything is done by the worker."""
    # Models exist only after django.setup().
    from example_project.arithmetic.pipelines import double, quad
    from example_project.shop.models import Order
    from example_project.shop.ordering import open_shop, place
    from example_project.shop.pipelines import Ending, acknowledge, approve, charge, conclude, fulfil, sell

    cup, kettle, teapot = sorted(open_shop(stock=400), key=lambda product: product.name)
    finished = place("ada@example.com", {cup: 4, kettle: 1, teapot: 1})  # the gateway fails twice, as always
    refused = place("grace@example.com", {teapot: 8, cup: 1})
    place("edsger@example.com", {kettle: 60})  # waits for approval, then is too heavy, and undone
    run = fulfil.Input.objects.get(key=finished.name).pk
    eventually(approve.Input.objects.exists, "the heavy order waits")
    approve.push(approve.Input.objects.get().key, True)
    eventually(lambda: not fulfil.Input.objects.exists(), "the first orders are done")
    charge.enqueue(_refunded(refused), key=f"{refused.name}-by-hand")
    quad.enqueue_many(range(60))
    eventually(lambda: charge.Input.objects.failed().exists() and not quad.Input.objects.exists(), "the rest, too")
    spread(quad.Output, double.Output)
    last = place("linus@example.com", {cup: 12, teapot: 2})
    place("margaret@example.com", {kettle: 15})
    conclude.enqueue(Ending(last.pk, Order.State.CANCELLED), key=f"close-{last.name}", delay=timedelta(hours=2))
    acknowledge.enqueue(finished, key=f"remind-{finished.name}", delay=timedelta(days=1))
    eventually(lambda: approve.Input.objects.ready().count() == 2, "two orders wait for approval")
    eventually(lambda: sell.Input.objects.waiting().count() == 2, "and sleep")
    return {
        "fulfil": run,
        "sell": sell.Input.objects.get(key=last.name).pk,
        "approve": approve.Input.objects.order_by("pk")[0].pk,
        "conclude": conclude.Input.objects.get(key=f"close-{last.name}").pk,
    }


def spread(*models: Any) -> None:
    """As if it had taken a quarter of an hour, so that the charts have something to show."""
    for model in models:
        rows = list(model.everything.order_by("-pk"))
        for number, row in enumerate(rows):
            ago = timedelta(minutes=13) * (number / len(rows)) ** 1.5
            slower = timedelta(milliseconds=70 * (number % 7))
            times = {"created_at": row.created_at - ago - slower, "finished_at": row.finished_at - ago}
            model.everything.filter(pk=row.pk).update(**times)


def _refunded(order: Any) -> Any:
    """The gateway takes nothing for it any more."""
    from example_project.shop import gateway

    gateway.refund(order.name)
    return order


class Studio(Browser):
    """A browser that takes pictures."""

    def look(self, width: int, dark: bool) -> None:
        """As somebody with such a screen."""
        size = {"width": width, "height": MOST, "deviceScaleFactor": 1, "mobile": width == NARROW}
        theme = {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]}
        self.driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", theme)

    def take(self, picture: Picture, folder: Path) -> None:
        """The page as it is, as far down as a reader would look."""
        file = folder / f"{picture.name}.png"
        eventually(lambda: self.count(picture.wanted), f"{picture.name} shows {picture.wanted}")
        if self.count("[data-pipeteer-live]"):
            self.says("#pipeteer-live", "Live")
        end = self.driver.execute_script(BOTTOM) + 24
        clip = {"x": 0, "y": 0, "width": picture.width, "height": min(max(int(end), LEAST), MOST), "scale": 1}
        found = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "clip": clip})
        file.write_bytes(base64.b64decode(found["data"]))
        print(f"{file}: {clip['width']} x {clip['height']}, {file.stat().st_size / 1000:.0f} kB", flush=True)


@contextmanager
def studio(site: Shop) -> Iterator[Studio]:
    """An open one."""
    browser = Studio(site)
    try:
        browser.log_in()
        browser.driver.execute_script(FOLDED)
        yield browser
    finally:
        browser.driver.quit()


def order_a_teapot(browser: Browser) -> str:
    """In the shop, as a customer; returns the number of the order, which waits for approval."""
    browser.open("/shop/")
    browser.find("#id_email").send_keys("a@example.com")
    for name, pieces in (("Teapot", "2"), ("Cup", "12")):
        field = browser.find(f"#id_{name}")
        field.clear()
        field.send_keys(pieces)
    browser.find("main form button").click()
    browser.says("#order", "waiting for approval")
    return browser.driver.current_url.strip("/").rsplit("/", 1)[-1]


def main(folder: Path) -> None:
    """Make the scene, then look at it from all sides."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pipeteer-screenshots-") as scratch:
        site = Shop(Path(scratch))
        try:
            site.manage("migrate", "--verbosity", "0")
            site.manage("createsuperuser", "--noinput", "--username", "admin", "--email", "admin@example.com")
            site.serve()
            site.work()
            os.environ |= site.env
            django.setup()
            rows: dict[str, object] = {**busy_minute()}
            with studio(site) as browser:
                for picture in PICTURES:
                    if picture.name == "order":
                        rows["order"] = order_a_teapot(browser)
                    browser.look(picture.width, picture.dark)
                    browser.open(picture.path.format(**rows))
                    if picture.name == "import":
                        browser.find("textarea").send_keys(IMPORTED)
                        browser.find("input[type=submit]").click()
                        eventually(lambda: browser.count("td code"), "the preview")
                    browser.take(picture, folder)
        finally:
            site.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
