"""A caller's Messages request: validated, outlined, its fields kept as they came."""

import hashlib
from collections.abc import Mapping

import msgspec
from msgspec import Raw

from gateway.errors import InvalidRequest
from gateway.wire.anthropic_messages.shapes import DIALECT, RequestOutline
from gateway.wire.extensions import take_extensions
from gateway.wire.types import Gist, Needs, Operation, Request, has_words
from gateway.wire.validation import MAX_OUTPUT_TOKENS, body_fields, decode_or_refuse, model_or_default

_OUTLINE = msgspec.json.Decoder(RequestOutline)
_MESSAGES = msgspec.json.Decoder(list[Raw])
_TEXT_ONLY = Needs()
_DIALECTS_OWN = ("anthropic-version", "anthropic-beta")


def parse_request(body: bytes, headers: Mapping[str, str]) -> Request:
    """Bytes to a request; header names are lower-case. Raises InvalidRequest, naming the field at fault."""
    request = read_request(body, headers, "chat")
    if request.max_tokens is None:
        raise InvalidRequest("Missing required field 'max_tokens'.", param="max_tokens")
    return request


def read_request(body: bytes, headers: Mapping[str, str], operation: Operation) -> Request:
    """As :func:`parse_request`, for every path that takes messages."""
    fields = body_fields(body)
    outline = decode_or_refuse(_OUTLINE, body)
    if not outline.messages:
        raise InvalidRequest("'messages' must hold at least one message.", param="messages")
    if outline.max_tokens is not None and not 0 < outline.max_tokens <= MAX_OUTPUT_TOKENS:
        raise InvalidRequest(f"'max_tokens' must be between 1 and {MAX_OUTPUT_TOKENS}.", param="max_tokens")
    kinds, input_chars = _survey(outline)
    if outline.tools:
        input_chars += len(memoryview(fields["tools"]))
    return Request(
        dialect=DIALECT,
        fields=fields,
        model=model_or_default(outline.model),
        stream=bool(outline.stream),
        include_usage=True,
        max_tokens=outline.max_tokens,
        choices=1,
        end_user=(outline.metadata.user_id or None) if outline.metadata else None,
        needs=_needs(kinds, outline),
        input_chars=input_chars,
        extensions=take_extensions(fields, headers),
        operation=operation,
        affinity=_affinity(body, fields),
        vendor_headers={name: headers[name] for name in _DIALECTS_OWN if name in headers},
        gist=_gist(outline),
    )


def _survey(outline: RequestOutline) -> tuple[set[str], int]:
    """Kinds of content blocks and the characters of the prompt."""
    kinds: set[str] = set()
    chars = 0
    contents = [message.content for message in outline.messages]
    if outline.system is not None:
        contents.append(outline.system)
    for content in contents:
        if isinstance(content, str):
            chars += len(content)
            continue
        for block in content:
            kinds.add(block.type)
            chars += len(block.text or "") + len(memoryview(block.input)) + len(memoryview(block.content))
            if block.type == "tool_result" and b'"image"' in bytes(block.content):
                kinds.add("image")
    return kinds, chars


def _gist(outline: RequestOutline) -> Gist:
    turns = outline.messages
    said = next((turn.content for turn in reversed(turns) if turn.role == "user" and has_words(turn.content)), None)
    return Gist(said, outline.system, len(turns))


def _needs(kinds: set[str], outline: RequestOutline) -> Needs:
    config = outline.output_config
    wanted = outline.output_format or (config.format if config else None)
    json_schema = wanted is not None and wanted.type == "json_schema"
    if not (kinds - {"text"} or outline.tools or json_schema):
        return _TEXT_ONLY
    return Needs(vision="image" in kinds, files="document" in kinds, tools=bool(outline.tools), json_schema=json_schema)


def _affinity(body: bytes, fields: Mapping[str, Raw]) -> str | None:
    """Prompt caches and signed thinking are the account's that made them: such conversations stay with theirs, told
    by how they begin."""
    if b'"cache_control"' not in body and "thinking" not in fields and b'"signature"' not in body:
        return None
    first = _MESSAGES.decode(fields["messages"])[0]
    return hashlib.blake2b(bytes(fields.get("system", b"")) + bytes(first), digest_size=12).hexdigest()
