"""A row belongs to two worlds, users' ORM code and the engine: this is what keeps the first from harming the second."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.db import connections, models, router
from django.db.models.signals import post_save, pre_save

from pipeteer_django.exceptions import EngineColumn, EntryChanged, InvalidValue
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.database import time_of
from pipeteer_django.queues.hints import enqueued, moved, wake_on_commit
from pipeteer_django.queues.people import edited

USER_COLUMNS = ("key", "value", "output", "priority", "available_at")

_CHILD_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_]*:\d+:\d+:\d+")


def refuse_engine_columns(names: Iterable[str]) -> None:
    """Raise EngineColumn if one of these columns is not the user's to write."""
    for name in names:
        if name.removesuffix("_id") not in USER_COLUMNS and name not in USER_COLUMNS:
            raise EngineColumn(
                f"{name} belongs to the engine. Users write {', '.join(USER_COLUMNS)}; "
                "use .retry(), .release(), .restart() or .delete() to move an entry."
            )


def check_entry(entry: Any) -> None:
    """Raise InvalidValue for a key that only a workflow's child may have, or a priority out of range."""
    check_columns({"priority": entry.priority} if entry.caller else {"key": entry.key, "priority": entry.priority})


def check_columns(values: Mapping[str, Any]) -> None:
    """`check_entry` for columns that are about to be written. Expressions are the database's business."""
    given = {name: value for name, value in values.items() if not hasattr(value, "resolve_expression")}
    if _CHILD_KEY.fullmatch(str(given.get("key", ""))):
        raise InvalidValue(
            f"key {given['key']!r} looks like a workflow's child (<workflow>:<run>:<branch>:<step>). Choose another."
        )
    if "priority" in given and not _is_priority(given["priority"]):
        raise InvalidValue(f"priority {given['priority']!r} is no whole number from -100 to 100 (higher first).")


def check_storable(model: type[models.Model], using: str, values: Mapping[str, Any]) -> None:
    """Raise InvalidValue now: later, from within Django's save, it would spoil the transaction under way."""
    connection = connections[using]
    if connection.in_atomic_block:
        for name, value in values.items():
            if name not in ("priority", "available_at"):
                model._meta.get_field(name).get_db_prep_save(value, connection)  # type: ignore[union-attr]


def _is_priority(value: Any) -> bool:
    try:
        return bool(int(value) == float(value) and -100 <= int(value) <= 100)
    except (TypeError, ValueError, OverflowError):
        return False


@dataclass(frozen=True, slots=True)
class _Loaded:
    epoch: int
    available_at: Any


class GuardedModel(models.Model):
    """A model whose `save()` writes only the user's columns, and only if the row is still as it was loaded."""

    pipeline: ClassVar[Pipeline[Any, Any]]
    _loaded: _Loaded | None = None

    class Meta:
        abstract = True

    @classmethod
    def from_db(cls, db: str | None, field_names: Collection[str], values: Collection[Any], **options: Any) -> Any:
        """Remember the epoch under which the row was read."""
        entry = super().from_db(db, field_names, values, **options)
        entry.remember()
        return entry

    def refresh_from_db(self, *args: Any, **kwargs: Any) -> None:
        """Read the row again, and with it the right to save."""
        super().refresh_from_db(*args, **kwargs)
        self.remember()

    def remember(self) -> None:
        """The row was just read or written: this is the epoch under which it may be saved."""
        read = self.__dict__
        self._loaded = _Loaded(read["epoch"], read.get("available_at")) if "epoch" in read else None

    def as_new(self, using: str) -> None:
        """Before an INSERT: a copy of a row that was loaded is an entry of its own, with a life of its own."""
        check_entry(self)
        check_storable(type(self), using, {name: self._column(name) for name in USER_COLUMNS})
        if self._loaded is None:
            return
        for field in self._meta.concrete_fields:
            if field.name not in USER_COLUMNS:
                setattr(self, field.attname, field.get_default())
        if self.available_at == self._loaded.available_at:  # type: ignore[has-type]
            self.available_at = None

    def clean(self) -> None:
        """The checks of `save()`, as a form sees them."""
        super().clean()
        try:
            check_entry(self)
        except InvalidValue as error:
            raise ValidationError(str(error)) from error

    def save(
        self,
        force_insert: Any = False,
        force_update: bool = False,
        using: str | None = None,
        update_fields: Iterable[str] | None = None,
    ) -> None:
        """Insert a new entry, or edit one that nobody has moved since it was loaded (else EntryChanged)."""
        using = using or router.db_for_write(type(self), instance=self)
        if self._state.adding:
            self.as_new(using)
            # Forced: Django would otherwise try an UPDATE of whatever row has this id.
            super().save(force_insert=True, using=using)
            self.remember()
        else:
            check_entry(self)
            self._edit(using, update_fields)

    def _edit(self, using: str, update_fields: Iterable[str] | None) -> None:
        names = list(USER_COLUMNS if update_fields is None else update_fields)
        refuse_engine_columns(names)
        columns = {name.removesuffix("_id") if name == "value_id" else name for name in names} - self._deferred()
        if not columns:
            return
        pre_save.send(type(self), instance=self, raw=False, using=using, update_fields=frozenset(names))
        self._compare_and_set(using, {name: self._column(name) for name in columns if self._touched(name)})
        post_save.send(type(self), instance=self, created=False, raw=False, using=using, update_fields=frozenset(names))

    def _deferred(self) -> set[str]:
        return {name.removesuffix("_id") for name in self.get_deferred_fields() if name.startswith("value")} | set(
            self.get_deferred_fields()
        )

    def _column(self, name: str) -> Any:
        return getattr(self, type(self)._meta.get_field(name).attname)  # type: ignore[union-attr]

    def _touched(self, name: str) -> bool:
        return name != "available_at" or self._loaded is None or self.available_at != self._loaded.available_at

    def _compare_and_set(self, using: str, values: dict[str, Any]) -> None:
        check_storable(type(self), using, values)
        if self._loaded is None:
            raise EntryChanged(f"{self}: loaded without its epoch, so it cannot be saved safely. Do not defer epoch.")
        row = plain(type(self), using).filter(pk=self.pk)
        if not row.filter(epoch=self._loaded.epoch).update(**edited(values)):
            raise EntryChanged(
                f"{self.pipeline.id} {self}: it was claimed, settled, edited or deleted since it was loaded. "
                "Nothing was written; load it again."
            )
        engine = ("epoch", "attempt", "available_at", "reserved_by")
        for name, current in zip(engine, row.values_list(*engine).get(), strict=True):
            setattr(self, name, current)
        moved(using, self.pipeline, "edited", [self.pk], epoch=self._loaded.epoch + 1)
        self.remember()

    def delete(self, using: str | None = None, keep_parents: bool = False) -> tuple[int, dict[str, int]]:
        """Take the entry out of its queue through the settle door: a caller gets StepFailed."""
        manager: Any = type(self)._default_manager
        count: tuple[int, dict[str, int]] = manager.using(using or self._state.db).filter(pk=self.pk).delete()
        return count


def announce(sender: Any, instance: Any, created: bool, using: str, **kwargs: Any) -> None:
    """Receiver of post_save: whatever way an entry was written, fixtures included, its workers hear of it."""
    wake_on_commit(using, sender.pipeline.id)
    if created:
        enqueued(using, sender.pipeline, [instance.key], [instance.pk])


def keep_fence(sender: Any, instance: Any, raw: bool, using: str, **kwargs: Any) -> None:
    """Receiver of pre_save: a fixture that is loaded over an entry moves it, like every other edit.

    One that was dumped while a worker had it is released: that worker is on another machine, or has just lost it.
    """
    if not raw:
        return
    there = plain(sender, using).filter(pk=instance.pk).select_for_update().values_list("epoch", flat=True).first()
    if there is not None or instance.reserved_by:
        instance.epoch = max(there or 0, instance.epoch) + 1
    if instance.reserved_by:
        instance.attempt = max(0, instance.attempt - 1)
        instance.available_at = time_of(using)
    instance.reserved_by = instance.holder = ""
