"""Pipelines that harm their worker, and bodies that last. Each body says on its worker's log that it runs."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import time
from collections.abc import Callable

import pipeteer_django as pipeteer
from pipeteer_django import Context, WorkflowContext
from tests.testapp.models import Ledger


def begin(name: str, ctx: Context) -> None:
    """Leave a Ledger row (in the body's transaction, if there is one) and a line on the log."""
    Ledger.objects.create(name=name, run_id=ctx.run_id)
    print(f"<{name} {ctx.key}>", flush=True)


@pipeteer.activity()
def linger(seconds: float, ctx: Context) -> int:
    """A sync body that lasts; returns the number of its attempt."""
    begin("linger", ctx)
    time.sleep(seconds)
    return ctx.attempt


@pipeteer.activity()
async def linger_async(seconds: float, ctx: Context) -> int:
    """An async body that lasts."""
    print(f"<linger_async {ctx.key}>", flush=True)
    await asyncio.sleep(seconds)
    return ctx.attempt


@pipeteer.activity()
async def linger_in_thread(seconds: float, ctx: Context) -> int:
    """An async body that waits for a thread nobody can stop."""
    print(f"<linger_in_thread {ctx.key}>", flush=True)
    await asyncio.to_thread(time.sleep, seconds)
    return ctx.attempt


@pipeteer.activity(atomic=True)
def linger_atomic(seconds: float, ctx: Context) -> int:
    """An atomic body that lasts, after it has written."""
    begin("linger_atomic", ctx)
    time.sleep(seconds)
    return ctx.attempt


@pipeteer.activity(atomic=True, max_attempts=1)
def precious(name: str, ctx: Context) -> int:
    """An atomic body with one attempt only."""
    begin("precious", ctx)
    return ctx.attempt


@pipeteer.activity()
async def block(seconds: float, ctx: Context) -> int:
    """What an async body must never do; it does it once only."""
    print(f"<block {ctx.key}>", flush=True)
    if ctx.attempt == 1:
        time.sleep(seconds)
    return ctx.attempt


@pipeteer.activity()
def poison(x: int, ctx: Context) -> int:
    """Kills its own process if `x` is negative."""
    begin("poison", ctx)
    if x < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return ctx.attempt


def _segfault() -> None:
    ctypes.string_at(0)


def _out_of_memory() -> None:
    with open("/proc/self/statm") as pages:
        now = int(pages.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + (256 << 20), before[1]))
    try:
        hoard = []
        while True:
            hoard.append(bytes(16 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _endless_loop() -> None:
    while True:
        pass


HAZARDS: dict[str, Callable[[], object]] = {
    "fine": lambda: None,
    "segfault": _segfault,
    "exit": lambda: os._exit(1),
    "memory": _out_of_memory,
    "loop": _endless_loop,
}


@pipeteer.activity(timeout=5, max_attempts=2, backoff=0.1)
def hazard(kind: str, ctx: Context) -> int:
    """Harms its process in the way that is named."""
    begin("hazard", ctx)
    HAZARDS[kind]()
    return ctx.attempt


@pipeteer.activity(timeout=5, max_attempts=2, backoff=0.1)
async def hazard_async(kind: str, ctx: Context) -> int:
    """The same on the event loop."""
    print(f"<hazard_async {ctx.key}>", flush=True)
    HAZARDS[kind]()
    return ctx.attempt


@pipeteer.workflow()
async def errand(seconds: float, ctx: WorkflowContext) -> int:
    """Two atomic activities, one after the other."""
    first = await ctx.call(linger_atomic, seconds)
    return first + await ctx.call(linger_atomic, seconds)


@pipeteer.workflow()
async def outing(seconds: float, ctx: WorkflowContext) -> int:
    """Two plain activities, one after the other."""
    first = await ctx.call(linger, seconds)
    return first + await ctx.call(linger, seconds)


@pipeteer.activity()
async def increment(x: int) -> int:
    """Next to nothing."""
    return x + 1


@pipeteer.workflow()
async def march(steps: int, ctx: WorkflowContext) -> int:
    """One step after the other; says each time that its code begins at the beginning."""
    print(f"<march {ctx.key}>", flush=True)
    x = 0
    for _ in range(steps):
        x = await ctx.call(increment, x)
    return x


@pipeteer.workflow()
async def vigil(seconds: float, ctx: WorkflowContext) -> str:
    """Waits for a message, and after that for a while; cleans up whatever happens."""
    print(f"<vigil {ctx.key}>", flush=True)
    try:
        word = await ctx.receive("word", str)
        await ctx.sleep(seconds)
        return word
    finally:
        await ctx.call(increment, 1)


@pipeteer.workflow()
async def stubborn(x: int, ctx: WorkflowContext) -> int:
    """Holds on to everything that makes Python complain when a coroutine is thrown away."""
    print(f"<stubborn {ctx.key}>", flush=True)

    async def child(number: int) -> int:
        while True:
            try:
                async with asyncio.timeout(3600):
                    return await ctx.call(linger_async, 0.0) + int(await ctx.receive(f"go-{number}", int))
            finally:
                await ctx.call(increment, number)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(child(number)) for number in range(2)]
    return sum(task.result() for task in tasks) + x
