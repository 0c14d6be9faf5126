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
        """Where the order is on its way. It leaves PLACED once: whoever moves it decides."""

        PLACED = "placed", "placed"
        SHIPPED = "shipped", "shipped"
        REFUSED = "refused", "refused"
        CANCELLED = "cancelled", "cancelled"

    customer_email = models.EmailField()
    state = models.CharField(max_length=10, choices=State, default=State.PLACED)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"Order {self.pk}"

    @property
    def name(self) -> str:
        """The key of its workflow, and its reference at the payment gateway."""
        return f"order-{self.pk}"

    @property
    def pieces(self) -> int:
        """How many there are to pack."""
        return sum(item.quantity for item in self.items.all())

    @property
    def total(self) -> Decimal:
        """What the customer pays."""
        return sum((item.quantity * item.product.price for item in self.items.select_related("product")), Decimal())


class Item(models.Model):
    """One line of an order."""

    class State(models.TextChoices):
        """Where the pieces are. What is BACK stays there."""

        WANTED = "wanted", "wanted"
        TAKEN = "taken", "taken from the shelf"
        SHIPPED = "shipped", "shipped"
        BACK = "back", "back on the shelf"

    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="items")
    product = models.ForeignKey(Product, on_delete=models.PROTECT)
    quantity = models.PositiveIntegerField(default=1, validators=[MinValueValidator(1)])
    state = models.CharField(max_length=10, choices=State, default=State.WANTED)

    def __str__(self) -> str:
        return f"{self.quantity} x {self.product}"


class Payment(models.Model):
    """Money received, or given back: then the amount is negative."""

    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="payments")
    amount = models.DecimalField(max_digits=10, decimal_places=2)
    receipt = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.receipt


class Shipment(models.Model):
    """A parcel on its way, with one item in it."""

    item = models.ForeignKey(Item, on_delete=models.PROTECT, related_name="shipments")
    tracking_code = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.tracking_code


class StockMovement(models.Model):
    """The ledger of the stock: deliveries and returns count up, orders count down."""

    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="movements")
    item = models.ForeignKey(Item, on_delete=models.PROTECT, null=True, blank=True, related_name="movements")
    change = models.IntegerField()
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.change:+} {self.product}"


class GatewayCall(models.Model):
    """The memory of the imaginary payment gateway (see gateway.py): one row for every time it was called."""

    class Kind(models.TextChoices):
        """What was asked of it."""

        CHARGE = "charge", "charge"
        REFUND = "refund", "refund"

    reference = models.CharField(max_length=300, db_index=True)
    kind = models.CharField(max_length=10, choices=Kind, default=Kind.CHARGE)
    accepted = models.BooleanField()

    def __str__(self) -> str:
        return f"{self.kind} {self.reference}: {'accepted' if self.accepted else 'failed'}"
