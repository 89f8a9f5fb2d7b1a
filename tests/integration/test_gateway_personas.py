"""Setting up personas: what is kept, what is hidden, and which addresses are refused."""

import base64
import json
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from cryptography.fernet import Fernet

from services.api_gateway.answer_models import Persona
from services.database.tables import audit_log, personas
from tests.integration.gateway import ADA, ROOT, Gateway, named, running_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = Fernet.generate_key()
PUBLIC = "https://192.0.2.1/webhook/x"
# 192.0.2.0/24 is for documentation and not global; the operator allows it here, and part of this machine.
ALLOWED = "192.0.2.0/24, 127.7.0.0/16"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(any_broker: str, module_postgres_url: str) -> AsyncIterator[Gateway]:
    """One gateway for all these tests."""
    async with running_gateway(
        any_broker, module_postgres_url, persona_secrets_key=KEY.decode(), egress_allow_cidrs=ALLOWED
    ) as gateway:
        yield gateway


async def put(gateway: Gateway, persona_id: str = "support", **body: object) -> "tuple[int, dict[str, object]]":
    answer = await gateway.http.put(f"/api/personas/{persona_id}", headers=ROOT, json={"webhookUrl": PUBLIC, **body})
    return answer.status_code, answer.json()


async def test_a_persona_is_made_told_replaced_and_deleted(gateway: Gateway) -> None:
    status, made = await put(
        gateway,
        timeoutSeconds=300,
        maxAttempts=5,
        deadlineSeconds=600,
        idempotent=True,
        firstByteSeconds=20,
        idleSeconds=2.5,
    )
    assert status == 200
    Persona.model_validate(made)
    path = "/api/personas/support"
    assert (await gateway.get(path, ROOT)).json() == made
    assert (made["timeoutSeconds"], made["maxAttempts"], made["idempotent"], made["hasAuth"]) == (300, 5, True, False)
    assert (made["firstByteSeconds"], made["idleSeconds"]) == (20, 2.5)
    _, replaced = await put(gateway)
    assert (replaced["firstByteSeconds"], replaced["idleSeconds"]) == (None, None)
    assert (replaced["timeoutSeconds"], replaced["maxAttempts"], replaced["deadlineSeconds"]) == (10, 3, 60)
    assert replaced["idempotent"] is False
    assert replaced["createdAt"] == made["createdAt"]
    assert [item["personaId"] for item in (await gateway.get("/api/personas", ROOT)).json()["items"]] == ["support"]
    assert (await gateway.http.delete(path, headers=ROOT)).status_code == 204
    assert (await gateway.http.delete(path, headers=ROOT)).status_code == 404
    gone = await gateway.get(path, ROOT)
    assert (gone.status_code, gone.json()["code"]) == (404, "no-such-persona")
    assert [entry.action for entry in await gateway.rows(audit_log)] == ["persona.put", "persona.put", "persona.delete"]


async def test_a_key_of_n8ns_api_is_kept_secret_and_its_address_checked(gateway: Gateway) -> None:
    status, made = await put(gateway, n8nApiKey="s3cret-key")
    assert (status, made["hasN8nApiKey"], made["n8nApiUrl"]) == (200, True, "https://192.0.2.1/api/v1")
    Persona.model_validate(made)
    assert "s3cret" not in json.dumps(made) + (await gateway.get("/api/personas/support", ROOT)).text
    [row] = await gateway.rows(personas)
    assert json.loads(Fernet(KEY).decrypt(row.n8nApiKey)) == "s3cret-key"
    elsewhere = {"webhookUrl": "https://192.0.2.1/hooks/x", "n8nApiKey": "k"}
    for body, n8n_api_url in [
        ({"webhookUrl": "https://192.0.2.1:8443/n8n/webhook/a/webhook/b", "n8nApiKey": "k"}, ":8443/n8n/api/v1"),
        ({**elsewhere, "n8nApiUrl": "https://192.0.2.1/n8n/api/v1"}, "/n8n/api/v1"),
    ]:
        assert (await put(gateway, **body))[1]["n8nApiUrl"] == f"https://192.0.2.1{n8n_api_url}"
    for wrong, code in [
        (elsewhere, "invalid-body"),
        ({**elsewhere, "n8nApiUrl": "http://10.0.0.1/api/v1"}, "address-refused"),
        ({**elsewhere, "n8nApiUrl": "ftp://192.0.2.1"}, "invalid-body"),
        ({"n8nApiKey": "a\r\nHost: evil"}, "invalid-body"),
    ]:
        status, refused = await put(gateway, **wrong)
        assert (status, refused["code"]) == (400, code), wrong
    assert (await put(gateway))[1]["n8nApiUrl"] is None


async def test_a_reply_by_callback_is_for_gateways_that_take_them(
    gateway: Gateway, any_broker: str, postgres_url: str
) -> None:
    status, refused = await put(gateway, callbackSeconds=60)
    assert (status, refused["code"]) == (400, "no-callback-url")
    assert "CALLBACK_BASE_URL" in str(refused["detail"])
    settings = {"persona_secrets_key": KEY.decode(), "egress_allow_cidrs": ALLOWED}
    async with running_gateway(any_broker, postgres_url, callback_base_url="http://127.0.0.1:1", **settings) as taking:
        for seconds in (0.5, 604_800, None):
            status, made = await put(taking, callbackSeconds=seconds)
            assert (status, made["callbackSeconds"]) == (200, seconds)
        for seconds in (0, -1, 604_801):
            assert (await put(taking, callbackSeconds=seconds))[0] == 400


async def test_personas_are_listed_by_cursor(gateway: Gateway) -> None:
    for name in ("c", "a", "b"):
        await put(gateway, name)
    first = (await gateway.get("/api/personas", ROOT, limit=2)).json()
    rest = (await gateway.get("/api/personas", ROOT, limit=2, cursor=first["nextCursor"])).json()
    assert [item["personaId"] for item in first["items"] + rest["items"]] == ["a", "b", "c"]
    assert rest["nextCursor"] is None


@pytest.mark.parametrize(
    "auth",
    [
        {"type": "basic", "username": "n8n", "password": "s3cret-word"},
        {"type": "header", "name": "X-Api-Key", "value": "s3cret-word"},
        {"type": "jwt", "secret": "s3cret-word" * 6, "algorithm": "HS512"},
    ],
)
async def test_credentials_are_encrypted_and_never_shown(gateway: Gateway, auth: dict[str, str]) -> None:
    status, made = await put(gateway, auth=auth)
    assert (status, made["hasAuth"]) == (200, True)
    told = (await gateway.get("/api/personas/support", ROOT)).text + json.dumps(made)
    assert "s3cret" not in told
    [row] = await gateway.rows(personas)
    assert json.loads(Fernet(KEY).decrypt(row.auth)) == auth
    assert (await put(gateway))[1]["hasAuth"] is False


async def test_signing_keys_are_encrypted_and_never_shown(gateway: Gateway) -> None:
    keys = ["whsec_" + base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2)]
    status, made = await put(gateway, signingKeys=keys)
    assert (status, made["hasSigningKeys"], made["hasAuth"]) == (200, True, False)
    told = (await gateway.get("/api/personas/support", ROOT)).text + json.dumps(made)
    assert "whsec_" not in told
    [row] = await gateway.rows(personas)
    assert json.loads(Fernet(KEY).decrypt(row.signing_keys)) == keys
    assert (await put(gateway))[1]["hasSigningKeys"] is False


@pytest.mark.parametrize("keys", [["s3cret"], ["whsec_s3cret"], ["whsec_" + "A" * 100], ["whsec_" + "A" * 43] * 5])
async def test_keys_that_cannot_sign_are_refused(gateway: Gateway, keys: list[str]) -> None:
    status, problem = await put(gateway, signingKeys=keys)
    assert (status, problem["code"]) == (400, "invalid-body")
    assert not {"s3cret", "AAAA"} & set(re.findall(r"s3cret|AAAA", json.dumps(problem)))


UNSENDABLE = [
    {"type": "header", "name": "X-Key", "value": "a\r\nHost: evil"},
    {"type": "header", "name": "X Key", "value": "a"},
    {"type": "header", "name": "Host", "value": "a"},
    {"type": "basic", "username": "a:b", "password": "s3cret"},
    {"type": "bearer", "token": "s3cret"},
    {"type": "header", "name": "Webhook-Signature", "value": "a"},
    {"type": "jwt", "secret": "s3cret"},
    {"type": "jwt", "secret": "s3cret" * 6, "algorithm": "HS512"},
    {"type": "jwt", "secret": "s3cret" * 6, "algorithm": "none"},
    {"type": "jwt", "secret": "-----BEGIN PUBLIC KEY-----\ns3cret\n-----END PUBLIC KEY-----\n"},
]


async def test_credentials_that_cannot_be_sent_are_refused(gateway: Gateway) -> None:
    for auth in UNSENDABLE:
        status, problem = await put(gateway, auth=auth)
        assert (status, problem["code"]) == (400, "invalid-body")
        assert "s3cret" not in json.dumps(problem)


async def test_without_a_key_credentials_are_refused(any_broker: str, postgres_url: str) -> None:
    async with running_gateway(any_broker, postgres_url, egress_allow_cidrs=ALLOWED) as gateway:
        status, problem = await put(gateway, auth={"type": "basic", "username": "u", "password": "p"})
        assert (status, problem["code"]) == (400, "no-secrets-key")
        assert (await put(gateway))[0] == 200


REFUSED_ADDRESSES = [
    "http://169.254.169.254/latest/meta-data",
    "http://10.0.0.1/x",
    "http://localhost:5678/webhook/x",
    "http://127.0.0.1/x",
    "http://2130706433/x",
    "http://0x7f.0.0.1/x",
    "http://0177.0.0.1/x",
    "http://127.1/x",
    "http://0.0.0.0/x",
    "http://[::1]/x",
    "http://[::ffff:10.0.0.1]/x",
    "http://[::ffff:169.254.169.254]/x",
    "http://[64:ff9b::a00:1]/x",
    "http://[fd00::1]/x",
    "http://[fe80::1]/x",
    "http://100.64.0.1/x",
    "http://224.0.0.1/x",
    "http://192.168.1.1/x",
]
NO_WEBHOOKS = ["http://[fe80::1%25eth0]/x", "ftp://192.0.2.1/x", "file:///etc/passwd", "//192.0.2.1/x", "http:///x", "http://u:p@192.0.2.1/x",
               "http://192.0.2.1:99999/x", "http://192.0.2.1\n.example/x", "http://[::1", "", "x" * 2049]  # fmt: skip


async def test_addresses_that_the_operator_did_not_allow_are_refused(gateway: Gateway) -> None:
    for url in REFUSED_ADDRESSES:
        status, problem = await put(gateway, webhookUrl=url)
        assert (status, problem["code"]) == (400, "address-refused"), (url, problem)
    for url in NO_WEBHOOKS:
        status, problem = await put(gateway, webhookUrl=url)
        assert (status, problem["code"]) == (400, "invalid-body"), (url, problem)
    for url in (PUBLIC, "http://127.7.1.2:5678/x", "http://[::ffff:192.0.2.9]/x", "https://1.1.1.1/x"):
        assert (await put(gateway, webhookUrl=url))[0] == 200, url
    assert await gateway.rows(personas)


async def test_a_host_that_does_not_resolve_is_kept_with_a_warning(gateway: Gateway) -> None:
    status, made = await put(gateway, webhookUrl="https://no-such-host.invalid/webhook/x")
    assert status == 200
    assert "no-such-host.invalid" in str(made["warnings"])


WRONG_PERSONAS: list[tuple[dict[str, object], str]] = [
    ({"timeoutSeconds": 300.1}, "timeoutSeconds"),
    ({"timeoutSeconds": 0}, "timeoutSeconds"),
    ({"timeoutSeconds": "10"}, "timeoutSeconds"),
    ({"maxAttempts": 0}, "maxAttempts"),
    ({"maxAttempts": 1.5}, "maxAttempts"),
    ({"deadlineSeconds": -1}, "deadlineSeconds"),
    ({"idempotent": "yes"}, "idempotent"),
    ({"colour": "red"}, "colour"),
]


async def test_a_wrong_persona_is_refused_by_name(gateway: Gateway) -> None:
    for body, field in WRONG_PERSONAS:
        answer = await gateway.http.put("/api/personas/p", headers=ROOT, json={"webhookUrl": PUBLIC, **body})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, field)
    too_long = await gateway.http.put(f"/api/personas/{'p' * 129}", headers=ROOT, json={"webhookUrl": PUBLIC})
    assert too_long.status_code == 400


async def test_a_refused_admin_act_is_audited(gateway: Gateway) -> None:
    answer = await gateway.http.put("/api/personas/p", headers=ADA, json={"webhookUrl": PUBLIC})
    assert answer.status_code == 403
    [entry] = await gateway.rows(audit_log)
    assert (entry.actor, entry.action, entry.target, entry.outcome) == (named("ada"), "persona.put", "p", "refused")
