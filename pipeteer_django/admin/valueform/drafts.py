"""What a person has filled in: the state of a typed form, as it is stored, submitted and shown again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeteer_django.pipelines.values import path_text

MAX_ROWS = 100
"""Rows of one list or mapping; more are edited as JSON."""
MAX_INPUTS = 400
"""Inputs of one value; a larger one is edited as JSON. Django refuses a request with more than 1,000."""
MAX_KEYS = 2000
"""Submitted inputs of one value that are looked at."""
MAX_LINE = 1000
"""Characters of a number, a date and whatever else is no text."""

_MAX_NAME = 500
_ROW = re.compile(r"[0-9]{1,4}")

Path = tuple[Any, ...]


@dataclass
class Row:
    """One row of a list, or of a mapping, which has a key too."""

    value: Draft
    key: str = ""


@dataclass
class Draft:
    """What stands in a part of the form, and what is wrong with it. Two are equal if the same stands in them."""

    text: Any = ""
    json: str | None = None
    """Shown as this JSON text instead of inputs."""
    none: bool = False
    """ "No value" is ticked."""
    inner: Draft | None = None
    """What "no value" would hide; it has the same path."""
    children: dict[str, Draft] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    refusal: str = field(default="", compare=False)
    """Why what was submitted is not even read."""
    note: str = field(default="", compare=False)
    errors: list[str] = field(default_factory=list, compare=False)
    placed: dict[Any, Draft] = field(default_factory=dict, compare=False)
    """By the keys of the cleaned value."""

    def problems(self, path: Path = ()) -> Iterator[tuple[Path, str]]:
        """All errors of the last `clean`, each with the place in the value."""
        yield from ((path, message) for message in self.errors)
        if self.inner is not None and not self.none:
            yield from self.inner.problems(path)
        for key, child in self.placed.items():
            yield from child.problems((*path, key))

    def place(self, location: Path, message: str) -> None:
        """Put an error where it belongs; what of its location is no part of the form is said in words."""
        draft, rest = self, list(location)
        while rest or draft.inner is not None:
            if draft.inner is not None:
                draft = draft.inner
            elif rest[0] in draft.placed:
                draft = draft.placed[rest.pop(0)]
            else:
                break
        inside = path_text(rest, root="").lstrip(".") if draft.json is not None else ""
        draft.errors.append(f"{inside}: {message}" if inside else message)

    def inputs(self) -> int:
        """How many inputs it takes to show this."""
        inside = [*self.children.values(), *(row.value for row in self.rows)]
        inside += [self.inner] if self.inner is not None else []
        return 1 + 2 * len(self.rows) + sum(draft.inputs() for draft in inside)


class Sent:
    """The submitted data of one value, looked through once."""

    def __init__(self, data: Mapping[str, Any], files: Any, name: str) -> None:
        self.data, self.files = data, files
        self.too_many = False
        self.present = False
        self._names: set[str] = set()
        self._rows: dict[str, set[int]] = {}
        count = 0
        for key in data:
            if key == name or key.startswith(f"{name}-"):
                count += 1
                if count > MAX_KEYS:
                    self.too_many = True
                    return
                self.present = True
                if len(key) - len(name) <= _MAX_NAME:
                    self._note(name, key[len(name) :])

    def _note(self, name: str, rest: str) -> None:
        stem, _dashes, control = rest.partition("--")
        segments = stem.split("-")[1:]
        nothing = control in ("none", "omit")
        if nothing:  # says that there is nothing there
            segments = segments[:-1] if segments else []
        if stem or not nothing:
            self._names.add(name)
        for segment in segments:
            if _ROW.fullmatch(segment):
                self._rows.setdefault(name, set()).add(int(segment))
            name = f"{name}-{segment}"
            self._names.add(name)

    def has(self, name: str) -> bool:
        """Whether anything was submitted for the part of this name, a ticked "no value" excepted."""
        return name in self._names

    def rows(self, name: str) -> list[int]:
        """The numbers of the rows that were submitted, in their order on the page."""
        return sorted(self._rows.get(name, ()))

    def text(self, name: str) -> str | None:
        """A control's text, with the line breaks that Python has; None where it was not submitted."""
        value = self.data.get(name)
        return value.replace("\r\n", "\n").replace("\r", "\n") if isinstance(value, str) else None
