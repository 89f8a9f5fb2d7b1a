"""Tokens verified with the public keys of an identity provider."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jwt
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.api_gateway.auth import Authenticator
from services.api_gateway.jwks import STALE_SECONDS, UNKNOWN_KEY_SECONDS, KeySet
from services.api_gateway.metrics import GatewayMetrics
from services.api_gateway.problems import Problem
from services.runtime.ops import http_server

RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
OTHER_EC_KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC: dict[str, dict[str, Any]] = {
    "r": {**json.loads(RSAAlgorithm.to_jwk(RSA_KEY.public_key())), "kid": "r", "use": "sig"},
    "e": {**json.loads(ECAlgorithm.to_jwk(EC_KEY.public_key())), "kid": "e"},
    "d": {**json.loads(OKPAlgorithm.to_jwk(ED_KEY.public_key())), "kid": "d"},
    "x": {**json.loads(RSAAlgorithm.to_jwk(RSA_KEY.public_key())), "kid": "x", "use": "enc"},
    "s": {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA", "kid": "s", "alg": "HS256"},
    "?": {"kty": "unheard-of", "kid": "?"},
}


class Provider:
    """An identity provider on this machine."""

    def __init__(self) -> None:
        self.kids = list(PUBLIC)
        self.fetches = 0
        self.is_broken = False
        self.url = ""

    async def keys(self, _: Request) -> Response:
        self.fetches += 1
        return Response("oops", 500) if self.is_broken else JSONResponse({"keys": [PUBLIC[kid] for kid in self.kids]})


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    provider = Provider()
    server: uvicorn.Server = http_server(Starlette(routes=[Route("/keys", provider.keys)]), "127.0.0.1", 0)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    provider.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/keys"
    yield provider
    server.should_exit = True
    await serving


@contextlib.asynccontextmanager
async def authenticator(provider: Provider, registry: CollectorRegistry | None = None) -> AsyncIterator[Authenticator]:
    metrics = GatewayMetrics(registry or CollectorRegistry())
    keys = KeySet(provider.url, httpx.AsyncClient(trust_env=False), metrics.signing_keys_up)
    yield Authenticator(keys, issuer=None, audience=None)
    await keys.close()


def signed(key: Any, algorithm: str, kid: str | None, user: str = "ada") -> str:
    claims = {"sub": user, "exp": time.time() + 3600}
    return "Bearer " + jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid} if kid else None)


async def code_of(authenticator: Authenticator, token: str, now: float) -> str:
    with pytest.raises(Problem) as refused:
        await authenticator.caller(token, now)
    return refused.value.code


async def test_each_kind_of_key_verifies_its_own_algorithm_only(provider: Provider) -> None:
    now = time.time()
    async with authenticator(provider) as who:
        for key, algorithm, kid in [(RSA_KEY, "RS256", "r"), (EC_KEY, "ES256", "e"), (ED_KEY, "EdDSA", "d")]:
            assert (await who.caller(signed(key, algorithm, kid), now)).user_id == "ada"
        secret = "secret-secret-secret-secret-secret"
        for token in [
            signed(RSA_KEY, "RS256", "e"),
            signed(RSA_KEY, "PS256", "r"),
            signed(OTHER_EC_KEY, "ES256", "e"),
            signed(RSA_KEY, "RS256", "x"),
            signed(secret, "HS256", "s"),
            signed(secret, "HS256", "r"),
            signed(RSA_KEY, "RS256", None),
        ]:
            assert await code_of(who, token, now) == "invalid-token"
        assert provider.fetches == 1


async def test_an_unknown_key_is_fetched_for_but_not_all_the_time(provider: Provider) -> None:
    provider.kids = ["r"]
    now = time.time()
    async with authenticator(provider) as who:
        await who.caller(signed(RSA_KEY, "RS256", "r"), now)
        provider.kids = ["r", "e"]
        token = signed(EC_KEY, "ES256", "e")
        for _ in range(5):
            assert await code_of(who, token, now + 1) == "invalid-token"
        assert provider.fetches == 1
        assert (await who.caller(token, now + UNKNOWN_KEY_SECONDS + 1)).user_id == "ada"
        assert provider.fetches == 2


async def test_a_withdrawn_key_stops_working(provider: Provider) -> None:
    now = time.time()
    async with authenticator(provider) as who:
        token = signed(EC_KEY, "ES256", "e")
        await who.caller(token, now)
        provider.kids = ["r"]
        assert await code_of(who, token, now + STALE_SECONDS + 1) == "invalid-token"


async def test_without_any_keys_the_answer_is_503_and_old_ones_outlive_an_outage(provider: Provider) -> None:
    now = time.time()
    token = signed(RSA_KEY, "RS256", "r")
    provider.is_broken = True
    registry = CollectorRegistry()

    def up() -> float | None:
        return registry.get_sample_value("chat_signing_keys_up")

    async with authenticator(provider, registry) as who:
        assert up() == 1  # nobody has asked for any yet
        assert await code_of(who, token, now) == "keys-not-available"
        assert up() == 0
        provider.is_broken = False
        now += UNKNOWN_KEY_SECONDS
        await who.caller(token, now)
        assert up() == 1
        provider.is_broken = True
        assert (await who.caller(token, now + STALE_SECONDS + 1)).user_id == "ada"
        assert up() == 0
