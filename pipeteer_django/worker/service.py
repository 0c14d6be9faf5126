"""Starting one worker process: which pipelines, is everything there, what to say, when to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import DatabaseError, InterfaceError, connections, router
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeteer_django.exceptions import PipeteerError
from pipeteer_django.models import Queue
from pipeteer_django.models import Worker as WorkerRow
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.fitness import shortcomings
from pipeteer_django.wakeups import close
from pipeteer_django.worker.hosting import Host
from pipeteer_django.worker.worker import Worker

logger = logging.getLogger("pipeteer_django.worker")

BEAT_FD = "PIPETEER_BEAT_FD"
"""Environment variable by which a supervisor hears that its workers' event loops turn."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asked for."""

    ids: tuple[str, ...] = ()
    concurrency: int | None = None
    grace: float | None = None
    drain: bool = False
    verbosity: int = 1


def chosen(ids: Sequence[str]) -> list[Pipeline[Any, Any]]:
    """The pipelines of these ids, or all that workers run; raises PipeteerError with the nearest names."""
    pipelines = [registry.find(id) for id in ids] if ids else [pipeline for pipeline in registry if pipeline.runs_here]
    for pipeline in pipelines:
        if not pipeline.runs_here:
            raise PipeteerError(f"{pipeline.id} is a {pipeline.kind}: people complete it, no worker runs it.")
    if not pipelines:
        raise PipeteerError("There is no pipeline to run. Write one in the pipelines.py of an installed app.")
    return pipelines


def alias(pipelines: Sequence[Pipeline[Any, Any]]) -> str:
    """The one database they live in; raises PipeteerError if there are several."""
    aliases = sorted({router.db_for_write(pipeline.Input) for pipeline in pipelines})
    if len(aliases) > 1:
        raise PipeteerError(
            f"These pipelines live in several databases ({', '.join(aliases)}), and a worker serves one. Route them to "
            "one (check pipeteer.E005 says why), or name only the pipelines of one."
        )
    return aliases[0]


def prepare(options: Options) -> None:
    """Raise PipeteerError if a worker with these options could not work."""
    _say_what_happens(options.verbosity)
    pipelines = chosen(options.ids)
    using = alias(pipelines)
    try:
        connections[using].ensure_connection()
        for id, message, hint in shortcomings(using):
            if ".E" in id:
                raise PipeteerError(f"{message} {hint} ({id})")
    except (DatabaseError, InterfaceError) as error:
        raise PipeteerError(f"The database {using!r} does not answer: {str(error).strip()}") from error
    own = (WorkerRow, Queue)
    for model in (*own, *(pipeline.Input for pipeline in pipelines)):
        try:
            model._base_manager.using(using).exists()
        except DatabaseError as error:
            made = "" if model in own else f"python manage.py makemigrations {model._meta.app_label} && "
            raise PipeteerError(
                f"The table {model._meta.db_table} cannot be read ({str(error).strip()}). Have the migrations run? "
                f"{made}python manage.py migrate"
            ) from error
    connections.close_all()


Started = Callable[[Worker, asyncio.AbstractEventLoop], None]
"""Called on the loop before the worker begins: arranges who will call `worker.stop`."""


def serve(options: Options, started: Started | None = None) -> None:
    """Run one worker in this process until it is stopped or has drained its queues."""
    pipelines = chosen(options.ids)
    worker = Worker(
        pipelines,
        using=alias(pipelines),
        concurrency=options.concurrency,
        grace=options.grace,
        drain=options.drain,
        beat=_beat(),
        give_up=None if started else lambda: leave(1),
    )
    database = f"{worker.using} ({connections[worker.using].display_name})"  # MariaDB is asked, so not on the loop
    connections.close_all()
    _collect_seldom()
    asyncio.run(_serve(worker, options, started or _stop_on_signals, database))


def _collect_seldom() -> None:
    """Have Python look for garbage less often, and never in what is loaded: a turn makes thousands of objects that live
    until the next, and looking at them took a tenth of a busy worker's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


async def _serve(worker: Worker, options: Options, started: Started, database: str) -> None:
    started(worker, asyncio.get_running_loop())
    host = Host()
    logger.info(
        "Worker %s: %s; database %s; wake-ups %s; concurrency %d.",
        worker.label, ", ".join(pipeline.id for pipeline in worker.pipelines), database, await host.first_try(),
        worker.concurrency,
    )  # fmt: skip
    trying = asyncio.create_task(host.keep_trying())
    try:
        async with _progress(worker, options):
            await worker.main()
    finally:
        trying.cancel()
        await asyncio.to_thread(close)
        await asyncio.to_thread(host.stop)
    logger.info("Worker stopped: %s.", worker.counts)
    if worker.left_behind and started is _stop_on_signals:
        # Threads that cannot be interrupted would keep the process alive, asyncio's own end included.
        leave(0)


def leave(status: int) -> None:
    """End the process now, whatever its threads do."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _stop_on_signals(worker: Worker, loop: asyncio.AbstractEventLoop) -> None:
    asked = False

    def stop() -> None:
        logger.info("Stopping: finishing %d entries (a second signal exits now).", worker.running)
        worker.stop()

    def on_signal(number: int, frame: Any) -> None:
        # Not `loop.add_signal_handler`: the second signal must be heard also while a body blocks the loop.
        nonlocal asked
        if asked:
            os.write(2, b"Second signal: exiting now. What was running is taken over when its lease is over.\n")
            os._exit(1)
        asked = True
        with contextlib.suppress(RuntimeError):  # the loop is closed: the end is near anyway
            loop.call_soon_threadsafe(stop)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)


def _beat() -> Callable[[], None] | None:
    """A function that tells the supervisor, if there is one, that the loop turns."""
    given = os.environ.pop(BEAT_FD, None)  # not for processes that a body starts
    if given is None:
        return None
    fd = int(given)
    os.set_inheritable(fd, False)
    alone = False

    def beat() -> None:
        nonlocal alone
        try:
            os.write(fd, b".")
        except BlockingIOError:
            pass
        except OSError:
            if not alone:  # once: a second signal means "now"
                alone = True
                logger.warning("The supervisor is gone, and an orphan does not go on by itself.")
                os.kill(os.getpid(), signal.SIGTERM)

    return beat


@contextlib.asynccontextmanager
async def _progress(worker: Worker, options: Options) -> AsyncIterator[None]:
    console = Console(stderr=True)
    if not options.drain or not console.is_terminal:
        yield
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=False) as progress:
        showing = asyncio.create_task(_show(progress, worker))
        try:
            yield
        finally:
            showing.cancel()
            done = worker.counts.done
            progress.update(progress.task_ids[0], completed=done, total=done) if progress.task_ids else None


async def _show(progress: Progress, worker: Worker) -> None:
    bar = progress.add_task("Draining", total=None)
    while True:
        left = await worker.remaining()
        progress.update(bar, completed=worker.counts.done, total=worker.counts.done + left)
        await asyncio.sleep(0.3)


def _say_what_happens(verbosity: int) -> None:
    """A worker that logs nothing is no use; a project that configured logging for us is left alone."""
    package = logging.getLogger("pipeteer_django")
    if verbosity == 0 or package.hasHandlers() or package.level:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    package.addHandler(handler)
    package.setLevel(logging.DEBUG if verbosity > 2 else logging.INFO)
