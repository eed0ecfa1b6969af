"""Keeps an answer within fewer tokens than its caller allowed: one field in each dialect."""

from collections.abc import Mapping
from typing import Final

from msgspec import Raw, structs

from gateway.wire.types import Request

# What each dialect calls the limit; the first one that is given counts, else the first of all is added.
_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "openai_chat": ("max_tokens", "max_completion_tokens"),
    "openai_responses": ("max_output_tokens",),
    "anthropic_messages": ("max_tokens",),
    "completions": ("max_tokens",),
}


def with_output_cap(request: Request, tokens: int) -> Request:
    """``request`` with an answer of at most ``tokens``; as it is where its dialect knows no such limit."""
    talk = request._conversation  # noqa: SLF001 - the formats' memo
    if talk is not None:
        capped = structs.replace(talk.sampling, max_tokens=tokens)
        talk = structs.replace(talk, sampling=capped)
    names = _FIELDS.get(request.dialect if request.operation == "chat" else request.operation, ())
    fields = request.fields
    if names:
        given = next((name for name in names if name in fields), names[0])
        fields = {**fields, given: Raw(b"%d" % tokens)}
    return structs.replace(request, max_tokens=tokens, fields=fields, _conversation=talk)
