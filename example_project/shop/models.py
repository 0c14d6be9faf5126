"""A small shop. Nothing that a pipeline writes is unique per order: a thing done twice would be seen twice."""

from __future__ import annotations

from decimal import Decimal

from django.core.validators import MinValueValidator
from django.db import models


class Product(models.Model):
    """`stock` is always the sum of the product's stock movements."""

    name = models.CharField(max_length=100, unique=True)
    price = models.DecimalField(max_digits=8, decimal_places=2)
    stock = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
    """What a customer wants."""

    class State(models.TextChoices):
        """Where the order is on its way."""

        PLACED = "placed", "placed"
        SHIPPED = "shipped", "shipped"
        REFUSED = "refused", "refused"

    product = models.ForeignKey(Product, on_delete=models.PROTECT)
    quantity = models.PositiveIntegerField(default=1, validators=[MinValueValidator(1)])
    customer_email = models.EmailField()
    state = models.CharField(max_length=10, choices=State, default=State.PLACED)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"Order {self.pk}"

    @property
    def total(self) -> Decimal:
        """What the customer pays."""
        return self.quantity * self.product.price


class Payment(models.Model):
    """Money received."""

    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="payments")
    amount = models.DecimalField(max_digits=10, decimal_places=2)
    receipt = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.receipt


class Shipment(models.Model):
    """A parcel on its way."""

    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="shipments")
    tracking_code = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.tracking_code


class StockMovement(models.Model):
    """The ledger of the stock: deliveries count up, orders count down."""

    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="movements")
    order = models.ForeignKey(Order, on_delete=models.PROTECT, null=True, blank=True, related_name="movements")
    change = models.IntegerField()
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.change:+} {self.product}"


class GatewayCall(models.Model):
    """The memory of the imaginary payment gateway (see gateway.py): one row for every time it was called."""

    idempotency_key = models.CharField(max_length=300, db_index=True)
    accepted = models.BooleanField()

    def __str__(self) -> str:
        return f"{self.idempotency_key}: {'accepted' if self.accepted else 'failed'}"
