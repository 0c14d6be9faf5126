"""The verbs of a queue, on the manager and QuerySet of its Input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any, NoReturn

from asgiref.sync import sync_to_async
from django.db import IntegrityError, models, router, transaction
from django.db.models import Q
from django.utils import timezone

from pipeteer_django.exceptions import DuplicateKey, EngineColumn, InvalidValue, RunGone
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.workflow import Workflow
from pipeteer_django.queues import people, runs
from pipeteer_django.queues.arrivals import insert_entries, new_key
from pipeteer_django.queues.available import Soon
from pipeteer_django.queues.claim import plain
from pipeteer_django.queues.database import DatabaseNow
from pipeteer_django.queues.guards import check_columns, check_storable, refuse_engine_columns
from pipeteer_django.queues.hints import enqueued, moved, wake_on_commit
from pipeteer_django.queues.results import Run


class OfPipeline:
    """Mixin for what belongs to one pipeline's table: QuerySets and managers."""

    model: Any
    _db: str | None

    @property
    def _pipeline(self) -> Pipeline[Any, Any]:
        pipeline: Pipeline[Any, Any] = self.model.pipeline
        return pipeline

    @property
    def _alias(self) -> str:
        return self._db or router.db_for_write(self.model)


class InputQuerySet(OfPipeline, models.QuerySet[Any]):
    """Entries of one queue. The states are exact: each entry is in one of them, or about to be claimed again."""

    # States

    def ready(self) -> InputQuerySet:
        """Claimable now; an entry whose worker died is, once its lease is over."""
        return self.filter(available_at__lte=DatabaseNow())

    def running(self) -> InputQuerySet:
        """Claimed by a worker, lease not over."""
        return self.filter(~Q(reserved_by=""), available_at__gt=DatabaseNow())

    def waiting(self) -> InputQuerySet:
        """Workflows asleep until an event arrives."""
        return self.filter(Q(available_at=None) | Q(available_at__gt=DatabaseNow()), suspended=True)

    def scheduled(self) -> InputQuerySet:
        """Due later: delayed, or between two attempts."""
        return self.filter(reserved_by="", suspended=False, available_at__gt=DatabaseNow())

    def failed(self) -> InputQuerySet:
        """Given up; they stay until a person acts."""
        return self.filter(failed_at__isnull=False)

    # Moving entries

    def retry(self) -> int:
        """Let the failed ones run again, from a first attempt. Returns how many."""
        return self._moved("retried", people.retry(self._engine()))

    def release(self) -> int:
        """Take the running ones away from their workers; the attempt does not count. Returns how many."""
        return self._moved("released", people.release(self._engine()))

    def restart(self) -> int:
        """Run entries, workflows above all, again from the beginning. Returns how many."""
        return runs.restart(self._pipeline, self._alias, list(self.values_list("pk", flat=True)))

    def cancel(self) -> int:
        """Cancel runs: workflows that have begun get to clean up, everything else is deleted. Returns how many."""
        ids = list(self.values_list("pk", flat=True))
        if self._pipeline.kind == "workflow":
            return runs.cancel(self._pipeline, self._alias, ids)
        return people.remove(self._pipeline, self._alias, ids)

    def _engine(self) -> models.QuerySet[Any]:
        """The same rows, without the guards."""
        engine = plain(self.model, self._alias)
        engine.query = self.query.chain()
        return engine

    def _moved(self, verb: str, count: int) -> int:
        if count:
            wake_on_commit(self._alias, self._pipeline.id)
            moved(self._alias, self._pipeline, verb, count=count)
        return count

    def update(self, **values: Any) -> int:
        """Edit users' columns of all these entries; engine columns raise EngineColumn, misfits InvalidValue.

        Each entry's epoch moves on, and a running one is released with its attempt not counted. `available_at` of
        a waiting or failed entry stays as it is.
        """
        refuse_engine_columns(values)
        check_columns(values)
        check_storable(self.model, self._alias, values)
        return self._moved("edited", self._engine().update(**people.edited(values)))

    update.alters_data = True  # type: ignore[attr-defined]

    def delete(self) -> tuple[int, dict[str, int]]:
        """Take entries out of the queue through the settle door: callers get StepFailed."""
        removed = people.remove(self._pipeline, self._alias, list(self.values_list("pk", flat=True)))
        return removed, {self.model._meta.label: removed} if removed else {}

    delete.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]

    def update_or_create(self, defaults: Any = None, create_defaults: Any = None, **lookup: Any) -> tuple[Any, bool]:
        """Django's, except that an existing entry is saved with no other columns than those in `defaults`."""
        changes = {name: value() if callable(value) else value for name, value in (defaults or {}).items()}
        with transaction.atomic(using=self._alias):
            rows = self.using(self._alias).select_for_update()
            entry, created = rows.get_or_create(changes if create_defaults is None else create_defaults, **lookup)
            if not created:
                for name, value in changes.items():
                    setattr(entry, name, value)
                entry.save(using=self._alias, update_fields=list(changes))
        return entry, created

    update_or_create.alters_data = True  # type: ignore[attr-defined]

    def bulk_create(
        self,
        objs: Iterable[Any],
        batch_size: int | None = None,
        ignore_conflicts: bool = False,
        update_conflicts: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> list[Any]:
        """Enqueue many, with few statements; `update_conflicts` would overwrite what is running and is refused."""
        if update_conflicts:
            raise EngineColumn("bulk_create(update_conflicts=True) on a queue would overwrite claimed entries.")
        entries = list(objs)
        for entry in entries:
            entry.as_new(self._alias)
        created = super().bulk_create(entries, batch_size, ignore_conflicts)
        for entry in created:
            entry.remember()
        wake_on_commit(self._alias, self._pipeline.id)
        enqueued(self._alias, self._pipeline, [entry.key for entry in created], [entry.pk for entry in created])
        return created

    bulk_create.alters_data = True  # type: ignore[attr-defined]

    def bulk_update(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: it would write over entries that moved since they were loaded."""
        raise EngineColumn(
            "bulk_update on a queue cannot see what moved meanwhile. Use update(), or save() each entry."
        )


class InputManager(OfPipeline, models.Manager.from_queryset(InputQuerySet)):  # type: ignore[misc]
    """`quad.Input.objects`: ways to put entries in and to hear of their results."""

    def enqueue(
        self,
        value: Any = None,
        *,
        key: str | None = None,
        output: str = "output",
        delay: timedelta | None = None,
        run_after: datetime | None = None,
        priority: int = 0,
        existing: bool = False,
    ) -> Run:
        """See Pipeline.enqueue."""
        entry = self._entry(value, key=key, output=output, available_at=_moment(delay, run_after), priority=priority)
        for last in (False, False, True):
            try:
                self._insert(entry)
            except IntegrityError as error:
                there = self._duplicate(entry.key, existing, error)
                if there is not None:
                    return there
                if last:
                    raise
            else:
                return self._run(entry)
        raise AssertionError("unreachable")

    def _insert(self, entry: Any) -> None:
        # Inside a transaction a failed INSERT would spoil it (PostgreSQL), so a savepoint; alone it needs none.
        if transaction.get_connection(self._alias).in_atomic_block:
            with transaction.atomic(using=self._alias):
                entry.save(using=self._alias)
        else:
            entry.save(using=self._alias)

    async def aenqueue(self, value: Any = None, **options: Any) -> Run:
        """`enqueue` for async code."""
        return await sync_to_async(self.enqueue)(value, **options)

    def enqueue_many(self, values: Iterable[Any], *, output: str = "output", priority: int = 0) -> list[Run]:
        """See Pipeline.enqueue_many."""
        check_columns({"priority": priority})
        using, stored = self._alias, [self._stored(value) for value in values]
        for value in stored:
            check_storable(self.model, using, {"value": value, "output": output})
        entries = insert_entries(self.model, using, stored, output=output, priority=int(priority))
        wake_on_commit(using, self._pipeline.id)
        enqueued(using, self._pipeline, [key for _, key in entries], [id for id, _ in entries])
        return [Run(self._pipeline, id, key, output, using) for id, key in entries]

    def _entry(self, value: Any, *, key: str | None, **columns: Any) -> Any:
        attribute = self.model._meta.get_field("value").attname
        return self.model(**{attribute: self._stored(value)}, key=new_key() if key is None else key, **columns)

    def _stored(self, value: Any) -> Any:
        """What the field takes: of a row its primary key, else the value as it is."""
        attribute = self.model._meta.get_field("value").attname
        return self._pipeline.input.to_stored(self._pipeline.input.check(value)) if attribute != "value" else value

    def _duplicate(self, key: str, existing: bool, error: IntegrityError) -> Run | None:
        """The run that holds the key; None where it has just finished, or something else was wrong."""
        there = plain(self.model, self._alias).filter(key=key).first()
        if there is None:
            return None
        if existing:
            return self._run(there)
        raise DuplicateKey(
            f"{self._pipeline.id} already has an entry {key!r} (run {there.pk}). "
            "Choose another key, or pass existing=True to get the run that is there."
        ) from error

    def _run(self, entry: Any) -> Run:
        return Run(self._pipeline, entry.pk, entry.key, entry.output, self._alias)

    # Results

    def run(self, key: str, output: str | None = None) -> Run:
        """The newest run of `key`, in the queue or finished; raises RunGone where there never was one."""
        wanted = {"key": key} if output is None else {"key": key, "output": output}
        waiting = plain(self.model, self._alias).filter(**wanted).values_list("id", "output").first()
        outputs = plain(self._pipeline.Output, self._alias).filter(**wanted)
        finished = outputs.order_by("-run_id").values_list("run_id", "output").first()
        newest = max(filter(None, (waiting, finished)), default=None)
        if newest is None:
            where = "" if output is None else f" with the output {output!r}"
            raise RunGone(
                f"{self._pipeline.id} has no run under the key {key!r}{where}. Was it enqueued and committed?"
            )
        return Run(self._pipeline, newest[0], key, newest[1], self._alias)

    def result(self, key: str, *, timeout: float | None = None, output: str | None = None) -> Any:
        """See Pipeline.result."""
        return self.run(key, output).result(timeout=timeout)

    async def aresult(self, key: str, *, timeout: float | None = None, output: str | None = None) -> Any:
        """`result` for async code."""
        run = await sync_to_async(self.run)(key, output)
        return await run.aresult(timeout=timeout)

    def push(self, key: str, value: Any) -> bool:
        """See Task.push; works for any pipeline: the entry is completed by hand."""
        return people.push(self._pipeline, self._alias, key, value)

    async def apush(self, key: str, value: Any) -> bool:
        """`push` for async code."""
        return await sync_to_async(self.push)(key, value)

    # Runs of a workflow

    def send(self, key: str, name: str, value: Any = None) -> None:
        """See Workflow.send."""
        runs.send(self._pipeline, self._alias, key, name, self._workflow.message_type(name).to_json(value))

    async def asend(self, key: str, name: str, value: Any = None) -> None:
        """`send` for async code."""
        await sync_to_async(self.send)(key, name, value)

    def cancel(self, key: str) -> int:
        """See Workflow.cancel."""
        queryset: Any = self.filter(key=key)
        count: int = queryset.cancel()
        return count

    async def acancel(self, key: str) -> int:
        """`cancel` for async code."""
        return await sync_to_async(self.cancel)(key)

    def rerun(self, key: str, from_step: int) -> Run:
        """See Workflow.rerun."""
        run_id = runs.rerun(self._workflow, self._alias, key, from_step)
        entry = plain(self.model, self._alias).get(pk=run_id)
        return self._run(entry)

    def correct(self, key: str, step: int, value: Any) -> None:
        """See Workflow.correct."""
        runs.correct(self._workflow, self._alias, key, step, value)

    @property
    def _workflow(self) -> Workflow[Any, Any]:
        if not isinstance(self._pipeline, Workflow):
            raise TypeError(f"{self._pipeline.id} is no workflow: it has no steps and receives no messages.")
        return self._pipeline

    # Looking

    def notify(self) -> None:
        """Wake this pipeline's workers, once the transaction commits."""
        wake_on_commit(self._alias, self._pipeline.id)

    def items(self) -> Iterator[tuple[str, Any]]:
        """(key, value) of everything in the queue, in order of arrival."""
        for entry in self.get_queryset().order_by("id").iterator():
            yield entry.key, entry.value

    def step(self, key: str) -> int | None:
        """The number of the newest step of the entry `key`, or None; only workflows have steps."""
        if self._pipeline.kind != "workflow":
            return None
        run = plain(self.model, self._alias).filter(key=key).values_list("id", "branch").first()
        if run is None:
            return None
        steps = plain(self._pipeline.Step, self._alias).filter(run_id=run[0], branch=run[1])  # type: ignore[attr-defined]
        newest: int | None = steps.order_by("-index").values_list("index", flat=True).first()
        return newest


def _moment(delay: Any, run_after: Any) -> datetime:
    if delay is not None and run_after is not None:
        raise ValueError("Give delay or run_after, not both.")
    if run_after is not None:
        if not isinstance(run_after, datetime) or timezone.is_naive(run_after):
            raise InvalidValue(f"run_after must be a datetime with a time zone, not {run_after!r}.")
        return run_after
    if delay is not None and (not isinstance(delay, timedelta) or delay < timedelta(0)):
        raise InvalidValue(f"delay must be a timedelta of 0 or more, not {delay!r}.")
    try:
        return Soon.after(delay or timedelta(0))
    except OverflowError as error:
        raise InvalidValue(f"delay {delay} ends after the year 9999.") from error
