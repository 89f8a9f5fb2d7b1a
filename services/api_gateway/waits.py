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

    Also ends when the gateway is stopping. Where too many wait already it looks once: who has begun to wait counts
    among them until the end, also while looking.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    if seconds <= 0 or stopping() or is_crowded():
        return await look()
    with resting():
        found = await look()
        while found is None and clock() < deadline and not stopping():
            await nap(max(0.0, min(look_again_seconds, deadline - clock())))
            found = await look()
    return found
