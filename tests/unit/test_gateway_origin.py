"""Where a message came from."""

import ipaddress

import pytest
from pydantic_core import to_json

from services.api_gateway.origin import client_address, device_info, with_origin
from services.contracts.admission import MAX_METADATA_BYTES

PROXIES = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.1", ["198.51.100.1"], "203.0.113.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6", "198.51.100.1"], "198.51.100.1"),
        ("fd00::1", ["2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", ["198.51.100.1, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.9"], "10.0.0.9"),
        (None, ["198.51.100.1"], None),
        ("a-socket", ["198.51.100.1"], "a-socket"),
    ],
)
def test_only_what_trusted_proxies_added_is_believed(
    peer: str | None, forwarded: list[str], address: str | None
) -> None:
    assert client_address(peer, forwarded, PROXIES) == address
    assert client_address(peer, forwarded, []) == peer


def test_client_hints_are_told_as_one_text() -> None:
    assert device_info([(b"accept", b"*/*")]) is None
    assert device_info([(b"sec-ch-ua", b'"A";v="1"')]) == '"A";v="1"'
    hints = [(b"sec-ch-ua-platform", b'"Linux"'), (b"sec-ch-ua", b'"A"'), (b"sec-ch-ua-mobile", b"?0")]
    assert device_info(hints) == '"A"; mobile=?0; platform="Linux"'


def test_long_ones_are_shortened_and_the_clients_own_come_first() -> None:
    told = with_origin({"userAgent": "mine"}, user_agent="x" * 5000, address="192.0.2.1", device="\u00e9" * 5000)
    assert told["userAgent"] == "mine"
    assert told["deviceInfo"] == "\u00e9" * 256


@pytest.mark.parametrize("room", [0, 2, 20, 40, 400])
def test_the_origin_never_makes_metadata_too_large(room: int) -> None:
    own = {"x": "y" * (MAX_METADATA_BYTES - len('{"x":""}') - room)}
    told = with_origin({**own, "ipAddress": "6.6.6.6"}, user_agent="u" * 600, address="192.0.2.1", device="d")
    assert len(to_json(told)) <= MAX_METADATA_BYTES
    assert told.get("ipAddress") in {None, "192.0.2.1"}
    assert ("ipAddress" in told) == (room >= 40)
