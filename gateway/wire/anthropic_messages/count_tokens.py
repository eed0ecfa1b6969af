"""``/v1/messages/count_tokens``: how many tokens a prompt has, told by the vendor that would answer it.

The same verbs as any format. Counting is free, so its usage is nothing.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from gateway.wire.anthropic_messages.answers import parse_error
from gateway.wire.anthropic_messages.caller_answers import open_stream, render_error
from gateway.wire.anthropic_messages.caller_requests import read_request
from gateway.wire.anthropic_messages.conversation import parse_conversation
from gateway.wire.anthropic_messages.requests import PATH, passed_on
from gateway.wire.anthropic_messages.shapes import DIALECT
from gateway.wire.anthropic_messages.streams import open_parser
from gateway.wire.types import Completion, ParseError, Request, Usage, VendorProfile, VendorRequest
from gateway.wire.verbs import ConversationOf

__all__ = [
    "DIALECT",
    "open_parser",
    "open_stream",
    "parse_completion",
    "parse_conversation",
    "parse_error",
    "parse_request",
    "render_completion",
    "render_error",
    "render_request",
]


class _Count(Struct):
    input_tokens: int


def parse_request(body: bytes, headers: Mapping[str, str]) -> Request:
    """Bytes to a request; header names are lower-case. Raises InvalidRequest."""
    request = read_request(body, headers, "count_tokens")
    request.stream = False
    return request


def render_request(
    request: Request, conversation: ConversationOf, vendor_model: str, profile: VendorProfile
) -> VendorRequest:
    """The caller's own fields, to the vendor's path for counting."""
    return passed_on(request, f"{PATH}/count_tokens", vendor_model, profile)


def parse_completion(body: bytes, passthrough: bool) -> Completion:
    """Raises ParseError for what is no count."""
    try:
        msgspec.json.decode(body, type=_Count)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ParseError("The answer is not a count of tokens.") from None
    return Completion(id="", model="", usage=Usage(), body=body)


def render_completion(
    completion: Completion, metadata: Mapping[str, Any] | None, request: Request | None = None
) -> bytes:
    """The vendor's body as it came."""
    return completion.body or b""
