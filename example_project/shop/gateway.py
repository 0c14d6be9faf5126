"""An imaginary payment gateway that answers every charge with two failures first, as real ones do on bad days."""

import time
from decimal import Decimal

from example_project.shop.models import GatewayCall

FAILURES = 2
LATENCY = 0.05


class GatewayDown(Exception):
    """Try again later."""


def charge(amount: Decimal, idempotency_key: str) -> str:
    """Take `amount` once per key and return the receipt. Raises GatewayDown for the first calls of a key."""
    time.sleep(LATENCY)
    earlier = GatewayCall.objects.filter(idempotency_key=idempotency_key).count()
    accepted = earlier >= FAILURES
    GatewayCall.objects.create(idempotency_key=idempotency_key, accepted=accepted)
    if not accepted:
        raise GatewayDown(f"503 Service Unavailable (call {earlier + 1} for {amount})")
    first = GatewayCall.objects.filter(idempotency_key=idempotency_key, accepted=True).earliest("id")
    return f"receipt-{first.pk}"
