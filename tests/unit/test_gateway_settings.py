"""What the gateway refuses to start with."""

import pytest
from cryptography.fernet import Fernet
from pydantic import ValidationError

from services.api_gateway.settings import GatewaySettings
from services.runtime.settings import load

SECRET = "s" * 32


def test_the_documented_names_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "JWT_SECRET": SECRET,
        "ENABLE_CHAT_SESSIONS": "false",
        "RATE_LIMIT_MESSAGES": "0",
        "EGRESS_ALLOW_CIDRS": "127.0.0.0/8,::1/128",
        "TRUSTED_PROXIES": "",
        "JWT_JWKS_URL": "",
        "PERSONA_SECRETS_KEY": Fernet.generate_key().decode(),
    }.items():
        monkeypatch.setenv(name, value)
    settings = load(GatewaySettings)
    assert (settings.gateway_host, settings.gateway_port) == ("127.0.0.1", 3000)
    assert (settings.rate_limit_messages, settings.rate_limit_persona, settings.rate_limit_reads) == (0, 0, 1200)
    assert settings.enable_chat_sessions is False
    assert settings.egress_rules.allows("127.0.0.1")
    assert settings.proxies == ()
    assert settings.secrets_key is not None


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"jwt_secret": SECRET, "jwt_jwks_url": "https://id.example/keys"},
        {"jwt_secret": "short"},
        {"jwt_jwks_url": "file:///keys"},
        {"jwt_jwks_url": "https://id.example/keys", "jwt_issuer": "https://id.example/"},
        {"jwt_jwks_url": "https://id.example/keys", "jwt_audience": "chat"},
        {"jwt_secret": SECRET, "rate_limit_storage": "memcached://127.0.0.1"},
        {"jwt_secret": SECRET, "user_hash_key": "short"},
        {"jwt_secret": SECRET, "cors_origins": "*"},
        {"jwt_secret": SECRET, "persona_secrets_key": "no-key-at-all"},
        {"jwt_secret": SECRET, "egress_allow_cidrs": "10.0.0.0/33"},
        {"jwt_secret": SECRET, "trusted_proxies": "proxy.example"},
        {"jwt_secret": SECRET, "gateway_port": 70_000},
        {"jwt_secret": SECRET, "rate_limit_reads": -1},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as refused:
        GatewaySettings(**wrong)
    assert "no-key-at-all" not in str(refused.value.errors(include_input=False, include_url=False))
