"""What happens, as Django signals: sent outside transactions and robustly, so that no receiver harms the engine.

The sender is the pipeline object. Logging and metrics are receivers of these.
"""

from django.dispatch import Signal

entry_enqueued = Signal()
"""An enqueueing transaction committed. Arguments: `keys` (list of str)."""
attempt_started = Signal()
"""A worker is about to run the function. Arguments: `run_id`, `key`, `attempt`."""
attempt_finished = Signal()
"""An attempt was settled. Arguments: `run_id`, `key`, `attempt`, `outcome`.

`outcome` is "done", "waiting", "continued", "cancelled", "retry", "failed", "released" or "lost".
"""
lease_lost = Signal()
"""An attempt was refused, because another worker has the entry or it is gone. Arguments: `run_id`, `key`, `attempt`."""
entry_failed = Signal()
"""An attempt failed. Arguments: `run_id`, `key`, `attempt`, `error` (traceback), `gave_up` (bool)."""
run_finished = Signal()
"""A run ended with an output. Arguments: `run_id`, `key`, `output`."""
rows_changed = Signal()
"""Rows of pipelines changed, in a turn of this worker or by code of this process. Arguments: `pipelines` (list of ids).

The sender is None. It is sent often and on the way of the work, so receivers must be quick.
"""
