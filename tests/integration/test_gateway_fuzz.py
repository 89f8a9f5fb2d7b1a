"""Requests that schemathesis makes of the OpenAPI document: no server error, and nothing that is not in the document.

Some seconds of them, the same each time; or as long as FUZZ_SECONDS says (`make fuzz`), at random, and then also
chains of calls, whose course depends on how fast the tracker is.
"""

import asyncio
import ipaddress
import os
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from services.api_gateway import personas, sending
from services.api_gateway.live import open_streams
from services.api_gateway.routes import cleanup, sessions
from services.api_gateway.waits import until_told
from services.contracts.callbacks import Callback, CallbackUrls, token_of
from services.contracts.ids import new_id
from services.local.reaper import Reaper
from tests.integration.gateway import ready, running_gateway, token
from tests.integration.tracker_process import tracker_process

SECONDS = os.environ.get("FUZZ_SECONDS")
AT_RANDOM = ["--max-time", SECONDS or "", "--workers", "2"]
THE_SAME = ["--generation-deterministic", "--phases", "examples,coverage,fuzzing", "--max-examples", "3"]
CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
KEY = Fernet.generate_key()
BASE_URL = "http://gateway.example"


async def briefly(look: Callable[[], Awaitable[Any]], *others: Any, seconds: float, **options: Any) -> Any:
    """Wait as until_told does, but never long: no workflow answers here."""
    return await until_told(look, *others, seconds=min(seconds, 0.2), **options)


async def resolved_at_once(host: str, port: int) -> list[str]:
    """Resolve a webhook's host without a network, whose answers come when they like."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        return ["8.8.8.8"]


def callback_token() -> str:
    now = datetime.now(UTC)
    callback = Callback(new_id(), "c-callback", "support", "ada", 1, now, now + timedelta(hours=1))
    return token_of(CallbackUrls(BASE_URL, KEY).url(callback))


@pytest.mark.timeout(int(SECONDS or 15) + 120)
async def test_every_answer_is_as_the_document_says(
    any_bootstrap: str, postgres_url: str, reaper: Reaper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_streams, "LONGEST_SECONDS", 0.2)
    for module in (sending, sessions, cleanup):
        monkeypatch.setattr(module, "until_told", briefly)
    monkeypatch.setattr(personas, "_resolve", resolved_at_once)
    settings = {
        "rate_limit_messages": 0,
        "rate_limit_reads": 0,
        "persona_secrets_key": KEY.decode(),
        "callback_base_url": BASE_URL,
    }
    with tracker_process(any_bootstrap, postgres_url, tmp_path / "tracker.log", reaper) as tracker:
        async with running_gateway(any_bootstrap, postgres_url, topics=False, **settings) as gateway:
            await ready(gateway)
            await tracker.until_ready()
            command = [Path(sys.executable).with_name("st"), "--config-file", CONFIGURATION, "run"]
            command += [f"{gateway.url}/openapi.json", "--no-color", *(AT_RANDOM if SECONDS else THE_SAME)]
            environment = {
                **os.environ,
                "ADMIN_TOKEN": token("root", admin=True, exp=4_000_000_000),
                "CALLBACK_TOKEN": callback_token(),
            }
            fuzzing = await asyncio.create_subprocess_exec(
                *command, cwd=tmp_path, env=environment, stdout=asyncio.subprocess.PIPE
            )
            told, _ = await fuzzing.communicate()
            metrics = (await gateway.http.get("/metrics")).text
    print(told.decode())
    assert fuzzing.returncode == 0, "see above what schemathesis found"
    assert 'status="500"' not in metrics
