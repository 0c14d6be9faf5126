"""Enqueueing from a signal: the entry is part of whatever transaction saves the order."""

from typing import Any

from django.db.models.signals import post_save
from django.dispatch import receiver

from example_project.shop.models import Order
from example_project.shop.pipelines import acknowledge


@receiver(post_save, sender=Order)
def acknowledge_order(instance: Order, created: bool, raw: bool, **kwargs: Any) -> None:
    """Every new order gets a mail, wherever it came from."""
    if created and not raw:
        acknowledge.enqueue(instance, key=f"order-{instance.pk}")
