"""From an order to a parcel.

`fulfil` only decides; whatever touches the world is an activity. Those that only write to our own database are
`atomic`: what they write commits together with their result, so it happens exactly once. `charge` talks to somebody
else's server: it may be called again after a crash, and hands over an idempotency key for that.
"""

from __future__ import annotations

from django.contrib.admin.views.decorators import staff_member_required
from django.core.mail import send_mail
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import URLPattern, path
from django.views.decorators.http import require_POST

import pipeteer_django as pipeteer
from example_project.shop import gateway
from example_project.shop.models import Order, Payment, Product, Shipment, StockMovement
from pipeteer_django import Context, InputT, Push, StepFailed, WorkflowContext

BIG = 10
"""Orders of so many pieces wait for somebody's approval."""


class OutOfStock(Exception):
    """Trying again does not help."""


@pipeteer.activity()
def is_big(order: Order) -> bool:
    """A workflow holds only a reference to a row; what it wants to know of it, an activity reads."""
    return order.quantity >= BIG


@pipeteer.task()
def approve(Input: type[InputT[Order]], push: Push[bool]) -> list[URLPattern]:
    """Big orders wait here for a person; the artifact is the pages where they are approved."""

    @staff_member_required
    def index(request: HttpRequest) -> HttpResponse:
        entries = Input.objects.select_related("value__product").order_by("id")
        return render(request, "shop/approvals.html", {"entries": entries})

    @staff_member_required
    @require_POST
    def decide(request: HttpRequest) -> HttpResponse:
        push(request.POST["key"], request.POST["decision"] == "approve")
        return redirect("approvals:index")

    return [path("", index, name="index"), path("decide/", decide, name="decide")]


@pipeteer.activity(atomic=True, no_retry_on=OutOfStock)
def reserve_stock(order: Order) -> int:
    """Take the pieces from the shelf; what is left there."""
    product = Product.objects.select_for_update().get(pk=order.product_id)
    if product.stock < order.quantity:
        raise OutOfStock(f"{order} wants {order.quantity} of {product}, there are {product.stock}")
    product.stock -= order.quantity
    product.save(update_fields=["stock"])
    StockMovement.objects.create(product=product, order=order, change=-order.quantity)
    return product.stock


@pipeteer.activity(backoff=0.5)
def charge(order: Order, ctx: Context) -> Payment:
    """Not atomic: no transaction reaches the gateway's own books. The key makes a second call harmless."""
    receipt = gateway.charge(order.total, ctx.idempotency_key)
    payment, _ = Payment.objects.get_or_create(receipt=receipt, defaults={"order": order, "amount": order.total})
    return payment


@pipeteer.activity(atomic=True)
def ship(order: Order, ctx: Context) -> Shipment:
    """Hand the parcel over."""
    order.state = Order.State.SHIPPED
    order.save(update_fields=["state"])
    return Shipment.objects.create(order=order, tracking_code=f"parcel-{order.pk}")


@pipeteer.activity(atomic=True)
def refuse(order: Order) -> None:
    """No parcel for this one."""
    order.state = Order.State.REFUSED
    order.save(update_fields=["state"])


@pipeteer.workflow()
async def fulfil(order: Order, ctx: WorkflowContext) -> str:
    """The life of an order."""
    if await ctx.call(is_big, order) and not await ctx.call(approve, order):
        await ctx.call(refuse, order)
        return "refused"
    try:
        await ctx.call(reserve_stock, order)
    except StepFailed:
        await ctx.call(refuse, order)
        return "out of stock"
    await ctx.call(charge, order)
    await ctx.call(ship, order)
    return "shipped"


@pipeteer.activity()
def acknowledge(order: Order) -> None:
    """A mail to the customer; enqueued by a signal, see signals.py."""
    text = f"Thank you for ordering {order.quantity} x {order.product}."
    send_mail(f"Your order {order.pk}", text, "shop@example.com", [order.customer_email])
