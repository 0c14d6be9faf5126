"""What a look at a deployment finds, in words and for machines."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["check", "migration", "value", "unknown", "replay"]

ADVICE: dict[Kind, str] = {
    "check": "Correct the settings or the database as the line says.",
    "migration": "Run makemigrations and commit what it writes; run migrate before the new code starts.",
    "value": "Let the type take the old values too (a default for a new field, a wider type), or edit these entries.",
    "unknown": "Keep the old pipeline (or give the renamed one its old id) until nothing waits for it any more.",
    "replay": "Bring the old code back, guard the change with ctx.patched, or restart these runs from their beginning.",
}
"""What to do about each kind of finding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that would not go on under this code."""

    kind: Kind
    text: str
    pipeline: str = ""
    key: str = ""
    table: str = ""
    """The table that `id` is a row of: Input, Output or Message."""
    id: int | None = None
    step: int | None = None
    failed: bool = False
    """The entry was given up before: nothing happens to it unless somebody retries it."""
    warning: bool = False
    """Worth a line, but no reason to stop a deployment."""

    @property
    def stops(self) -> bool:
        """Whether one should not deploy like this."""
        return not (self.failed or self.warning)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self) | {"stops": self.stops}

    def __str__(self) -> str:
        marks = "".join(f" ({word})" for word in ("failed", "warning") if getattr(self, word))
        return f"{self.kind}{marks}: {self._where()}{' '.join(self.text.split())}"

    def _where(self) -> str:
        if not self.pipeline:
            return ""
        row = f" ({self.table} {self.id}{'' if self.step is None else f', step {self.step}'})" if self.id else ""
        return f"{self.pipeline}{f' {self.key!r}' if self.key else ''}{row}: "
