"""An imaginary payment gateway that answers every charge with two failures first, as real ones do on bad days."""

import time
from decimal import Decimal

from example_project.shop.models import GatewayCall

FAILURES = 2
LATENCY = 0.05


class GatewayDown(Exception):
    """Try again later."""


class Refunded(Exception):
    """Nothing is taken under this reference any more."""


def charge(amount: Decimal, reference: str) -> str:
    """Take `amount` once per reference and return the receipt. Raises GatewayDown for the first calls of each."""
    time.sleep(LATENCY)
    calls = GatewayCall.objects.filter(reference=reference)
    if calls.filter(kind=GatewayCall.Kind.REFUND).exists():
        raise Refunded(reference)
    earlier = calls.count()
    accepted = earlier >= FAILURES
    calls.create(reference=reference, accepted=accepted)
    if not accepted:
        raise GatewayDown(f"503 Service Unavailable (call {earlier + 1} for {amount})")
    return f"receipt-{calls.filter(accepted=True).earliest('id').pk}"


def refund(reference: str) -> str | None:
    """Give back what was taken under this reference, now or later; the receipt of that, None if there was nothing."""
    calls = GatewayCall.objects.filter(reference=reference)
    charged = calls.filter(kind=GatewayCall.Kind.CHARGE, accepted=True).first()
    calls.get_or_create(reference=reference, kind=GatewayCall.Kind.REFUND, accepted=True)
    return f"refund-{charged.pk}" if charged else None
