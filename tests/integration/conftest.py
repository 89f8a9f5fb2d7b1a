"""What tests of several files may ask for, besides tests/conftest.py."""

import pytest_asyncio

from tests.integration.gateway import Gateway


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(running: Gateway) -> Gateway:
    """The gateway that a file's `running` starts once for all its tests, with nothing in its database."""
    await running.empty()
    return running
