"""Oban for Python, on PostgreSQL: LISTEN/NOTIFY, acknowledgements in batches. It keeps no results."""

from __future__ import annotations

import asyncio

import psycopg
import uvloop
from oban import Oban, worker
from oban.schema import install
from psycopg_pool import AsyncConnectionPool

from benchmarks.marks import mark
from benchmarks.peers import Peer


@worker(queue="default")
class Task:
    async def process(self, job) -> None:  # type: ignore[no-untyped-def]
        mark(job.args["number"])


class ObanPeer(Peer):
    """Twenty jobs at once, in one process, on uvloop."""

    async def oban(self, queues: dict[str, int]) -> Oban:
        pool = await Oban.create_pool(dsn=self.url, min_size=1, max_size=10)
        oban = Oban(pool=pool, queues=queues)
        await oban.start()
        return oban

    def prepare(self) -> None:
        async def tables() -> None:
            async with AsyncConnectionPool(self.url, open=False) as pool:
                await install(pool)

        uvloop.run(tables())

    def connect(self) -> None:
        self.loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.client = self.loop.run_until_complete(self.oban({}))
        self.connection = psycopg.connect(self.url, autocommit=True)

    def worker(self) -> None:
        async def serve() -> None:
            await self.oban({"default": 20})
            await asyncio.Event().wait()

        uvloop.run(serve())

    def enqueue(self, number: int) -> int:
        return int(self.loop.run_until_complete(Task.enqueue({"number": number})).id)

    def bulk(self, numbers: list[int]) -> None:
        self.loop.run_until_complete(self.client.enqueue_many([Task.new({"number": number}) for number in numbers]))

    def pending(self) -> int:
        sql = "select count(*) from oban_jobs where state in ('available', 'executing', 'scheduled')"
        return int(self.connection.execute(sql).fetchone()[0])

    def finished(self, handle: int) -> bool:
        sql = "select 1 from oban_jobs where id = %s and state = 'completed'"
        return self.connection.execute(sql, (handle,)).fetchone() is not None


make = ObanPeer
