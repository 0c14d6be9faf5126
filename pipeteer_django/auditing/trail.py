"""The audit trail: each process writes down what it was told to be committed, in a file of its own.

It is the client's side of the history, independent of the database, so that it also shows what a database has lost. A
line is an acknowledgement: it is written after the commit that it speaks of, so a crash between the two loses a line
and never invents one. Only what takes something away is announced before its commit, because what is missing from the
database must be excused by a line that no crash can have lost.

`write()` to a file opened for appending is in the kernel's hands when it returns, so kill -9 loses nothing of it. There
is no fsync: a power cut may lose the last lines, and a lost line is no finding. Keys are written, values never.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db.models.signals import pre_delete

from pipeteer_django.conf import settings
from pipeteer_django.pipelines.registry import registry
from pipeteer_django.signals import (
    attempt_finished,
    attempt_started,
    entries_leaving,
    entries_moved,
    entry_enqueued,
    lease_lost,
)

logger = logging.getLogger("pipeteer_django.auditing")

SUFFIX = ".jsonl"
_AT_ONCE = 500
"""Runs in one line."""
_UNSPEAKABLE = re.compile(r"[^A-Za-z0-9._-]")


class Trail:
    """Appends to a folder, once `connect`ed to the signals. Safe to use from threads, and after a fork."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """A child of a fork has a file of its own; and the lock may just have been somebody's who is not here."""
        self._lock = threading.Lock()
        self._file: int | None = None
        self._complaining = False
        self._gap = b""
        """What is to stand before the next line, because the one before could not be written, or not to its end."""

    # Receiving

    def connect(self) -> None:
        """Listen from now on."""
        for signal, receiver in self._receivers():
            signal.connect(receiver, weak=False)
        for pipeline in registry:
            if pipeline.attached:
                pre_delete.connect(self._output_leaving, sender=pipeline.Output, weak=False)

    def disconnect(self) -> None:
        """Listen no more, and close the file."""
        for signal, receiver in self._receivers():
            signal.disconnect(receiver)
        for pipeline in registry:
            if pipeline.attached:
                pre_delete.disconnect(self._output_leaving, sender=pipeline.Output)
        with self._lock:
            if self._file is not None:
                os.close(self._file)
            self._file = None

    def _receivers(self) -> list[tuple[Any, Any]]:
        return [
            (entry_enqueued, self._enqueued),
            (attempt_started, self._started),
            (attempt_finished, self._finished),
            (lease_lost, self._lost),
            (entries_leaving, self._leaving),
            (entries_moved, self._moved),
        ]

    def _enqueued(self, sender: Any, keys: Sequence[str], ids: Sequence[int | None], **kwargs: Any) -> None:
        known = [(id, key) for id, key in zip(ids, keys, strict=True) if id is not None]
        for start in range(0, len(known), _AT_ONCE):
            some = known[start : start + _AT_ONCE]
            self.write("enqueued", sender.id, runs=[id for id, _ in some], keys=[key for _, key in some])

    def _started(self, sender: Any, run_id: int, key: str, attempt: int, epoch: int, **kwargs: Any) -> None:
        self.write("claimed", sender.id, run=run_id, key=key, epoch=epoch, attempt=attempt)

    def _finished(
        self, sender: Any, run_id: int, key: str, attempt: int, epoch: int, outcome: str, **facts: Any
    ) -> None:
        if outcome == "lost":
            return  # `_lost` hears of that, too
        marks = {name: False for name in ("claimed", "proved") if not facts[name]}
        step = {"step": facts["step"]} if facts["step"] else {}
        self.write(
            "settled", sender.id, run=run_id, key=key, epoch=epoch, attempt=attempt, outcome=outcome,
            next=facts["next_epoch"], **step, **marks,
        )  # fmt: skip

    def _lost(self, sender: Any, run_id: int, key: str, attempt: int, epoch: int, **kwargs: Any) -> None:
        self.write("lost", sender.id, run=run_id, key=key, epoch=epoch, attempt=attempt)

    def _leaving(self, sender: Any, verb: str, ids: Sequence[int], **kwargs: Any) -> None:
        for start in range(0, len(ids), _AT_ONCE):
            self.write("leaving", sender.id, verb=verb, runs=list(ids[start : start + _AT_ONCE]))

    def _moved(
        self, sender: Any, verb: str, ids: Sequence[int] | None, count: int, epoch: int | None, **kwargs: Any
    ) -> None:
        if ids is None:
            self.write("moved", sender.id, verb=verb, count=count)
            return
        more = {} if epoch is None else {"epoch": epoch}
        for start in range(0, len(ids), _AT_ONCE):
            self.write("moved", sender.id, verb=verb, runs=list(ids[start : start + _AT_ONCE]), **more)

    def _output_leaving(self, sender: Any, instance: Any, **kwargs: Any) -> None:
        self.write("output_leaving", sender.pipeline.id, run=instance.run_id, key=instance.key)

    # Writing

    def write(self, event: str, pipeline: str, **facts: Any) -> None:
        """Append one line. Whatever is wrong with folder or disk is logged, and work goes on."""
        line = _line(event=event, at=round(time.time(), 6), pipeline=pipeline, **facts)
        with self._lock:
            try:
                if self._file is None:
                    self._file = self._open()
                self._append(line)
            except OSError as error:
                self._complain(error)
            else:
                self._complaining = False

    def _append(self, line: bytes) -> None:
        assert self._file is not None
        whole = self._gap + line
        # What was lost before is said before anything else: a checker must not take the rest for all there was.
        self._gap = b"\n" + _line(event="gap", at=round(time.time(), 6))
        if os.write(self._file, whole) == len(whole):
            self._gap = b""

    def _open(self) -> int:
        """A new file: its name says whose it is, and since when."""
        self.folder.mkdir(parents=True, exist_ok=True)
        host = _UNSPEAKABLE.sub("-", socket.gethostname())[:60]
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        while True:
            started = datetime.now(UTC)
            name = f"{host}-{os.getpid()}-{started:%Y%m%dT%H%M%S.%f}{SUFFIX}"
            with contextlib.suppress(FileExistsError):  # two containers of one name, in the same microsecond
                file = os.open(self.folder / name, flags, 0o640)
                os.write(file, _line(event="opened", at=started.timestamp(), host=host, pid=os.getpid()))
                return file

    def _complain(self, error: OSError) -> None:
        if not self._complaining:
            self._complaining = True
            logger.error("The audit trail in %s cannot be written, so it will have gaps: %s", self.folder, error)


def _line(**facts: Any) -> bytes:
    return json.dumps(facts, separators=(",", ":")).encode() + b"\n"


def connect_if_asked() -> None:
    """Begin the trail that settings.PIPETEER["AUDIT"] asks for."""
    with contextlib.suppress(ImproperlyConfigured):  # check E004 says what is wrong with the settings
        if folder := settings().AUDIT:
            Trail(folder).connect()
