"""The other side of a ForeignKey: `order.ship_inputs` and `order.ship_outputs`."""

from __future__ import annotations

from typing import Any

from django.db.models.fields.related_descriptors import ReverseManyToOneDescriptor
from django.utils.functional import cached_property

ABOUT_REVERSE_NAMES = tuple(f"fields.E30{number}" for number in (2, 3, 4, 5, 6, 8, 9))
"""Django's checks of a reverse accessor, or of its name in queries."""


def way_out(relation: Any) -> str:
    """The hint for somebody whose own names clash with the reverse name of a pipeline's ForeignKey."""
    name, target = relation.get_accessor_name(), relation.model._meta.object_name
    return (
        f"{name!r} is the reverse name that the pipeline's id gives. Rename what else is called so, give the pipeline "
        f"another id (id=...), or choose the name: Annotated[{target}, models.ForeignKey({target}, "
        f'models.{relation.on_delete.__name__}, related_name="...")].'
    )


class GuardedReverse(ReverseManyToOneDescriptor):  # type: ignore[type-arg]
    """A reverse manager whose `add` saves entry by entry.

    Django's own writes them all past the model's managers, and so past the epoch of entries that are running.
    """

    @cached_property
    def related_manager_cls(self) -> Any:
        """Django's class with another `add`, which `set` calls, too."""
        made: Any = super().related_manager_cls

        class Guarded(made):  # type: ignore[misc]
            def add(self, *entries: Any, bulk: bool = False) -> None:
                super().add(*entries, bulk=False)

            add.alters_data = True  # type: ignore[attr-defined]

        return Guarded
