"""One JSON document with a list that may be long: written piece by piece."""

from __future__ import annotations

import json
from typing import Any


class Document:
    """`begin`, `add` each finding, `end` with what else there is to say."""

    def __init__(self, out: Any) -> None:
        self._out = out
        self._comma = ""

    def begin(self) -> None:
        """Before the first finding."""
        self._out.write('{"findings": [', ending="")

    def add(self, finding: dict[str, Any]) -> None:
        """Write one down."""
        self._out.write(f"{self._comma}\n{json.dumps(finding)}", ending="")
        self._comma = ","

    def end(self, summary: dict[str, Any]) -> None:
        """After the last one."""
        self._out.write(f"\n], {json.dumps(summary)[1:]}")
