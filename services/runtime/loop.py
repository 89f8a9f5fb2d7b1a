"""The event loop of every process."""

from typing import Any

import uvloop

GOODBYE_SECONDS = 1.0
"""For the other side to end TLS as well, once a connection is closed."""


class Loop(uvloop.Loop):
    """uvloop's, with connections over TLS that are closed soon.

    Kafka, busy with a fetch, does not always say goodbye: each client would wait uvloop's 30 s for it when it stops.
    """

    async def create_connection(self, *arguments: Any, **options: Any) -> Any:
        """As uvloop's; with `ssl`, closing takes GOODBYE_SECONDS at most unless the caller says otherwise."""
        if options.get("ssl"):
            options.setdefault("ssl_shutdown_timeout", GOODBYE_SECONDS)
        return await super().create_connection(*arguments, **options)
