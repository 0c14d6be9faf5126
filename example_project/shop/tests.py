"""The life of an order, from end to end and without a worker: `manage.py test example_project`."""

from datetime import timedelta
from unittest import mock

from django.contrib.auth.models import User
from django.db.models import Sum
from django.test import TestCase
from django.urls import reverse

from example_project.shop import ordering
from example_project.shop.gateway import Refunded
from example_project.shop.models import GatewayCall, Item, Order, Payment, Shipment, StockMovement
from example_project.shop.pipelines import (
    CalledOff,
    approve,
    charge,
    fulfil,
    look_into,
    put_back,
    refund,
    sell,
    ship,
    take,
)
from pipeteer_django.testing import drain

BACKOFFS = timedelta(hours=1)
"""Enough for the gateway's failures, and too little for anybody's patience."""


class OrderTest(TestCase):
    def setUp(self) -> None:
        gateway = mock.patch("example_project.shop.gateway.LATENCY", 0)
        gateway.start()
        self.addCleanup(gateway.stop)
        self.cup, self.kettle, self.teapot = sorted(ordering.open_shop(stock=100), key=str)

    def place(self, **quantities: int) -> Order:
        return ordering.place("a@example.com", {getattr(self, name): n for name, n in quantities.items()})

    def state(self, order: Order) -> str:
        order.refresh_from_db()
        return order.state

    def assert_nothing_happened(self) -> None:
        """All stock is back, and so is all money."""
        for product in ordering.open_shop(stock=100):
            ledger = product.movements.aggregate(sum=Sum("change"))["sum"]
            assert (product.stock, ledger) == (100, 100), product
        assert not Payment.objects.aggregate(sum=Sum("amount"))["sum"]
        assert not Shipment.objects.exists()
        assert not fulfil.Input.objects.exists()
        assert not sell.Input.objects.exists()

    def test_shipped(self) -> None:
        order = self.place(cup=2, teapot=1)
        drain(skip_time=BACKOFFS)
        assert fulfil.result(order.name, timeout=0) == "shipped"
        assert self.state(order) == "shipped"
        assert Payment.objects.get().amount == order.total
        assert Shipment.objects.filter(item__order=order).count() == 2
        assert GatewayCall.objects.count() == 3
        assert not ordering.cancel(order)

    def test_out_of_stock(self) -> None:
        order = self.place(cup=2, teapot=1, kettle=101)
        drain()
        assert "there are 100" in fulfil.result(order.name, timeout=0)
        assert self.state(order) == "refused"
        self.assert_nothing_happened()

    def test_approved(self) -> None:
        order = self.place(cup=10)
        drain(skip_time=BACKOFFS)
        run = sell.Input.objects.get(value=order)
        assert (run.progress, run.progress_text) == (0.3, "waiting for approval")
        assert approve.push(approve.Input.objects.get().key, True)
        drain(skip_time=BACKOFFS)
        assert self.state(order) == "shipped"

    def test_not_approved(self) -> None:
        order = self.place(cup=10)
        drain()
        approve.push(approve.Input.objects.get().key, False)
        drain()
        assert fulfil.result(order.name, timeout=0) == "refused: it was not approved"
        assert self.state(order) == "refused"
        self.assert_nothing_happened()

    def test_nobody_approves(self) -> None:
        order = self.place(cup=10)
        drain(skip_time=timedelta(days=2))
        assert approve.Input.objects.count() == 1
        drain(skip_time=True)
        assert approve.Input.objects.count() == 0
        assert fulfil.result(order.name, timeout=0) == "refused: nobody approved it in time"
        assert self.state(order) == "refused"
        self.assert_nothing_happened()

    def test_a_parcel_is_too_heavy(self) -> None:
        """One parcel is on its way and the other is not taken: money and pieces go back, once each."""
        order = self.place(cup=1, kettle=51)
        drain()
        approve.push(approve.Input.objects.get().key, True)
        drain(skip_time=BACKOFFS)
        assert "51 x Kettle" in fulfil.result(order.name, timeout=0)
        assert self.state(order) == "refused"
        assert [payment.amount for payment in Payment.objects.order_by("pk")] == [order.total, -order.total]
        for item in Item.objects.filter(order=order):
            changes = StockMovement.objects.filter(item=item).order_by("pk").values_list("change", flat=True)
            assert list(changes) == [-item.quantity, item.quantity]
        assert GatewayCall.objects.filter(kind="refund").count() == 1
        self.assert_nothing_happened()

    def test_cancelled_before_it_began(self) -> None:
        order = self.place(cup=1)
        assert ordering.cancel(order)
        drain()
        assert self.state(order) == "cancelled"
        self.assert_nothing_happened()

    def test_cancelled_while_it_waits(self) -> None:
        order = self.place(cup=10)
        drain()
        assert ordering.cancel(order)
        drain()
        assert self.state(order) == "cancelled"
        assert not approve.Input.objects.exists()
        self.assert_nothing_happened()

    def test_cancelled_between_charge_and_parcel(self) -> None:
        order = self.place(cup=2, teapot=1)
        drain(fulfil, sell, look_into, take, charge, skip_time=BACKOFFS)
        assert (Payment.objects.count(), ship.Input.objects.count()) == (1, 2)
        assert ordering.cancel(order)
        drain()
        assert self.state(order) == "cancelled"
        assert Payment.objects.count() == 2
        self.assert_nothing_happened()

    def test_what_was_undone_is_not_done_later(self) -> None:
        """A body that is cancelled while it runs may end after what undoes it."""
        order = self.place(cup=1)
        item = order.items.get()
        put_back(item.pk)
        refund(order)
        with self.assertRaises(CalledOff):  # noqa: PT027
            take(item.pk)
        with self.assertRaises(Refunded):  # noqa: PT027
            charge(order)
        ordering.cancel(order)
        self.assert_nothing_happened()

    def test_pages(self) -> None:
        """Order, look, approve, cancel: as a customer and as staff."""
        response = self.client.post("/shop/", {"email": "a@example.com", "Cup": 10, "Kettle": 0, "Teapot": ""})
        order = Order.objects.get()
        self.assertRedirects(response, reverse("shop:order", args=[order.pk]))
        drain()
        self.assertContains(self.client.get(f"/shop/{order.pk}/"), "waiting for approval")
        shelves = self.client.get("/shop/")
        self.assertContains(shelves, "10 x Cup")
        self.assertContains(shelves, 'id="shelves" data-pipeteer-live')
        self.assertNotContains(shelves, "http-equiv")  # it would wipe away what somebody is typing

        self.client.force_login(User.objects.create_superuser("boss"))
        self.assertContains(self.client.get("/shop/approvals/"), "10 x Cup")
        for page in ("/", "/arithmetic/", "/admin/", "/admin/shop/order/", f"/admin/shop/order/{order.pk}/change/"):
            assert self.client.get(page).status_code == 200, page

        assert self.client_class().post(f"/shop/{order.pk}/cancel/").status_code == 403
        self.assertNotContains(self.client_class().get(f"/shop/{order.pk}/"), "Cancel my order")
        self.assertContains(self.client.post(f"/shop/{order.pk}/cancel/", follow=True), "is being cancelled")
        drain()
        self.assertContains(self.client.get(f"/shop/{order.pk}/"), "cancelled")
        self.assertContains(self.client.post(f"/shop/{order.pk}/cancel/", follow=True), "too late")
        self.assertContains(self.client.post("/shop/", {"email": "a@example.com"}), "Order something.")

        self.client.post("/shop/", {"email": "a@example.com", "Cup": 10})
        drain()
        key = approve.Input.objects.get().key
        self.client.post("/shop/approvals/decide/", {"key": key, "decision": "approve"})
        drain(skip_time=BACKOFFS)
        newest = Order.objects.latest("pk")
        assert newest.state == "shipped"
        self.assertContains(self.client.get(f"/shop/{newest.pk}/"), "parcel-")
