"""Wake-ups: hints over ZeroMQ that work has arrived. They carry no data; lose them all and pipeteer is only slower."""

from .addresses import check_url
from .probe import answers
from .proxy import Proxy
from .publisher import flush, publish
from .subscriber import Subscription, listen
from .waiter import Waiter

__all__ = ["Proxy", "Subscription", "Waiter", "answers", "check_url", "flush", "listen", "publish"]
