"""Where webhooks' URLs lead: host names resolved once a connection, and only to addresses that may be called."""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable
from threading import Thread
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from services.runtime.egress import EgressRules, UrlRefused, check_url
from services.webhook_dispatcher.outcomes import NoAnswer, Trouble

RESOLVE_SECONDS = 5.0
MOST_LOOKUPS = 200
"""At the same time: each is a thread, perhaps for half a minute where a name server hangs."""

Found = list[tuple[Any, ...]]


class AddressRefused(OSError):
    """The egress rules forbid the address, or every one that a host name stands for."""


def target(rules: EgressRules, webhook_url: str) -> URL | NoAnswer:
    """Return what a call of this webhook URL connects to, or why there is none."""
    try:
        return checked(rules, webhook_url)
    except UrlRefused as refused:
        return NoAnswer(Trouble.ADDRESS_REFUSED, str(refused).rstrip("."))
    except AddressRefused:
        return NoAnswer(Trouble.ADDRESS_REFUSED)
    except ValueError:
        return NoAnswer(Trouble.ADDRESS_REFUSED, "the webhook URL cannot be read as a URL")


def checked(rules: EgressRules, url: str) -> URL:
    """Return the URL as calls take it; a host's name is left to the resolver.

    Raises ValueError where it is not a plain http(s) URL (UrlRefused says why), AddressRefused for an IP address that
    may not be called.
    """
    check_url(url)
    parsed = URL(url)
    # An IP address as host never comes to the resolver.
    host = parsed.host or ""
    if _is_ip_address(host) and not rules.allows(host):
        raise AddressRefused("The egress rules forbid this address.")
    return parsed


class CheckedResolver(AbstractResolver):
    """Resolves by the system's rules and gives out only addresses that may be called.

    The connection is made to exactly these addresses, so a name that changes in between gains nothing.
    """

    def __init__(self, rules: EgressRules) -> None:
        self._rules = rules
        self._lookups = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the allowed addresses of `host`; raise AddressRefused if it has others only, else OSError."""
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                found = await self._look_up(host, port, family)
        except TimeoutError:
            # aiohttp takes a TimeoutError for one of connecting.
            raise OSError(f"The host was not resolved within {RESOLVE_SECONDS:g} s.") from None
        families = {str(address[0]): address_family for address_family, _, _, _, address in found}
        allowed = self._rules.choose(list(families))
        if not allowed:
            raise AddressRefused("Every address of the host is forbidden by the egress rules.")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=families[address],
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in allowed
        ]

    async def close(self) -> None:
        """Hold nothing."""

    def _look_up(self, host: str, port: int, family: int) -> "asyncio.Future[Found]":
        """Ask the system in a thread of the lookup's own.

        The event loop has four threads, which a few names that hang would take from all others; and threads of a pool
        would keep a process that stops from ending.
        """
        if self._lookups >= MOST_LOOKUPS:
            raise OSError("Too many host names wait for the system's resolver.")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Found] = loop.create_future()

        def ask() -> None:
            try:
                found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                tell(future.set_exception, error)
            else:
                tell(future.set_result, found)

        def tell(settle: Callable[[Any], None], outcome: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._answered, future, settle, outcome)

        Thread(target=ask, name=f"resolve {host}", daemon=True).start()
        self._lookups += 1
        return future

    def _answered(self, future: "asyncio.Future[Found]", settle: Callable[[Any], None], outcome: object) -> None:
        self._lookups -= 1
        if not future.done():
            settle(outcome)


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
