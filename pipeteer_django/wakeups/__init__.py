"""Wake-ups: hints over ZeroMQ that work has arrived. They carry no data; lose them all and pipeteer is only slower."""

from . import publisher, subscriber
from .addresses import check_url
from .changes import tell_changed
from .probe import answers
from .proxy import Proxy
from .publisher import flush, publish
from .subscriber import Subscription, listen
from .waiter import Waiter

__all__ = [
    "Proxy", "Subscription", "Waiter", "answers", "check_url", "close", "flush", "listen", "publish", "tell_changed",
]  # fmt: skip


def close() -> None:
    """End this process's connections to the proxy, before it stops hosting one; used again, they are made anew."""
    publisher.reset()
    subscriber.reset()
