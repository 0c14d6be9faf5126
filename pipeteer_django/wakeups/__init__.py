"""Wake-ups: hints over ZeroMQ that work has arrived. They carry no data; lose them all and pipeteer is only slower."""

from . import publisher, subscriber
from .addresses import check_url
from .changes import tell_changed
from .keys import check_keys, exposed, library_version, may_host
from .pace import Pace
from .probe import answers
from .proxy import Proxy
from .publisher import flush, publish
from .subscriber import Subscription, listen
from .waiter import Waiter, calm

__all__ = [
    "Pace", "Proxy", "Subscription", "Waiter", "answers", "calm", "check_keys", "check_url", "close", "exposed",
    "flush", "library_version", "listen", "may_host", "publish", "tell_changed",
]  # fmt: skip


def close() -> None:
    """End this process's connections to the proxy, before it stops hosting one; used again, they are made anew."""
    publisher.reset()
    subscriber.reset()
