"""Who may call what: every route against every kind of token, from the application's own table of routes."""

import time
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import jwt
import pytest
import pytest_asyncio
from cryptography.fernet import Fernet
from starlette.routing import Mount, Route

from services.api_gateway.live import open_streams
from services.api_gateway.openapi import Calls
from services.api_gateway.routes import cleanup
from services.api_gateway.scopes import Scope
from services.contracts import SessionStatus
from services.contracts.callbacks import Callback, CallbackUrls, token_of
from services.contracts.ids import new_id
from services.database.tables import audit_log, messages, sweeps
from tests.integration.access_matrix import CALLS, OPEN, Call
from tests.integration.gateway import SECRET, Gateway, named, ready, running_gateway, token
from tests.integration.live import until_current

KEY = Fernet.generate_key()
BASE_URL = "http://gateway.example"
NO_SCOPE = "insufficient-scope"
ALL_SCOPES = " ".join(Scope)


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(any_broker: str, module_postgres_url: str) -> AsyncIterator[Gateway]:
    """One gateway for all these tests."""
    settings = {
        "egress_allow_cidrs": "192.0.2.0/24",
        "callback_base_url": BASE_URL,
        "persona_secrets_key": KEY.decode(),
        "rate_limit_messages": 0,
        "rate_limit_reads": 0,
    }
    async with running_gateway(any_broker, module_postgres_url, **settings) as gateway:
        await ready(gateway)
        await until_current(gateway)
        yield gateway


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(running: Gateway, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """It, with nothing in its database, everything folded and little patience."""
    monkeypatch.setattr(cleanup, "SWEEP_SECONDS", 0.1)
    monkeypatch.setattr(open_streams, "LONGEST_SECONDS", 0.1)
    await running.empty()
    await running.folded(datetime.now(UTC) + timedelta(days=1))
    return running


def bad_tokens() -> dict[str, str | None]:
    """Each with all the rights in the world, had it been signed well and in time."""
    claims = {"sub": "ada", "roles": ["ADMIN"], "exp": time.time() + 600}
    return {
        "no token": None,
        "expired": token(admin=True, exp=time.time() - 1),
        "wrong key": token(admin=True, secret="another-secret-of-more-than-32-bytes"),
        "alg none": jwt.encode(claims, None, algorithm="none"),
    }


def service(user: str, scope: str, *, admin: bool = False) -> str:
    """The token of a service that acts for a user."""
    return token(user, admin=admin, act={"sub": "billing"}, scope=scope)


def expectations(call: Call) -> list[tuple[str, str, int | str]]:
    """Every good token, and the status of the answer to it, or the code of its 403."""
    others = " ".join(scope for scope in Scope if scope is not call.scope)
    return [
        ("owner", token("ada"), call.owner),
        ("other user", token("bob"), call.other),
        ("admin", token("root", admin=True), call.admin),
        ("service without scope", service("ada", ""), NO_SCOPE),
        ("service with every other scope", service("ada", others), NO_SCOPE),
        ("service with every other scope, for an admin", service("root", others, admin=True), NO_SCOPE),
        ("service for the owner", service("ada", call.scope), call.owner),
        ("service for another user", service("bob", ALL_SCOPES), call.other),
        ("service for an admin", service("root", call.scope, admin=True), call.admin),
        ("narrowed token of the owner", token("ada", scope=f"openid {call.scope}"), call.owner),
        ("token of the owner, narrowed to others", token("ada", scope=others), NO_SCOPE),
        ("token of the owner with words of a login", token("ada", scope="openid profile"), call.owner),
    ]


class World:
    """What paths may name."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.ids: dict[str, str] = {}

    async def fill(self) -> UUID:
        """Make everything anew; return ada's session, which has ended as CANCELLED."""
        ended = {"status": SessionStatus.CANCELLED, "conversation_id": f"c-{new_id()}", "ended_at": datetime.now(UTC)}
        session_id, sweep_id = await self.gateway.add_session(**ended), new_id()
        now = datetime.now(UTC)
        said = {"id": new_id(), "chat_session_id": session_id, "role": "user", "created_at": now, "content": "hi"}
        await self.gateway.execute(messages.insert().values(said))
        sweep = {"sweep_id": sweep_id, "requested_by": "root", "as_of": now, "max_age_hours": 1, "dry_run": True}
        await self.gateway.execute(sweeps.insert().values(sweep))
        callback = Callback(session_id, "c-1", "echo", "ada", 1, now, now + timedelta(minutes=1))
        await self.call("PUT", "/api/personas/p", token("root", admin=True), {"webhookUrl": "https://192.0.2.1/w"})
        await self.call("PUT", "/api/templates/t", token("root", admin=True), {"personaId": "p"})
        await self.call(
            "POST",
            f"/api/conversations/{ended['conversation_id']}/messages",
            token("ada"),
            {"personaId": "echo", "message": "hi"},
        )
        bulk = {"action": "cancel", "ids": [str(session_id)], "dryRun": True}
        job = await self.call("POST", "/api/chat-sessions/bulk", token("root", admin=True), bulk)
        erasure = await self.call("DELETE", "/api/users/carol/data", token("root", admin=True))
        self.ids = {
            "erasure": erasure.json()["erasureId"],
            "job": job.json()["jobId"],
            "session": str(session_id),
            "conversation": str(ended["conversation_id"]),
            "sweep": str(sweep_id),
            "persona": "p",
            "template": "t",
            "callback": token_of(CallbackUrls(BASE_URL, KEY).url(callback)),
        }
        return session_id

    async def call(
        self, method: str, path: str, bearer: str | None, body: Mapping[str, Any] | None = None
    ) -> httpx.Response:
        headers = {} if bearer is None else {"authorization": f"Bearer {bearer}"}
        return await self.gateway.http.request(method, path.format_map(self.ids), headers=headers, json=body)


def routes(gateway: Gateway) -> set[tuple[str, str]]:
    """Every method and path that the gateway serves."""
    served = set()
    for route in gateway.app.routes:
        assert isinstance(route, Route | Mount), route
        methods = set(route.endpoints if isinstance(route, Calls) else getattr(route, "methods", None) or {"GET"})
        path = route.path if isinstance(route, Mount) else route.path_format
        served |= {(method, path) for method in methods - {"HEAD"}}
    return served


async def test_every_route_has_its_row(gateway: Gateway) -> None:
    assert routes(gateway) == CALLS.keys() | OPEN.keys()


@pytest.mark.parametrize("key", CALLS, ids=" ".join)
async def test_the_access_matrix(gateway: Gateway, key: tuple[str, str]) -> None:
    call, (method, _) = CALLS[key], key
    world = World(gateway)
    session_id = await world.fill()
    for who, bearer in bad_tokens().items():
        answer = await world.call(method, call.path, bearer, call.body)
        code = "token-missing" if bearer is None else "invalid-token"
        assert (answer.status_code, answer.json()["code"]) == (401, code), who
        assert answer.headers["www-authenticate"].startswith("Bearer")
    for who, bearer, expected in expectations(call):
        if method == "DELETE":
            await world.fill()
        answer = await world.call(method, call.path, bearer, call.body)
        told = answer.json()["code"] if answer.status_code == 403 else answer.status_code
        assert told == ("admin-only" if expected == 403 else expected), (who, answer.text)
        if "other user" in who or "another user" in who:
            assert answer.status_code == 404 or str(session_id) not in answer.text, "nobody sees another's session"


@pytest.mark.parametrize("key", OPEN, ids=" ".join)
async def test_what_is_open_is_so_to_everyone(gateway: Gateway, key: tuple[str, str]) -> None:
    path, expected = OPEN[key]
    world = World(gateway)
    await world.fill()
    body = {"reply": "hi"} if key[0] == "POST" else None
    for who, bearer in {**bad_tokens(), "owner": token("ada")}.items():
        assert (await world.call(key[0], path, bearer, body)).status_code == expected, who
    assert (await world.call(key[0], "/api/callbacks/forged", None, body)).status_code in {404, 405}


async def test_the_document_names_the_scope_of_every_call(gateway: Gateway) -> None:
    document = (await gateway.http.get("/openapi.json")).json()
    told = {
        (method.upper(), path): call["security"]
        for path, methods in document["paths"].items()
        for method, call in methods.items()
    }
    assert told == {
        **{key: [{"bearer": [call.scope]}] for key, call in CALLS.items()},
        ("POST", "/api/callbacks/{token}"): [],
    }
    assert all(scope in document["components"]["securitySchemes"]["bearer"]["description"] for scope in Scope)


async def test_a_refusal_says_which_scope_is_missing(gateway: Gateway) -> None:
    answer = await World(gateway).call("GET", "/api/chat-sessions", service("ada", "stats:read"))
    assert answer.headers["www-authenticate"] == 'Bearer error="insufficient_scope", scope="sessions:read"'


@pytest.mark.parametrize(
    "claims",
    [{"act": "billing"}, {"act": {}}, {"act": {"sub": 1}}, {"act": {"sub": ""}}, {"act": None}, {"scope": ["a"]}],
    ids=str,
)
async def test_claims_that_are_not_as_their_standard_says_are_refused(gateway: Gateway, claims: dict[str, Any]) -> None:
    answer = await World(gateway).call("GET", "/api/chat-sessions", token("ada", **claims))
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid-token")


async def test_a_token_does_not_widen_the_rights_of_its_user(gateway: Gateway) -> None:
    for bearer in (service("ada", ALL_SCOPES), token("ada", scope=ALL_SCOPES)):
        answer = await World(gateway).call("GET", "/api/personas", bearer)
        assert (answer.status_code, answer.json()["code"]) == (403, "admin-only")
        assert answer.json()["detail"] == "Only a token with the role ADMIN may list personas."


async def test_services_and_admins_stand_in_the_audit_log_by_name_and_users_do_not(
    any_broker: str, postgres_url: str
) -> None:
    # One of its own: of refusals that are alike only the first has an entry.
    async with running_gateway(any_broker, postgres_url) as gateway:
        await ready(gateway)
        world = World(gateway)
        await world.call("GET", "/api/personas", token("ada"))
        await world.call("GET", "/api/personas", service("ada", ALL_SCOPES))
        await world.call("GET", "/api/audit", token("root", admin=True, scope="stats:read"))
        rows = await gateway.rows(audit_log)
    told = [
        (row.actorKind, row.actor, row.action, row.outcome, row.address, row.details)
        for row in sorted(rows, key=lambda row: row.at)
    ]
    assert told == [
        ("user", named("ada"), "persona.list", "refused", None, {"why": "admin-only"}),
        ("service", "billing", "persona.list", "refused", "127.0.0.1", {"why": "admin-only", "for": named("ada")}),
        ("admin", "root", "audit.read", "refused", "127.0.0.1", {"why": "insufficient-scope"}),
    ]
    assert SECRET not in str(told)
