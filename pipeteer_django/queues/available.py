"""The column that says from when an entry may be claimed, by the database's clock."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db import models
from django.utils import timezone

from pipeteer_django.queues.database import DatabaseNow


class Soon(datetime):
    """A moment meant as "now, or `delay` from now, by the database's clock"; as a datetime it is this host's guess."""

    delay: timedelta

    @classmethod
    def after(cls, delay: timedelta = timedelta(0)) -> Soon:
        """Make one; `delay` may not be negative."""
        guess = timezone.now() + delay
        soon = cls.fromtimestamp(guess.timestamp(), tz=guess.tzinfo)
        soon.delay = delay
        return soon


class AvailableAtField(models.DateTimeField):  # type: ignore[type-arg]
    """A DateTimeField that is "now" unless given, in the one clock by which claims are judged. NULL means asleep."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("default", Soon.after)
        super().__init__(*args, **kwargs)

    def deconstruct(self) -> tuple[str, str, Any, Any]:
        """In migrations a plain, nullable DateTimeField."""
        name, _path, args, kwargs = super().deconstruct()
        kwargs.pop("default", None)
        return name, "django.db.models.DateTimeField", args, kwargs

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        """Write the database's clock where the moment was meant by it, or left empty: that is "now", never "asleep"."""
        value = super().pre_save(model_instance, add)
        if value is None and add:
            return DatabaseNow()
        if not isinstance(value, Soon):
            return value
        now = DatabaseNow()
        return models.ExpressionWrapper(now + value.delay, models.DateTimeField()) if value.delay else now
