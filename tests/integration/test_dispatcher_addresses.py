"""Which addresses are connected to: what a host's name stands for is asked once, checked, and then called."""

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from services.runtime.egress import EgressRules
from services.webhook_dispatcher import addresses
from services.webhook_dispatcher.n8n import N8n
from services.webhook_dispatcher.outcomes import NoAnswer, Trouble
from tests.integration.calling import LOCAL, call, call_with
from tests.integration.webhook_server import webhook_server

ONE = EgressRules.parse(["127.0.0.1/32"])


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Gives a name its addresses, answer after answer, and the list of what was asked."""

    def resolves_to(*answers: list[str]) -> list[str]:
        asked: list[str] = []
        real = socket.getaddrinfo

        def getaddrinfo(host: Any, port: Any, *more: Any) -> list[Any]:
            if host != "n8n.example":
                return real(host, port, *more)
            addresses = answers[min(len(asked), len(answers) - 1)]
            asked.append(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return resolves_to


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "localhost", "2130706433", "0x7f.1", "127.1", "LOCALHOST"]
)
async def test_an_address_of_this_machine_is_refused_however_it_is_written(host: str) -> None:
    async with webhook_server() as webhook:
        exchange = await call(f"http://{host}:{webhook.port}/", rules=EgressRules())
    assert isinstance(exchange.outcome, NoAnswer)
    assert exchange.outcome.trouble is Trouble.ADDRESS_REFUSED
    assert exchange.course.connect_ms is None
    assert webhook.calls == []


async def test_a_name_is_connected_to_only_where_it_may_be() -> None:
    async with webhook_server() as webhook:
        exchange = await call(webhook.url("p1", host="localhost"), rules=ONE)
    assert exchange.status == 200
    assert webhook.calls[0].headers["host"] == f"localhost:{webhook.port}"


async def test_of_several_addresses_only_the_allowed_are_tried(names: Callable[..., list[str]]) -> None:
    names(["127.0.0.2", "127.0.0.1", "10.0.0.1"])
    async with webhook_server() as webhook:
        exchange = await call(webhook.url("p1", host="n8n.example"), rules=ONE)
    assert exchange.status == 200


async def test_a_name_that_stands_for_a_private_address_is_refused(names: Callable[..., list[str]]) -> None:
    names(["10.0.0.1", "169.254.169.254"])
    exchange = await call("http://n8n.example/webhook/p1", rules=ONE)
    assert exchange.outcome == NoAnswer(Trouble.ADDRESS_REFUSED)


async def test_rebinding_gains_nothing(names: Callable[..., list[str]]) -> None:
    # An allowed address for the one who checks, a forbidden one from then on: asked once, the first is connected to.
    asked = names(["127.0.0.1"], ["127.0.0.2"])
    async with webhook_server() as webhook, webhook_server() as another, N8n(ONE) as n8n:
        first = await call_with(n8n, webhook.url("p1", host="n8n.example"))
        assert (first.status, asked) == (200, ["n8n.example"])
        # A connection to another port resolves anew.
        second = await call_with(n8n, another.url("p1", host="n8n.example"))
    assert second.outcome == NoAnswer(Trouble.ADDRESS_REFUSED)
    assert len(asked) == 2
    assert another.calls == []


async def test_a_name_that_the_system_cannot_tell_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(addresses, "RESOLVE_SECONDS", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: released.wait(20) or [])
    try:
        exchange = await call("http://n8n.example/", seconds=10)
    finally:
        released.set()
    assert exchange.outcome == NoAnswer(Trouble.NOT_RESOLVED)


async def test_names_that_hang_do_not_hold_up_others(monkeypatch: pytest.MonkeyPatch) -> None:
    released, real = threading.Event(), socket.getaddrinfo

    def getaddrinfo(host: Any, *more: Any) -> list[Any]:
        if host != "localhost":
            released.wait(20)
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return real(host, *more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with webhook_server() as webhook, N8n(LOCAL) as n8n:
        hanging = [asyncio.create_task(call_with(n8n, f"http://{number}.example/", seconds=20)) for number in range(20)]
        try:
            assert (await call_with(n8n, webhook.url("p1", host="localhost"))).status == 200
            assert not any(calling.done() for calling in hanging)
        finally:
            released.set()
            exchanges = await asyncio.gather(*hanging)
    assert {exchange.outcome for exchange in exchanges} == {NoAnswer(Trouble.NOT_RESOLVED)}


async def test_a_host_that_does_not_resolve() -> None:
    exchange = await call("http://nowhere.invalid/")
    assert exchange.outcome == NoAnswer(Trouble.NOT_RESOLVED)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "http://", "http://user:secret@127.0.0.1/", "http://[::1/"])
async def test_a_url_that_must_not_be_called(url: str) -> None:
    exchange = await call(url, rules=LOCAL)
    assert isinstance(exchange.outcome, NoAnswer)
    assert exchange.outcome.trouble is Trouble.ADDRESS_REFUSED
    assert "secret" not in exchange.outcome.detail
