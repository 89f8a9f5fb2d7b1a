"""Who may call, and how errors, documents and metrics look."""

import asyncio
import gzip
import json
import re
import time
from pathlib import Path

import jwt
import pytest

from services.api_gateway.answer_models import ProblemDetails
from services.contracts import MessageSent
from services.contracts.topics import MESSAGES
from tests.integration.gateway import ADA, BOB, ROOT, SECRET, Gateway, ready, running_gateway, token

pytestmark = pytest.mark.asyncio(loop_scope="module")


def refused_tokens() -> dict[str, str]:
    claims = {"sub": "ada", "roles": ["ADMIN"], "exp": time.time() + 600}
    without_exp = {"sub": "ada"}
    unsigned = jwt.encode(claims, None, algorithm="none")
    return {
        "expired": token(exp=time.time() - 1),
        "wrong key": token(secret="another-secret-of-more-than-32-bytes"),
        "alg none": unsigned,
        "alg none, signature kept": unsigned + token().rpartition(".")[2],
        "HS512": jwt.encode(claims, SECRET * 2, algorithm="HS512"),
        "no exp": jwt.encode(without_exp, SECRET, algorithm="HS256"),
        "no sub": jwt.encode({"exp": claims["exp"]}, SECRET, algorithm="HS256"),
        "empty sub": token(""),
        "long sub": token("u" * 129),
        "sub with U+0000": token("u\0"),
        "not yet": token(nbf=time.time() + 60),
        "exp beyond numbers": token(exp=10**400),
        "nonsense": "nonsense",
        "huge": "x" * 10_000,
    }


async def test_a_call_without_a_good_token_is_401(gateway: Gateway) -> None:
    for why, bad in refused_tokens().items():
        answer = await gateway.http.get("/api/chat-sessions", headers={"authorization": f"Bearer {bad}"})
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid-token"), why
        assert bad not in answer.text
    basic = await gateway.http.get("/api/chat-sessions", headers={"authorization": "Basic YTpi"})
    assert basic.status_code == 401


async def test_a_token_stops_working_when_it_expires(gateway: Gateway) -> None:
    short = {"authorization": f"Bearer {token(exp=time.time() + 1.5)}"}
    assert (await gateway.get("/api/chat-sessions", short)).status_code == 200
    give_up = time.time() + 10
    while (answer := await gateway.get("/api/chat-sessions", short)).status_code == 200:
        assert time.time() < give_up
        await asyncio.sleep(0.02)  # an idle machine would reach the limit of requests first
    assert "expired" in answer.json()["detail"]


async def test_only_a_list_of_roles_makes_an_admin(gateway: Gateway) -> None:
    for roles in (["USER"], ["admin"], "ADMIN", {"ADMIN": True}, None):
        headers = {"authorization": f"Bearer {token(roles=roles)}"}
        answer = await gateway.get("/api/personas", headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "admin-only"), roles


async def test_issuer_and_audience_are_asked_for_where_they_are_set(any_broker: str, postgres_url: str) -> None:
    async with running_gateway(any_broker, postgres_url, jwt_issuer="us", jwt_audience="chat") as gateway:
        for claims, status in [
            ({"iss": "us", "aud": "chat"}, 200),
            ({"iss": "us", "aud": ["x", "chat"]}, 200),
            ({"iss": "us"}, 401),
            ({"aud": "chat"}, 401),
            ({"iss": "them", "aud": "chat"}, 401),
        ]:
            headers = {"authorization": f"Bearer {token(**claims)}"}
            assert (await gateway.get("/api/chat-sessions", headers)).status_code == status, claims


async def test_reads_are_limited_per_user(any_broker: str, postgres_url: str) -> None:
    async with running_gateway(any_broker, postgres_url, rate_limit_reads=2) as gateway:
        statuses = [(await gateway.get("/api/chat-sessions")).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert (await gateway.get("/api/chat-sessions", BOB)).status_code == 200


async def test_every_error_is_a_problem(gateway: Gateway) -> None:
    for answer, status, code in [
        (await gateway.get("/nowhere"), 404, "no-such-route"),
        (await gateway.get("/api/chat-sessions/"), 404, "no-such-route"),
        (await gateway.http.delete("/api/chat-sessions", headers=ADA), 405, "method-not-allowed"),
        (await gateway.http.post("/api/personas/p", headers=ROOT), 405, "method-not-allowed"),
    ]:
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert ProblemDetails.model_validate(answer.json()).code == code
    for path, allowed in [
        ("/api/chat-sessions", "GET"),
        ("/api/personas/p", "PUT, GET, DELETE"),
        ("/api/chat-sessions/cleanup", "POST"),
    ]:
        answer = await gateway.http.patch(path, headers=ROOT)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
        assert answer.json()["detail"] == f"This address takes {allowed.replace(', ', ' or ')}, not PATCH."
    assert (await gateway.get("/api/chat-sessions/cleanup", ROOT)).status_code == 405
    assert (await gateway.http.head("/api/chat-sessions", headers=ADA)).status_code == 200


async def test_no_other_site_may_read_answers(gateway: Gateway) -> None:
    answer = await gateway.get("/api/chat-sessions", {**ADA, "origin": "https://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_the_document_tells_every_call_with_an_example(gateway: Gateway) -> None:
    document = (await gateway.http.get("/openapi.json")).json()
    calls = {
        (method.upper(), path): call for path, methods in document["paths"].items() for method, call in methods.items()
    }
    for (method, path), call in calls.items():
        assert {p["name"] for p in call["parameters"] if p["in"] == "path"} == {
            part[1:-1] for part in path.split("/") if part.startswith("{")
        }
        best = call["responses"][min(call["responses"])]
        assert method == "DELETE" or all("example" in shown for shown in best["content"].values()), path
        if "requestBody" in call:
            assert {"example", "examples"} & call["requestBody"]["content"]["application/json"].keys()
    assert re.findall(r"\b(?:he|him|his|himself)\b", json.dumps(document), re.IGNORECASE) == []
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert {path for _, path in calls if f"{path}`" not in readme} == set()
    known = set(document["components"]["schemas"])
    assert {
        ref.partition('"')[0] for ref in (str(document).replace("'", '"')).split("#/components/schemas/")[1:]
    } <= known


async def test_the_docs_need_no_other_site(gateway: Gateway) -> None:
    page = await gateway.http.get("/docs")
    assert page.status_code == 200
    assert "https://" not in page.text
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert asset in page.text
        assert (await gateway.http.get(f"/static-offline-docs/{asset}")).status_code == 200


async def test_metrics_count_by_template_and_not_by_path(any_broker: str, postgres_url: str) -> None:
    async with running_gateway(any_broker, postgres_url) as gateway:
        await ready(gateway)
        await gateway.get("/api/chat-sessions/nonsense")
        await gateway.get("/some/random/path")
        await gateway.send("c-metrics")
        text = (await gateway.http.get("/metrics")).text
    assert 'chat_http_requests_total{method="GET",route="/api/chat-sessions/{sessionId}",status="404"} 1.0' in text
    assert 'chat_http_requests_total{method="any",route="unknown",status="404"} 1.0' in text
    assert "chat_messages_accepted_total 1.0" in text
    assert "chat_publish_seconds_count 1.0" in text
    assert "random" not in text


async def test_health_tells_that_the_gateway_can_publish(gateway: Gateway) -> None:
    assert (await gateway.http.get("/health/live")).json() == {"status": "live"}
    assert (await gateway.http.get("/health/ready")).json() == {"status": "ready", "problems": {}}


async def test_only_trusted_proxies_say_whose_message_it_is(any_broker: str, postgres_url: str) -> None:
    async with running_gateway(any_broker, postgres_url, trusted_proxies="127.0.0.0/8") as gateway:
        await ready(gateway)
        async with gateway.log_of(MESSAGES, "c-proxied") as log:
            headers = {**ADA, "x-forwarded-for": "198.51.100.1, 203.0.113.9"}
            await gateway.send("c-proxied", headers)
            event = await log.next()
        assert isinstance(event, MessageSent)
        assert event.metadata["ipAddress"] == "203.0.113.9"


async def test_a_body_that_is_missing_or_compressed_is_told_so(gateway: Gateway) -> None:
    path = "/api/conversations/c-1/messages"
    missing = await gateway.http.post(path, headers=ADA)
    assert missing.json()["errors"] == [{"field": "body", "message": "It is missing: send a JSON object."}]
    packed = await gateway.http.post(path, headers={**ADA, "content-encoding": "gzip"}, content=gzip.compress(b"{}"))
    assert (packed.status_code, packed.json()["code"]) == (415, "unsupported-encoding")
    assert packed.headers["accept-encoding"] == "identity"
