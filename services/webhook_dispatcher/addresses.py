"""Where webhooks' host names lead: resolved once a connection, and only to addresses that may be called."""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor

from aiohttp.abc import AbstractResolver, ResolveResult

from services.runtime.egress import EgressRules

RESOLVE_SECONDS = 5.0
THREADS = 64
"""The system's resolver blocks, perhaps for half a minute: the event loop's few threads would all hang on one host."""


class AddressRefused(OSError):
    """Every address that a host name stands for is one that the egress rules forbid."""


class CheckedResolver(AbstractResolver):
    """Resolves by the system's rules and gives out only addresses that may be called.

    The connection is made to exactly these addresses, so a name that changes in between gains nothing.
    """

    def __init__(self, rules: EgressRules) -> None:
        self._rules = rules
        self._threads = ThreadPoolExecutor(THREADS, "resolver")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the allowed addresses of `host`; raise AddressRefused if it has others only, else OSError."""
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                found = await asyncio.get_running_loop().run_in_executor(
                    self._threads, socket.getaddrinfo, host, port, family, socket.SOCK_STREAM
                )
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
        """Take no more names; what hangs is left alone."""
        self._threads.shutdown(wait=False, cancel_futures=True)
