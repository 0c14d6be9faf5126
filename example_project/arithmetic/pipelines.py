"""The smallest workflow: two calls of one activity."""

import pipeteer_django as pipeteer
from pipeteer_django import WorkflowContext


@pipeteer.activity()
async def double(x: int) -> int:
    return 2 * x


@pipeteer.workflow()
async def quad(x: int, ctx: WorkflowContext) -> int:
    x2 = await ctx.call(double, x)
    return await ctx.call(double, x2)
