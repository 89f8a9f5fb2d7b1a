"""Signatures of calls: as the specification's own library verifies them, and as n8n verifies tokens."""

import base64
import hashlib
import time

import jwt
import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from services.runtime.signing import read_key, signature
from services.webhook_dispatcher.credentials import TOKEN_SECONDS, Credentials, TokenKey

OLD, NEW = ("whsec_" + base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
BODY = '{"message":"Grüße ☂"}'.encode()
SESSION = "019a14c5-1c00-7abc-8def-0123456789ab"


def test_a_signature_of_the_specification_s_own_example() -> None:
    """From the test vectors of the specification's libraries."""
    made = signature(
        [read_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")],
        webhook_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330,
        body=b'{"test": 2432232314}',
    )
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("key", [OLD, NEW])
def test_a_receiver_may_know_either_of_two_keys(key: str) -> None:
    proof = Credentials(signing_keys=(read_key(OLD), read_key(NEW))).prove(
        session_id=SESSION, user_id="u", body=BODY, now=time.time()
    )
    assert Webhook(key).verify(BODY, proof.headers) == {"message": "Grüße ☂"}
    assert proof.headers["webhook-id"] == SESSION
    assert proof.headers["webhook-signature"].count("v1,") == 2


def test_a_receiver_refuses_another_body_key_or_time() -> None:
    headers = (
        Credentials(signing_keys=(read_key(OLD),))
        .prove(session_id=SESSION, user_id="u", body=BODY, now=time.time())
        .headers
    )
    late = (
        Credentials(signing_keys=(read_key(OLD),))
        .prove(session_id=SESSION, user_id="u", body=BODY, now=time.time() - 400)
        .headers
    )
    for verifier, body, told in (
        (Webhook(OLD), b"{}", headers),
        (Webhook(NEW), BODY, headers),
        (Webhook(OLD), BODY, late),
    ):
        with pytest.raises(WebhookVerificationError):
            verifier.verify(body, told)


def test_every_attempt_has_the_session_s_id_and_a_time_of_its_own() -> None:
    credentials = Credentials(signing_keys=(read_key(OLD),))
    first, second = [
        credentials.prove(session_id=SESSION, user_id="u", body=BODY, now=now).headers for now in (1000.9, 1002.0)
    ]
    assert (first["webhook-timestamp"], second["webhook-timestamp"]) == ("1000", "1002")
    assert first["webhook-id"] == second["webhook-id"]
    assert first["webhook-signature"] != second["webhook-signature"]


@pytest.mark.parametrize(
    "text", ["", "whsec_", "whsec_%%%", "whsec_" + "A" * 30, "whsec_" + "A" * 90, base64.b64encode(bytes(32)).decode()]
)
def test_what_is_no_key_is_refused_without_being_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(it must|after whsec_)") as refused:
        read_key(text)
    assert "AAAA" not in str(refused.value)


def test_padding_may_be_missing() -> None:
    assert read_key(OLD.rstrip("=")) == read_key(OLD) == b"\x01" * 32


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_token_says_for_which_body_and_how_long(algorithm: str) -> None:
    secret, now = "s" * 64, time.time()
    key = TokenKey(secret, algorithm)  # type: ignore[arg-type]
    proof = Credentials(token_key=key).prove(session_id=SESSION, user_id="ada", body=BODY, now=now)
    scheme, _, token = proof.headers["authorization"].partition(" ")
    # As n8n does: the one algorithm, and nothing expected of the claims but that they are not over.
    claims = jwt.decode(token, secret, algorithms=[algorithm])
    assert scheme == "Bearer"
    assert claims.pop("jti")
    assert claims == {
        "iss": "chat-sessions",
        "sub": "ada",
        "iat": int(now),
        "exp": int(now) + TOKEN_SECONDS,
        "bodySha256": hashlib.sha256(BODY).hexdigest(),
    }
    assert token in proof.secrets


def test_two_tokens_are_never_the_same() -> None:
    credentials = Credentials(token_key=TokenKey("s" * 32))
    tokens = {
        credentials.prove(session_id=SESSION, user_id="u", body=BODY, now=1.0).headers["authorization"]
        for _ in range(3)
    }
    assert len(tokens) == 3


def test_credentials_never_show_themselves() -> None:
    credentials = Credentials(("x-key", "s3cret"), TokenKey("s3cret" * 8), (b"s3cret" * 8,), ("s3cret",))
    proof = credentials.prove(session_id=SESSION, user_id="u", body=BODY, now=1.0)
    assert "s3cret" not in f"{credentials!r}{proof!r}"
