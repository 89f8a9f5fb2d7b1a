"""Who may speak to whom: only the dispatcher leaves the cluster, only the ingress and Prometheus come in."""

from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network

import pytest

from services.runtime.egress import EgressRules
from tests.unit.deployment import JWKS, SETTINGS, Manifest, container, of_kind, pod, selects


def ways_out(command: str, policies: Mapping[str, Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    """The peers, with the rule that names each, that a process may connect to."""
    labels = pod(command)["metadata"]["labels"]
    for policy in policies.values():
        if selects(policy["spec"]["podSelector"], labels):
            for rule in policy["spec"].get("egress", []):
                assert rule["to"], "a rule without peers allows them all"
                assert rule["ports"], "a rule without ports allows them all"
                for peer in rule["to"]:
                    yield peer, rule


def test_nothing_is_open_that_no_policy_opens() -> None:
    denial = of_kind("NetworkPolicy")["default-deny"]["spec"]
    assert denial == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@pytest.mark.parametrize("command", SETTINGS)
def test_only_the_dispatcher_may_leave_the_cluster(command: str) -> None:
    outside = [peer for peer, _ in ways_out(command, of_kind("NetworkPolicy")) if "ipBlock" in peer]
    inside = [
        peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        for peer, _ in ways_out(command, of_kind("NetworkPolicy"))
        if "ipBlock" not in peer
    ]
    assert bool(outside) == (command == "dispatcher")
    assert set(inside) == {"kube-system", "kafka"} | (set() if command == "sweeper" else {"postgres"})


def test_the_dispatcher_reaches_public_addresses_only() -> None:
    blocks = [peer["ipBlock"] for peer, _ in ways_out("dispatcher", of_kind("NetworkPolicy")) if "ipBlock" in peer]

    def reaches(address: str) -> bool:
        ip = ip_address(address)
        return any(
            ip in ip_network(block["cidr"]) and not any(ip in ip_network(hole) for hole in block.get("except", []))
            for block in blocks
            if ip.version == ip_network(block["cidr"]).version
        )

    rules = EgressRules()
    public = ["8.8.8.8", "93.184.216.34", "2606:4700::1111"]
    private = [
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "127.0.0.1",
        "fd00::1",
        "fe80::1",
        "::1",
    ]
    for address in public + private:
        assert reaches(address) == rules.allows(address) == (address in public), address


def test_an_identity_provider_is_one_address_for_the_gateway_alone() -> None:
    policies = of_kind("NetworkPolicy", JWKS)
    for command in SETTINGS:
        out = list(ways_out(command, policies))
        if command != "gateway":
            assert out == []
            continue
        ((peer, rule),) = out
        assert ip_network(peer["ipBlock"]["cidr"]).num_addresses == 1
        assert rule["ports"] == [{"protocol": "TCP", "port": 443}]


def test_only_the_ingress_and_prometheus_come_in() -> None:
    comers: dict[str, set[str]] = {command: set() for command in SETTINGS}
    for policy in of_kind("NetworkPolicy").values():
        for rule in policy["spec"].get("ingress", []):
            for peer in rule["from"]:
                name = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
                for command, found in comers.items():
                    ports = {port["name"] for port in container(command).get("ports", [])}
                    if selects(policy["spec"]["podSelector"], pod(command)["metadata"]["labels"]) and ports & {
                        port["port"] for port in rule["ports"]
                    }:
                        found.add(name)
    assert comers == {
        "gateway": {"ingress-nginx", "monitoring"},
        "dispatcher": {"monitoring"},
        "tracker": {"monitoring"},
        "sweeper": {"monitoring"},
        "migrate": set(),
    }
