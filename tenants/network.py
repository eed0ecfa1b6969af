"""Who is calling, by network address."""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

UNKNOWN = "0.0.0.0"  # noqa: S104 - an address nobody can have, not one to bind to


def client_address(scope: Mapping[str, Any], trusted_proxies: Sequence[IPv4Network | IPv6Network]) -> str:
    """The caller's address: the connection's, or what declared proxies say it is.

    ``X-Forwarded-For`` is read from the right, as far as the hops are declared proxies, so that nobody can
    write an address of their choice into it.
    """
    client = scope.get("client")
    connected: str = client[0] if client else UNKNOWN
    address = connected
    if not trusted_proxies or not _is_trusted(address, trusted_proxies):
        return address
    for name, value in scope["headers"]:
        if name == b"x-forwarded-for":
            for hop in reversed(value.decode("latin-1").split(",")):
                address = hop.strip()
                if not _is_trusted(address, trusted_proxies):
                    return address if _is_address(address) else connected
    return address


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_trusted(address: str, proxies: Sequence[IPv4Network | IPv6Network]) -> bool:
    return _is_address(address) and any(ip_address(address) in network for network in proxies)
