"""`POST /api/callbacks/{token}`: a workflow that only acknowledged a message posts its reply."""

from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response

from services.api_gateway.answers import answer
from services.api_gateway.callbacks import read_callback, result_of
from services.api_gateway.documentation.sessions import POST_CALLBACK
from services.api_gateway.limiting import Limiter
from services.api_gateway.parameters import Query, read_body
from services.api_gateway.problems import Problem
from services.api_gateway.publishing import Publisher
from services.api_gateway.traces import traceparent_of
from services.contracts import admit
from services.contracts.callbacks import PATH, Callback, CallbackUrls
from services.contracts.replies import NoReply
from services.runtime.kafka import NotAcknowledged

MAX_CALLBACK_BYTES = 512 * 1024
"""The largest reply, and room for the JSON around it, as of a webhook's answer."""
CALLBACKS_A_MINUTE = 60
"""Of one session."""


class CallbackRoutes:
    """Takes replies by callback, also while PostgreSQL is away. The token is the authority: it is never told on."""

    def __init__(self, urls: CallbackUrls | None, publisher: Publisher, limit: Limiter) -> None:
        """Take callbacks within the limit of each session."""
        self._urls = urls
        self._publisher = publisher
        self._limit = limit

    def router(self) -> APIRouter:
        """Return the route."""
        router = APIRouter()
        router.add_api_route(f"{PATH}{{token}}", self.take, methods=["POST"], **POST_CALLBACK)
        return router

    async def take(self, request: Request) -> Response:
        """Publish the reply, or the failure that the workflow reports; 202 once Kafka has it."""
        token = request.path_params["token"]
        callback = self._callback(token)
        await self._limit.count(request, str(callback.session_id))
        Query(request)
        _require_in_time(callback, datetime.now(UTC))
        body = await read_body(request, most=MAX_CALLBACK_BYTES)
        posted = read_callback(body, request.headers.get("content-type"), token=token)
        if isinstance(posted, NoReply):
            raise Problem(400, posted.kind, f"{posted.explanation} Nothing was changed: post the reply again.")
        now = datetime.now(UTC)
        _require_in_time(callback, now)
        event = result_of(callback, posted, now)
        admit(event, now)
        try:
            await self._publisher.publish(event, parent=traceparent_of(request.scope))
        except NotAcknowledged as error:
            raise Problem(
                503,
                "not-acknowledged",
                f"{error} The outcome is unknown: post the same again, repeats count once.",
                headers={"retry-after": "5"},
            ) from error
        return answer({"sessionId": callback.session_id}, 202)

    def _callback(self, token: str) -> Callback:
        callback = self._urls.read(token) if self._urls is not None else None
        if callback is None:
            raise Problem(404, "no-such-callback", "This is not a callback URL: use the one of the message's own body.")
        return callback


def _require_in_time(callback: Callback, now: datetime) -> None:
    if now > callback.deadline_at:
        raise Problem(
            410,
            "callback-expired",
            f"The reply was due by {callback.deadline_at:%Y-%m-%d %H:%M:%S} UTC and is taken no more: "
            "raise the persona's callbackSeconds if its workflow needs longer.",
        )
