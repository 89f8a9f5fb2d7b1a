"""Waiting for something that another process does."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from services.api_gateway.load import is_crowded, resting

T = TypeVar("T")

MAX_WAIT_SECONDS = 60.0
"""The longest `?wait=`."""
LOOK_AGAIN_SECONDS = 1.0


async def until_told(
    look: Callable[[], Awaitable[T | None]],
    nap: Callable[[float], Awaitable[None]],
    stopping: Callable[[], bool],
    *,
    seconds: float,
    look_again_seconds: float = LOOK_AGAIN_SECONDS,
) -> T | None:
    """Return what `look` finds, looking at once, after each nap, and at the end; None if that takes over `seconds`.

    Also ends, after one last look, when the gateway is stopping, or when too many wait already.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    while True:
        last = clock() >= deadline or stopping() or is_crowded()
        found = await look()
        if found is not None or last or clock() >= deadline:
            return found
        with resting():
            await nap(max(0.0, min(look_again_seconds, deadline - clock())))
