"""A caller's chat request: validated, outlined, its fields kept as they came."""

from collections.abc import Mapping

import msgspec

from gateway.errors import InvalidRequest
from gateway.wire.extensions import take_extensions
from gateway.wire.openai_chat.shapes import DIALECT, MessageOutline, RequestOutline
from gateway.wire.types import Gist, Needs, Request, has_words
from gateway.wire.validation import MAX_OUTPUT_TOKENS, body_fields, decode_or_refuse, model_or_default

MAX_CHOICES = 128

_OUTLINE = msgspec.json.Decoder(RequestOutline)
_TEXT_ONLY = Needs()


def parse_request(body: bytes, headers: Mapping[str, str]) -> Request:
    """Bytes to a request; header names are lower-case. Raises InvalidRequest, naming the field at fault.

    ``input_chars`` counts text, tool calls and tool definitions; media are not in it.
    """
    fields = body_fields(body)
    outline = decode_or_refuse(_OUTLINE, body)
    if not outline.messages:
        raise InvalidRequest("'messages' must hold at least one message.", param="messages")
    kinds, input_chars = _survey(outline.messages)
    has_tools = bool(outline.tools or outline.functions)
    if has_tools:
        input_chars += sum(len(memoryview(fields[name])) for name in ("tools", "functions") if name in fields)
    options = outline.stream_options
    return Request(
        dialect=DIALECT,
        fields=fields,
        model=model_or_default(outline.model),
        stream=bool(outline.stream),
        include_usage=bool(outline.stream and options is not None and options.include_usage),
        max_tokens=_max_tokens(outline),
        choices=_choices(outline),
        end_user=outline.safety_identifier or outline.user or None,
        needs=_needs(kinds, has_tools, outline),
        input_chars=input_chars,
        extensions=take_extensions(fields, headers),
        affinity=outline.prompt_cache_key,
        gist=_gist(outline.messages),
    )


def _survey(messages: list[MessageOutline]) -> tuple[set[str], int]:
    """Kinds of content parts (empty for plain text) and the characters of the prompt."""
    kinds: set[str] = set()
    chars = 0
    for message in messages:
        content = message.content
        if isinstance(content, str):
            chars += len(content)
        elif content:
            for part in content:
                kinds.add(part.type)
                chars += len(part.text or "")
        chars += len(memoryview(message.tool_calls))
    return kinds, chars


def _gist(messages: list[MessageOutline]) -> Gist:
    first = messages[0]
    said = next((turn.content for turn in reversed(messages) if turn.role == "user" and has_words(turn.content)), None)
    return Gist(said, first.content if first.role in ("system", "developer") else None, len(messages))


def _needs(kinds: set[str], has_tools: bool, outline: RequestOutline) -> Needs:
    json_schema = outline.response_format is not None and outline.response_format.type == "json_schema"
    if not (kinds or has_tools or json_schema):
        return _TEXT_ONLY
    return Needs(
        vision="image_url" in kinds,
        audio="input_audio" in kinds,
        files="file" in kinds,
        tools=has_tools,
        json_schema=json_schema,
    )


def _max_tokens(outline: RequestOutline) -> int | None:
    for name in ("max_tokens", "max_completion_tokens"):
        value = getattr(outline, name)
        if value is not None and not 0 < value <= MAX_OUTPUT_TOKENS:
            raise InvalidRequest(f"'{name}' must be between 1 and {MAX_OUTPUT_TOKENS}.", param=name)
    return outline.max_tokens if outline.max_completion_tokens is None else outline.max_completion_tokens


def _choices(outline: RequestOutline) -> int:
    if outline.n is None:
        return 1
    if not 0 < outline.n <= MAX_CHOICES:
        raise InvalidRequest(f"'n' must be between 1 and {MAX_CHOICES}.", param="n")
    return outline.n
