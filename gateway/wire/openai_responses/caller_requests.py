"""A caller's Responses request: validated, outlined, its fields kept as they came."""

import hashlib
from collections.abc import Mapping

import msgspec
from msgspec import Raw

from gateway.errors import InvalidRequest
from gateway.wire.extensions import take_extensions
from gateway.wire.openai_responses.shapes import DIALECT, RequestOutline
from gateway.wire.types import Gist, Needs, Request, has_words
from gateway.wire.validation import MAX_OUTPUT_TOKENS, body_fields, decode_or_refuse, model_or_default

ENCRYPTED_REASONING = "reasoning.encrypted_content"

_OUTLINE = msgspec.json.Decoder(RequestOutline)
_ITEMS = msgspec.json.Decoder(list[Raw])
_TEXT_ONLY = Needs()


def parse_request(body: bytes, headers: Mapping[str, str]) -> Request:
    """Bytes to a request; header names are lower-case. Raises InvalidRequest, naming the field at fault."""
    fields = body_fields(body)
    outline = decode_or_refuse(_OUTLINE, body)
    if not outline.input and outline.previous_response_id is None and "prompt" not in fields:
        raise InvalidRequest("Missing required field 'input'.", param="input")
    limit = outline.max_output_tokens
    if limit is not None and not 0 < limit <= MAX_OUTPUT_TOKENS:
        raise InvalidRequest(
            f"'max_output_tokens' must be between 1 and {MAX_OUTPUT_TOKENS}.", param="max_output_tokens"
        )
    kinds, input_chars = _survey(outline)
    if outline.tools:
        input_chars += len(memoryview(fields["tools"]))
    return Request(
        dialect=DIALECT,
        fields=fields,
        model=model_or_default(outline.model),
        stream=bool(outline.stream),
        include_usage=True,
        max_tokens=limit,
        choices=1,
        end_user=outline.safety_identifier or outline.user or None,
        needs=_needs(kinds, outline),
        input_chars=input_chars,
        extensions=take_extensions(fields, headers),
        affinity=_affinity(outline, fields),
        continues=outline.previous_response_id,
        gist=_gist(outline),
    )


def _survey(outline: RequestOutline) -> tuple[set[str], int]:
    """Kinds of content parts and the characters of the prompt."""
    kinds: set[str] = set()
    chars = len(outline.instructions or "")
    if not isinstance(outline.input, list):
        return kinds, chars + len(outline.input or "")
    for item in outline.input:
        chars += len(item.arguments or "") + len(memoryview(item.output))
        if isinstance(item.content, str):
            chars += len(item.content)
        for part in item.content or () if not isinstance(item.content, str) else ():
            kinds.add(part.type)
            chars += len(part.text or "")
    return kinds, chars


def _gist(outline: RequestOutline) -> Gist:
    items = outline.input
    if not isinstance(items, list):
        return Gist(items, outline.instructions)
    said = next((item.content for item in reversed(items) if item.role == "user" and has_words(item.content)), None)
    first = items[0] if items else None
    system = first.content if first is not None and first.role in ("system", "developer") else None
    return Gist(said, outline.instructions or system, len(items))


def _needs(kinds: set[str], outline: RequestOutline) -> Needs:
    wanted = outline.text.format if outline.text else None
    json_schema = wanted is not None and wanted.type == "json_schema"
    if not (kinds & {"input_image", "input_file", "input_audio"} or outline.tools or json_schema):
        return _TEXT_ONLY
    return Needs(
        vision="input_image" in kinds,
        audio="input_audio" in kinds,
        files="input_file" in kinds,
        tools=bool(outline.tools),
        json_schema=json_schema,
    )


def _affinity(outline: RequestOutline, fields: Mapping[str, Raw]) -> str | None:
    """Stored answers, prompt caches and encrypted reasoning are the account's that made them."""
    if named := outline.prompt_cache_key or outline.previous_response_id:
        return named
    items = outline.input if isinstance(outline.input, list) else []
    if ENCRYPTED_REASONING not in (outline.include or ()) and not any(item.encrypted_content for item in items):
        return None
    first = bytes(fields["input"]) if not items else bytes(_ITEMS.decode(fields["input"])[0])
    return hashlib.blake2b(first, digest_size=12).hexdigest()
