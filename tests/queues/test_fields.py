"""Columns: what a type becomes, what may enter it, and what comes out, on the database under test."""

from __future__ import annotations

import copy
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from django.apps import AppConfig, apps
from django.contrib.auth.models import Group
from django.core import serializers
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, models, transaction
from django.db.migrations.autodetector import MigrationAutodetector
from django.db.migrations.state import ModelState, ProjectState
from django.db.migrations.writer import MigrationWriter
from django.forms import modelform_factory
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeteer_django.exceptions import DefinitionError, InvalidValue
from pipeteer_django.pipelines.references import ModelReference
from pipeteer_django.pipelines.valuetype import ValueType
from pipeteer_django.queues.fields import KeyField, field_for

LABEL = "fieldtests"


class Colour(Enum):
    RED = "red"
    DARK_BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Shade(StrEnum):
    LIGHT = "light"


@dataclass
class Item:
    name: str
    qty: int = 1


class Upper(models.CharField):  # type: ignore[type-arg]
    """A field of the user's own, in a module of the user's own."""

    def from_db_value(self, value: Any, *_: Any) -> Any:
        return value and value.upper()


NOON = datetime(2024, 2, 29, 12, tzinfo=timezone(timedelta(hours=5, minutes=30)))
AN_UUID = UUID("a05b0561-a1ca-4024-be6a-79f320f8c964")
Money = Annotated[Decimal, models.DecimalField(max_digits=6, decimal_places=2)]

_count = iter(range(10**6))


def make_model(**fields: Any) -> Any:
    name = f"Model{next(_count)}"
    meta = type("Meta", (), {"app_label": LABEL})
    return type(name, (models.Model,), {"__module__": __name__, "Meta": meta, **fields})


def model_of(annotation: Any) -> Any:
    number = next(_count)
    return make_model(value=field_for(ValueType.of(annotation), pipeline_id=f"p{number}", role="input"))


@contextmanager
def table(model: Any) -> Iterator[Any]:
    with connection.schema_editor() as editor:
        editor.create_model(model)
    try:
        yield model
    finally:
        with connection.schema_editor() as editor:
            editor.delete_model(model)


@pytest.fixture(autouse=True)
def own_app(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An app for the models of one test: fixtures name a model by its installed app."""
    config = AppConfig(LABEL, sys.modules[__name__])
    config.apps, config.models, config.models_module = apps, apps.all_models[LABEL], None
    monkeypatch.setitem(apps.app_configs, LABEL, config)
    yield
    apps.all_models.pop(LABEL, None)
    apps.clear_cache()


# What a type becomes


@pytest.mark.parametrize(
    ("annotation", "path", "options"),
    [
        (int, "BigIntegerField", {}),
        (int | None, "BigIntegerField", {"null": True, "blank": True}),
        (str, "TextField", {}),
        (bool, "BooleanField", {}),
        (float, "FloatField", {}),
        (date, "DateField", {}),
        (datetime, "DateTimeField", {}),
        (timedelta, "DurationField", {}),
        (UUID, "UUIDField", {}),
        (Colour, "CharField", {"max_length": 100}),
        (Literal["a", "b", None], "CharField", {"max_length": 100, "null": True, "blank": True}),
        (Level, "BigIntegerField", {}),
        (Literal[True], "BooleanField", {}),
        (Item, "JSONField", {}),
        (Any, "JSONField", {"null": True, "blank": True}),
        (Decimal, "JSONField", {}),
        (None, "JSONField", {"null": True, "blank": True, "editable": False}),
        (Money, "DecimalField", {"max_digits": 6, "decimal_places": 2}),
    ],
)
def test_migrations_see_djangos_own_field(annotation: Any, path: str, options: dict[str, Any]) -> None:
    field = field_for(ValueType.of(annotation), pipeline_id="p", role="input")
    assert field.deconstruct()[1:] == (f"django.db.models.{path}", [], options)
    assert isinstance(field, getattr(models, path))


def test_a_model_is_a_foreign_key() -> None:
    for role, on_delete in (("input", models.PROTECT), ("output", models.CASCADE)):
        field = field_for(ValueType.of(Group), pipeline_id="ship", role=role)  # type: ignore[arg-type]
        _, path, _, options = field.deconstruct()
        assert path == "django.db.models.ForeignKey"
        assert options == {"to": "auth.group", "on_delete": on_delete, "related_name": f"ship_{role}s"}


def test_a_given_field_keeps_its_class_and_options() -> None:
    given = Upper(max_length=5, choices=[("a", "A")], help_text="short")
    field = field_for(ValueType.of(Annotated[str, given]), pipeline_id="p", role="input")
    assert field.deconstruct() == given.deconstruct()
    assert field is not given
    assert field.deconstruct()[1] == f"{__name__}.Upper"


def test_a_given_field_that_cannot_hold_the_type_is_refused() -> None:
    for annotation, reason in (
        (Annotated[Decimal | None, models.DecimalField(max_digits=6, decimal_places=2)], "null=True"),
        (Annotated[Group, models.ForeignKey(Group, models.CASCADE, to_field="name")], "leave to_field out"),
    ):
        with pytest.raises(DefinitionError, match=reason):
            field_for(ValueType.of(annotation), pipeline_id="p", role="input")


@pytest.mark.parametrize("annotation", [int, Colour, Item, Group, Money, str, Level])
def test_copies_keep_the_type(annotation: Any) -> None:
    value_type = ValueType.of(annotation)
    field = field_for(value_type, pipeline_id="p", role="input")
    for twin in (field.clone(), copy.copy(field), copy.deepcopy(field), field.clone().clone()):
        assert type(twin) is type(field)
        assert twin.value_type is value_type  # type: ignore[attr-defined]
        assert twin.choices == field.choices
        assert twin.deconstruct() == field.deconstruct()


def test_a_child_of_an_abstract_model_gets_the_type() -> None:
    meta = type("Meta", (), {"app_label": LABEL, "abstract": True})
    value = field_for(ValueType.of(Item), pipeline_id="p", role="input")
    parent: Any = type("Parent", (models.Model,), {"__module__": __name__, "Meta": meta, "value": value})
    meta = type("Meta", (), {"app_label": LABEL})
    child = type("Child", (parent,), {"__module__": __name__, "Meta": meta})
    assert child._meta.get_field("value").value_type is value.value_type  # type: ignore[attr-defined]


def state_of(model: Any) -> ProjectState:
    state = ProjectState()
    model_state = ModelState.from_model(model)
    model_state.name = "Same"
    state.add_model(model_state)
    return state


def changes(before: ProjectState, after: ProjectState) -> dict[str, list[Any]]:
    detector: Any = MigrationAutodetector(before, after)
    return detector._detect_changes()  # type: ignore[no-any-return]


def test_a_new_member_is_no_migration_and_migrations_import_nothing_of_ours() -> None:
    before, after = model_of(Literal["a"]), model_of(Literal["a", "b"])
    assert changes(state_of(before), state_of(after)) == {}
    before, after = model_of(Item), model_of(list[Item])
    assert changes(state_of(before), state_of(after)) == {}
    created = changes(ProjectState(), state_of(after))[LABEL]
    assert "pipeteer" not in MigrationWriter(created[0]).as_string()


def test_no_system_check_complains() -> None:
    for annotation in (int, Colour, Level, Item, Group, Money, None, str | None, Literal[True]):
        assert model_of(annotation).check() == []
    assert make_model(key=KeyField()).check() == []


# There and back

STORED: list[tuple[Any, Any]] = [
    (int, -(2**63)),
    (int, 2**63 - 1),
    (int | None, None),
    (str, " é😀\n"),
    (str, ""),
    (bool, False),
    (float, 5e-324),
    (float, -1.7976931348623157e308),
    (date, date(1, 1, 1)),
    (datetime, NOON),
    (datetime, datetime.max.replace(tzinfo=UTC)),
    (timedelta, timedelta(microseconds=-(2**63))),
    (timedelta, timedelta(microseconds=2**63 - 1)),
    (UUID, AN_UUID),
    (Colour, Colour.DARK_BLUE),
    (Colour | None, None),
    (Level, Level.HIGH),
    (Shade, Shade.LIGHT),
    (Literal["a", "b"], "b"),
    (Literal[True], True),
    (Item, Item("x", 2)),
    (Item | None, None),
    (Decimal, Decimal("1.10")),
    (Money, Decimal("1.10")),
    (Annotated[str, Upper(max_length=5)], "ABC"),
    (Annotated[Colour, models.CharField(max_length=10)], Colour.RED),
    (Annotated[list[Item], models.JSONField()], [Item("x")]),
    (Annotated[bytes, models.BinaryField()], b"\xff\x00"),
    (list[datetime], [NOON]),
    (set[UUID], {AN_UUID}),
    (int | str, "5"),
    (int | str, 5),
    (list[int], []),
    (Any, {"a": [1, 1e16, 1e23, -0.0, 10**400]}),
    (Any, None),
    (Any, ""),
    (None, None),
]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("annotation", "value"), STORED)
def test_every_way_in_stores_the_same(annotation: Any, value: Any) -> None:
    with table(model_of(annotation)) as model:
        plain = ValueType.of(annotation).to_stored(value)
        model.objects.create(value=value)
        model.objects.bulk_create([model(value=value), model(value=plain)])
        model.objects.create(value=value).save()
        row = model.objects.create(value=value)
        row.value = value
        model.objects.bulk_update([row], ["value"])
        model.objects.filter(pk=row.pk).update(value=value)
        for read in model.objects.values_list("value", flat=True):
            assert comparable(read) == comparable(value)
            assert isinstance(read, (type(value), memoryview))
        row.refresh_from_db()
        assert ValueType.of(annotation).from_stored(row.value) == value


def comparable(value: Any) -> Any:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)  # Python calls times in two zones unequal when one of them is ambiguous
    return bytes(value) if isinstance(value, memoryview) else value


# Django's own limits: its JSON fixtures cut microseconds, its XML strips text.
IN_FIXTURES = [("json", *row) for row in STORED if row[1] != datetime.max.replace(tzinfo=UTC)]
IN_FIXTURES += [("xml", *row) for row in STORED if isinstance(row[1], (int, Enum, Item, list, UUID, Decimal))]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("format", "annotation", "value"), IN_FIXTURES)
def test_fixtures_there_and_back(format: str, annotation: Any, value: Any) -> None:
    with table(model_of(annotation)) as model:
        model.objects.create(value=value)
        text = serializers.serialize(format, model.objects.all())
        model.objects.all().delete()
        for read in serializers.deserialize(format, text):
            read.save()
        assert comparable(model.objects.get().value) == comparable(value)


REFUSED: list[tuple[Any, Any, str]] = [
    (int, 2**63, "64 bits"),
    (int, "x", "valid integer"),
    (int, None, "valid integer"),
    (str, None, "valid string"),
    (str, "a\x00", "NUL"),
    (str, "\ud800", "surrogate"),
    (float, math.nan, "nan"),
    (float, -math.inf, "-inf"),
    (datetime, datetime(2024, 1, 1), "make_aware"),
    (timedelta, timedelta.max, "292,471 years"),
    (Colour, "green", "'red' or 'blue'"),
    (Literal["a"], "b", "'a'"),
    (Item, {"name": "x", "qty": "y"}, r"value\.qty: .*integer"),
    (list[Item], [Item(1)], r"value\[0\]\.name: .*string"),  # type: ignore[arg-type]
    (Any, [math.nan], r"value\[0\]: nan"),
    (None, 1, "None"),
    (Money, Decimal("1.005"), "2 decimal places"),
    (Money, Decimal("99999"), "6 digits|before the decimal"),
    (Annotated[str, Upper(max_length=3)], "abcd", "at most 3 characters"),
]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("annotation", "value", "reason"), REFUSED)
def test_no_way_in_stores_what_does_not_fit(annotation: Any, value: Any, reason: str) -> None:
    with table(model_of(annotation)) as model:
        ways_in: list[Callable[[], object]] = [
            lambda: model.objects.create(value=value),
            lambda: model.objects.bulk_create([model(value=value)]),
            lambda: model(value=value).save_base(raw=True),  # as loaddata does
            lambda: model.objects.update(value=value),
        ]
        for write in ways_in:
            with pytest.raises(InvalidValue, match=reason), transaction.atomic():
                write()
        assert not model.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_value_left_out_is_refused() -> None:
    for annotation in (int, str, Colour, Item):
        with table(model_of(annotation)) as model, pytest.raises(InvalidValue, match="value: "):
            model.objects.create()


@pytest.mark.django_db(transaction=True)
def test_expressions_pass_through() -> None:
    with table(model_of(int)) as model:
        row = model.objects.create(value=1)
        model.objects.update(value=models.F("value") + 1)
        assert model.objects.get().value == 2
        row.value = models.F("value") * 10
        row.save()
        assert model.objects.get().value == 20


@pytest.mark.django_db(transaction=True)
def test_lookups_take_typed_values() -> None:
    with table(model_of(Colour)) as model:
        model.objects.create(value=Colour.RED)
        assert model.objects.filter(value=Colour.RED).exists()
        assert model.objects.filter(value="red").exists()
        assert model.objects.filter(value__in=[Colour.RED, Colour.DARK_BLUE]).exists()
        assert not model.objects.exclude(value=Colour.RED).exists()
        assert model.objects.filter(value__startswith="re").exists()
        assert model.objects.aggregate(last=models.Max("value")) == {"last": Colour.RED}
    with table(model_of(Level)) as model:
        model.objects.create(value=Level.HIGH)
        assert model.objects.filter(value__gt=Level.LOW).exists()
    with table(model_of(Item)) as model:
        model.objects.create(value=Item("x", 2))
        assert model.objects.filter(value=Item("x", 2)).exists()
        assert model.objects.filter(value__name="x", value__qty__gt=1).exists()
        assert list(model.objects.values_list("value__name", flat=True)) == ["x"]
    with table(model_of(dict[str, int])) as model:
        model.objects.create(value={"b": 1, "aa": 2, "a": 3})
        assert model.objects.filter(value={"aa": 2, "a": 3, "b": 1}).exists()
    with table(model_of(Item | None)) as model:
        model.objects.create(value=None)
        assert model.objects.filter(value__isnull=True).exists()


@pytest.mark.django_db(transaction=True)
def test_what_no_longer_fits_is_read_raw() -> None:
    with table(model_of(Any)) as model:
        model.objects.create(value={"qty": 1})
        narrower = make_model(value=field_for(ValueType.of(Item), pipeline_id="p", role="input"))
        narrower._meta.db_table = model._meta.db_table
        assert narrower.objects.get().value == {"qty": 1}
        with pytest.raises(InvalidValue, match=r"value\.name: Field required"):
            narrower._meta.get_field("value").value_type.from_stored(narrower.objects.get().value)
        model.objects.update(value=10**4000)
        assert narrower.objects.get().value == 10**4000
    with table(model_of(str)) as model:
        model.objects.create(value="green")
        narrower = model_of(Colour)
        narrower._meta.db_table = model._meta.db_table
        assert narrower.objects.get().value == "green"


@pytest.mark.django_db(transaction=True)
def test_a_row_in_a_column() -> None:
    group = Group.objects.create(name="g")
    with table(model_of(Group)) as model:
        row = model.objects.create(value=group)
        model.objects.bulk_create([model(value_id=group.pk)])
        model.objects.update(value=group)
        model.objects.update(value=ModelReference(Group, group.pk))
        assert [row.value for row in model.objects.select_related("value")] == [group, group]
        assert model._meta.get_field("value").value_type.from_stored(row.value_id) == ModelReference(Group, group.pk)
        for value in (None, "x"):
            with pytest.raises(InvalidValue, match=r"expected a saved auth\.Group"):
                model.objects.update(value_id=value)
        model.objects.all().delete()


# Forms


def form_of(model: Any, data: dict[str, Any] | None = None, instance: Any = None) -> Any:
    return modelform_factory(model, fields="__all__")(data, instance=instance)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("annotation", "entered", "value"),
    [
        (int, "5", 5),
        (int | None, "", None),
        (bool, "", False),
        (str, " x ", " x "),
        (str | None, "", None),
        (datetime, "2024-02-29 12:00", datetime(2024, 2, 29, 12, tzinfo=UTC)),
        (Colour, "blue", Colour.DARK_BLUE),
        (Colour | None, "", None),
        (Level, "2", Level.HIGH),
        (Literal["a", "b"], "b", "b"),
        (Item, '{"name": "x"}', Item("x")),
        (list[int], "[]", []),
        (Item | None, "", None),
        (Any, '"text"', "text"),
        (Money, "1.10", Decimal("1.10")),
    ],
)
def test_a_form_stores_and_shows_it_again(annotation: Any, entered: str, value: Any, settings: Any) -> None:
    settings.TIME_ZONE = "UTC"
    with table(model_of(annotation)) as model:
        form = form_of(model, {"value": entered})
        assert form.errors == {}
        assert type(form.save().value) is type(value)
        row = model.objects.get()
        assert row.value == value
        shown = form_of(model, instance=row)["value"]
        again = form_of(model, {"value": shown.value() if shown.value() is not None else ""}, instance=row)
        assert again.errors == {}
        assert not again.has_changed()
        assert again.save().value == value


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("annotation", "entered", "message"),
    [
        (int, "", "required"),
        (int, str(2**63), "less than or equal"),
        (str, "", "required"),
        (float, "nan", "number"),
        (Colour, "green", "valid choice"),
        (Item, "", "required"),
        (Item, '{"name": 1', "valid JSON"),
        (Item, '{"name": "x", "qty": "y"}', "value.qty: Input should be a valid integer"),
        (Item, "null", "required"),
        (dict[str, list[Item]], '{"a": [{}]}', "value.a[0].name: Field required"),
    ],
)
def test_a_form_says_what_is_wrong(annotation: Any, entered: str, message: str) -> None:
    form = form_of(model_of(annotation), {"value": entered})
    assert message in str(form.errors["value"])


def test_the_label_of_a_member() -> None:
    assert model_of(Colour)(value=Colour.DARK_BLUE).get_value_display() == "Dark blue"
    assert model_of(Colour)(value="green").get_value_display() == "green"
    assert model_of(Literal["a"])(value="a").get_value_display() == "a"
    assert ">Dark blue</option>" in str(form_of(model_of(Colour)))


def test_a_loaded_row_passes_full_clean() -> None:
    for annotation, value in ((Colour, Colour.RED), (Item, Item("x")), (Level, 1), (list[int], []), (str, "x")):
        model_of(annotation)(value=value).full_clean()
    with pytest.raises(ValidationError, match=r"value\.name"):
        model_of(Item)(value={"name": 1}).full_clean()


# Any JSON

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**4300), 10**4300)
    | st.floats()
    | st.text(st.characters(exclude_categories=[]))
)
json_like = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=[])), inner, max_size=4)
        | inner.map(lambda value: [[[[[[[[[[[[[[[value]]]]]]]]]]]]]]])
    ),
    max_leaves=15,
)
natives = {
    int: st.integers(-(2**64), 2**64),
    str: st.text(st.characters(exclude_categories=[])),
    float: st.floats(),
    date: st.dates(),
    datetime: st.datetimes(timezones=st.none() | st.timezones()),
    timedelta: st.timedeltas(),
    UUID: st.uuids(),
}


ANY = ValueType.of(Any)


def store(model: Any, value: Any) -> Any:
    """What comes back of `value`; InvalidValue is the only way not to."""
    with transaction.atomic():
        row = model.objects.create(value=value)
        return model.objects.values_list("value", flat=True).get(pk=row.pk)


@pytest.mark.django_db(transaction=True)
def test_any_json_is_stored_and_read_back_equal_or_refused() -> None:
    accepted = refused = 0
    with table(model_of(Any)) as model:

        @given(json_like)
        @hypothesis_settings(max_examples=300, deadline=None, database=None)
        def check(value: Any) -> None:
            nonlocal accepted, refused
            try:
                read = store(model, value)
            except InvalidValue:
                refused += 1
            else:
                accepted += 1
                assert read == value
                assert json.dumps(read) == json.dumps(ANY.check(value)), "to the letter what a run in memory has seen"
                assert json.dumps(read, sort_keys=True).replace("-0.0", "0.0") == json.dumps(
                    value, sort_keys=True
                ).replace("-0.0", "0.0")

        check()
    assert accepted > 50
    assert refused > 10


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("annotation", natives)
def test_any_native_value_is_stored_and_read_back_equal_or_refused(annotation: Any) -> None:
    with table(model_of(annotation)) as model:

        @given(natives[annotation])
        @hypothesis_settings(max_examples=150, deadline=None, database=None)
        def check(value: Any) -> None:
            try:
                assert comparable(store(model, value)) == comparable(value)
            except InvalidValue:
                pass

        check()


# Keys


def test_a_key_field_stays_itself_in_migrations() -> None:
    assert KeyField(max_length=200).deconstruct()[1:] == (
        "pipeteer_django.queues.fields.KeyField",
        [],
        {"max_length": 200},
    )


@pytest.mark.django_db(transaction=True)
def test_keys_that_differ_are_different_keys() -> None:
    with table(make_model(key=KeyField(unique=True))) as model:
        for key in ("a", "A", "a ", " a", "ä", "a\u0308", "é" * 200):
            model.objects.create(key=key)
            assert model.objects.get(key=key).key == key
        assert model.objects.count() == 7
        with pytest.raises(IntegrityError), transaction.atomic():
            model.objects.create(key="a")
        if connection.vendor == "mysql":
            with connection.cursor() as cursor:
                cursor.execute(f"SHOW FULL COLUMNS FROM {model._meta.db_table} LIKE 'key'")
                assert cursor.fetchone()[2] == "utf8mb4_nopad_bin"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("", "1 to 200 characters, this one has 0"),
        ("x" * 201, "1 to 200 characters, this one has 201"),
        ("a\nb", r"U\+000A at 1"),
        ("a\x00", r"U\+0000 at 1"),
        ("\x7f", r"U\+007F at 0"),
        ("\u2028", r"U\+2028 at 0"),
        ("\ud800", r"U\+D800 at 0"),
        (None, "1 to 200 characters"),
    ],
)
def test_a_bad_key_is_refused(key: Any, reason: str) -> None:
    with table(make_model(key=KeyField())) as model:
        ways_in: list[Callable[[], object]] = [
            lambda: model.objects.create(key=key),
            lambda: model.objects.bulk_create([model(key=key)]),
            lambda: model.objects.update(key=key),
        ]
        for write in ways_in:
            with pytest.raises(InvalidValue, match=f"^key: .*{reason}"):
                write()
        assert "key" in form_of(model, {"key": key}).errors


def test_a_form_keeps_the_blanks_of_a_key() -> None:
    model = make_model(key=KeyField())
    assert form_of(model, {"key": " a "}).instance.key == ""
    form = form_of(model, {"key": " a "})
    assert form.is_valid()
    assert form.instance.key == " a "
