"""The one profile of JSON that SQLite, PostgreSQL and MariaDB all store and give back equal.

Each database refuses or changes something of JSON that the others keep: PostgreSQL NUL and lone surrogates, MariaDB
what is nested deeper than 31, all of them NaN. A value is held against the strictest of them where it enters, so that
none can be accepted by one database and be lost by another.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from pipeteer_django.exceptions import InvalidValue

MAX_DEPTH = 30
"""Lists and objects within each other; MariaDB refuses 32."""
MAX_DIGITS = 4300
"""Digits of an integer: Python reads and writes no longer ones as text."""

_TOO_LARGE = 10**MAX_DIGITS
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_IDENTIFIER = re.compile(r"[^\W\d]\w*")
_EXPONENT = re.compile(r'"(?:[^"\\]|\\.)*"|(-?[\d.]+e\+\d+)')

_SHOWN_ERRORS = 3

Path = tuple[Any, ...]


def path_text(path: Iterable[Any], root: str = "value") -> str:
    """The place inside a value as people write it: `value.items[3].name`."""
    return root + "".join(map(_component, path))


def _component(part: Any) -> str:
    if isinstance(part, str):
        return f".{part}" if _IDENTIFIER.fullmatch(part) else f"[{shown(part)}]"
    return f"[{part}]" if isinstance(part, int) else f"[{shown(part)}]"


def shown(value: object) -> str:
    """A value in an error message: short, and whatever its own repr does."""
    return reprlib.repr(value)


# Checking


def check_portable(value: object, *, max_bytes: int) -> None:
    """Raise InvalidValue, naming the path, unless every supported database stores `value` and gives it back equal.

    `value` is made of dict, list, tuple, str, int, float, bool and None; `max_bytes` limits its length as UTF-8
    encoded JSON, large floats written in full.
    """
    _Walk(max_bytes).visit(value, ())
    size = len(_with_points(_encode(value, ensure_ascii=False)).encode())
    if size > max_bytes:
        raise _too_long(f"is {size:,} bytes as JSON", max_bytes)


def check_text(text: str, path: Path = ()) -> None:
    """Raise InvalidValue for a string that PostgreSQL cannot store: one with NUL or a lone surrogate."""
    if found := _UNSTORABLE.search(text):
        what = "a NUL character" if found[0] == "\x00" else f"the lone surrogate U+{ord(found[0]):04X}"
        raise InvalidValue(f"{path_text(path)}: holds {what} at {found.start()}, which no database stores; remove it.")


class _Walk:
    """Visits everything inside a value. Its recursion ends at MAX_DEPTH, also in a list that holds itself."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.left = max_bytes

    def visit(self, value: object, path: Path) -> None:
        # Every value is a byte or more, so counting them is enough to stop in a list of thirty levels that holds
        # the same list twice on each: a billion values made of sixty.
        self.left -= 1
        if self.left < 0:
            raise _too_long(f"holds more than {self.max_bytes:,} values", self.max_bytes)
        if isinstance(value, str):
            check_text(value, path)
        elif isinstance(value, (dict, list, tuple)):
            self._enter(value, path)
        elif value is not None and not isinstance(value, bool):
            _check_number(value, path)

    def _enter(self, value: dict[Any, object] | list[object] | tuple[object, ...], path: Path) -> None:
        if len(path) >= MAX_DEPTH:
            raise InvalidValue(
                f"{path_text(path[:3])}...: nested deeper than {MAX_DEPTH} levels, more than MariaDB stores; "
                "flatten it, or pass it as text."
            )
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            inner = (*path, key)
            if isinstance(value, dict):
                _check_key(key, inner)
            self.visit(item, inner)


def _check_key(key: object, path: Path) -> None:
    if not isinstance(key, str):
        raise InvalidValue(f"{path_text(path)}: the key {shown(key)} must be a string in JSON; convert it.")
    check_text(key, path)


def _check_number(value: object, path: Path) -> None:
    if isinstance(value, int):
        if not -_TOO_LARGE < value < _TOO_LARGE:
            raise InvalidValue(f"{path_text(path)}: the integer has more than {MAX_DIGITS:,} digits; store it as text.")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidValue(f"{path_text(path)}: {value} does not exist in JSON; use None or a string.")
    else:
        name = type(value).__name__
        raise InvalidValue(f"{path_text(path)}: {name} does not exist in JSON; convert it, or annotate its type.")


def _too_long(what: str, max_bytes: int) -> InvalidValue:
    return InvalidValue(
        f"value: {what}; PIPETEER['MAX_VALUE_BYTES'] is {max_bytes:,}. Keep large data in a model or a file "
        "and pass its id."
    )


# Text


def _encode(value: object, **options: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"), **options)


def to_text(value: object) -> str:
    """The JSON text of a portable value. Raises TypeError or ValueError for anything that is none."""
    return _encode(value)


class PortableEncoder(json.JSONEncoder):
    """Writes large floats in full, with a decimal point.

    PostgreSQL's jsonb keeps numbers as numeric: `1e+23` comes back as the integer 10**23, which is not equal to the
    float 1e23. `100000000000000000000000.0` comes back as it went.
    """

    def encode(self, o: Any) -> str:
        return _with_points(super().encode(o))


def _with_points(text: str) -> str:
    return _EXPONENT.sub(_in_full, text) if "e+" in text else text


def _in_full(match: re.Match[str]) -> str:
    return f"{Decimal(match[1]):f}.0" if match[1] else match[0]


def canonical(value: object) -> str:
    """The text by which two JSON values are compared, whatever database one of them has been through.

    Equal: objects whose keys are in another order, 2.0 and 2, -0.0 and 0, tuples and lists.
    """
    return _encode(_canonical(value), sort_keys=True)


def _canonical(value: object) -> object:
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        # By its text, not its exact value: what jsonb makes of 1e23 is 10**23, and int(1e23) is another number.
        return int(Decimal(repr(value)))
    return value


def faithful(plain: Any, source: object, path: Path = ()) -> Any:
    """`plain`, which pydantic made of `source`, without what that loses, and as every database gives it back.

    Where the annotation is Any, pydantic silently writes NaN as null: that raises InvalidValue. It writes a set in the
    order of its hashes, which are others in another process: that is sorted, or a replay would take it for a change.
    So are the names of an object, and -0.0 is 0.0: jsonb does that.
    """
    if plain is None and isinstance(source, float):
        _check_number(source, path)
    if isinstance(plain, list) and isinstance(source, (list, tuple, set, frozenset)) and len(plain) == len(source):
        items = [faithful(*pair, (*path, index)) for index, pair in enumerate(zip(plain, source, strict=True))]
        return sorted(items, key=canonical) if isinstance(source, (set, frozenset)) else items
    if isinstance(plain, dict):
        pairs = zip(plain.items(), _parts(plain, source), strict=True)
        items = [(key, faithful(item, part, (*path, key))) for (key, item), part in pairs]
        return dict(sorted(items, key=_as_jsonb_sorts))
    return 0.0 if isinstance(plain, float) and plain == 0 else plain


def _as_jsonb_sorts(item: tuple[str, object]) -> tuple[int, bytes]:
    name = item[0].encode("utf-8", "surrogatepass")
    return len(name), name


def _parts(plain: dict[str, Any], source: object) -> Iterable[object]:
    """The members of a mapping, or the fields of an object, in the order of `plain`."""
    if isinstance(source, Mapping) and len(source) == len(plain):
        return source.values()
    return (getattr(source, key, None) for key in plain)


# Errors for people


def explain(error: ValidationError, value: object) -> str:
    """What does not fit in `value`, one clause per place: `value.qty: Input should be a valid integer (got 'x')`."""
    places: dict[str, list[str]] = {}
    for detail in error.errors(include_url=False, include_context=False):
        missing = detail["type"] == "missing"
        messages = places.setdefault(path_text(_real_path(detail["loc"], value, missing)), [])
        message = detail["msg"] + ("" if missing else f" (got {shown(detail['input'])})")
        if message not in messages:
            messages.append(message)
    clauses = [f"{place}: {' or '.join(messages)}" for place, messages in places.items()]
    more = len(clauses) - _SHOWN_ERRORS
    return "; ".join(clauses[:_SHOWN_ERRORS]) + (f"; and {more} more" if more > 0 else "")


def _real_path(loc: Path, value: object, missing: bool) -> Path:
    """`loc` without the names of union branches, which pydantic mixes with the keys of the value."""
    path: list[Any] = []
    for position, part in enumerate(loc):
        found, inner = _look(value, part)
        if found or (missing and position == len(loc) - 1):
            path.append(part)
            value = inner
    return tuple(path)


def _look(value: object, part: object) -> tuple[bool, object]:
    if isinstance(value, Mapping):
        return part in value, value.get(part)
    if isinstance(part, int):
        inside = isinstance(value, (list, tuple)) and part < len(value)
        return True, value[part] if inside else None  # type: ignore[index]
    fields = getattr(value, "__dict__", {})
    return part in fields, fields.get(part)
