"""What the views (and the demo) do to the shop."""

from collections.abc import Mapping
from decimal import Decimal

from django.db import transaction
from django.http import HttpRequest

from example_project.shop.models import Item, Order, Product, StockMovement
from example_project.shop.pipelines import fulfil, sell

ASSORTMENT = {"Teapot": "29.90", "Cup": "7.50", "Kettle": "45.00"}


@transaction.atomic
def place(customer_email: str, quantities: Mapping[Product, int]) -> Order:
    """Save the order and start its workflow: both, or neither."""
    order = Order.objects.create(customer_email=customer_email)
    for product, quantity in quantities.items():
        Item.objects.create(order=order, product=product, quantity=quantity)
    fulfil.enqueue(order, key=order.name)
    return order


@transaction.atomic
def cancel(order: Order) -> bool:
    """Call the order off. False where its workflow is over."""
    if not fulfil.cancel(order.name):
        return False
    if not fulfil.Input.objects.filter(key=order.name).exists():  # it had not begun, so it can conclude nothing
        Order.objects.filter(pk=order.pk).update(state=Order.State.CANCELLED)
    return True


@transaction.atomic
def receive(product: Product, quantity: int) -> None:
    """Put a delivery on the shelf."""
    StockMovement.objects.create(product=product, change=quantity)
    product.stock += quantity
    product.save()


def open_shop(stock: int) -> list[Product]:
    """The products, each with `stock` pieces if it is new."""
    products = []
    for name, price in ASSORTMENT.items():
        product, created = Product.objects.get_or_create(name=name, defaults={"price": Decimal(price)})
        if created:
            receive(product, stock)
        products.append(product)
    return products


def remember(request: HttpRequest, order: Order) -> None:
    """The shop has no accounts: an order belongs to the session in which it was placed."""
    request.session["orders"] = [*request.session.get("orders", []), order.pk]


def owns(request: HttpRequest, pk: int) -> bool:
    """Whether this customer placed the order. Pages and sockets ask the same question."""
    return pk in request.session.get("orders", [])


def progress(order: Order) -> tuple[float, str]:
    """How far an order is, from 0 to 1 and in words."""
    if order.state != Order.State.PLACED:
        return 1.0, order.get_state_display()
    run = sell.Input.objects.filter(key=order.name).values_list("progress", "progress_text").first()
    share, words = run or (None, "")
    return share or 0.0, words or "waiting for a worker"
