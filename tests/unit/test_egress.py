"""Which addresses a webhook may be on."""

import pytest

from services.runtime.egress import EgressRules, UrlRefused, check_url

CLOSED = EgressRules()


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.2.1",
        "192.168.0.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a00:1",
        "100::1",
        "2001::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2002:a00:1::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "::1%lo",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
    ],
)
def test_everything_but_global_unicast_is_refused(address: str) -> None:
    assert not CLOSED.allows(address)


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "223.255.255.255",
        "2606:4700:4700::1111",
        "::ffff:1.1.1.1",
        "64:ff9b::101:101",
        "2002:101:101::1",
    ],
)
def test_global_unicast_is_allowed(address: str) -> None:
    assert CLOSED.allows(address)


def test_the_operators_networks_are_allowed_in_every_spelling_of_their_addresses() -> None:
    rules = EgressRules.parse(["127.0.0.0/8", " 10.1.0.0/16", "", "fd00:1::/32"])
    for allowed in ("127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:a01:203::1", "10.1.2.3", "fd00:1::2"):
        assert rules.allows(allowed), allowed
    for refused in ("10.2.0.1", "169.254.169.254", "::1", "fd00:2::1", "fe80::1%eth0"):
        assert not rules.allows(refused), refused
    assert rules.allows("1.1.1.1")


@pytest.mark.parametrize("cidr", ["localhost", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/8;11.0.0.0/8"])
def test_what_is_no_network_is_refused(cidr: str) -> None:
    with pytest.raises(ValueError, match=r"10\.|localhost"):
        EgressRules.parse([cidr])


def test_choose_keeps_the_order_of_what_is_allowed() -> None:
    assert CLOSED.choose(["127.0.0.1", "1.1.1.1", "::1", "2606:4700::1", "8.8.8.8"]) == [
        "1.1.1.1",
        "2606:4700::1",
        "8.8.8.8",
    ]


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://n8n.example/webhook/x", "n8n.example", 80),
        ("https://n8n.example/webhook/x?y=z", "n8n.example", 443),
        ("https://n8n.example:5678", "n8n.example", 5678),
        ("http://127.0.0.1:5678/", "127.0.0.1", 5678),
        ("http://[::1]:5678/", "::1", 5678),
        ("http://[::ffff:127.0.0.1]/", "::ffff:127.0.0.1", 80),
        # No literals for us: whatever the resolver makes of them is checked like any name's addresses.
        ("http://2130706433/", "2130706433", 80),
        ("http://0177.0.0.1/", "0177.0.0.1", 80),
        ("http://0x7f.1/", "0x7f.1", 80),
    ],
)
def test_a_webhook_url_has_a_host_and_a_port(url: str, host: str, port: int) -> None:
    assert check_url(url) == (host, port)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "n8n.example/webhook",
        "//n8n.example/",
        "ftp://n8n.example/",
        "file:///etc/passwd",
        "gopher://n8n.example/",
        "http://",
        "http:///webhook",
        "http:n8n.example",
        "http://:80/",
        "http://user@n8n.example/",
        "http://user:secret@n8n.example/",
        "http://:secret@n8n.example/",
        "http://@n8n.example/",
        "http://n8n.example:port/",
        "http://n8n.example:99999/",
        "http://n8n.example:0/",
        "http://[::1/",
        "http://n8n.example\\@internal/",
        "http://internal\\.n8n.example/",
        "http://n8n.exa\nmple/",
        "http://n8n.exa\tmple/",
        "http://n8n.example/a b",
        " http://n8n.example/",
        "http://n8n.example/\x7f",
        "http://n8n.example/\0",
        "http://[fe80::1%25eth0]/",
        "http://n8n%2eexample/",
    ],
)
def test_what_is_no_plain_http_url_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(UrlRefused) as refused:
        check_url(url)
    assert str(refused.value).startswith("The webhook URL")
    assert "secret" not in str(refused.value)
