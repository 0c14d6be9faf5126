"""Starting one worker process: which pipelines, is everything there, what to say, when to stop."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import DatabaseError, connections, router
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeteer_django.conf import settings
from pipeteer_django.exceptions import PipeteerError
from pipeteer_django.pipelines.pipeline import Pipeline
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.queues.database import refuse_unsupported
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
            f"These pipelines live in several databases ({', '.join(aliases)}). Start one worker for each."
        )
    return aliases[0]


def prepare(options: Options) -> None:
    """Raise PipeteerError if a worker with these options could not work."""
    _say_what_happens(options.verbosity)
    pipelines = chosen(options.ids)
    using = alias(pipelines)
    refuse_unsupported(connections[using])
    for pipeline in pipelines:
        try:
            pipeline.Input.objects.using(using).exists()
        except DatabaseError as error:
            raise PipeteerError(
                f"The tables of {pipeline.id} cannot be read ({str(error).strip()}). Have the migrations run? "
                f"python manage.py makemigrations {pipeline.Input._meta.app_label} && python manage.py migrate"
            ) from error
    connections.close_all()


def serve(options: Options) -> None:
    """Run one worker in this process until it is stopped or has drained its queues."""
    pipelines = chosen(options.ids)
    worker = Worker(
        pipelines, using=alias(pipelines), concurrency=options.concurrency, grace=options.grace, drain=options.drain, beat=_beat()
    )  # fmt: skip
    asyncio.run(_serve(worker, options))
    logger.info("Worker stopped: %s.", worker.counts)
    if worker.left_behind:
        # A thread that cannot be interrupted would keep the process alive.
        logging.shutdown()
        os._exit(0)


async def _serve(worker: Worker, options: Options) -> None:
    _listen_to_signals(worker)
    host = Host()
    logger.info(
        "Worker %s: %s; database %s (%s); wake-ups %s; concurrency %d.",
        worker.label, ", ".join(pipeline.id for pipeline in worker.pipelines), worker.using,
        connections[worker.using].display_name, await host.first_try(), worker.concurrency,
    )  # fmt: skip
    trying = asyncio.create_task(host.keep_trying())
    try:
        async with _progress(worker, options):
            await worker.main()
    finally:
        trying.cancel()
        await asyncio.to_thread(host.stop)


def _listen_to_signals(worker: Worker) -> None:
    loop = asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        # Under the autoreloader the main thread watches files; it ends the process to restart it.
        atexit.register(_stop_and_wait, worker, loop)
        return

    def stop() -> None:
        if worker.stopping:
            logger.warning("Second signal: exiting now. What was running is taken over when its lease is over.")
            logging.shutdown()
            os._exit(1)
        logger.info("Stopping: finishing %d entries (a second signal exits now).", worker.running)
        worker.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


def _stop_and_wait(worker: Worker, loop: asyncio.AbstractEventLoop) -> None:
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(worker.stop, 1.0)
        worker.stopped.wait(timeout=3)


def _beat() -> Any:
    """A function that tells the supervisor, if there is one, that the loop turns."""
    fd = os.environ.get(BEAT_FD)
    if fd is None:
        return None

    def beat() -> None:
        try:
            os.write(int(fd), b".")
        except BlockingIOError:
            pass
        except OSError:
            # The supervisor is gone: an orphan must not go on by itself.
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
    if verbosity == 0 or package.hasHandlers() and package.isEnabledFor(logging.INFO):
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    package.addHandler(handler)
    package.setLevel(logging.DEBUG if verbosity > 2 else logging.INFO)
    _ = settings()
