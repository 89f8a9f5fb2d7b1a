"""What is written at once leaves as one."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.runtime.one_write import OneWrite


@pytest.fixture
async def ends() -> AsyncIterator[tuple[OneWrite, socket.socket]]:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    with theirs:
        yield OneWrite(transport, loop), theirs
        transport.abort()


async def received(theirs: socket.socket) -> Any:
    async with asyncio.timeout(5):
        return await asyncio.get_running_loop().sock_recv(theirs, 100)


async def test_a_head_waits_for_its_body_and_no_longer(ends: tuple[OneWrite, socket.socket]) -> None:
    transport, theirs = ends
    transport.write(b"head ")
    with pytest.raises(BlockingIOError):
        theirs.recv(100)
    transport.write(b"body")
    assert theirs.recv(100) == b"head body"
    transport.write(b"head alone")
    assert await received(theirs) == b"head alone"


@pytest.mark.parametrize("end", ["close", "write_eof"])
async def test_what_is_held_leaves_before_the_end(ends: tuple[OneWrite, socket.socket], end: str) -> None:
    transport, theirs = ends
    transport.write(b"last")
    getattr(transport, end)()
    assert [await received(theirs), await received(theirs)] == [b"last", b""]


async def test_nothing_is_written_to_a_connection_that_is_gone(ends: tuple[OneWrite, socket.socket]) -> None:
    troubles: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, trouble: troubles.append(trouble))
    transport, theirs = ends
    transport.write(b"late")
    transport.abort()
    assert await received(theirs) == b""
    assert not troubles
