"""Secrets at rest: AES-256-GCM under numbered master keys, bound to the place they are stored.

A ciphertext is ``version (1 byte) | key id (4 bytes, big-endian) | nonce (12 bytes) | ciphertext | tag (16 bytes)``.
The first two fields are authenticated together with the caller's associated data, so neither they nor the row a
ciphertext sits in can be swapped. Master keys never encrypt anything themselves: every purpose gets a subkey of its
own (HKDF-SHA256), so that what was written for one purpose cannot be read as another.
"""

import base64
import binascii
import os
import struct
from collections.abc import Mapping
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES: Final = 32
VENDOR_KEY: Final = "vendor-key"
"""The purpose under which vendors' API keys are encrypted."""
IDEMPOTENT_ANSWER: Final = "idempotent-answer"
"""The purpose under which answers wait for a second caller."""
_REQUEST_CONTENT: Final = "request-content"

_LAYOUT_VERSION: Final = 1
_HEADER: Final = struct.Struct(">BI")
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_BODY_AT: Final = _HEADER.size + _NONCE_BYTES
_MAX_KEY_ID: Final = 2**32 - 1
_ABSENT: Final = b"\xff\xff\xff\xff"  # in place of a length; no real part is that long


class DecryptionFailed(Exception):
    """The ciphertext cannot be read. Says no more: a wrong key, a wrong row and a flipped bit look alike."""

    def __init__(self, message: str = "the secret cannot be decrypted") -> None:
        super().__init__(message)


class UnknownKey(DecryptionFailed):
    """The ciphertext names a master key that is not configured (an operator's mistake, worth telling apart)."""

    def __init__(self, key_id: int) -> None:
        super().__init__(f"the secret is encrypted with master key {key_id}, which is not configured")
        self.key_id = key_id


def generate_key() -> str:
    """A fresh 256-bit master key or pepper, as base64."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()


def parse_numbered_keys(setting: str) -> dict[int, bytes]:
    """Reads ``"2:<base64>,1:<base64>"``: numbered 256-bit keys, the current one first.

    Raises ValueError, which names the entry at fault by its position and never shows its content.
    """
    keys: dict[int, bytes] = {}
    for position, entry in enumerate(setting.split(","), start=1):
        number, colon, encoded = entry.strip().partition(":")
        if not colon or not (number.isascii() and number.isdigit()):
            raise ValueError(f"key {position}: expected NUMBER:BASE64")
        key_id = int(number)
        if not 1 <= key_id <= _MAX_KEY_ID:
            raise ValueError(f"key {position}: the number must be between 1 and {_MAX_KEY_ID}")
        if key_id in keys:
            raise ValueError(f"key {position}: number {key_id} is used twice")
        try:
            key = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            raise ValueError(f"key {position}: not valid base64") from None
        if len(key) != KEY_BYTES:
            raise ValueError(f"key {position}: {KEY_BYTES} bytes are needed, not {len(key)}")
        keys[key_id] = key
    return keys


def content_purpose(tenant_id: UUID | str) -> str:
    """The purpose under which one tenant's prompts and answers are kept: a data key of its own."""
    return f"{_REQUEST_CONTENT}/{tenant_id}"


def aad(tenant_id: UUID | int | str | None, row_id: UUID | int | str, base_url: str) -> bytes:
    """Associated data that ties a ciphertext to its tenant, row and vendor address.

    ``tenant_id`` is None for a secret of the installation. Each part carries its length, so no two different
    triples encode alike; an identifier and its text form do.
    """
    return b"".join(map(_length_prefixed, (tenant_id, row_id, base_url)))


def _length_prefixed(part: UUID | int | str | None) -> bytes:
    if part is None:
        return _ABSENT
    encoded = str(part).encode()
    return len(encoded).to_bytes(4, "big") + encoded


class Keyring:
    """The subkeys of one purpose. New secrets use the current master key, old ones stay readable.

    Nonces are random; a key is good for 2**32 secrets, far more than an installation has vendor keys.
    """

    __slots__ = ("_ciphers", "current_id", "purpose")

    def __init__(self, master_keys: Mapping[int, bytes], *, purpose: str) -> None:
        """``master_keys`` maps a number to 32 bytes; the first is the current one. Raises ValueError when empty."""
        if not master_keys:
            raise ValueError("a keyring needs at least one master key")
        self.purpose = purpose
        self.current_id = next(iter(master_keys))
        self._ciphers = {key_id: AESGCM(_subkey(key, purpose)) for key_id, key in master_keys.items()}

    @classmethod
    def parse(cls, setting: str, *, purpose: str) -> "Keyring":
        """A keyring from its setting, ``"2:<base64>,1:<base64>"``. Raises ValueError."""
        return cls(parse_numbered_keys(setting), purpose=purpose)

    def __repr__(self) -> str:
        return f"<Keyring {self.purpose} keys={list(self._ciphers)} current={self.current_id}>"

    def encrypt(self, plaintext: bytes, aad: bytes) -> bytes:
        """Encrypts under the current key with a fresh nonce."""
        header = _HEADER.pack(_LAYOUT_VERSION, self.current_id)
        nonce = os.urandom(_NONCE_BYTES)
        return header + nonce + self._ciphers[self.current_id].encrypt(nonce, plaintext, header + aad)

    def decrypt(self, blob: bytes, aad: bytes) -> bytes:
        """What ``encrypt`` was given. Raises DecryptionFailed, or its subclass UnknownKey."""
        key_id = _key_id(blob)
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise UnknownKey(key_id)
        try:
            return cipher.decrypt(blob[_HEADER.size : _BODY_AT], blob[_BODY_AT:], blob[: _HEADER.size] + aad)
        except InvalidTag:
            raise DecryptionFailed from None

    def needs_rotation(self, blob: bytes) -> bool:
        """True when another than the current master key encrypted it. Raises DecryptionFailed for a foreign layout."""
        return _key_id(blob) != self.current_id


def _subkey(master_key: bytes, purpose: str) -> bytes:
    if len(master_key) != KEY_BYTES:
        raise ValueError(f"a master key has {KEY_BYTES} bytes")
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"pointsman:" + purpose.encode()).derive(
        master_key
    )


def _key_id(blob: bytes) -> int:
    if len(blob) < _BODY_AT + _TAG_BYTES:
        raise DecryptionFailed
    version, key_id = _HEADER.unpack_from(blob)
    if version != _LAYOUT_VERSION:
        raise DecryptionFailed
    return int(key_id)
