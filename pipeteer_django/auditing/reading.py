"""Reads trails: the events of one run after the other, however large the files are."""

from __future__ import annotations

import heapq
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import IO, Any

from pipeteer_django.auditing.trail import SUFFIX

AT_ONCE = 100_000
"""Events sorted in memory; more are sorted in temporary files."""


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """What one process said about one run."""

    pipeline: str
    run: int
    file: int
    """The number of its file in `Trails.files`."""
    line: int
    kind: str
    """enqueued, claimed, settled, lost, leaving, moved or output_leaving."""
    late: bool
    """It was written after `Trails.mark`, so a snapshot of the database that was taken then need not show it."""
    facts: Mapping[str, Any]

    @property
    def epoch(self) -> int | None:
        """The epoch that a claim or an edit wrote, or that of the claim that was settled; None where not known."""
        return self.facts.get("epoch")

    @property
    def proved(self) -> bool:
        """Whether the commit was seen, or only found to be likely after its reply was lost."""
        return bool(self.facts.get("proved", True))

    @property
    def key(self) -> str:
        """The entry's."""
        return str(self.facts.get("key", ""))


_ORDER = attrgetter("pipeline", "run", "file", "line")


@dataclass(slots=True)
class Trails:
    """The files of a folder, as they are now. Raises FileNotFoundError where there are none."""

    folder: Path
    files: list[Path] = field(init=False)
    gaps: set[int] = field(default_factory=set)
    """Files in which lines may be missing between others, or at the beginning."""
    lines: int = 0
    damaged: int = 0
    """Lines that cannot be read."""
    counts: Counter[str] = field(default_factory=Counter)
    _ends: dict[Path, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.mark()
        if not self._ends:
            raise FileNotFoundError(f"{self.folder} has no trail: there is no file that ends in {SUFFIX}.")

    def mark(self) -> None:
        """What is written from now on is `late`."""
        self._ends = {file: file.stat().st_size for file in sorted(self.folder.glob(f"*{SUFFIX}"))}

    def runs(self) -> Iterator[list[Event]]:
        """The events of each run: pipelines and runs in order, then by file and line."""
        # Files that have appeared since the mark are read, too: they may excuse what the database does not show.
        self.files = sorted(self.folder.glob(f"*{SUFFIX}"))
        for _, events in groupby(_sorted(self._events()), key=attrgetter("pipeline", "run")):
            yield list(events)

    def name(self, event: Event) -> str:
        """Where an event stands."""
        return f"{self.files[event.file].name}:{event.line}"

    def _events(self) -> Iterator[Event]:
        for number, file in enumerate(self.files):
            with file.open("rb") as lines:
                yield from self._of_file(number, lines, self._ends.get(file, 0))

    def _of_file(self, number: int, lines: IO[bytes], end: int) -> Iterator[Event]:
        offset = 0
        for line, text in enumerate(lines, start=1):
            offset += len(text)
            facts = _parsed(text)
            if facts is None:
                # A last line without an end is one that a process is just writing, or was when it died.
                self.damaged += bool(text.strip()) and text.endswith(b"\n")
                if text.strip():
                    self.gaps.add(number)
                continue
            self.lines += 1
            kind = facts["event"]
            if kind == "gap" or (line == 1 and kind != "opened"):
                self.gaps.add(number)
            if "pipeline" in facts:
                self.counts[kind] += 1
                yield from _exploded(facts, number, line, late=offset > end)


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        facts = json.loads(text)
    except ValueError:
        return None
    return facts if isinstance(facts, dict) and "event" in facts else None


def _exploded(facts: dict[str, Any], file: int, line: int, *, late: bool) -> Iterator[Event]:
    """One event for each of the runs that a line is about."""
    kind, pipeline = facts.pop("event"), facts.pop("pipeline")
    if "run" in facts:
        yield Event(pipeline, facts.pop("run"), file, line, kind, late, facts)
        return
    runs, keys = facts.pop("runs", []), facts.pop("keys", None)
    for number, run in enumerate(runs):
        named = facts if keys is None else {**facts, "key": keys[number]}
        yield Event(pipeline, run, file, line, kind, late, named)


# More than fits into memory


def _sorted(events: Iterable[Event]) -> Iterator[Event]:
    with ExitStack() as files:
        parts: list[IO[str]] = []
        chunk: list[Event] = []
        for event in events:
            chunk.append(event)
            if len(chunk) >= AT_ONCE:
                parts.append(files.enter_context(_written(chunk)))
                chunk = []
        chunk.sort(key=_ORDER)
        yield from heapq.merge(*map(_read, parts), chunk, key=_ORDER)


def _written(chunk: list[Event]) -> IO[str]:
    file = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 (the caller closes it)
    for event in sorted(chunk, key=_ORDER):
        fields = (event.pipeline, event.run, event.file, event.line, event.kind, event.late, event.facts)
        file.write(json.dumps(fields) + "\n")
    file.seek(0)
    return file


def _read(file: IO[str]) -> Iterator[Event]:
    return (Event(*json.loads(line)) for line in file)
