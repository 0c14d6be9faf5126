from __future__ import annotations

import pytest

from pipeteer_django.wakeups.topics import decode, encode


@pytest.mark.once
@pytest.mark.parametrize("topic", ["q", "shop.quad", "Bestellung-é", "é" * 64, "x" * 128, "two words"])
def test_topic_is_one_frame_of_utf8(topic: str) -> None:
    assert encode(topic) == topic.encode()
    assert decode([encode(topic)]) == topic


@pytest.mark.once
@pytest.mark.parametrize("topic", ["", "x" * 129, "é" * 65, "a\nb", "a\x00", "\x7f", "\x85", "\ud800"])
def test_invalid_topic_is_refused(topic: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        encode(topic)


@pytest.mark.once
@pytest.mark.parametrize(
    "frames", [[], [b""], [b"a", b"b"], [b"x" * 129], [b"\xff\xfe"], [b"a\nb"], [b"\x01quad"], ["\x85".encode()]]
)
def test_malformed_frames_are_no_topic(frames: list[bytes]) -> None:
    assert decode(frames) is None
