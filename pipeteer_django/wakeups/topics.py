"""The wire format, pipeteer's own: one frame, the topic in UTF-8."""

from __future__ import annotations

import re

MAX_TOPIC_BYTES = 128
MAX_FRAME_BYTES = 1024
"""What any socket here accepts (MAXMSGSIZE); more ends that connection."""
CHANGES = ":changed:"
"""How the topics begin that say that rows of a pipeline changed, for pages that show them; its id follows.

They are for those who subscribe to this very prefix, and are not sent while nobody does.
"""
PROBE = b"\x1fprobe "
"""How frames begin by which somebody asks whether a proxy forwards. The control character makes them no topics."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def encode(topic: str) -> bytes:
    """The frame for `topic`; raises ValueError naming the fault."""
    frame = topic.encode()
    if not 1 <= len(frame) <= MAX_TOPIC_BYTES:
        raise ValueError(f"a topic has 1 to {MAX_TOPIC_BYTES} bytes, this one has {len(frame)}")
    if _CONTROL.search(topic):
        raise ValueError("a topic has no control characters")
    return frame


def decode(frames: list[bytes]) -> str | None:
    """The topic of a received message, or None if it is malformed."""
    if len(frames) != 1 or not 1 <= len(frames[0]) <= MAX_TOPIC_BYTES:
        return None
    try:
        topic = frames[0].decode()
    except UnicodeDecodeError:
        return None
    return None if _CONTROL.search(topic) else topic
