"""A pipeline about a model's row: what a Django developer expects of a ForeignKey and its other side."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from asgiref.sync import async_to_sync
from django.core.checks import CheckMessage
from django.db import connection, models, transaction
from django.db.models import Count, Exists, Max, OuterRef, ProtectedError, Q
from django.test.utils import CaptureQueriesContext, isolate_apps

from pipeteer_django.exceptions import DefinitionError, EntryChanged
from pipeteer_django.pipelines.outcome import Done
from pipeteer_django.pipelines.valuetype import ValueType
from pipeteer_django.queues.fields import field_for
from pipeteer_django.testing import drain
from tests.queues import by_hand
from tests.testapp.models import Item, Ledger
from tests.testapp.pipelines import boom, double, item_flow, process_item, quad, review
from tests.trouble.models import Crate, HeavyCrate, Parcel
from tests.trouble.pipelines import appraise, deliver_parcel, lift, scan, stack

pytestmark = pytest.mark.django_db


@pytest.fixture
def pen() -> Any:
    return Item.objects.create(name="pen")


@pytest.fixture
def ink() -> Any:
    return Item.objects.create(name="ink")


@pytest.fixture
def parcel() -> Any:
    return Parcel.objects.create(name="p")


def keys(entries: Any) -> list[str]:
    return sorted(entry.key for entry in entries)


# The other side


def test_names(pen: Any) -> None:
    entry = process_item.Input.objects.create(value=pen, key="a")
    assert pen.process_item_inputs.get() == entry
    drain(process_item)
    assert (pen.process_item_inputs.count(), pen.process_item_outputs.get().key) == (0, "a")
    assert Item.objects.filter(process_item_outputs__key="a").get() == pen


def test_queries(pen: Any, ink: Any) -> None:
    process_item.enqueue(pen, key="a")
    assert Item.objects.filter(process_item_inputs__key="a").get() == pen
    assert Item.objects.exclude(process_item_inputs__isnull=False).get() == ink
    assert process_item.Input.objects.filter(value__name="pen").get().key == "a"
    assert process_item.Input.objects.filter(value=pen).exists()
    assert process_item.Input.objects.order_by("-value__name").first().key == "a"


def test_the_other_side_has_the_queues_own_manager(pen: Any, ink: Any) -> None:
    process_item.enqueue(pen, key="a")
    process_item.enqueue(ink, key="b")
    by_hand.engine(process_item, failed_at="2024-01-01T00:00Z", available_at=None)
    assert keys(pen.process_item_inputs.failed()) == ["a"]
    assert pen.process_item_inputs.all().retry() == 1
    assert keys(process_item.Input.objects.failed()) == ["b"]
    assert pen.process_item_inputs.filter(key="a").delete()[0] == 1
    assert keys(process_item.Input.objects.all()) == ["b"]


def test_entering_from_the_other_side(pen: Any, django_capture_on_commit_callbacks: Any, wakeups: list[str]) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        pen.process_item_inputs.create(key="a", output="here")
        pen.review_inputs.get_or_create(key="b")
        pen.review_inputs.get_or_create(key="b")
        pen.item_flow_inputs.bulk_create([item_flow.Input(value=pen, key="c")])
    assert wakeups == ["process_item", "review", "item_flow"]
    assert (process_item.Input.objects.get().output, review.Input.objects.count()) == ("here", 1)


def test_consumed_outputs_are_on_the_other_side_too(pen: Any) -> None:
    process_item.enqueue(pen)
    drain(process_item)
    with process_item.consume():
        pass
    assert not process_item.Output.objects.exists()
    assert pen.process_item_outputs.count() == 1
    assert pen.process_item_outputs(manager="objects").count() == 0


def test_consuming_from_the_other_side(pen: Any, ink: Any) -> None:
    process_item.enqueue(pen)
    process_item.enqueue(ink)
    drain(process_item)
    with ink.process_item_outputs.consume() as entry:
        assert entry.value == ink
    with ink.process_item_outputs.consume() as entry:
        assert entry is None


def test_moving_entries_to_another_row_passes_the_fence(pen: Any, ink: Any) -> None:
    process_item.enqueue(pen, key="a")
    claim = by_hand.claim_one(process_item)
    ink.process_item_inputs.add(process_item.Input.objects.get())
    entry = ink.process_item_inputs.get()
    assert (entry.value, entry.reserved_by, entry.epoch, entry.attempt) == (ink, "", claim.epoch + 1, 0)
    assert len(by_hand.settle(claim, Done(pen)).lost) == 1
    drain(process_item)
    assert (ink.process_item_outputs.count(), pen.process_item_outputs.count()) == (1, 0)


@pytest.mark.parametrize("how", ["add", "aadd", "set"])
def test_moving_an_entry_that_moved_itself(pen: Any, ink: Any, how: str) -> None:
    process_item.enqueue(pen, key="a")
    entry = process_item.Input.objects.get()
    by_hand.claim_one(process_item)
    with pytest.raises(EntryChanged), transaction.atomic():
        if how == "set":
            ink.process_item_inputs.set([entry])
        elif how == "add":
            ink.process_item_inputs.add(entry, bulk=True)
        else:
            async_to_sync(ink.process_item_inputs.aadd)(entry)
    assert process_item.Input.objects.get().value == pen


def test_editing_through_a_join(pen: Any, ink: Any) -> None:
    process_item.enqueue(pen, key="a")
    process_item.enqueue(ink, key="b")
    of_pen = process_item.Input.objects.filter(value__name="pen")
    assert of_pen.update(priority=7) == 1
    assert pen.process_item_inputs.update(output="there") == 1
    assert list(process_item.Input.objects.order_by("key").values_list("priority", "output", "epoch")) == [
        (7, "there", 2),
        (0, "output", 0),
    ]
    assert of_pen.update(value=ink) == 1
    assert (pen.process_item_inputs.count(), ink.process_item_inputs.count()) == (0, 2)
    assert process_item.Input.objects.filter(value__name="ink").delete()[0] == 2


def test_null(parcel: Any) -> None:
    nobody, somebody = appraise.enqueue(None, key="a"), appraise.enqueue(parcel, key="b")
    assert appraise.Input.objects.get(value=None).key == "a"
    assert appraise.Input._meta.get_field("value").null
    assert not process_item.Input._meta.get_field("value").null
    drain(appraise)
    assert (nobody.result(timeout=0), somebody.result(timeout=0)) == (None, parcel)
    assert parcel.appraise_outputs.get().key == "b"


def test_clearing_where_null_is_a_value(parcel: Any) -> None:
    appraise.enqueue(parcel, key="a")
    claim = by_hand.claim_one(appraise)
    parcel.appraise_inputs.clear()
    entry = appraise.Input.objects.get()
    assert (entry.value, entry.reserved_by, entry.epoch) == (None, "", claim.epoch + 1)


# How many statements


def statements(count: int) -> Any:
    class Expecting(CaptureQueriesContext):
        def __exit__(self, *error: Any) -> None:
            super().__exit__(*error)
            assert error[0] or len(self) == count, self.captured_queries

    return Expecting(connection)


def test_select_related(pen: Any, ink: Any) -> None:
    for item in (pen, ink):
        process_item.enqueue(item)
    with statements(1):
        entries = list(process_item.Input.objects.ready().select_related("value").order_by("id"))
        assert [entry.value.name for entry in entries] == ["pen", "ink"]
    entries[0].priority = 1
    entries[0].save()
    drain(process_item)
    with statements(1):
        results = list(process_item.Output.objects.select_related("value").order_by("value__name"))
        assert [output.value.name for output in results] == ["ink", "pen"]


def test_prefetch_related(pen: Any, ink: Any) -> None:
    for key in ("a", "b"):
        process_item.enqueue(pen, key=key)
    review.enqueue(ink, key="c")
    with statements(4):
        relations = ("process_item_inputs", "process_item_outputs", "review_inputs")
        items = list(Item.objects.order_by("-name").prefetch_related(*relations))
        found = [(keys(item.process_item_inputs.all()), keys(item.review_inputs.all())) for item in items]
        assert found == [(["a", "b"], []), ([], ["c"])]
        entry = items[0].process_item_inputs.all()[0]
        assert entry.value is items[0]
    entry.priority = 1
    entry.save()
    waiting = models.Prefetch("process_item_inputs", process_item.Input.objects.ready(), to_attr="to_do")
    assert len(Item.objects.prefetch_related(waiting).get(name="pen").to_do) == 2
    with statements(2):
        assert [entry.value.name for entry in process_item.Input.objects.prefetch_related("value")] == ["pen", "pen"]


# Counting


def test_aggregates_over_the_other_side(pen: Any, ink: Any) -> None:
    for key in ("a", "b"):
        process_item.enqueue(pen, key=key)
    process_item.Input.objects.filter(key="a").update(priority=3)
    failed = Q(process_item_inputs__failed_at__isnull=False)
    items = Item.objects.annotate(
        n=Count("process_item_inputs"),
        failed=Count("process_item_inputs", filter=failed),
        most=Max("process_item_inputs__priority"),
        any=Exists(process_item.Input.objects.ready().filter(value=OuterRef("pk"))),
    )
    assert list(items.order_by("-name").values_list("name", "n", "failed", "most", "any")) == [
        ("pen", 2, 0, 3, True),
        ("ink", 0, 0, None, False),
    ]
    busy = Item.objects.filter(process_item_inputs__in=process_item.Input.objects.ready())
    assert list(busy.distinct()) == [pen]


def test_aggregates_over_a_queue() -> None:
    for priority in (0, 0, 5):
        quad.enqueue(1, priority=priority)
    boom.enqueue("no")
    drain(boom, raise_failures=False)
    assert (boom.Input.objects.failed().count(), quad.Input.objects.failed().count()) == (1, 0)
    by_priority = quad.Input.objects.values("priority").annotate(n=Count("id")).order_by("priority")
    assert list(by_priority) == [{"priority": 0, "n": 2}, {"priority": 5, "n": 1}]
    assert quad.Input.objects.ready().aggregate(top=Max("priority"), total=models.Sum("value")) == {
        "top": 5,
        "total": 3,
    }
    double.enqueue_many([1, 2, 3])
    drain(double)
    assert double.Output.objects.aggregate(total=models.Sum("value")) == {"total": 12}


# Deleting what work is about


@pytest.mark.parametrize("state", ["ready", "running", "failed", "waiting"])
def test_pending_work_protects(pen: Any, state: str) -> None:
    pipeline = item_flow if state == "waiting" else process_item
    pipeline.enqueue(pen, key="a")
    if state == "running":
        by_hand.claim_one(process_item)
    elif state == "failed":
        by_hand.engine(process_item, failed_at="2024-01-01T00:00Z", available_at=None)
    elif state == "waiting":
        drain(item_flow)
        assert item_flow.Input.objects.waiting().exists()
    for delete in (pen.delete, Item.objects.filter(pk=pen.pk).delete):
        with pytest.raises(ProtectedError) as error, transaction.atomic():
            delete()
        assert pipeline.Input.objects.get() in error.value.protected_objects
        assert f"'{pipeline.Input.__name__}.value'" in str(error.value)
    assert Item.objects.get() == pen


def test_results_go_with_what_they_are_about(pen: Any, ink: Any) -> None:
    for item in (pen, ink):
        process_item.enqueue(item)
    drain(process_item)
    with process_item.consume():
        pass  # what was consumed goes, too
    count, labels = pen.delete()
    assert (count, labels["testapp.ProcessItemOutput"]) == (2, 1)
    assert process_item.Output.everything.get().value == ink
    assert Ledger.objects.count() == 2


def test_a_cascade_takes_what_its_field_says(parcel: Any) -> None:
    scan.enqueue(parcel, key="a")
    deliver_parcel.enqueue(parcel, key="b")
    claim = by_hand.claim_one(scan)
    assert Parcel.objects.all().delete()[1]["trouble.ScanInput"] == 1
    assert len(by_hand.settle(claim, Done(1)).lost) == 1
    assert not scan.Output.everything.exists()
    assert not deliver_parcel.push("b", True)
    assert drain() == 0


# Inheritance


def test_a_row_of_an_inheriting_model(parcel: Any) -> None:
    crate = Crate.objects.create(name="c")
    stack.enqueue(crate, key="a")
    scan.enqueue(crate, key="b")
    assert (keys(crate.stack_inputs.all()), keys(crate.scaninput_set.all())) == (["a"], ["b"])
    assert not hasattr(parcel, "stack_inputs")
    assert Parcel.objects.filter(crate__stack_inputs__key="a").get().pk == crate.pk
    with pytest.raises(ProtectedError), transaction.atomic():
        Parcel.objects.get(pk=crate.pk).delete()
    drain(stack, scan)
    assert crate.stack_outputs.get().value == crate
    Parcel.objects.get(pk=crate.pk).delete()
    assert not stack.Output.everything.exists()


def test_a_row_by_its_models_proxy() -> None:
    crate = HeavyCrate.objects.create(name="c")
    handle = lift.enqueue(crate, key="a")
    assert keys(Crate.objects.get().lift_inputs.all()) == keys(crate.lift_inputs.all()) == ["a"]
    drain(lift)
    assert type(handle.result(timeout=0)) is HeavyCrate
    assert HeavyCrate.objects.filter(lift_outputs__key="a").get() == crate


# Definitions


def relation(annotation: Any, id: str, role: Any = "input", app: str = "trouble") -> Any:
    """The field as the generating pass makes it, in a model of its own."""
    field = field_for(ValueType.of(annotation), pipeline_id=id, role=role)
    meta = type("Meta", (), {"app_label": app})
    made = type(f"Of{id}{role}", (models.Model,), {"__module__": __name__, "Meta": meta, "value": field})
    return made._meta.get_field("value")  # type: ignore[attr-defined]


@isolate_apps("tests.trouble", "tests.bareapp")
def test_a_row_of_another_apps_model() -> None:
    class Order(models.Model):
        class Meta:
            app_label = "trouble"

    fields = [relation(Order, "ship"), relation(Order, "send", app="bareapp")]
    assert [field.check() for field in fields] == [[], []]
    order = Order(pk=1)
    assert (order.ship_inputs.model, order.send_inputs.model) == tuple(field.model for field in fields)  # type: ignore[attr-defined]
    assert "bareapp_ofsendinput" in str(Order.objects.filter(ship_inputs=1, send_inputs=1).query)


@isolate_apps("tests.trouble")
def test_a_model_with_an_abstract_base() -> None:
    class Base(models.Model):
        owner = models.ForeignKey("self", models.CASCADE, related_name="%(app_label)s_%(class)ss", null=True)

        class Meta:
            abstract = True
            default_related_name = "of_%(class)s"

    class Order(Base):
        class Meta(Base.Meta):
            app_label = "trouble"

    class Invoice(Base):
        class Meta(Base.Meta):
            app_label = "trouble"

    fields = [relation(of, id, role) for of, id in ((Order, "ship"), (Invoice, "send")) for role in ("input", "output")]
    assert [field.remote_field.get_accessor_name() for field in fields] == [
        "ship_inputs", "ship_outputs", "send_inputs", "send_outputs",
    ]  # fmt: skip
    assert [problem for field in fields for problem in field.check()] == []
    with pytest.raises(DefinitionError, match=r"pipeline 'ship': Base is abstract"):
        relation(Base, "ship")


def clash_of(field: Any) -> list[CheckMessage]:
    return [problem for problem in field.check() if problem.id != "fields.W342"]


@isolate_apps("tests.trouble")
def test_a_clash_with_a_users_field() -> None:
    class Order(models.Model):
        ship_inputs = models.IntegerField()

        class Meta:
            app_label = "trouble"

    problems = clash_of(relation(Order, "ship"))
    assert [problem.id for problem in problems] == ["fields.E302", "fields.E303"]
    for problem in problems:
        assert "trouble.Order.ship_inputs" in problem.msg
        assert "the reverse name that the pipeline's id gives" in str(problem.hint)
        assert 'Annotated[Order, models.ForeignKey(Order, models.PROTECT, related_name="...")]' in str(problem.hint)


@isolate_apps("tests.trouble")
def test_a_clash_with_a_users_relation() -> None:
    class Order(models.Model):
        class Meta:
            app_label = "trouble"

    class Note(models.Model):
        order = models.ForeignKey(Order, models.CASCADE, related_name="ship_outputs")

        class Meta:
            app_label = "trouble"

    problems = clash_of(relation(Order, "ship", "output"))
    assert [problem.id for problem in problems] == ["fields.E304", "fields.E305"]
    assert all("models.CASCADE" in str(problem.hint) for problem in problems)


@isolate_apps("tests.trouble")
def test_an_id_that_cannot_be_in_a_query() -> None:
    class Order(models.Model):
        class Meta:
            app_label = "trouble"

    (problem,) = clash_of(relation(Order, "ship__it"))
    assert (problem.id, "another id (id=...)" in str(problem.hint)) == ("fields.E309", True)


@isolate_apps("tests.trouble")
def test_the_way_out_of_a_clash() -> None:
    class Order(models.Model):
        ship_inputs = models.IntegerField()

        class Meta:
            app_label = "trouble"

    field = relation(Annotated[Order, models.ForeignKey(Order, models.PROTECT, related_name="to_ship")], "ship")
    assert clash_of(field) == []
    assert field.remote_field.get_accessor_name() == "to_ship"
    own = Annotated[Order, models.ForeignKey(Order, models.PROTECT, related_name="ship_inputs")]
    assert "argument to the definition" in str(clash_of(relation(own, "send"))[0].hint)  # Django's own words


@isolate_apps("tests.trouble")
def test_one_entry_at_a_time_for_each_row() -> None:
    class Order(models.Model):
        class Meta:
            app_label = "trouble"

    field = relation(Annotated[Order, models.OneToOneField(Order, models.PROTECT, related_name="to_ship")], "ship")
    assert (clash_of(field), field.unique) == ([], True)
    assert not hasattr(vars(Order)["to_ship"], "related_manager_cls")
