"""The mutants: each is the project with one safeguard taken out of its text, and the tests that notice.

A text that is no longer in its file once, and once only, is an error: a mutant that changes nothing proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Change:
    """A piece of a file of the package, and what stands there in the mutant."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """An engine without one safeguard."""

    name: str
    safeguard: str
    """What it lacks, in one sentence."""
    changes: tuple[Change, ...]
    killers: tuple[str, ...]
    """Tests, as pytest names them, that pass with the safeguard; at least one of them fails without."""
    database: str = "sqlite"
    """The cheapest on which its harm shows."""
    raising: str = ""
    """How the error begins that is the harm, where a test need not assert anything to fail."""


def _mutant(
    name: str,
    safeguard: str,
    *changes: tuple[str, str, str],
    by: tuple[str, ...],
    database: str = "sqlite",
    raising: str = "",
) -> Mutant:
    return Mutant(name, safeguard, tuple(Change(*change) for change in changes), by, database, raising)


MUTANTS = (
    _mutant(
        "no_fence",
        "A claim whose epoch has moved on settles nothing.",
        ("queues/fence.py", "if epoch is None or ticket.epoch not in (epoch, None):", "if epoch is None:"),
        by=("tests/queues/test_guards.py::test_release_refuses_the_late_result",),
    ),
    _mutant(
        "no_atomic_fence",
        "An atomic body begins only on a row that still has the epoch of its claim.",
        ("queues/atomic.py", "filter(id=claim.id, epoch=claim.epoch)", "filter(id=claim.id)"),
        by=("tests/queues/test_atomic.py::test_an_entry_that_was_taken_over_is_not_run",),
    ),
    _mutant(
        "unfenced_renewal",
        "A worker renews only leases that are still its own.",
        ("queues/renew.py", "filter(id__in=list(held), reserved_by=worker)", "filter(id__in=list(held))"),
        by=("tests/queues/test_turns.py::test_a_lease_that_is_somebody_elses_now_is_not_renewed",),
    ),
    _mutant(
        "row_count_ignored",
        "A write that missed a row it was meant for rolls its transaction back.",
        ("queues/rows.py", "    if changed != len(meant):\n", "    if False:\n"),
        by=("tests/queues/test_turns.py::test_a_turn_that_missed_a_row_writes_nothing",),
    ),
    _mutant(
        "effect_outside",
        "The body of an atomic activity runs inside the transaction that settles it.",
        (
            "queues/atomic.py",
            "    with commit(using) as proof:\n        started = time.monotonic()",
            "    early = body()\n    with commit(using) as proof:\n        started = time.monotonic()",
        ),
        ("queues/atomic.py", "value = _fenced(claim, using, body)\n        settled", "value = early\n        settled"),
        by=("tests/queues/test_atomic.py::test_a_body_that_raises_leaves_nothing",),
    ),
    _mutant(
        "no_claim_lock",
        "A claim locks the rows that it is about to take.",
        (
            "queues/claim.py",
            'order="available_at, id", limit=limit, lock=True)',
            'order="available_at, id", limit=limit, lock=False)',
        ),
        by=("tests/queues/test_turns.py::test_two_turns_at_once_claim_different_entries",),
        database="postgres",
    ),
    _mutant(
        "no_skip_locked",
        "A turn passes over rows that somebody has locked, and never waits for one.",
        ("queues/statements.py", "for_update_sql(skip_locked=not wait)", "for_update_sql(skip_locked=False)"),
        by=("tests/queues/test_turns.py::test_two_turns_at_once_claim_different_entries",),
        database="postgres",
    ),
    _mutant(
        "attempts_counted_late",
        "An attempt is counted by the commit of its claim, and not when it ends.",
        ("queues/claim.py", "epoch = epoch + 1, attempt = attempt + 1, ", "epoch = epoch + 1, "),
        (
            "queues/rows.py",
            "        self._leave(when)\n        self.failure",
            "        self._leave(when)\n        self.attempt += 1\n        self.failure",
        ),
        by=("tests/queues/test_turns.py::test_an_attempt_that_never_ends_has_counted",),
    ),
    _mutant(
        "crashes_not_counted",
        "Who claims an entry that was never settled counts a crash, so that poison is parked.",
        ("queues/claim.py", "CASE WHEN reserved_by = '' THEN crashes ELSE crashes + 1 END", "crashes"),
        by=("tests/queues/test_turns.py::test_an_entry_that_kills_its_worker_is_parked",),
    ),
    _mutant(
        "suspects_in_company",
        "An entry whose last attempt never settled is claimed by itself.",
        ("queues/claim.py", "    if first_suspect is None:\n", "    if True:\n"),
        by=("tests/queues/test_turns.py::test_a_suspect_runs_alone",),
    ),
    _mutant(
        "no_poll",
        "A worker looks at its queues every POLL_INTERVAL, whatever it has heard.",
        ("worker/intake.py", "pause = settings().POLL_INTERVAL\n", "pause = 3600.0\n"),
        by=("tests/processes/test_wakeups.py::test_without_wake_ups_polls_find_all",),
    ),
    _mutant(
        "step_before_child",
        "A step and the entry that it waits for are written by one transaction.",
        (
            "queues/births.py",
            "        _insert_children(using, [",
            "        _commit_early(using)\n        _insert_children(using, [",
        ),
        (
            "queues/births.py",
            "def _step_row(",
            "def _commit_early(using: str) -> None:\n"
            "    from django.db import connections\n\n"
            "    with connections[using].cursor() as cursor:\n"
            '        cursor.execute("COMMIT")\n'
            '        cursor.execute("BEGIN")\n\n\n'
            "def _step_row(",
        ),
        by=("tests/queues/test_turns.py::test_a_step_is_never_there_without_its_entry",),
    ),
    _mutant(
        "blind_commit_retry",
        "A turn whose COMMIT got no reply asks the rows whether it happened before it does anything again.",
        (
            "queues/turn.py",
            "if not committing or not is_disconnect(error):\n            raise",
            "if True:\n            raise",
        ),
        by=("tests/queues/test_turns.py::test_a_turn_whose_commit_got_no_reply",),
    ),
    _mutant(
        "blind_atomic_retry",
        "An atomic body whose COMMIT got no reply is not run again before the row was asked.",
        ("queues/atomic.py", "if not in_doubt or not is_disconnect(error) or", "if True or"),
        by=("tests/queues/test_atomic.py::test_a_commit_whose_reply_is_lost",),
        raising="django.db.utils.OperationalError: server closed the connection",
    ),
    _mutant(
        "deliveries_ignored",
        "A run that goes to sleep stays awake if an event came that it has not seen.",
        ("queues/rows.py", "due if self.deliveries == seen else now", "due"),
        by=("tests/queues/test_messages.py::test_a_message_sent_while_the_run_runs",),
        raising="TimeoutError: mailbox 'task' has no result",
    ),
    _mutant(
        "wake_up_before_commit",
        "Wake-ups leave with the commit, and never on a rollback.",
        (
            "queues/hints.py",
            "    transaction.on_commit(_once(_batch(using), name, action), using=using, robust=True)",
            "    _once(_batch(using), name, action)()",
        ),
        by=("tests/queues/test_enqueue.py::test_a_rollback_leaves_no_row_and_no_wakeup",),
    ),
    _mutant(
        "unconditional_save",
        "An edit, in the admin or by save(), writes only over the row that was loaded.",
        ("queues/guards.py", "row.filter(epoch=self._loaded.epoch).update(", "row.update("),
        by=(
            "tests/queues/test_guards.py::test_a_stale_save_changes_nothing",
            "tests/admin/test_forms.py::test_what_moves_between_the_check_and_the_save",
        ),
    ),
    _mutant(
        "page_epoch_ignored",
        "A form of the admin is held against the epoch of the page on which it was filled in.",
        ("admin/forms.py", "if loaded is None or loaded != self.instance.epoch:", "if False:"),
        by=("tests/admin/test_forms.py::test_a_stale_page_changes_nothing",),
    ),
    _mutant(
        "answer_epoch_ignored",
        "An answer in the inbox goes to the question that was shown, and to no other under its key.",
        (
            "queues/people.py",
            "return _push(pipeline, using, Q(pk=id), value, epoch)",
            "return _push(pipeline, using, Q(pk=id), value)",
        ),
        by=("tests/admin/test_inbox.py::test_an_answer_to_another_question_is_not_taken",),
    ),
    _mutant(
        "frames_believed",
        "A frame on the wire is a topic only if it is one frame of bounded length without control characters.",
        ("wakeups/topics.py", "return None if _CONTROL.search(topic) else topic", "return topic"),
        by=("tests/wakeups/test_topics.py::test_malformed_frames_are_no_topic",),
    ),
    _mutant(
        "rumour_believed",
        "That others have taken the work is heard, and believed only by a worker that has found nothing of late.",
        ("worker/worker.py", "if self._hesitation.stands_back:", "if True:"),
        by=("tests/queues/test_hesitation.py::test_who_found_work_last_looks_all_the_same",),
    ),
    _mutant(
        "release_costs_an_attempt",
        "Handing an entry back takes its attempt back.",
        ("queues/rows.py", "self.attempt = max(0, self.attempt - 1)", "pass"),
        by=("tests/queues/test_states.py::test_handed_back",),
    ),
    _mutant(
        "silent_rollback",
        "A transaction counts as committed when the database's own commit has run, not when its block was left.",
        (
            "queues/database.py",
            '        transaction.on_commit(lambda: setattr(commit, "proved", True), using=using)\n'
            "        yield commit\n",
            "        yield commit\n    commit.proved = True\n",
        ),
        by=("tests/queues/test_turns.py::test_a_turn_whose_transaction_vanished_is_taken_again",),
    ),
    _mutant(
        "doomed_transaction_trusted",
        "After an atomic body its transaction is looked at: one that can only roll back fails the attempt.",
        ("queues/atomic.py", "    _still_whole(claim, using)\n    return value", "    return value"),
        by=("tests/queues/test_atomic.py::test_a_lost_transaction_is_noticed",),
    ),
    _mutant(
        "writes_from_other_threads",
        "A write of an atomic body from another thread, outside its transaction, is refused.",
        ("queues/atomic.py", "and owner.thread != threading.get_ident()", "and False"),
        by=("tests/queues/test_atomic.py::test_a_write_from_another_thread_is_refused",),
    ),
    _mutant(
        "orphans_left",
        "What a run had called goes with it when it is deleted.",
        (
            "queues/settle.py",
            "    for id, runs in plan.removed.items():\n        cancel_open(using, id, runs, now, softly=False)\n",
            "",
        ),
        by=("tests/queues/test_calls.py::test_deleting_a_run_deletes_its_tree",),
    ),
    _mutant(
        "retry_begins_anew",
        "A failed run that is retried goes on from its record, and repeats no finished activity.",
        (
            "queues/people.py",
            'update(**fresh(), reserved_by="")\n\n\ndef release',
            'update(**fresh(), reserved_by="", branch=F("branch") + 1)\n\n\ndef release',
        ),
        by=("tests/queues/test_calls.py::test_retried_with_mended_code_a_run_goes_on_from_where_it_failed",),
    ),
    _mutant(
        "no_sweep",
        "A sweep repairs what no turn can see.",
        (
            "queues/sweep.py",
            "        for id, branches in self._sleeping(priorities or {}).items():",
            "        for id, branches in {}.items():",
        ),
        by=("tests/queues/test_repair.py::test_a_run_whose_step_was_done_without_a_word_is_woken_once",),
    ),
    _mutant(
        "stale_memory",
        "A run kept in memory goes on only from the epoch at which it was kept.",
        ("queues/fence.py", '(row.epoch, row.suspended, row.reserved_by) == (ticket.epoch, True, "")', "True"),
        by=("tests/queues/test_kept.py::test_a_run_that_somebody_moved_is_not_advanced_from_memory",),
    ),
    _mutant(
        "hold_ignored",
        "Nothing is advanced in a queue that is on hold.",
        ("queues/fence.py", "            and ticket.pipeline.id not in on_hold\n", ""),
        by=("tests/queues/test_kept.py::test_a_queue_on_hold_is_not_advanced",),
        raising="tests.testapp.pipelines.QuadInput.DoesNotExist",
    ),
    _mutant(
        "late_result_recorded",
        "A result reaches its step only while that is open.",
        (
            "queues/deliver.py",
            "return update_rows(using, _steps(caller), _RESULT, rows, only_where_null=_OPEN)",
            "return update_rows(using, _steps(caller), _RESULT, rows)",
        ),
        by=("tests/queues/test_turns.py::test_a_result_for_a_cancelled_step_is_dropped",),
    ),
    _mutant(
        "impure_trusted",
        "What the code does is held against the record, and a difference parks the run.",
        (
            "pipelines/ledger.py",
            "            if what := difference(recorded, name, param):\n",
            '            if what := "":\n',
        ),
        by=("tests/queues/test_testing.py::test_an_impure_workflow_is_found",),
    ),
    _mutant(
        "unportable_numbers",
        "NaN and infinities, which no database keeps, are refused where they enter.",
        ("pipelines/values.py", "if not math.isfinite(value):", "if False:"),
        by=("tests/pipelines/test_values.py::test_what_some_database_would_lose_is_refused_with_its_place",),
        raising="ValueError: Out of range float values",
    ),
    _mutant(
        "unportable_text",
        "NUL and lone surrogates, which PostgreSQL cannot store, are refused where they enter.",
        ("pipelines/values.py", "if found := _UNSTORABLE.search(text):", "if found := None:"),
        by=("tests/pipelines/test_values.py::test_what_some_database_would_lose_is_refused_with_its_place",),
    ),
    _mutant(
        "names_in_any_order",
        "The names of a JSON object are put into the order in which jsonb keeps them, so that a replay sees it, too.",
        ("pipelines/values.py", "dict(sorted(items, key=_as_jsonb_sorts))", "dict(items)"),
        by=("tests/pipelines/test_values.py::test_names_are_in_the_order_in_which_jsonb_keeps_them",),
    ),
    _mutant(
        "floats_become_integers",
        "A large float is recorded with its point, so that jsonb makes no integer of it.",
        (
            "queues/fields.py",
            'kwargs.setdefault("encoder", PortableEncoder)\n        super().__init__(*args, **kwargs)',
            "super().__init__(*args, **kwargs)",
        ),
        by=("tests/queues/test_portable.py::test_of_a_message",),
        database="postgres",
    ),
    _mutant(
        "statements_of_any_length",
        "Large values of one turn are shared out among statements that MariaDB takes.",
        ("queues/statements.py", "_LONGEST = 2**21", "_LONGEST = 2**50"),
        by=("tests/queues/test_portable.py::test_many_large_values_in_one_turn",),
        database="mariadb",
        raising="django.db.utils.OperationalError: (",
    ),
    _mutant(
        "statistics_believed",
        "Whatever autovacuum made PostgreSQL believe of a table, a turn reads the rows it is about.",
        ("queues/statements.py", 'named = f" AND {table}.id IN ({{}})"', 'named = ""'),
        by=("tests/queues/test_statistics.py::test_settling_reads_what_it_settles",),
        database="postgres",
    ),
    _mutant(
        "broken_answers_park",
        "An answer of the server that broke off says nothing about the value that was to be written, and parks nobody.",
        ("queues/database.py", "in (None, _READ_ONLY_STATE)", "in ()"),
        by=("tests/processes/test_contention.py::test_an_answer_that_broke_off_parks_nobody",),
    ),
    _mutant(
        "dead_line_unnoticed",
        "A worker whose database neither answers nor breaks the connection gives itself up.",
        ("worker/deadline.py", "if wait.looks == self._longest:", "if wait.looks < 0:"),
        by=("tests/processes/test_half_open.py::test_one_answer_that_does_not_come",),
        database="postgres",
    ),
)
"""By the part of the protocol that they harm."""
