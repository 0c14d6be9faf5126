"""Pages that keep themselves up to date, as somebody sees them who only looks."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from .conftest import Browser, Site, eventually

QUADS = "/admin/arithmetic/quadinput/"
BOTH = pytest.mark.parametrize("served", ["asgi", "wsgi"], indirect=True)
STATUS = "#pipeteer-live"
ROWS = "#result_list tbody tr"
BIG_ORDER = """
from example_project.shop.models import Product
from example_project.shop.ordering import place
place("a@example.com", {Product.objects.get(name="Cup"): 10})
"""
APPROVE = (
    "from example_project.shop.pipelines import approve; assert approve.push(approve.Input.objects.get().key, True)"
)


def enqueue(site: Site, *values: int) -> None:
    site.shell(f"from example_project.arithmetic.pipelines import quad; quad.enqueue_many({values})")


def wait_for_status(browser: Browser) -> None:
    """Open the socket, or find that there is none."""
    browser.says(STATUS, "Live" if browser.site.kind == "asgi" else "Looks every 10 s")


@BOTH
def test_a_list(served: Site, browser: Browser) -> None:
    """Entries come and go."""
    browser.open(QUADS)
    wait_for_status(browser)
    assert browser.count(ROWS) == 0
    enqueue(served, 1, 2)
    eventually(lambda: browser.count(ROWS) == 2, "both are seen")
    assert browser.text(".field-state_label") == "ready"
    served.work()
    eventually(lambda: browser.count(ROWS) == 0, "both are gone")
    assert browser.unharmed


@BOTH
def test_a_run(served: Site, browser: Browser) -> None:
    """From its first steps to its last, those of the workflow that it calls included."""
    served.work()
    served.shell(BIG_ORDER)
    browser.open("/admin/shop/fulfilinput/run/1/")
    wait_for_status(browser)
    browser.says("#pipeteer-run", "approve")
    served.shell(APPROVE)
    browser.says("#pipeteer-run .status", "done")
    browser.says("#pipeteer-run", "conclude")
    assert browser.unharmed


@pytest.mark.parametrize("served", ["asgi"], indirect=True)
def test_who_chooses_is_not_disturbed(served: Site, browser: Browser) -> None:
    """And after that everything can be chosen, new rows too."""
    enqueue(served, 1, 2)
    browser.open(QUADS)
    browser.find("tr input.action-select").click()
    served.work()
    browser.says(STATUS, "Paused")
    time.sleep(1.5)
    assert browser.count(ROWS) == 2
    browser.find("tr input.action-select").click()
    browser.driver.execute_script("document.activeElement.blur()")
    eventually(lambda: browser.count(ROWS) == 0, "they are gone")

    served.shell("from pipeteer_django.models import Queue; Queue.objects.create(pipeline='quad', held=True)")
    enqueue(served, 1, 2, 3)
    eventually(lambda: browser.count(ROWS) == 3, "three are new")
    browser.find("#action-toggle").click()
    assert browser.count("tr input.action-select:checked") == 3
    assert browser.text(".action-counter") == "3 of 3 selected"
    browser.driver.find_elements(By.CSS_SELECTOR, "tr input.action-select")[1].click()
    assert browser.text(".action-counter") == "2 of 3 selected"
    assert not browser.find("#action-toggle").is_selected()
    assert browser.unharmed


@pytest.mark.parametrize("served", ["asgi"], indirect=True)
def test_focus_stays_with_its_entry(served: Site, browser: Browser) -> None:
    enqueue(served, 1)
    browser.open(QUADS)
    wait_for_status(browser)
    link = browser.find("#result_list tbody a")
    href = link.get_attribute("href")
    browser.driver.execute_script("arguments[0].focus()", link)
    enqueue(served, 2)
    served.shell("from example_project.arithmetic.pipelines import quad; quad.notify()")
    eventually(lambda: browser.count(ROWS) == 2, "another one is there")
    focused = browser.driver.switch_to.active_element
    assert focused.get_attribute("href") == href
    assert browser.unharmed


@BOTH
def test_who_is_logged_out_is_told(served: Site, browser: Browser) -> None:
    """The page asks no more."""
    browser.open(QUADS)
    wait_for_status(browser)
    served.shell("from django.contrib.sessions.models import Session; Session.objects.all().delete()")
    enqueue(served, 1)
    browser.says(STATUS, "Stopped: reload the page")
    asked = served.log.read_text().count(QUADS)
    time.sleep(12)
    assert served.log.read_text().count(QUADS) == asked
    assert browser.unharmed


@BOTH
def test_a_customers_order(served: Site, open_browser: Callable[[], Browser]) -> None:
    """Whoever placed it follows it to the end. Somebody else sees a page that does not."""
    served.work()
    customer, other = open_browser(), open_browser()
    customer.open("/shop/")
    customer.find("#id_email").send_keys("a@example.com")
    cups = customer.find("#id_Cup")
    cups.clear()
    cups.send_keys("10")
    customer.find("main form button").click()
    eventually(lambda: customer.driver.current_url.endswith("/shop/1/"), "the order's page")
    customer.driver.execute_script("window.unharmed = true")
    customer.says("#order", "waiting for approval")
    wait_for_status(customer)
    other.open("/shop/1/")
    assert other.count("[data-pipeteer-live]") == 0
    assert "waiting for approval" not in other.text("main")
    served.shell(APPROVE)
    customer.says("#order", "Shipped.")
    assert customer.text("h1").endswith("shipped")
    eventually(lambda: not customer.find(STATUS).is_displayed(), "nothing more to come")
    assert customer.unharmed


@pytest.mark.parametrize("served", ["asgi"], indirect=True)
def test_an_inbox_keeps_still_under_the_pointer(served: Site, browser: Browser) -> None:
    """So that nobody approves what has just taken another one's place."""
    served.work()
    browser.open("/admin/shop/approveinput/inbox/")
    wait_for_status(browser)
    served.shell(BIG_ORDER)
    eventually(lambda: browser.count(".pipeteer-waiting") == 1, "the question is there")
    ActionChains(browser.driver).move_to_element(browser.find(".pipeteer-waiting button")).perform()
    served.shell(BIG_ORDER)
    browser.says(STATUS, "Paused")
    assert browser.count(".pipeteer-waiting") == 1
    ActionChains(browser.driver).move_to_element(browser.find("h1")).perform()
    eventually(lambda: browser.count(".pipeteer-waiting") == 2, "the other one, too", within=20)  # and not by polling
    assert browser.unharmed
