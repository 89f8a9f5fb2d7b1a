"""Where a message came from, as its metadata tells it. No I/O."""

import ipaddress
from collections.abc import Iterable, Sequence

from pydantic_core import to_json

from services.contracts.admission import MAX_METADATA_BYTES, shortened, storable
from services.contracts.events import Metadata
from services.runtime.egress import Network

MAX_USER_AGENT_BYTES = 512
MAX_DEVICE_BYTES = 512


def client_address(peer: str | None, forwarded_for: Sequence[str], proxies: Sequence[Network]) -> str | None:
    """Return the address of the client: the last one in the chain of X-Forwarded-For that is no trusted proxy.

    `forwarded_for` holds the header's values in order. Only what trusted proxies added is believed, so a client
    cannot choose its address. None where the peer is not known.
    """
    if peer is None or not proxies:
        return peer
    chain = [hop.strip() for value in forwarded_for for hop in value.split(",")]
    address = peer
    while chain and _is_proxy(address, proxies):
        try:
            address = str(ipaddress.ip_address(chain.pop()))
        except ValueError:
            return address
    return address


def device_info(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return what the client hints (`sec-ch-ua…`) tell of the device: the brands, then each further hint by name."""
    hints = {name: value for name, value in headers if name.startswith(b"sec-ch-ua") and value}
    if not hints:
        return None
    brands = hints.pop(b"sec-ch-ua", None)
    parts = [brands] if brands else []
    parts += [name.removeprefix(b"sec-ch-ua-") + b"=" + hints[name] for name in sorted(hints)]
    return b"; ".join(parts).decode("latin-1")


def with_origin(metadata: Metadata, *, user_agent: str | None, address: str | None, device: str | None) -> Metadata:
    """Return the metadata with `userAgent`, `ipAddress` and `deviceInfo` in it.

    A client may tell the first and the last itself, for the user behind it; the address is always the one that was
    seen. Long ones are shortened, and what would not fit beside the client's own metadata is left out.
    """
    told = {name: value for name, value in metadata.items() if name != "ipAddress"}
    seen = {
        "ipAddress": address,
        "userAgent": user_agent and shortened(storable(user_agent), MAX_USER_AGENT_BYTES),
        "deviceInfo": device and shortened(storable(device), MAX_DEVICE_BYTES),
    }
    room = MAX_METADATA_BYTES - (len(to_json(told)) if told else 2)
    for name, value in seen.items():
        if not value or name in told:
            continue
        size = len(to_json({name: value}))
        if size <= room:
            told[name] = value
            room -= size
    return told


def _is_proxy(address: str, proxies: Sequence[Network]) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(ip in network for network in proxies)
