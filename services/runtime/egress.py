"""Which addresses a webhook may be on: deny, then allow. No I/O."""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SHARED = ipaddress.IPv4Network("100.64.0.0/10")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_AMBIGUOUS = re.compile(r"[\x00-\x20\x7f\\]")
"""Characters that parsers of URLs remove or read in different ways: what was checked must be what is called."""


class UrlRefused(ValueError):
    """A webhook URL that must not be called. The text is a whole sentence for the person who set it."""


@dataclass(frozen=True, slots=True)
class EgressRules:
    """Global unicast addresses are allowed; all others only inside the operator's own networks."""

    allowed: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, cidrs: Iterable[str]) -> "EgressRules":
        """Read networks in CIDR notation; raise ValueError for one that is none."""
        return cls(tuple(ipaddress.ip_network(cidr.strip()) for cidr in cidrs if cidr.strip()))

    def allows(self, address: str) -> bool:
        """Tell whether a connection to this IP address may be made."""
        ip = _effective(ipaddress.ip_address(address.partition("%")[0]))
        if any(ip in network for network in self.allowed):
            return True
        return ip.is_global and not ip.is_multicast and not ip.is_reserved and not _special(ip)

    def choose(self, addresses: Sequence[str]) -> list[str]:
        """Return the addresses that may be connected to, in the given order."""
        return [address for address in addresses if self.allows(address)]


def check_url(url: str) -> tuple[str, int]:
    """Return host and port of a webhook URL; raise UrlRefused where it is not a plain http(s) URL.

    A host that is an IP address is returned without brackets. Whether the host's addresses are allowed is for
    EgressRules to say, once they are resolved.
    """
    if _AMBIGUOUS.search(url):
        raise UrlRefused("The webhook URL must not contain spaces, control characters or backslashes.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UrlRefused("The webhook URL cannot be read as a URL.") from None
    if parts.scheme not in {"http", "https"}:
        raise UrlRefused("The webhook URL must begin with http:// or https://.")
    if not parts.hostname:
        raise UrlRefused("The webhook URL names no host.")
    if "%" in parts.hostname:
        # Whether a zone or an encoded name gets as far as the resolver depends on the event loop.
        raise UrlRefused("The webhook URL's host must be written without % signs.")
    if parts.username is not None or parts.password is not None:
        raise UrlRefused("The webhook URL must not carry credentials; set the persona's auth instead.")
    if port == 0:
        raise UrlRefused("The webhook URL names the port 0, on which nothing can listen.")
    return parts.hostname, port or (443 if parts.scheme == "https" else 80)


def _effective(ip: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for, where it does."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip.sixtofour is not None:
        return ip.sixtofour
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip


def _special(ip: Address) -> bool:
    """Tell of addresses that `ipaddress` calls global and that are not."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip in _SHARED
    return ip not in _GLOBAL_UNICAST
