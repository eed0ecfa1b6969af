"""The gateway's metadata in an answer's body, for the dialects that have room for it."""

from collections.abc import Mapping
from typing import Any

import msgspec

METADATA_FIELD = "x-gateway"

_encode = msgspec.json.Encoder().encode
_KEY = b'"%s":' % METADATA_FIELD.encode()


def splice_metadata(json_object: bytes, metadata: Mapping[str, Any]) -> bytes:
    """Adds the metadata before the last ``}``: every byte of the vendor's stays what it was."""
    end = json_object.rindex(b"}")
    head = json_object[:end]
    comma = b"" if head.rstrip().endswith(b"{") else b","
    return b"".join((head, comma, _KEY, _encode(metadata), json_object[end:]))
