"""The proof: everything is read from the tables, nothing from what the demo remembers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from django.db.models import Sum

from example_project.arithmetic.pipelines import double, quad
from example_project.shop.gateway import FAILURES
from example_project.shop.models import GatewayCall, Item, Order, Payment, Product, Shipment, StockMovement
from example_project.shop.pipelines import (
    acknowledge,
    approve,
    charge,
    conclude,
    fulfil,
    look_into,
    put_back,
    refund,
    sell,
    ship,
    take,
)
from pipeteer_django.pipelines.pipeline import Pipeline

QUADS = 100
ORDERS = 50
STOCK = 1000
PIPELINES: list[Pipeline[Any, Any]] = [
    double,
    quad,
    fulfil,
    sell,
    look_into,
    take,
    approve,
    charge,
    ship,
    conclude,
    put_back,
    refund,
    acknowledge,
]


@dataclass(frozen=True)
class Check:
    """One claim and whether it holds."""

    claim: str
    holds: bool
    detail: str = ""


def checks() -> Iterator[Check]:
    """Everything that must be true when all is done."""
    yield exactly_one_output(quad, {f"quad-{x}" for x in range(QUADS)})
    wrong = [f"{key}={value}" for key, value in values(quad) if value != 4 * int(key.removeprefix("quad-"))]
    yield Check("every quad is four times its input", not wrong, ", ".join(wrong[:5]))
    yield each_once(
        "every quad recorded exactly two steps", quad.Step.objects.values_list("run_id", flat=True), QUADS, 2
    )

    orders = {f"order-{pk}" for pk in Order.objects.values_list("pk", flat=True)}
    yield Check(f"there are {ORDERS} orders", len(orders) == ORDERS, str(len(orders)))
    yield exactly_one_output(fulfil, orders)
    yield exactly_one_output(acknowledge, orders)
    not_shipped = [key for key, value in values(fulfil) if value != "shipped"]
    yield Check("every order is shipped", not not_shipped, ", ".join(not_shipped[:5]))
    yield each_once(
        "every order has exactly one payment", Payment.objects.values_list("order_id", flat=True), ORDERS, 1
    )
    items = Item.objects.count()
    for model in (Shipment, StockMovement):
        owners = model._default_manager.filter(item__isnull=False).values_list("item_id", flat=True)
        yield each_once(f"every ordered item has exactly one {model._meta.verbose_name}", owners, items, 1)

    calls: Counter[str] = Counter(GatewayCall.objects.values_list("reference", flat=True))
    fewest = min(calls.values(), default=0)
    tried = len(calls) == ORDERS and fewest > FAILURES
    detail = f"{len(calls)} charges, {calls.total()} calls, at least {fewest} each"
    yield Check(f"every charge went through after {FAILURES} failures", tried, detail)

    for product in Product.objects.annotate(ledger=Sum("movements__change")):
        shipped = Item.objects.filter(product=product, shipments__isnull=False).aggregate(n=Sum("quantity"))["n"] or 0
        adds_up = product.stock == STOCK - shipped == product.ledger
        sums = f"{STOCK} - {shipped} shipped = {product.stock} in stock, ledger {product.ledger}"
        yield Check(f"the stock ledger of {product.name.lower()}s adds up", adds_up, sums)

    left = {pipeline.id: count for pipeline in PIPELINES if (count := pipeline.Input.objects.count())}
    yield Check("every queue is empty", not left, ", ".join(f"{id}: {count}" for id, count in left.items()))


def values(pipeline: Pipeline[Any, Any]) -> list[tuple[str, Any]]:
    """(key, value) of every output."""
    return [(row.key, row.value) for row in pipeline.Output.everything.all()]


def exactly_one_output(pipeline: Pipeline[Any, Any], keys: set[str]) -> Check:
    """None missing, none doubled, and every run a run of its own."""
    rows = list(pipeline.Output.everything.values_list("key", "run_id"))
    found = Counter(key for key, _ in rows)
    good = found == Counter(keys) and len({run for _, run in rows}) == len(rows)
    doubled = sum(count > 1 for count in found.values())
    detail = f"{len(rows)} outputs for {len(keys)} inputs, {len(keys - found.keys())} missing, {doubled} doubled"
    return Check(f"every {pipeline.id} has exactly one output", good, detail)


def each_once(claim: str, owners: Iterable[int], expected: int, times: int) -> Check:
    """`expected` different owners, each of them there `times` times."""
    counts = Counter(owners)
    good = len(counts) == expected and set(counts.values()) <= {times}
    return Check(claim, good, f"{counts.total()} rows")
