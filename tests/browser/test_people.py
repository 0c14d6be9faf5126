"""What people do on the admin's pages, in a real browser, under a strict Content-Security-Policy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from tests.hostile import XSS

from .conftest import Browser, Site, eventually

ADMIN = "/admin/asking"
PARCEL = 'Parcel("Ada", [Line(name="cup", pieces=2), Line(name="pot")], ["frail"])'
IMPORTS = "from tests.browser.asking.pipelines import *; import json"


class Asking(Site):
    """The example site with the app of these tests, and a policy."""

    def __init__(self, kind: str, database: Path) -> None:
        super().__init__(kind, database)
        self.env["DJANGO_SETTINGS_MODULE"] = "tests.browser.asking.settings"

    def ask(self, expression: str) -> Any:
        """What an expression is, in the project."""
        answer = self.log.parent / "answer.json"
        self.shell(f"{IMPORTS}; open({str(answer)!r}, 'w').write(json.dumps({expression}))")
        return json.loads(answer.read_text())


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with tables, an administrator, and one of everything."""
    path = tmp_path_factory.mktemp("asking") / "db.sqlite3"
    site = Asking("", path)
    site.manage("migrate", "--run-syncdb", "--verbosity", "0")
    site.manage("createsuperuser", "--noinput", "--username", "admin", "--email", "admin@example.com")
    site.shell(
        f"{IMPORTS}; pack.enqueue({PARCEL}, key='parcel'); judge.enqueue('The pot is broken.', key='a'); "
        "allow.enqueue('May it?', key='a'); allow.enqueue('And this?', key='b')"
    )
    return path


@pytest.fixture
def served(migrated: Path, tmp_path: Path) -> Iterator[Asking]:
    """The site."""
    shutil.copy(migrated, tmp_path / "db.sqlite3")
    site = Asking("asgi", tmp_path / "db.sqlite3")
    try:
        site.serve()
        yield site
    finally:
        site.stop()


@pytest.fixture(autouse=True)
def _nothing_in_the_console(browser: Browser) -> Iterator[None]:
    """No error of a script, and nothing that the policy forbids. (The navigation at the side is Django's: folded.)"""
    browser.driver.execute_script("localStorage.setItem('django.admin.navSidebarIsOpen', 'false')")
    yield
    said = [entry for entry in browser.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert [entry for entry in said if "favicon.ico" not in entry["message"]] == []  # the example has none


def press(browser: Browser, *keys: str) -> None:
    """On the keyboard, wherever the focus is."""
    ActionChains(browser.driver).send_keys(*keys).perform()


def tab_to(browser: Browser, selector: str, most: int = 120) -> Any:
    """With the Tab key alone; each stop on the way is seen, and is something that can be used."""
    for _ in range(most):
        press(browser, Keys.TAB)
        focused = browser.driver.switch_to.active_element
        seen = browser.driver.execute_script(FOCUSED, focused, selector)
        assert seen["usable"], seen
        assert seen["visible"], seen
        if seen["arrived"]:
            return focused
    raise AssertionError(f"{selector} is not reached by the keyboard")


FOCUSED = """
const [element, selector] = arguments, style = getComputedStyle(element), box = element.getBoundingClientRect();
const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
const marked = outlined || style.boxShadow !== "none" || element.matches("input, textarea, select, .button, a, button");
return {
    html: element.outerHTML.slice(0, 200), arrived: element.matches(selector),
    usable: element.matches("a[href], button, input, select, textarea, summary, [tabindex='0'], label"),
    visible: element.matches(":focus-visible") && marked && box.width > 0 && box.height > 0,
};
"""


def save(browser: Browser, selector: str = "[name=_continue]") -> None:
    """Send a form, and wait for what comes."""
    button = browser.find(selector)
    browser.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    eventually(lambda: not browser.unharmed, "another page")


def values(browser: Browser, pattern: str) -> list[str]:
    """What stands in the inputs with such names."""
    return [found.get_attribute("value") for found in browser.driver.find_elements(By.CSS_SELECTOR, pattern)]


def test_a_typed_value_is_edited(served: Asking, browser: Browser) -> None:
    """Rows come and go; a wrong one is told at its place, and nothing that was typed is lost."""
    browser.open(f"{ADMIN}/packinput/1/change/")
    browser.find("[name=value-lines-1-value-name]").send_keys(" with a lid")
    browser.find("[data-pv-name=value-lines] > .pv-row > .pv-remove").click()
    browser.find("[data-pv-name=value-lines] > .pv-add").click()
    press(browser, "saucer")
    pieces = browser.find("[name=value-lines-2-value-pieces]")
    pieces.clear()
    pieces.send_keys("100")
    browser.find("[data-pv-name=value-tags] > .pv-add").click()
    press(browser, "urgent")
    save(browser)

    (error,) = browser.driver.find_elements(By.CSS_SELECTOR, ".pv-invalid .pv-errors")
    assert "99" in error.text
    place = error.find_element(By.XPATH, "./ancestor::*[contains(@class, 'pv-leaf')]")
    wrong = place.find_element(By.CSS_SELECTOR, "input")
    assert (wrong.get_attribute("value"), wrong.get_attribute("aria-invalid")) == ("100", "true")
    assert values(browser, "[name^=value-lines-][name$=-name]") == ["pot with a lid", "saucer"]
    assert values(browser, "[name^=value-tags-][type=text], textarea[name^=value-tags-]") == ["frail", "urgent"]
    assert served.ask("pack.Input.objects.get().epoch") == 0

    browser.driver.execute_script("window.unharmed = true")
    wrong.clear()
    wrong.send_keys("9")
    save(browser)
    browser.says(".messagelist .success", "was changed successfully")
    assert served.ask("pack.input.to_stored(pack.Input.objects.get().value)") == {
        "to": "Ada",
        "lines": [{"name": "pot with a lid", "pieces": 1}, {"name": "saucer", "pieces": 9}],
        "tags": ["frail", "urgent"],
    }


def test_what_moved_meanwhile_is_not_overwritten(served: Asking, browser: Browser) -> None:
    browser.open(f"{ADMIN}/packinput/1/change/")
    browser.find("[name=value-to]").send_keys(" Lovelace")
    served.shell(f"{IMPORTS}; entry = pack.Input.objects.get(); entry.priority = 7; entry.save()")
    save(browser)
    browser.says("#content", "It changed meanwhile")
    assert values(browser, "[name=value-to]") == ["Ada Lovelace"]
    assert served.ask("[[e.value.to, e.priority] for e in pack.Input.objects.all()]") == [["Ada", 7]]


def test_a_yes_and_a_second_click(served: Asking, browser: Browser) -> None:
    """Two windows show the same question."""
    browser.open(f"{ADMIN}/allowinput/inbox/")
    first = browser.driver.current_window_handle
    browser.driver.switch_to.new_window("tab")
    browser.open(f"{ADMIN}/allowinput/1/answer/")
    second = browser.driver.current_window_handle
    browser.driver.switch_to.window(first)
    browser.find(".pipeteer-waiting button[value=true]").click()
    browser.says(".messagelist", "was answered")
    assert browser.count(".pipeteer-waiting") == 1
    browser.driver.switch_to.window(second)
    browser.find("button[value=false]").click()
    browser.says(".messagelist", "It was already answered by admin")
    browser.says(".messagelist", "Your answer changed nothing.")
    assert served.ask("[row.value for row in allow.Output.everything.all()]") == [True]


def test_an_answer_by_its_form(served: Asking, browser: Browser) -> None:
    browser.open(f"{ADMIN}/judgeinput/inbox/")
    browser.find(".pipeteer-waiting a.button").click()
    browser.says("#content", "The pot is broken.")
    Select(browser.find("[name=value-decision]")).select_by_visible_text("replace")
    browser.find("[data-pv-name=value-reasons] > .pv-add").click()
    press(browser, "it was sent so")
    browser.find(".submit-row input").click()
    browser.says(".messagelist .success", "was answered")
    answers = "[judge.output.to_stored(row.value) for row in judge.Output.everything.all()]"
    assert served.ask(answers) == [{"decision": "replace", "reasons": ["it was sent so"]}]


def test_a_step_is_corrected_and_the_run_goes_on(served: Asking, browser: Browser) -> None:
    served.shell(f"{IMPORTS}; allow.Input.objects.all().delete(); ask.enqueue(21, key='run')")
    served.work()
    browser.open(f"{ADMIN}/askinput/run/1/")
    browser.says("#pipeteer-run", "allow")
    eventually(lambda: browser.count("#step-0 .repair a"), "the first step is done")
    browser.find("#step-0 .repair a").click()
    result = eventually(lambda: browser.driver.find_elements(By.CSS_SELECTOR, "tr.open [name=value]"), "a form")[0]
    assert result.get_attribute("value") == "42"
    result.clear()
    result.send_keys("43")
    browser.find("tr.open button[type=submit]").click()
    eventually(lambda: not browser.count("tr.open"), "the correction is done")
    browser.open(f"{ADMIN}/allowinput/inbox/")
    browser.says(".pipeteer-waiting .question", "May it be 43?")
    browser.find(".pipeteer-waiting button[value=true]").click()
    browser.says(".messagelist", "was answered")
    browser.open(f"{ADMIN}/askinput/run/1/")
    browser.says("#pipeteer-run .status", "done")
    browser.says("#pipeteer-run", "43 is allowed")


def test_everything_by_the_keyboard(served: Asking, browser: Browser) -> None:
    """A row is added and taken away, the entry saved, a question answered."""
    browser.open(f"{ADMIN}/packinput/1/change/")
    tab_to(browser, "[data-pv-name=value-tags] > .pv-add")
    press(browser, Keys.ENTER)
    press(browser, "urgent")
    browser.driver.execute_script("document.querySelector('#site-name a').focus()")
    tab_to(browser, "[data-pv-name=value-lines] > .pv-row > .pv-remove")
    press(browser, Keys.SPACE)
    tab_to(browser, "[name=_save]")
    press(browser, Keys.ENTER)
    browser.says(".messagelist .success", "was changed successfully")
    assert served.ask("pack.Input.objects.get().value.tags") == ["frail", "urgent"]
    assert served.ask("[line.name for line in pack.Input.objects.get().value.lines]") == ["pot"]

    browser.open(f"{ADMIN}/allowinput/inbox/")
    tab_to(browser, ".pipeteer-waiting button[value=true]")
    press(browser, Keys.ENTER)
    browser.says(".messagelist .success", "was answered")


PAGES = {
    "the first page": "/admin/",
    "a list": f"{ADMIN}/packinput/",
    "a form": f"{ADMIN}/packinput/1/change/",
    "a run": f"{ADMIN}/askinput/run/1/",
    "a run with a form": f"{ADMIN}/askinput/run/1/?step=0&do=correct",
    "an inbox": f"{ADMIN}/allowinput/inbox/",
    "all inboxes": "/admin/pipeteer_django/queue/inbox/",
    "an answer": f"{ADMIN}/judgeinput/1/answer/",
    "the dashboard": "/admin/pipeteer_django/queue/dashboard/",
    "an import": f"{ADMIN}/packinput/import/",
    "results": f"{ADMIN}/askoutput/",
}


def test_a_strict_policy_and_hostile_text(served: Asking, browser: Browser) -> None:
    """Nothing that was stored runs, also where a page renews itself; each page can be walked through by Tab."""
    served.shell(
        f"{IMPORTS}; ask.enqueue(1, key='run'); texts = {XSS!r}\n"
        "for n, text in enumerate(texts):\n"
        "    pack.enqueue(Parcel(text, [], [text]), key=f'{n} <img src=x onerror=alert(1)>')\n"
        "    judge.enqueue(text, key=f'{n} <img src=x onerror=alert(1)>')\n"
        "from pipeteer_django.testing import drain; drain(ask)"
    )
    for name, path in PAGES.items():
        browser.open(path)
        browser.driver.execute_script("window.alert = () => { window.harmed = true }")
        if browser.count("[data-pipeteer-live]"):
            browser.says("#pipeteer-live", "Live")
        for _ in range(15):
            press(browser, Keys.TAB)
            seen = browser.driver.execute_script(FOCUSED, browser.driver.switch_to.active_element, "body")
            assert seen["arrived"] or (seen["usable"] and seen["visible"]), (name, seen)
        assert not browser.driver.execute_script("return window.harmed"), name
        assert browser.unharmed, name
    browser.open(f"{ADMIN}/judgeinput/inbox/")
    browser.says("#pipeteer-live", "Live")
    browser.driver.execute_script("window.alert = () => { window.harmed = true }")
    count = browser.count(".pipeteer-waiting")
    served.shell(f"{IMPORTS}; judge.enqueue('<img src=x onerror=alert(1)>', key='late')")
    eventually(lambda: browser.count(".pipeteer-waiting") != count or "late" in browser.text("#content"), "it came")
    assert not browser.driver.execute_script("return window.harmed")


def test_what_the_policy_forbids_would_be_noticed(served: Asking, browser: Browser) -> None:
    """Else the other tests would prove nothing."""
    browser.open("/admin/")
    for tag in ("script", "style"):
        browser.driver.execute_script(
            "document.body.append(Object.assign(document.createElement(arguments[0]), {textContent: ' '}))", tag
        )
    said = [entry["message"] for entry in browser.driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert len([text for text in said if "Content Security Policy" in text]) == 2
