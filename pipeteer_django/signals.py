"""What happens, as Django signals: sent outside transactions and robustly, so that no receiver harms the engine.

The sender is the pipeline object. Logging, metrics and the audit trail are receivers of these.
"""

from django.dispatch import Signal

entry_enqueued = Signal()
"""An enqueueing transaction committed. Arguments: `keys` (list of str), `ids` (of the runs; None where a conflict was
ignored and nobody knows)."""
attempt_started = Signal()
"""A worker is about to run the function. Arguments: `run_id`, `key`, `attempt`, `epoch` (that its claim wrote)."""
attempt_finished = Signal()
"""An attempt was settled. Arguments: `run_id`, `key`, `attempt`, `epoch`, `outcome`; but for "lost" also `next_epoch`
(the row's now; None: the entry has left its queue), `step` (workflow id and Step row to which it delivers, or None),
`claimed` (False: a sleeping run went on in memory), `proved` (False: the reply to COMMIT was lost, and what the rows
were like afterwards spoke for it).

`outcome` is "done", "waiting", "continued", "cancelled", "retry", "failed", "released" or "lost".
"""
lease_lost = Signal()
"""An attempt was refused, because another worker has the entry or it is gone. Arguments: `run_id`, `key`, `attempt`,
`epoch`."""
entry_failed = Signal()
"""An attempt failed. Arguments: `run_id`, `key`, `attempt`, `error` (traceback), `gave_up` (bool)."""
run_finished = Signal()
"""A run ended with an output. Arguments: `run_id`, `key`, `output`."""
rows_changed = Signal()
"""Rows of pipelines changed, in a turn of this worker or by code of this process. Arguments: `pipelines` (list of ids).

The sender is None. It is sent often and on the way of the work, so receivers must be quick.
"""
entries_leaving = Signal()
"""People or code are about to take entries out of a queue, or to have them cancelled. Arguments: `verb`, `ids`.

The only one that is sent inside the transaction, which may yet roll back: who keeps books must have written down that
an entry may be missing before it is.
"""
entries_moved = Signal()
"""People or code moved entries, in a transaction that committed. Arguments: `verb`, `ids` (None: an UPDATE did, and did
not say which), `count`, `epoch` (that it wrote, where that is known: of a single entry that was saved).

`verb` is "deleted", "pushed", "cancelled", "edited", "retried", "released", "restarted", "rerun" or "corrected".
"""
