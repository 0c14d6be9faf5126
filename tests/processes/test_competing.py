"""Several workers on one queue: nothing runs twice, nothing is lost."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from django.db import transaction

from tests.conftest import StartManage
from tests.mutants import mutant
from tests.testapp.models import Ledger
from tests.testapp.pipelines import quad, record, trace

from .tools import ON_SQLITE, configured, eventually, finished, hear, log, outputs, ready, stop, times_run

COMPLAINT = re.compile("WARNING|ERROR|Traceback")


@pytest.mark.parametrize("count", [2, 4])
def test_no_entry_runs_twice_and_none_is_lost(start_worker: StartManage, count: int) -> None:
    names = [str(n) for n in range(100)]
    # A lease that no slow machine outlasts: a lost one would be a good reason to run twice.
    workers = [
        start_worker("trace", "record", "quad", "double", "--concurrency", "10", env=configured(RESERVE=60))
        for _ in range(count)
    ]
    ready(*workers)
    with transaction.atomic():
        trace.enqueue_many(names)
        record.enqueue_many(names)
        quads = quad.enqueue_many(range(50))
    for pipeline, expected in ((trace, 100), (record, 100), (quad, 50)):
        eventually(finished(pipeline, expected), f"{pipeline.id} is finished")

    assert sorted(outputs(trace).values()) == sorted(outputs(record).values()) == sorted(names)
    assert [outputs(quad)[run.key] for run in quads] == [4 * x for x in range(50)]
    assert Ledger.objects.count() == 200
    assert Counter(Ledger.objects.values_list("name", flat=True)) == dict.fromkeys(names, 2)  # once in each pipeline
    for worker in workers:
        stop(worker)
        complaints = [line for line in log(worker).splitlines() if COMPLAINT.search(line)]
        assert [line for line in complaints if "event loop has been blocked" not in line] == []  # by a busy machine


@pytest.mark.skipif(ON_SQLITE, reason="BEGIN IMMEDIATE serialises claims on SQLite: there is no lock to leave out")
def test_without_the_lock_of_a_claim_entries_do_run_twice(start_worker: StartManage) -> None:
    workers = [start_worker("trace", "--concurrency", "5", env=mutant("no_claim_lock")) for _ in range(2)]
    ready(*workers)
    trace.enqueue_many([str(n) for n in range(60)])
    for worker in workers:
        hear(worker, "<mutant no_claim_lock>")
    eventually(lambda: times_run() and times_run().most_common(1)[0][1] > 1, "an entry runs twice")
