"""The mark file: a task's body appends (number, monotonic time) to it, so that every peer is timed in the same way."""

from __future__ import annotations

import os
import struct
import time
from functools import cache
from pathlib import Path

SIZE = struct.calcsize("qd")


@cache
def _file() -> int:
    return os.open(os.environ["BENCH_MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def mark(number: int) -> None:
    """Say that the body of task `number` runs: one write of 16 bytes."""
    os.write(_file(), struct.pack("qd", number, time.monotonic()))


class Marks:
    """The reader's side. Making one empties the file and tells child processes where it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(b"")
        os.environ["BENCH_MARKS"] = str(path)

    def reset(self) -> None:
        """Forget all marks."""
        os.truncate(self.path, 0)

    def count(self) -> int:
        """How many bodies have run."""
        return os.stat(self.path).st_size // SIZE

    def read(self) -> list[tuple[int, float]]:
        """All marks in order of writing."""
        return list(struct.iter_unpack("qd", self.path.read_bytes()))

    def first(self) -> float:
        """When the first body ran."""
        with self.path.open("rb") as file:
            return float(struct.unpack("qd", file.read(SIZE))[1])
