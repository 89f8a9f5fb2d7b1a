"""What the claims of a token say it may be used for."""

from typing import Any

import pytest

from services.api_gateway.scopes import WHAT_SCOPES_ALLOW, Scope, WrongClaim, scopes_of, service_of

READ = frozenset({Scope.SESSIONS_READ})


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({}, None),
        ({"scope": ""}, None),
        ({"scope": "openid profile email"}, None),
        ({"scope": "openid sessions:read"}, READ),
        ({"scope": "sessions:read sessions:readable xsessions:cancel"}, READ),
        ({"scope": "SESSIONS:READ"}, None),
        ({"act": {"sub": "billing"}}, frozenset()),
        ({"act": {"sub": "billing"}, "scope": "openid"}, frozenset()),
        ({"act": {"sub": "billing"}, "scope": "sessions:read"}, READ),
        ({"scope": " ".join(Scope)}, frozenset(Scope)),
    ],
)
def test_scopes_narrow_and_a_service_has_no_others(claims: dict[str, Any], scopes: frozenset[Scope] | None) -> None:
    assert scopes_of(claims) == scopes


def test_the_outermost_actor_counts() -> None:
    assert service_of({"act": {"sub": "billing", "act": {"sub": "web"}}}) == "billing"
    assert service_of({"sub": "ada"}) is None


@pytest.mark.parametrize("scope", [["sessions:read"], 1, None, {"sessions:read": True}], ids=str)
def test_a_scope_that_is_no_string_is_refused(scope: object) -> None:
    with pytest.raises(WrongClaim):
        scopes_of({"scope": scope})


def test_every_scope_is_explained() -> None:
    assert WHAT_SCOPES_ALLOW.keys() == set(Scope)
