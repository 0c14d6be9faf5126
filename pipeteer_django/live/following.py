"""For the site's own users: a socket that follows one run, with the application's own permission check."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from channels.db import database_sync_to_async
from django.http import HttpRequest

from pipeteer_django.exceptions import RunGone
from pipeteer_django.live.watcher import OVER, Watcher
from pipeteer_django.queues.results import Run, RunState


class FollowRun(Watcher):
    """Subclass it, say who may follow which run, and route it::

        class FollowOrder(FollowRun):
            def may_follow(self, request, pk):
                order = Order.objects.filter(pk=pk, customer=request.user).first()
                return order and fulfil.Input.objects.run(order.name)

        path("ws/orders/<int:pk>/", FollowOrder.as_asgi())

    It says how far the run is, as JSON, when the socket opens and whenever that is different, and closes when the run
    is over.
    """

    pause: ClassVar[float] = 1.0
    run: Run

    def may_follow(self, request: HttpRequest, **kwargs: Any) -> Run | None:
        """The run, if this request may follow it. `kwargs` are those of the route. RunGone counts as no."""
        raise NotImplementedError

    def render(self, state: RunState) -> dict[str, Any]:
        """What is said about the run. Whoever may follow it reads this."""
        return {"state": state.state, "progress": state.progress, "text": state.text}

    def permitted(self, request: HttpRequest) -> frozenset[str]:
        """The run's pipeline, if `may_follow` names a run."""
        try:
            run = self.may_follow(request, **self.scope["url_route"]["kwargs"])
        except RunGone:
            run = None
        if run is None:
            return frozenset()
        self.run = run
        return frozenset({run.pipeline.id})

    async def connect(self) -> None:
        """As always; then say how far it is."""
        self._said: dict[str, Any] | None = None
        await super().connect()
        self.hear(self.watched)

    async def tell(self, news: frozenset[str]) -> None:
        """Look at the run, and say it if that is news."""
        document, over = await database_sync_to_async(self._look)()
        if document != self._said:
            self._said = document
            await self.send(json.dumps(document))
        if over:
            await self.end(OVER)

    def _look(self) -> tuple[dict[str, Any], bool]:
        state = self.run.state()
        return self.render(state), state.over
