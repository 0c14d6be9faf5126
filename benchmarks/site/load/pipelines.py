"""What the benchmarks run. Bodies do next to nothing: it is the engine that is measured."""

import os

import pipeteer_django as pipeteer
from benchmarks import marks
from pipeteer_django import WorkflowContext


@pipeteer.activity()
async def mark(number: int) -> int:
    marks.mark(number)
    return number


@pipeteer.activity()
def mark_sync(number: int) -> int:
    marks.mark(number)
    return number


@pipeteer.activity()
async def double(x: int) -> int:
    marks.mark(x)
    return 2 * x


@pipeteer.workflow()
async def quad(x: int, ctx: WorkflowContext) -> int:
    x2 = await ctx.call(double, x)
    return await ctx.call(double, x2)


@pipeteer.workflow()
async def chain(steps: int, ctx: WorkflowContext) -> int:
    for number in range(steps):
        await ctx.call(mark, number)
    return steps


@pipeteer.workflow()
async def fan(width: int, ctx: WorkflowContext) -> int:
    return len(await ctx.all(*[ctx.call(mark, number) for number in range(width)]))


@pipeteer.workflow()
async def hold(number: int, ctx: WorkflowContext) -> bool:
    marks.mark(number)
    return bool(await ctx.receive("go"))


def _more(count: int) -> None:
    """Idle pipelines that make a worker's look at its queues longer."""
    for number in range(count):

        @pipeteer.activity(id=f"idle_{number}")
        async def idle(x: int) -> int:
            return x


_more(int(os.environ.get("BENCH_MORE_PIPELINES", "0")))
