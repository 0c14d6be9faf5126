"""The typed form: what is drawn, what is read, and where errors stand."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Literal

import pydantic
import pytest
from django.contrib.admin import AdminSite
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.forms import Form, ModelForm
from django.http import QueryDict
from django.utils import timezone, translation

from pipeteer_django.admin.valueform.field import ValueField, value_field
from pipeteer_django.pipelines.valuetype import ValueType
from tests.admin_values.browser import Page, form_class, shown, submitted
from tests.admin_values.types_of_forms import Address, Colour, Customer, Line, Mixed, Order, Small, Tree
from tests.testapp.models import Item
from tests.testapp.pipelines import echo_point, process_item

ORDER = Order("Ada", [Line("pen", Decimal("1.50")), Line("ink", Decimal("7"), note="")], Colour.RED)
HOSTILE = '"><script>alert(1)</script>'


class Evil(Enum):
    A = HOSTILE


@dataclass
class Box:
    text: str
    evil: Evil
    names: dict[str, str] = field(default_factory=dict)
    either: int | str = 1
    label: int = pydantic.Field(1, title=HOSTILE, description=HOSTILE)


def errors(form: Form) -> list[str]:
    return list(form.errors.get("value", []))


def sent(annotation: Any, value: Any = None, **changes: str | None) -> Form:
    """The form of a value, submitted with some changes."""
    return submitted(annotation, typed(shown(annotation, value), changes))


def typed(html: str, changes: dict[str, str | None]) -> QueryDict:
    return Page(html).submit(**changes)


def by_id(html: str) -> dict[str, dict[str, str]]:
    return {attrs["id"]: attrs for _, attrs in Page(html).tags if "id" in attrs}


# What is drawn


@pytest.mark.parametrize(
    ("annotation", "value", "piece"),
    [
        (int, 5, '<input type="number" name="value" value="5" id="id_value">'),
        (str, "a\nb", "a\nb</textarea>"),
        (bool, True, '<input type="checkbox" name="value" id="id_value" checked>'),
        (Colour, Colour.DARK_BLUE, '<option value="blue" selected>Dark blue</option>'),
        (Literal["a", "b"], "b", '<option value="b" selected>b</option>'),
        (Mixed, Mixed.TEXT, '<option value="&quot;1&quot;" selected>Text</option>'),
        (date, date(5, 2, 1), 'value="0005-02-01"'),
        (int | None, None, "Empty: no value."),
        (str | None, None, 'name="value--none" id="id_value--none" value="1" checked'),
        (Decimal, Decimal("1.50"), 'value="1.50" inputmode="decimal"'),
        (int | list[str], ["x"], "[\n  &quot;x&quot;\n]</textarea>"),
        (None, None, "Nothing to fill in."),
    ],
)
def test_each_kind_has_its_input(annotation: Any, value: Any, piece: str) -> None:
    assert piece in shown(annotation, value)


def test_fields_are_labelled_explained_and_have_their_defaults() -> None:
    html = shown(Customer)
    ids = by_id(html)
    assert ids["id_value-name"]["aria-describedby"] == "id_value-name--help"
    assert "As on the invoice." in html
    assert '<label class="pv-label" for="id_value-name">Name' in html
    assert 'name="value-id"' in html
    assert "Empty: left out." in html  # a new id is made when the customer is
    assert dict(Page(shown(Line)).pairs)["value-quantity"] == "1"


def test_every_control_has_a_name_and_every_label_a_control() -> None:
    for annotation, value in ((Order, ORDER), (Customer, None), (datetime, None), (dict[str, Line] | None, None)):
        page = Page(shown(annotation, value))
        labelled = {attrs["for"] for tag, attrs in page.tags if tag == "label" and "for" in attrs}
        ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
        assert len(ids) == len(set(ids))
        assert labelled <= set(ids)
        assert len({name for name, _ in page.pairs}) == len(page.pairs)


def test_nothing_is_inline() -> None:
    page = Page(shown(Order, ORDER, admin_site=AdminSite()))
    assert not [tag for tag, attrs in page.tags if tag in ("script", "style") or "style" in attrs]
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]


def test_the_admins_widgets_bring_their_scripts() -> None:
    site = AdminSite()
    form = form_class(Order, admin_site=site)()
    assert 'class="vDateField"' in str(form["value"])
    assert "admin/js/admin/DateTimeShortcuts.js" in str(form.media)
    assert "pipeteer_django/values.js" in str(form.media)
    assert "DateTimeShortcuts" not in str(form_class(Order)().media)


def test_several_fields_fit_on_one_page() -> None:
    class Two(Form):
        value = ValueField(ValueType.of(Order))
        other = ValueField(ValueType.of(Order))

    first, second = Two(prefix="a", initial={"value": ORDER}), Two(prefix="b", initial={"other": ORDER})
    html = "".join(str(form[name]) for form in (first, second) for name in ("value", "other"))
    names = [name for name, _ in Page(html).pairs]
    assert len(names) == len(set(names))
    data = Page(html).submit(**{f"{form}-{name}-customer": name for form in "ab" for name in ("value", "other")})
    data["a-other-colour"] = data["b-value-colour"] = "red"
    for prefix in "ab":
        form = Two(data, prefix=prefix)
        assert form.is_valid(), form.errors
        assert [form.cleaned_data[name].customer for name in ("value", "other")] == ["value", "other"]


# What is read


def test_clean_gives_what_enqueue_takes() -> None:
    form = sent(Order, ORDER, **{"value-lines-0-value-price": "2.50"})
    assert form.is_valid()
    assert form.cleaned_data["value"].lines[0] == Line("pen", Decimal("2.50"))
    assert form.has_changed()


def test_rows_are_added_and_removed_without_a_script() -> None:
    changes = {
        "value-lines-0--keep": None,
        "value-lines-2-value-name": "paper",
        "value-lines-2-value-price": "3",
    }
    form = sent(Order, ORDER, **changes)
    assert form.is_valid(), form.errors
    assert [line.name for line in form.cleaned_data["value"].lines] == ["ink", "paper"]


def test_rows_that_a_script_added_count_even_if_they_are_empty() -> None:
    form = submitted(list[str], {"value--rows": "1", "value-0--keep": "1", "value-0-value": "a", "value-7--keep": "1"})
    assert form.is_valid()
    assert form.cleaned_data["value"] == ["a", ""]


def test_keys_of_a_mapping_are_rows_too() -> None:
    form = sent(dict[str, int], {"a": 1}, **{"value-1--key": "b", "value-1-value": "2"})
    assert form.is_valid(), form.errors
    assert form.cleaned_data["value"] == {"a": 1, "b": 2}
    twice = sent(dict[str, int], {"a": 1}, **{"value-1--key": "a", "value-1-value": "2"})
    assert "The key appears twice." in errors(twice)[0]
    named_like_it = {"value-1--key": "a", "value-1-value": "2", "value-2--key": "a (2)", "value-2-value": "3"}
    assert errors(sent(dict[str, int], {"a": 1}, **named_like_it)) == ["['a (2)']: The key appears twice."]


def test_no_value_is_not_the_empty_text() -> None:
    for data, expected in (({"value": "", "value--none": "1"}, None), ({"value": ""}, "")):
        form = submitted(str | None, data)
        assert form.is_valid()
        assert form.cleaned_data["value"] == expected
    both = submitted(str | None, {"value": "typed", "value--none": "1"})
    assert "untick it" in errors(both)[0]
    assert "typed" in str(both["value"])


def test_a_field_may_be_left_out() -> None:
    form = sent(Address, {"street": "x"})
    assert form.is_valid()
    assert form.cleaned_data["value"] == {"street": "x"}


def test_optional_groups_fold() -> None:
    form = submitted(Customer | None, {"value--none": "1"})
    assert form.is_valid()
    assert form.cleaned_data["value"] is None


def test_a_time_that_comes_twice_keeps_its_meaning() -> None:
    moment = datetime(2024, 10, 27, 0, 30, tzinfo=UTC)  # 2:30 in Berlin, the first time
    with timezone.override("Europe/Berlin"):
        page = Page(shown(datetime, moment))
        assert ("value--zone", "UTC") in page.pairs
        form = submitted(datetime, page.submit())
        assert form.is_valid()
        local = submitted(datetime, {"value--date": "2024-10-27", "value--time": "02:30", "value--zone": "local"})
        assert "interpreted" in errors(local)[0]
    assert form.cleaned_data["value"] == moment


def test_dates_follow_the_language() -> None:
    with translation.override("de"):
        page = Page(shown(date, date(2024, 2, 29)))
        assert page.pairs == [("value", "29.02.2024")]
        form = submitted(date, page.submit())
        assert form.is_valid()
    assert form.cleaned_data["value"] == date(2024, 2, 29)


def test_the_whole_value_may_be_given_as_json() -> None:
    form = submitted(Line, {"value--json": '{"name": "a", "price": "1"}'})
    assert form.is_valid()
    assert form.cleaned_data["value"] == Line("a", Decimal(1))


def test_given_values_are_cleaned_too() -> None:
    assert ValueField(ValueType.of(Colour)).clean("red") is Colour.RED
    with pytest.raises(ValidationError):
        ValueField(ValueType.of(Colour)).clean("green")


# Where errors stand


def test_errors_stand_at_their_part_and_keep_what_was_typed() -> None:
    changes = {"value-lines-1-value-price": "dear", "value-lines-0-value-quantity": "", "value-due--date": "never"}
    form = sent(Order, ORDER, **changes)
    assert errors(form) == [
        "lines[0].quantity: This field is required.",
        "lines[1].price: Enter a number.",
        "due: Enter a time too.",
    ]
    form = sent(Order, ORDER, **{"value-lines-1-value-price": "dear"})
    assert errors(form) == ["lines[1].price: Enter a number."]
    html = str(form["value"])
    assert 'value="dear"' in html
    assert by_id(html)["id_value-lines-1-value-price"]["aria-invalid"] == "true"
    assert 'id="id_value-lines-1-value-price--error"' in html


def test_rules_of_the_type_stand_at_their_part() -> None:
    assert errors(sent(Customer, **{"value-name": ""})) == ["name: String should have at least 1 character"]
    assert errors(sent(Small, **{"value": "11"})) == ["Input should be less than or equal to 9"]


def test_json_errors_have_line_and_column() -> None:
    assert errors(submitted(int | str, {"value": "{\n  1"})) == [
        "Line 2, column 3: this is no JSON: Expecting property name enclosed in double quotes."
    ]
    assert errors(submitted(Any, {"value": '{"a": 1, "a": 2}'})) == ["The key 'a' appears twice in one object."]
    assert errors(submitted(Any, {"value": "NaN"})) == ["NaN does not exist in JSON."]
    assert errors(submitted(list[Any], {"value": "[1e999]"})) == [
        "value[0]: inf does not exist in JSON; use None or a string."
    ]
    tree = errors(sent(Tree, {"name": "a"}, **{"value-children": '[{"name": 1}]'}))
    assert tree == ["children: [0].name: Input should be a valid string"]


def test_a_stored_value_that_no_longer_fits_can_be_repaired() -> None:
    html = shown(Order, {"customer": 5, "lines": {"vanished": 1}, "colour": "red"})
    assert "vanished" in html
    assert "The stored value is no list." in html
    page = Page(html)
    assert ("value-customer--json", "5") in page.pairs
    form = submitted(Order, page.submit(**{"value-customer--json": '"Ada"', "value-lines--json": "[]"}))
    assert form.is_valid(), form.errors
    assert form.cleaned_data["value"] == Order("Ada", [], Colour.RED)
    form = sent(Line, {"name": "a"}, **{"value-price": "1"})
    assert form.is_valid()
    assert form.cleaned_data["value"] == Line("a", Decimal(1))


# Hostile input


def test_markup_is_inert() -> None:
    value = {"text": HOSTILE, "evil": HOSTILE, "names": {HOSTILE: HOSTILE}, "either": HOSTILE}
    html = shown(Box, value)
    assert "<script" not in html
    form = submitted(Box, Page(html).submit(**{"value-label": HOSTILE, "value-evil": HOSTILE + "x"}))
    assert not form.is_valid()
    assert "<script" not in str(form["value"]) + str(form.errors)


@pytest.mark.parametrize(
    ("annotation", "data"),
    [
        (str, {"value": "a\x00b"}),
        (str, {"value": "a\ud800b"}),
        (int, {"value": "9" * 100_000}),
        (float, {"value": "1e999"}),
        (Any, {"value": "[" * 100_000}),
        (Any, {"value": "[" * 50 + "]" * 50}),
        (Any, {"value": "9" * 5000}),
        (Any, {"value": '"\\ud800"'}),
        (Any, {"value": '"' + "x" * 1_100_000 + '"'}),
        (list[int], {f"value-{i}--keep": "1" for i in range(1500)}),
        (list[int], {f"value-{i}-value": "1" for i in range(10_000)}),
        (dict[str, int], {f"value-{i}--key": "1" for i in range(10_000)}),
        (Order, {f"value-lines-0-value-{i}": "1" for i in range(10_000)}),
        (Line, {"value" + "-0" * 100_000: "1"}),
        (datetime, {"value--date": "0001-01-01", "value--time": "00:00", "value--zone": "local"}),
        (datetime, {"value--date": "2024-01-01", "value--time": "00:00", "value--zone": "+99:99"}),
    ],
)
def test_hostile_input_is_an_error(annotation: Any, data: dict[str, str]) -> None:
    with timezone.override("Asia/Tokyo"):
        form = submitted(annotation, data)
        assert not form.is_valid()
        html = str(form["value"])
    assert len(html.encode()) < 3_000_000
    assert len("".join(errors(form))) < 3000
    str(form.errors).encode()


def test_too_much_is_shown_as_json() -> None:
    long = list(range(10_000))
    html = shown(list[int], long)
    assert "10,000 rows: more than 100 are edited as JSON." in html
    form = submitted(list[int], Page(html).submit())
    assert form.is_valid()
    assert form.cleaned_data["value"] == long
    wide = {str(number): [number] * 50 for number in range(50)}
    assert len(Page(shown(dict[str, list[int]], wide)).pairs) < 5
    assert len(Page(shown(list[int], [1] * 100)).pairs) < 1000  # what Django takes


# Models


@pytest.mark.django_db
def test_a_row_is_chosen_and_in_the_admin_looked_up() -> None:
    group = Group.objects.create(name=HOSTILE)
    html = shown(Group, group.pk)
    assert "<select" in html
    assert "<script" not in html
    raw = shown(Group, group.pk, admin_site=AdminSite())
    assert 'type="text"' in raw
    assert "<script" not in raw
    form = submitted(Group, {"value": str(group.pk)}, admin_site=AdminSite())
    assert form.is_valid()
    assert form.cleaned_data["value"] == group
    for bad in ("", "0", "x", "9" * 50, "a\x00"):
        wrong = submitted(Group, {"value": bad}, admin_site=AdminSite())
        assert not wrong.is_valid()
        str(wrong["value"]).encode()
    empty = submitted(Group | None, {"value": ""})
    assert empty.is_valid()
    assert empty.cleaned_data["value"] is None


# In a ModelForm


def model_form(pipeline: Any) -> type[ModelForm[Any]]:
    model = pipeline.Input
    meta = type("Meta", (), {"model": model, "fields": ["key", "value"]})
    field = value_field(model._meta.get_field("value"))
    return type("F", (ModelForm,), {"Meta": meta, "value": field})


@pytest.mark.django_db
def test_a_model_form_saves_and_edits_an_entry() -> None:
    form_type = model_form(echo_point)
    data = Page(str(form_type())).submit(**{"key": "a", "value-x": "1", "value-y": "2", "value-tags-0-value": "t"})
    form = form_type(data)
    assert form.is_valid(), form.errors
    entry = form.save()
    entry.refresh_from_db()
    assert (entry.value.x, entry.value.y, entry.value.tags) == (1, 2, ["t"])

    page = Page(str(form_type(instance=entry)))
    assert not form_type(page.submit(), instance=entry).has_changed()
    edited = form_type(page.submit(**{"value-y": "3"}), instance=entry)
    assert edited.is_valid(), edited.errors
    assert edited.changed_data == ["value"]
    edited.save()
    assert echo_point.Input.objects.get(pk=entry.pk).value.y == 3

    wrong = form_type(page.submit(**{"value-y": ""}), instance=entry)
    assert wrong.errors == {"value": ["y: This field is required."]}


@pytest.mark.django_db
def test_a_model_form_saves_a_row() -> None:
    item = Item.objects.create(name="thing")
    form = model_form(process_item)({"key": "a", "value": str(item.pk)})
    assert form.is_valid(), form.errors
    entry = form.save()
    assert process_item.Input.objects.get(pk=entry.pk).value == item
    again = model_form(process_item)({"key": "a", "value": str(item.pk)}, instance=entry)
    assert not again.has_changed()
