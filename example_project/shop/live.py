"""The socket of an order's page: it follows one run, and asks the shop who may."""

from typing import Any, ClassVar

from django.http import HttpRequest
from django.urls import URLPattern, path

from example_project.shop import ordering
from example_project.shop.models import Order
from example_project.shop.pipelines import fulfil
from pipeteer_django.live.following import FollowRun
from pipeteer_django.queues.results import Run, RunState


class FollowOrder(FollowRun):
    """For the customer who placed the order, and nobody else."""

    sockets: ClassVar[list[URLPattern]]

    def may_follow(self, request: HttpRequest, **kwargs: Any) -> Run | None:
        """The run of the order in the path."""
        order = Order.objects.filter(pk=kwargs["pk"]).first()
        if order is None or not ordering.owns(request, order.pk):
            return None
        self.order = order
        run: Run = fulfil.Input.objects.run(order.name)
        return run

    def render(self, state: RunState) -> dict[str, Any]:
        """`fulfil` says little, so this is what `sell` says, which it waits for."""
        self.order.refresh_from_db()
        share, words = ordering.progress(self.order)
        return super().render(state) | {"progress": share, "text": words}


FollowOrder.sockets = [path("ws/orders/<int:pk>/", FollowOrder.as_asgi())]
