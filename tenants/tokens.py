"""API tokens: their format, how they are minted, and what the database keeps instead of them.

A minted token reads ``gw_<id>_<secret><crc>``: a prefix that secret scanners recognise, a public id for lists and
logs (12 characters of base62), a 256-bit secret (43 of base62) and the CRC-32 of everything before it (8 hexadecimal
digits). The checksum tells a mistyped token from a revoked one without asking anybody; it protects nothing.

The database keeps (pepper id, HMAC-SHA256 of the token), so a stolen table is of no use without the pepper. Values
brought along from another gateway need not have the format, see :func:`acceptable_value`.
"""

import hmac
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

from tenants.crypto import parse_numbered_keys

MIN_GIVEN_LENGTH: Final = 24
MAX_LENGTH: Final = 512

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PREFIX: Final = "gw_"
_ID_LENGTH: Final = 12
_SECRET_LENGTH: Final = 43  # 62**43 > 2**256
_CRC_LENGTH: Final = 8
_SHAPE: Final = re.compile(
    rf"{_PREFIX}[0-9A-Za-z]{{{_ID_LENGTH}}}_[0-9A-Za-z]{{{_SECRET_LENGTH}}}[0-9a-f]{{{_CRC_LENGTH}}}"
)

_AUTHORIZATION: Final = b"authorization"
_CREDENTIAL_HEADERS: Final = frozenset({_AUTHORIZATION, b"x-api-key", b"api-key", b"x-goog-api-key"})
_BEARER: Final = b"bearer "


class Pepper:
    """A numbered secret that token digests are keyed with. It is keyed once: that costs as much as hashing a token."""

    __slots__ = ("id", "keyed")

    def __init__(self, id: int, secret: bytes) -> None:
        self.id = id
        self.keyed = hmac.new(secret, digestmod="sha256")

    def __repr__(self) -> str:
        return f"<Pepper {self.id}>"


class Peppers:
    """All peppers in use, the current one first: new tokens get that, old ones are found under theirs."""

    __slots__ = ("_by_id", "current")

    def __init__(self, numbered: Mapping[int, bytes]) -> None:
        """``numbered`` maps a number to 32 bytes; the first is the current one. Raises ValueError when empty."""
        if not numbered:
            raise ValueError("at least one pepper is needed")
        self._by_id = {pepper_id: Pepper(pepper_id, secret) for pepper_id, secret in numbered.items()}
        self.current = next(iter(self._by_id.values()))

    @classmethod
    def parse(cls, setting: str) -> "Peppers":
        """Peppers from their setting, ``"2:<base64>,1:<base64>"``. Raises ValueError."""
        return cls(parse_numbered_keys(setting))

    def __repr__(self) -> str:
        return f"<Peppers {list(self._by_id)} current={self.current.id}>"

    def __getitem__(self, pepper_id: int) -> Pepper:
        """The pepper of that number. Raises KeyError when it is not configured."""
        return self._by_id[pepper_id]

    def digests(self, text: str) -> Iterator[tuple[int, bytes]]:
        """(pepper id, digest) candidates to look ``text`` up by; lazy, as the first nearly always is the one."""
        for pepper in self._by_id.values():
            yield pepper.id, digest(text, pepper)


@dataclass(frozen=True, slots=True)
class MintedToken:
    """A token at the only moment its text is known; everything but ``text`` is stored."""

    text: str = field(repr=False)
    digest: bytes = field(repr=False)
    public_id: str
    last_four: str
    pepper_id: int


def mint(peppers: Peppers) -> MintedToken:
    """A fresh token under the current pepper."""
    public_id = _random_id()
    body = f"{_PREFIX}{public_id}_{_random_secret()}"
    return _under_current_pepper(body + _checksum(body), public_id, peppers)


def adopt(text: str, peppers: Peppers) -> MintedToken:
    """A token whose value was given. Raises ValueError where :func:`acceptable_value` does.

    A value in the token format keeps its public id, any other is given a fresh one.
    """
    acceptable_value(text)
    public_id = text[len(_PREFIX) :][:_ID_LENGTH] if well_formed(text) else _random_id()
    return _under_current_pepper(text, public_id, peppers)


def well_formed(text: str) -> bool:
    """True for ``gw_<id>_<secret><crc>`` with the right checksum."""
    return _SHAPE.fullmatch(text) is not None and _has_checksum(text)


def plausible(text: str) -> bool:
    """Whether a caller's credential can be a token of ours at all: the test before any lookup."""
    return _fault(text) is None


def acceptable_value(text: str) -> None:
    """Checks a given token value: the token format, or at least 24 printable ASCII characters without spaces.

    Raises ValueError with the reason. What has the shape of a minted token must have its checksum too, so that
    a typing error is found here and not at the first request.
    """
    fault = _fault(text)
    if fault is not None:
        raise ValueError(fault)


def digest(text: str, pepper: Pepper) -> bytes:
    """HMAC-SHA256 of a token: 32 bytes."""
    keyed = pepper.keyed.copy()
    keyed.update(text.encode())
    return keyed.digest()


def matches(text: str, expected: bytes, pepper: Pepper) -> bool:
    """Whether ``expected`` is the digest of ``text``, in constant time."""
    return hmac.compare_digest(digest(text, pepper), expected)


def bearer_from(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The caller's credential out of raw ASGI headers (lower-case names), None without one.

    ``Authorization: Bearer`` wins over ``x-api-key``, ``api-key`` and ``x-goog-api-key``, of which the first in
    header order counts; another authorization scheme or an empty value is as good as absent. SDKs send several at
    once when one key is set for the vendor they were made for and another for us.
    """
    fallback = None
    for name, value in headers:
        if name not in _CREDENTIAL_HEADERS:
            continue
        if name != _AUTHORIZATION:
            fallback = fallback or value.strip()
        elif value[: len(_BEARER)].lower() == _BEARER and (credential := value[len(_BEARER) :].strip()):
            return credential.decode("latin-1")
    return fallback.decode("latin-1") if fallback else None


def _fault(text: str) -> str | None:
    """Why ``text`` cannot be a token, None when it can."""
    if _SHAPE.fullmatch(text) is not None:
        return None if _has_checksum(text) else "the token's checksum is wrong: a character was mistyped"
    if len(text) < MIN_GIVEN_LENGTH:
        return f"a token value has at least {MIN_GIVEN_LENGTH} characters"
    if len(text) > MAX_LENGTH:
        return f"a token value has at most {MAX_LENGTH} characters"
    if not (text.isascii() and text.isprintable()) or " " in text:
        return "a token value consists of printable ASCII characters without spaces"
    return None


def _under_current_pepper(text: str, public_id: str, peppers: Peppers) -> MintedToken:
    pepper = peppers.current
    return MintedToken(text, digest(text, pepper), public_id, text[-4:], pepper.id)


def _random_id() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))


def _random_secret() -> str:
    number, digits = secrets.randbits(256), []
    for _ in range(_SECRET_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(digits)


def _has_checksum(text: str) -> bool:
    return text[-_CRC_LENGTH:] == _checksum(text[:-_CRC_LENGTH])


def _checksum(body: str) -> str:
    return f"{crc32(body.encode()):08x}"
