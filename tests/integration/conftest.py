"""What tests of several files may ask for, besides tests/conftest.py."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.session_tracker import erasing
from tests.integration.erased_user import World, opened_world
from tests.integration.gateway import Gateway, ready, running_gateway


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(any_broker: str, module_postgres_url: str) -> AsyncIterator[Gateway]:
    """One gateway for all tests of a file.

    A file has a `running` of its own where its gateway's settings are others, or where brokers could differ: all that a
    gateway publishes goes one way, which is tried on every broker for messages, and so are its ways of hearing.
    """
    async with running_gateway(any_broker, module_postgres_url) as gateway:
        await ready(gateway)
        yield gateway


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(running: Gateway) -> Gateway:
    """The gateway that a file's tests share, with nothing in its database and everything folded."""
    await running.empty()
    await running.caught_up()
    return running


@pytest.fixture
async def world(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A database with a user who is to be erased, worked on without rest."""
    monkeypatch.setattr(erasing, "REST", 0)
    async with opened_world(postgres_url) as world:
        yield world
