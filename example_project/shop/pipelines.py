"""From an order to its parcels.

Workflows only decide; whatever touches the world is an activity. Those that only write to our own database are
`atomic`: what they write commits together with their result, so it happens exactly once. `charge` talks to somebody
else's server: it may be called again after a crash, and hands over a reference for that.

`sell` is a saga: it registers what undoes each thing *before* it does it. Who is cancelled in the middle of a call
cannot know whether it still happens, so what undoes a thing copes with both, and keeps it from happening later.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.contrib.admin.views.decorators import staff_member_required
from django.core.mail import send_mail
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import URLPattern, path
from django.views.decorators.http import require_POST

import pipeteer_django as pipeteer
from example_project.shop import gateway
from example_project.shop.models import Item, Order, Payment, Product, Shipment, StockMovement
from pipeteer_django import Context, InputT, Push, StepFailed, WorkflowContext

BIG = 10
"""Orders of so many pieces wait for somebody's approval ..."""
PATIENCE = timedelta(days=3)
"""... and for so long."""
HEAVIEST = 50
"""Pieces that the courier carries in one parcel."""


class OutOfStock(Exception):
    """Trying again does not help."""


class TooHeavy(Exception):
    """The courier does not take the parcel."""


class NotApproved(Exception):
    """Somebody said no, or nobody anything."""


class CalledOff(Exception):
    """It was undone before it was done."""


# Looking


@dataclass
class Basket:
    """What `sell` wants to know of an order. A list cannot hold rows, so these are primary keys."""

    items: list[int]
    pieces: int


@pipeteer.activity()
def look_into(order: Order) -> Basket:
    """A workflow holds only a reference to a row; what it wants to know of it, an activity reads."""
    return Basket([item.pk for item in order.items.order_by("pk")], order.pieces)


# Doing, and undoing


@pipeteer.activity(atomic=True, no_retry_on=(OutOfStock, CalledOff))
def take(item_id: int) -> None:
    """Take the pieces from the shelf."""
    item = _locked(item_id, Item.State.WANTED)
    product = Product.objects.select_for_update().get(pk=item.product_id)
    if product.stock < item.quantity:
        raise OutOfStock(f"{item} wanted, there are {product.stock}")
    _move(item, product, -item.quantity, Item.State.TAKEN)


@pipeteer.activity(atomic=True, no_retry_on=(TooHeavy, CalledOff))
def ship(item_id: int, ctx: Context) -> Shipment:
    """Hand a parcel over."""
    item = _locked(item_id, Item.State.TAKEN)
    if item.quantity > HEAVIEST:
        raise TooHeavy(f"{item}: the courier takes {HEAVIEST} pieces at most")
    item.state = Item.State.SHIPPED
    item.save(update_fields=["state"])
    return Shipment.objects.create(item=item, tracking_code=f"parcel-{item.pk}")


@pipeteer.activity(atomic=True)
def put_back(item_id: int) -> None:
    """Undo `take` and `ship`, as far as they have come; neither does anything for this item from now on."""
    item = _locked(item_id)
    if item.order.state == Order.State.SHIPPED or item.state == Item.State.BACK:
        return
    product = Product.objects.select_for_update().get(pk=item.product_id)
    item.shipments.all().delete()  # the parcel is called back
    _move(item, product, 0 if item.state == Item.State.WANTED else item.quantity, Item.State.BACK)


@pipeteer.activity(backoff=0.5, no_retry_on=gateway.Refunded)
def charge(order: Order) -> Payment:
    """Not atomic: no transaction reaches the gateway's own books. The reference makes a second call harmless."""
    receipt = gateway.charge(order.total, order.name)
    payment, _ = Payment.objects.get_or_create(receipt=receipt, defaults={"order": order, "amount": order.total})
    return payment


@pipeteer.activity(backoff=0.5)
def refund(order: Order) -> None:
    """Undo `charge`, whether or not it got through; the gateway takes nothing for this order from now on."""
    if order.state == Order.State.SHIPPED:
        return
    if receipt := gateway.refund(order.name):
        Payment.objects.get_or_create(receipt=receipt, defaults={"order": order, "amount": -order.total})


def _locked(item_id: int, *states: Item.State) -> Item:
    """The item, its order's row locked first: what is done to one order is done one after the other."""
    order = Order.objects.select_for_update().get(items=item_id)
    item = order.items.get(pk=item_id)
    if states and item.state not in states:
        raise CalledOff(f"{item}: {item.get_state_display()}")
    return item


def _move(item: Item, product: Product, change: int, state: Item.State) -> None:
    if change:
        product.stock += change
        product.save(update_fields=["stock"])
        StockMovement.objects.create(product=product, item=item, change=change)
    item.state = state
    item.save(update_fields=["state"])


# Deciding


@dataclass
class Ending:
    """What becomes of an order."""

    order_id: int
    state: Order.State


@pipeteer.activity(atomic=True)
def conclude(ending: Ending) -> bool:
    """Close the order; False where somebody else has closed it otherwise."""
    order = Order.objects.select_for_update().get(pk=ending.order_id)
    if order.state == Order.State.PLACED:
        order.state = ending.state
        order.save(update_fields=["state"])
    return order.state == ending.state


@pipeteer.task()
def approve(Input: type[InputT[Order]], push: Push[bool]) -> list[URLPattern]:
    """Big orders wait here for a person; the artifact is the pages where they are approved.

    A task and not a message, because its queue is the list of what is to be decided.
    """

    @staff_member_required
    def index(request: HttpRequest) -> HttpResponse:
        entries = Input.objects.select_related("value").prefetch_related("value__items__product").order_by("id")
        return render(request, "shop/approvals.html", {"entries": entries})

    @staff_member_required
    @require_POST
    def decide(request: HttpRequest) -> HttpResponse:
        push(request.POST["key"], request.POST["decision"] == "approve")
        return redirect("approvals:index")

    return [path("", index, name="index"), path("decide/", decide, name="decide")]


@pipeteer.workflow()
async def sell(order: Order, ctx: WorkflowContext) -> None:
    """Take, charge and ship; if one of these fails, or the order is cancelled, undo what was done, last first."""
    basket = await ctx.call(look_into, order)
    ctx.progress(0.1, "taking it from the shelf")
    for item in basket.items:
        ctx.compensate(put_back, item)
        await ctx.call(take, item)
    if basket.pieces >= BIG:
        ctx.progress(0.3, "waiting for approval")
        try:
            approved = await ctx.call(approve, order, timeout=PATIENCE)
        except TimeoutError:
            raise NotApproved("nobody approved it in time") from None
        if not approved:
            raise NotApproved("it was not approved")
    ctx.progress(0.5, "charging")
    ctx.compensate(refund, order)
    await ctx.call(charge, order)
    ctx.progress(0.8, "packing")
    await ctx.map(ship, basket.items, limit=5)
    if not await ctx.call(conclude, Ending(order.pk, Order.State.SHIPPED)):
        raise CalledOff("it was cancelled meanwhile")


@pipeteer.workflow()
async def fulfil(order: Order, ctx: WorkflowContext) -> str:
    """The life of an order: `sell` does all of it or nothing, and this says which."""
    ctx.compensate(conclude, Ending(order.pk, Order.State.CANCELLED))
    try:
        await ctx.call(sell, order, key=ctx.key)
    except StepFailed as failure:
        await ctx.call(conclude, Ending(order.pk, Order.State.REFUSED))
        return f"refused: {failure.message}"
    return "shipped"


@pipeteer.activity()
def acknowledge(order: Order) -> None:
    """A mail to the customer; enqueued by a signal, see signals.py."""
    text = f"Thank you for ordering {', '.join(map(str, order.items.all()))}."
    send_mail(f"Your order {order.pk}", text, "shop@example.com", [order.customer_email])
