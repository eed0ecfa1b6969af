"""Which addresses a provider's base URL may lead to.

A tenant types the base URL, so without a guard the gateway would fetch whatever stands behind its own
firewall (server-side request forgery). The rule: https to a globally routable address, unless the
operator's ``ALLOWED_UPSTREAMS`` lets a network, a host or a host:port in. A name is judged by every
address it resolves to, and the connection goes to one of those very addresses.
"""

import asyncio
import re
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address

# Reachable in practice although Python calls them global: a cloud's host agent, the retired 6to4 relay, and
# the block of protocol assignments, two of whose addresses newer Pythons except.
_NOT_PUBLIC_V4 = (IPv4Network("168.63.129.16/32"), IPv4Network("192.88.99.0/24"), IPv4Network("192.0.0.0/24"))
_UNICAST_V6 = IPv6Network("2000::/3")  # all that is assigned to the public internet
_NOT_PUBLIC_V6 = (IPv6Network("3fff::/20"), IPv6Network("2001::/23"))  # documentation; special purposes
_NAT64 = IPv6Network("64:ff9b::/96")
_TEREDO = IPv6Network("2001::/32")
_ISATAP_IDENTIFIERS = (0x0000_5EFE, 0x0200_5EFE)  # upper half of the interface identifier, RFC 5214

_LOOPBACK = (ip_address("127.0.0.1"), ip_address("::1"))
_NUMERIC_HOST = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*\.?", re.IGNORECASE)
_DEFAULT_PORTS = {"https": 443, "http": 80}


class ForbiddenAddress(ValueError):
    """A base URL the gateway must not call; the message is written for the person who typed it."""


def is_public(address: Address) -> bool:
    """True when ``address``, and any IPv4 address it carries inside, is routed on the public internet."""
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast and not any(address in net for net in _NOT_PUBLIC_V4)
    if address.scope_id is not None:
        return False
    embedded = _embedded(address)
    if embedded and not all(is_public(inner) for inner in embedded):
        return False
    if address.ipv4_mapped is not None or address in _NAT64 or address in _TEREDO:
        return True  # no reach of its own: as public as what it carries
    return (address in _UNICAST_V6 and (address.is_global or address.sixtofour is not None)) and not any(
        address in net for net in _NOT_PUBLIC_V6
    )


def _embedded(address: IPv6Address) -> list[IPv4Address]:
    """IPv4 addresses that a translator or tunnel would take out of ``address``."""
    bits = int(address)
    found = [inner for inner in (address.ipv4_mapped, address.sixtofour) if inner is not None]
    if address.teredo is not None:
        found.extend(address.teredo)
    if address in _NAT64 or (bits >> 32) & 0xFFFF_FFFF in _ISATAP_IDENTIFIERS:
        found.append(IPv4Address(bits & 0xFFFF_FFFF))
    return found


class AddressGuard:
    """Judges base URLs and resolves their names.

    ``allowed`` is the operator's list: networks (``10.0.0.0/8``, ``127.0.0.1/32``), host names
    (``ollama``) or endpoints (``ollama:11434``, ``[::1]:8080``). Plain http needs a host that is listed by
    name or a literal address inside a listed network. Raises ValueError for an entry that is none of these.
    """

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self._networks: list[IPv4Network | IPv6Network] = []
        self._hosts: set[str] = set()
        self._endpoints: set[tuple[str, int]] = set()
        for entry in filter(None, (entry.strip() for entry in allowed)):
            self._allow(entry)

    def _allow(self, entry: str) -> None:
        try:
            self._networks.append(ip_network(entry.strip("[]")))
            return
        except ValueError:
            if "/" in entry:
                raise ValueError(f"ALLOWED_UPSTREAMS: {entry!r} is not a network.") from None
        parts = urlsplit(f"//{entry}")
        if parts.hostname is None or parts.username is not None:
            raise ValueError(f"ALLOWED_UPSTREAMS: {entry!r} is not a network, host or host:port.")
        host = _canonical(parts.hostname)
        if parts.port is None:  # raises ValueError itself for a port that is not a number
            self._hosts.add(host)
        else:
            self._endpoints.add((host, parts.port))

    def check_url(self, url: str) -> None:
        """Raises ForbiddenAddress when ``url`` can be refused without a look-up (what a form can know)."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ForbiddenAddress("This is not a valid URL.") from None
        if parts.fragment:
            raise ForbiddenAddress("The URL must not have a fragment.")
        self.check_origin(parts.scheme, parts.hostname or "", port, has_user_info="@" in parts.netloc)

    def check_origin(self, scheme: str, host: str, port: int | None, *, has_user_info: bool = False) -> None:
        """The part of a URL that decides; raises ForbiddenAddress. ``port`` None means the scheme's own."""
        if scheme not in _DEFAULT_PORTS:
            raise ForbiddenAddress("The URL must begin with https://.")
        if not host:
            raise ForbiddenAddress("The URL names no host.")
        if has_user_info:
            raise ForbiddenAddress("The URL must not carry a user name or password.")
        host = _canonical(host)
        listed = self._is_listed(host, port or _DEFAULT_PORTS[scheme])
        literals = _literal_addresses(host)
        if literals and not listed:
            listed = any(self._in_network(address) for address in literals)
            if not listed and not all(is_public(address) for address in literals):
                raise ForbiddenAddress(
                    "The address is not on the public internet; the operator can list it in ALLOWED_UPSTREAMS."
                )
        if scheme == "http" and not listed:
            raise ForbiddenAddress(
                "The URL must begin with https:// unless the operator lists its host in ALLOWED_UPSTREAMS."
            )

    async def resolve(self, host: str, port: int) -> list[Address]:
        """Addresses of ``host`` a connection may go to.

        Raises ForbiddenAddress if any of them is out of bounds, and OSError when the name has none.
        """
        host = _canonical(host)
        addresses: Sequence[Address] = _literal_addresses(host)
        if not addresses:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys(ip_address(info[4][0]) for info in found))
        if self._is_listed(host, port):
            return list(addresses)
        if host == "localhost":  # a listed 127.0.0.1 is enough, ::1 need not be listed with it
            addresses = [address for address in addresses if self._in_network(address)]
        if not addresses or not all(is_public(address) or self._in_network(address) for address in addresses):
            raise ForbiddenAddress("The host name leads to an address that is not on the public internet.")
        return list(addresses)

    def _is_listed(self, host: str, port: int) -> bool:
        return host in self._hosts or (host, port) in self._endpoints

    def _in_network(self, address: Address) -> bool:
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


def _canonical(host: str) -> str:
    return host.lower().rstrip(".").strip("[]")


def _literal_addresses(host: str) -> tuple[Address, ...]:
    """The addresses ``host`` spells out, none for a name that must be looked up.

    Raises ForbiddenAddress for numbers that resolvers read as an address but people do not (``2130706433``,
    ``0x7f.1``).
    """
    if host == "localhost":
        return _LOOPBACK
    try:
        return (ip_address(host),)
    except ValueError:
        if _NUMERIC_HOST.fullmatch(host):
            raise ForbiddenAddress("The address is not written in its usual form.") from None
        return ()
