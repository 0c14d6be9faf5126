"""Leases of the living are renewed; an event loop that does not turn loses them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import StartManage
from tests.perils.pipelines import block, linger, linger_async, linger_atomic

from .tools import RESERVE, configured, eventually, hear, log, ready, stop, times_run


@pytest.mark.parametrize("pipelines", [(linger, linger_async), (linger_atomic,)], ids=["plain", "atomic"])
def test_a_body_of_several_leases_runs_once(start_worker: StartManage, pipelines: tuple[Any, ...]) -> None:
    workers = [start_worker(*(pipeline.id for pipeline in pipelines)) for _ in range(2)]
    ready(*workers)
    runs = [pipeline.enqueue(2.5 * RESERVE, key="long") for pipeline in pipelines]
    for run in runs:
        assert run.result(timeout=30) == 1
    said = "".join(map(log, workers))
    assert [said.count(f"<{pipeline.id} long>") for pipeline in pipelines] == [1] * len(pipelines)
    assert "lease" not in said
    assert set(times_run().values()) == {1}
    for worker in workers:
        stop(worker)


def test_an_async_body_that_blocks_the_loop_loses_its_lease_loudly(start_worker: StartManage) -> None:
    blocked = start_worker("block", env=configured(RESERVE=1))
    ready(blocked)
    run = block.enqueue(6.0, key="one")
    hear(blocked, "<block one>")
    hear(blocked, "The event loop has been blocked", within=4)
    assert "time.sleep(seconds)" in log(blocked)
    eventually(lambda: block.Input.objects.ready().exists(), "the lease is over")
    other = start_worker("block", env=configured(RESERVE=1))
    assert run.result(timeout=20) == 2
    hear(blocked, "lease was lost")
    stop(blocked)
    stop(other)
