"""What the views (and the demo) do to the shop."""

from decimal import Decimal

from django.db import transaction

from example_project.shop.models import Order, Product, StockMovement
from example_project.shop.pipelines import fulfil

ASSORTMENT = {"Teapot": "29.90", "Cup": "7.50", "Kettle": "45.00"}


@transaction.atomic
def place(order: Order) -> Order:
    """Save the order and start its workflow: both, or neither."""
    order.save()
    fulfil.enqueue(order, key=f"order-{order.pk}")
    return order


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
