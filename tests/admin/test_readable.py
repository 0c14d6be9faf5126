"""Values as people read them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import translation

from pipeteer_django.admin.readable import ITEMS, LENGTH, LEVELS, of_text, readable
from pipeteer_django.admin.words import Text, duration, json_text


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.34, "340 ms"), (1.2, "1.2 s"), (59.97, "1 min"), (185, "3 min 5 s"), (15_120, "4 h 12 min")],
)
def test_lengths_of_time(seconds: float, said: str) -> None:
    assert duration(timedelta(seconds=seconds)) == said


def test_units_can_be_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translation._trans, "gettext", {"d": "T", "h": "Std"}.__getitem__)
    assert duration(timedelta(days=23, hours=4)) == "23 T 4 Std"


def test_fields_and_lists() -> None:
    html = readable({"unit_price": "1.50", "tags": ["a", True, None], "empty": {}})
    assert "<dt>Unit price</dt>" in html
    assert '<ol class="pipeteer-value" start="0">' in html
    for words in ("1.50", "Yes", "no value", ">empty<"):
        assert words in html


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "{{ 7*7 }}", "%s", "{0}", "{x}"])
def test_text_is_inert(text: str) -> None:
    for value in (text, {text: text}, [text], {"a": [[[[[[[text]]]]]]]}):
        html = readable(value)
        assert "<script" not in html
        assert text in html or "&lt;script" in html


def test_what_is_deep_or_long_is_cut() -> None:
    deep: object = "x"
    for _ in range(LEVELS + 2):
        deep = [deep]
    assert readable(deep).count("<ol") == LEVELS
    assert "and 5 more" in readable(["x"] * (ITEMS + 5))
    assert len(readable("x" * 10 * LENGTH)) < 2 * LENGTH


def test_a_text_that_goes_on_is_shown_as_it_is() -> None:
    assert of_text(Text('{"a": "<b>', cut=True)) == "<pre>{&quot;a&quot;: &quot;&lt;b&gt;…</pre>"
    assert "no value" in of_text(json_text(None))
