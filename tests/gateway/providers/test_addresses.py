import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.addresses import AddressGuard, ForbiddenAddress, is_public

PRIVATE_V4 = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.9",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
]
PRIVATE_V6 = [
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b:1::808:808",
    "100::1",
    "2001::1",
    "2001:2::1",
    "2001:20::1",
    "2001:db8::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]


def in_disguise(inner: IPv4Address) -> list[IPv6Address]:
    """Every IPv6 form that a translator or tunnel would turn into ``inner``."""
    bits = int(inner)
    shapes = [
        (0xFFFF << 32) | bits,  # IPv4-mapped
        (0x64FF9B << 96) | bits,  # NAT64
        (0x2002 << 112) | (bits << 80) | 1,  # 6to4
        (0x20010000 << 96) | (bits << 64) | (~int(IPv4Address("8.8.8.8")) & 0xFFFFFFFF),  # Teredo server
        (0x20010000 << 96) | (int(IPv4Address("8.8.8.8")) << 64) | (~bits & 0xFFFFFFFF),  # Teredo client
        (0x20014860 << 96) | (0x00005EFE << 32) | bits,  # ISATAP
        (0x20014860 << 96) | (0x02005EFE << 32) | bits,
    ]
    return [IPv6Address(shape) for shape in shapes]


@pytest.mark.parametrize("address", [*PRIVATE_V4, *PRIVATE_V6])
def test_special_addresses_are_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "2a00:1450:4001::1"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", PRIVATE_V4)
def test_a_special_address_stays_special_in_every_disguise(address: str) -> None:
    assert [str(form) for form in in_disguise(IPv4Address(address)) if is_public(form)] == []


def test_a_public_address_stays_public_in_every_disguise() -> None:
    assert all(is_public(form) for form in in_disguise(IPv4Address("8.8.4.4")))


@given(st.ip_addresses(v=4))
def test_a_disguise_never_makes_an_address_more_public(address: IPv4Address) -> None:
    assert all(is_public(form) <= is_public(address) for form in in_disguise(address))


@given(st.ip_addresses(v=6))
def test_public_ipv6_lies_in_the_assigned_space_or_carries_public_ipv4(address: IPv6Address) -> None:
    if is_public(address):
        assert int(address) >> 125 == 1 or is_public(IPv4Address(int(address) & 0xFFFFFFFF))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://vendor.example", "https"),
        ("vendor.example/v1", "https"),
        ("https://", "no host"),
        ("https://user:pass@vendor.example/v1", "password"),
        ("https://@vendor.example/v1", "password"),
        ("https://vendor.example/v1#x", "fragment"),
        ("https://vendor.example:99999/v1", "valid URL"),
        ("https://[::1/v1", "valid URL"),
        ("http://vendor.example/v1", "https"),
        ("http://8.8.8.8/v1", "https"),
        ("https://127.0.0.1/v1", "public internet"),
        ("https://LOCALHOST./v1", "public internet"),
        ("https://[::ffff:169.254.169.254]/v1", "public internet"),
        ("https://2130706433/v1", "usual form"),
        ("https://0x7f.1/v1", "usual form"),
        ("https://127.1/v1", "usual form"),
        ("https://0177.0.0.1/v1", "usual form"),
    ],
)
def test_a_form_refuses_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(ForbiddenAddress, match=reason):
        AddressGuard().check_url(url)


@pytest.mark.parametrize(
    "url", ["https://api.vendor.example/v1?api-version=1", "https://8.8.8.8:8443", "https://1e100.net"]
)
def test_a_form_accepts_https_to_the_internet(url: str) -> None:
    AddressGuard().check_url(url)


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("127.0.0.1/32", "http://127.0.0.1:9110/v1"),
        ("127.0.0.1", "http://localhost:11434"),
        ("10.0.0.0/8", "https://10.1.2.3"),
        ("10.0.0.0/8", "http://[::ffff:10.1.2.3]/"),
        ("ollama", "http://ollama:11434"),
        ("Ollama:11434", "http://ollama.:11434"),
        ("vllm.lan:80", "http://vllm.lan"),
        ("[::1]:8080", "http://[::1]:8080/v1"),
        ("fd00::/8", "http://[fd12::1]"),
    ],
)
def test_the_operator_lets_networks_hosts_and_endpoints_in(allowed: str, url: str) -> None:
    with pytest.raises(ForbiddenAddress):
        AddressGuard().check_url(url)
    AddressGuard(["", allowed]).check_url(url)


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("127.0.0.1/32", "http://127.0.0.2/"),
        ("ollama:11434", "http://ollama:11435"),
        ("ollama", "http://ollama.evil.example"),
        ("10.0.0.0/8", "http://internal.example"),  # http by name needs the name
    ],
)
def test_what_the_operator_lists_lets_nothing_else_in(allowed: str, url: str) -> None:
    with pytest.raises(ForbiddenAddress):
        AddressGuard([allowed]).check_url(url)


@pytest.mark.parametrize("entry", ["10.0.0.0/99", "host:port", "user@host", "http://host/x", "10.0.0.1/8"])
def test_an_entry_that_means_nothing_is_refused_at_start(entry: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        AddressGuard([entry])


def answers(*addresses: str) -> list[tuple[object, ...]]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in addresses]


async def resolve(monkeypatch: pytest.MonkeyPatch, guard: AddressGuard, *addresses: str) -> list[str]:
    async def getaddrinfo(*_: object, **__: object) -> list[tuple[object, ...]]:
        return answers(*addresses)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    return [str(address) for address in await guard.resolve("vendor.example", 443)]


async def test_resolves_to_each_public_address_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await resolve(monkeypatch, AddressGuard(), "8.8.8.8", "8.8.4.4", "8.8.8.8") == ["8.8.8.8", "8.8.4.4"]


@pytest.mark.parametrize("bad", ["127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "64:ff9b::a00:1"])
async def test_one_private_address_among_public_ones_refuses_the_name(
    monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    with pytest.raises(ForbiddenAddress):
        await resolve(monkeypatch, AddressGuard(), "8.8.8.8", bad)


async def test_a_listed_network_admits_the_names_that_lead_into_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await resolve(monkeypatch, AddressGuard(["10.0.0.0/8"]), "10.9.8.7") == ["10.9.8.7"]


async def test_localhost_needs_only_the_loopback_address_that_is_listed() -> None:
    assert [str(found) for found in await AddressGuard(["127.0.0.1"]).resolve("localhost", 80)] == ["127.0.0.1"]
    with pytest.raises(ForbiddenAddress):
        await AddressGuard().resolve("localhost", 80)
