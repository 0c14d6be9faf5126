"""One scenario in one process: a real worker on the main thread, a person on another, and what is left at the end."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.conf import settings as django_settings
from django.contrib.admin.models import LogEntry
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from pipeteer_django.auditing.audit import Audit
from pipeteer_django.conf import settings
from pipeteer_django.models import Queue
from pipeteer_django.models import Worker as WorkerRow
from pipeteer_django.pipelines.record import RANDOM, TIMER
from pipeteer_django.queues import peek
from pipeteer_django.queues.claim import plain
from pipeteer_django.worker import desk
from pipeteer_django.worker.service import Options, serve
from pipeteer_django.worker.worker import Worker
from tests.prove.points import Watch
from tests.testapp.models import Item, Ledger

_LOOK = 0.004

State = dict[str, Any]
Watcher = Callable[[], Any]


@dataclass(frozen=True)
class Scenario:
    """Something that people and workers do together, and that ends."""

    name: str
    pipelines: Sequence[Any]
    """All whose tables it may touch."""
    begin: Callable[[World], None]
    """What people do before the worker starts: on the main thread."""
    outputs: Sequence[Any]
    """The values that must come out."""
    effects: Sequence[str] = ()
    """What atomic activities must have done: each as often as it stands here."""
    act: Callable[[World], None] | None = None
    """What people do while it works: on a thread of its own. Both leave alone what is done already."""
    code: Mapping[Any, Callable[..., Any]] = field(default_factory=dict)
    """What some of the pipelines do here, instead of what they say."""
    prepare: Callable[[], None] | None = None
    """Makes what has to be there before: no part of what may crash."""
    concurrency: int = 1
    loose: bool = False
    """Whether a run may take its events in another order after a crash."""
    warm: bool = True
    """Whether sleeping runs are kept in memory."""


class World:
    """What a scenario's people can do besides the verbs of the package."""

    patience = 50.0
    """Seconds for what should take a fraction of one."""

    def __init__(self, scenario: Scenario, watch: Watch) -> None:
        self.scenario, self._watch = scenario, watch

    def is_so(self, condition: Watcher) -> bool:
        """Look, without being watched."""
        with self._watch.unseen():
            return bool(condition())

    def once(self, pipeline: Any, value: Any, key: str = "a", **options: Any) -> None:
        """Enqueue it, unless that was done before the crash."""
        rows = [plain(pipeline.models[name], "default").filter(key=key) for name in ("Input", "Output")]
        if "Step" in pipeline.models:
            rows.append(plain(pipeline.Step, "default"))  # what was cancelled leaves no more
        if not self.is_so(lambda: any(each.exists() for each in rows)):
            pipeline.enqueue(value, key=key, **options)

    def unseen(self) -> AbstractContextManager[None]:
        """What is done within is no part of the scenario."""
        return self._watch.unseen()

    def when(self, condition: Watcher) -> None:
        """Wait until it is so."""
        deadline = time.monotonic() + self.patience
        while not self.is_so(lambda: _patiently(condition)):
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.scenario.name}: this never came about: {condition.__code__.co_names}")
            time.sleep(_LOOK)


def _patiently(condition: Watcher) -> Any:
    try:
        return condition()
    except OperationalError:  # SQLite's lock, held for too long by a busy machine
        return False


def left(pipelines: Sequence[Any]) -> int:
    """How many entries are in these queues."""
    return sum(plain(pipeline.Input, "default").count() for pipeline in pipelines)


# Running


def play(scenario: Scenario, watch: Watch, *, recovers: bool = False) -> None:
    """People and a worker, until nothing is left to do. The watch may end it, and the process."""
    configure(scenario, recovers)
    world = World(scenario, watch)
    scenario.begin(world)
    failed: list[str] = []

    def started(worker: Worker, loop: asyncio.AbstractEventLoop) -> None:
        arguments = (world, failed, lambda: loop.call_soon_threadsafe(worker.stop))
        threading.Thread(target=_person, args=arguments, name="person", daemon=True).start()

    ids = tuple(pipeline.id for pipeline in scenario.pipelines if pipeline.runs_here)
    serve(Options(ids=ids, concurrency=scenario.concurrency), started)
    if failed:
        raise AssertionError(failed[0])


def _person(world: World, failed: list[str], stop: Callable[[], Any]) -> None:
    try:
        if world.scenario.act is not None:
            world.scenario.act(world)
        world.when(lambda: not left(world.scenario.pipelines))
    except BaseException:
        failed.append(traceback.format_exc())
    finally:
        connection.close()
        stop()


def configure(scenario: Scenario, recovers: bool) -> None:
    """No wake-ups, and few looks that are there by chance; whoever recovers repairs at once what there is."""
    django_settings.PIPETEER = django_settings.PIPETEER | {
        "WAKEUPS": False,
        "RESERVE": timedelta(seconds=30),
        "POLL_INTERVAL": 0.02,
        "SWEEP_INTERVAL": 0.03 if recovers else 60.0,
        "CACHE_SIZE": 1000 if scenario.warm else 0,
    }
    settings.cache_clear()
    for pipeline, function in scenario.code.items():
        pipeline.function = function
    desk.registry = list(scenario.pipelines)  # type: ignore[assignment]  # whose tables a sweep looks at


def expire(scenario: Scenario) -> None:
    """Instead of waiting: leases are over, and nobody's runs are left to him because he has them in memory."""
    peek.HOLDER_GRACE = 0.0
    for pipeline in scenario.pipelines:
        reserved = plain(pipeline.Input, "default").exclude(reserved_by="")
        reserved.update(available_at=timezone.now() - timedelta(hours=1))


# Before and after


def clean(scenario: Scenario) -> None:
    """Nothing is there, but what the scenario needs."""
    with transaction.atomic():
        for pipeline in scenario.pipelines:
            for model in pipeline.models.values():
                plain(model, "default").all()._raw_delete("default")
        for model in (Ledger, Item, WorkerRow, Queue, LogEntry):
            model._base_manager.all()._raw_delete("default")
    if scenario.prepare is not None:
        scenario.prepare()


def state(scenario: Scenario) -> State:
    """What must be the same whether or not somebody crashed. Lists are sorted, ids are left out."""
    names = sorted(Ledger.objects.values_list("name", flat=True))
    pipelines = scenario.pipelines
    found = {
        "outputs": sorted(entry for pipeline in pipelines for entry in _outputs(pipeline)),
        "atomic effects": [name for name in names if not name.startswith("plain")],
        "plain effects": sorted({name for name in names if name.startswith("plain")}),
        "items": sorted(Item.objects.values_list("name", "processed")),
        "entries left": left(pipelines),
        "steps": sorted(step for pipeline in pipelines for step in _steps(pipeline, scenario.loose)),
        "messages": sorted(message for pipeline in pipelines for message in _messages(pipeline, scenario.loose)),
        "admin's log": sorted(LogEntry.objects.values_list("change_message", flat=True)),
        "audit": audit(scenario),
    }
    return json.loads(json.dumps(found, default=str))  # type: ignore[no-any-return]


def audit(scenario: Scenario) -> list[str]:
    """What must hold at each moment, also just after a crash."""
    found = [str(finding) for finding in Audit(scenario.pipelines, "default").findings() if finding.weight != "pending"]
    for pipeline in scenario.pipelines:
        claimed = plain(pipeline.Input, "default").exclude(reserved_by="")
        if claimed.filter(attempt__lt=1).exists():
            found.append(f"{pipeline.id}: an entry is claimed, and its attempt was not counted")
    return found


def _outputs(pipeline: Any) -> Iterator[list[str]]:
    for row in plain(pipeline.Output, "default"):
        yield [pipeline.id, row.key, repr(row.value), row.output, str(row.consumed_at is not None)]


def _steps(pipeline: Any, loose: bool) -> Iterator[list[str]]:
    if "Step" not in pipeline.models:
        return
    runs = _numbered(pipeline.Step)
    for step in plain(pipeline.Step, "default"):
        at = [runs[step.run_id], step.branch, step.index]
        said = step.param if step.pipeline != TIMER else None
        came = step.result if step.pipeline != RANDOM else None
        error = (step.error or {}).get("type_name") if isinstance(step.error, dict) else bool(step.error)
        ended = [step.done_at is not None, step.cancelled_at is not None]
        order = [] if loose else [step.order, step.after]
        yield [json.dumps([pipeline.id, *at]), json.dumps([step.pipeline, said, came, error, *ended, *order])]


def _messages(pipeline: Any, loose: bool) -> Iterator[list[str]]:
    if "Message" not in pipeline.models:
        return
    for message in plain(pipeline.Message, "default"):
        order = [] if loose else [message.branch, message.order]
        yield [pipeline.id, message.name, json.dumps([message.value, *order])]


def _numbered(model: Any) -> dict[int, int]:
    """Runs by their order: their ids go on from point to point."""
    ids = plain(model, "default").order_by("run_id").values_list("run_id", flat=True).distinct()
    return {id: number for number, id in enumerate(ids)}


def faults(scenario: Scenario, found: State) -> list[str]:
    """What is wrong with a run, whether or not somebody crashed."""
    wanted = {
        "outputs": sorted(map(repr, scenario.outputs)),
        "atomic effects": sorted(scenario.effects),
        "entries left": 0,
        "audit": [],
    }
    return differences(wanted, found | {"outputs": sorted(entry[2] for entry in found["outputs"])})


def differences(wanted: State, found: State) -> list[str]:
    """In words."""
    return [f"{name}: {found[name]} instead of {wanted[name]}" for name in wanted if wanted[name] != found[name]]
