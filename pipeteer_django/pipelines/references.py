"""What a workflow holds instead of a model's row, which could change between two replays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeteer_django.exceptions import NotDurable


class NotLoaded(NotDurable, AttributeError):
    """A workflow read more of a model's row than its primary key. An AttributeError too, so that `hasattr` works."""


@dataclass(frozen=True, slots=True, repr=False)
class ModelReference:
    """A model's row by its primary key: what a workflow holds instead of an instance, which could change meanwhile."""

    model: Any
    pk: Any

    @property
    def id(self) -> Any:
        """The primary key."""
        return self.pk

    def __repr__(self) -> str:
        return f"<{self.model._meta.label} {self.pk}>"

    def __getattr__(self, name: str) -> Any:
        # Copy and pickle ask a reference without `model` and `pk` for these: nothing of self may be read then.
        if name.startswith("__") or name in ("model", "pk"):
            raise AttributeError(name)
        meta = self.model._meta
        raise NotLoaded(
            f"{meta.model_name}.{name}: a workflow holds a reference to {meta.label} {self.pk}, not its row; "
            "load it in an activity."
        )
