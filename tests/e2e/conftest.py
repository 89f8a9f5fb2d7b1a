"""What tests of the running system may ask for."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from services.runtime.tokens import mint_token
from tests.e2e.local_stack import Up, start_up
from tests.e2e.person import Json, Person


@pytest.fixture(scope="package")
def running_up(session_directory: Path) -> Iterator[Up]:
    """A running `chat-sessions up`, for all these tests, without rate limits; the last of them kills it."""
    up = start_up(session_directory / "stack")
    yield up
    if up.popen.poll() is None:
        assert up.stop() == 0


@pytest.fixture
def any_up(running_up: Up) -> Up:
    """As `running_up`, for tests whose outcome does not depend on the broker: once is enough, on whichever."""
    return running_up


@pytest.fixture
def stack(running_up: Up) -> Json:
    """The stack.json of the running system, as it is now."""
    return running_up.stack()


@pytest.fixture
def person(running_up: Up, stack: Json) -> Iterator[Callable[..., Person]]:
    """Makes people whom nobody has met before."""
    clients = []
    secret = (running_up.data_directory / "jwt-secret").read_text()

    def meet(*, admin: bool = False) -> Person:
        user_id = f"user-{uuid4()}"
        token = mint_token(user_id, secret, admin=admin, now=datetime.now(UTC), lifetime=timedelta(hours=1))
        client = httpx.Client(
            base_url=stack["gatewayUrl"],
            headers={"authorization": f"Bearer {token}"},
            timeout=40,
            trust_env=False,
            verify=False,  # never over TLS, whose certificates take long to read
        )
        clients.append(client)
        return Person(user_id, client)

    yield meet
    for client in clients:
        client.close()
