"""Refuses what would be too much, ends what takes too long, and counts what streams and waits as no work."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api_gateway.load import PLACE, Load, Place
from services.api_gateway.metrics import GatewayMetrics
from services.api_gateway.problems import Problem, problem_response

WORK_SECONDS = 45.0
"""For one request, waits and streams not counted: longer than all that it may wait for in Kafka and PostgreSQL."""
_ALWAYS_SERVED = ("/health/", "/metrics")


class Shedding:
    """ASGI middleware before every route; health and metrics are always served."""

    def __init__(self, app: ASGIApp, load: Load, metrics: GatewayMetrics) -> None:
        self._app = app
        self._load = load
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 503."""
        if scope["type"] != "http" or scope["path"].startswith(_ALWAYS_SERVED):
            await self._app(scope, receive, send)
            return
        if self._load.is_full:
            self._metrics.shed.inc()
            await problem_response(_overloaded(), scope)(scope, receive, send)
            return
        has_begun = False

        async def send_and_see(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            if message["type"] == "http.response.start":
                await send(message)
                return
            if message.get("more_body"):
                place.leave()
            # Until a client that reads slowly has made room.
            await place.rest_for(send(message))

        async def rest_and_receive() -> Message:
            return await place.rest_for(receive())

        place = Place(self._load, WORK_SECONDS)
        try:
            with place:
                token = PLACE.set(place)
                try:
                    await self._app(scope, rest_and_receive, send_and_see)
                finally:
                    PLACE.reset(token)
        except TimeoutError:
            if has_begun or not place.is_over:
                raise
            await problem_response(_too_slow(), scope)(scope, receive, send)


def _overloaded() -> Problem:
    return Problem(
        503,
        "overloaded",
        "The gateway has as much work in hand as it can do in good time; nothing was done. Try again.",
        headers={"retry-after": "1"},
    )


def _too_slow() -> Problem:
    return Problem(
        503,
        "too-slow",
        f"The request was not done within {WORK_SECONDS:.0f} s; whether it will have an effect is unknown.",
        headers={"retry-after": "5"},
    )
