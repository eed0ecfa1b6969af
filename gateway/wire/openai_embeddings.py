"""OpenAI's embeddings, toward callers and toward vendors that speak them; the verbs of :mod:`gateway.wire.verbs`.

Vendors with a format of their own (Gemini, Ollama) have it in modules of theirs, which ask :func:`texts_of`.
"""

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from gateway.errors import InvalidRequest, UnsupportedContent
from gateway.wire.extensions import take_extensions
from gateway.wire.metadata import splice_metadata
from gateway.wire.openai_chat.caller_answers import open_stream, render_error
from gateway.wire.openai_chat.usage import parse_usage
from gateway.wire.openai_chat.vendor_errors import answered_error, parse_error
from gateway.wire.openai_chat.vendor_streams import open_parser
from gateway.wire.types import (
    Completion,
    Conversation,
    Needs,
    ParseError,
    Request,
    Usage,
    VendorProfile,
    VendorRequest,
)
from gateway.wire.validation import body_fields, decode_or_refuse, model_or_default
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
    "texts_of",
]

DIALECT = "openai_embeddings"
PATH = "/embeddings"
MAX_INPUTS = 2048
CHARS_PER_TOKEN = 4

_encode = msgspec.json.Encoder().encode


class EmbeddingsFields(Struct):
    input: str | list[str | int | list[int]] = ""
    model: str | None = None
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None


_FIELDS = msgspec.json.Decoder(EmbeddingsFields)


class _Answer(Struct):
    data: list[Raw] | None = None
    model: str = ""
    usage: Any = None
    error: Any = None


_ANSWER = msgspec.json.Decoder(_Answer)


def parse_request(body: bytes, headers: Mapping[str, str]) -> Request:
    """Bytes to a request; header names are lower-case. Raises InvalidRequest, naming the field at fault."""
    fields = body_fields(body)
    outline = _outline(body)
    given = outline.input
    if not given or (isinstance(given, list) and any(item in ("", []) for item in given)):
        raise InvalidRequest("'input' must not be empty.", param="input")
    if isinstance(given, list) and len({type(item) for item in given}) > 1:
        raise InvalidRequest("'input' must hold texts or token numbers, not both.", param="input")
    if isinstance(given, list) and not isinstance(given[0], int) and len(given) > MAX_INPUTS:
        raise InvalidRequest(f"'input' must hold at most {MAX_INPUTS} items.", param="input")
    if outline.dimensions is not None and outline.dimensions < 1:
        raise InvalidRequest("'dimensions' must be at least 1.", param="dimensions")
    return Request(
        dialect=DIALECT,
        fields=fields,
        model=model_or_default(outline.model),
        stream=False,
        include_usage=True,
        max_tokens=None,
        choices=1,
        end_user=outline.user or None,
        needs=Needs(),
        input_chars=_chars(given),
        extensions=take_extensions(fields, headers),
        operation="embeddings",
    )


def _outline(body: bytes | Raw) -> EmbeddingsFields:
    return decode_or_refuse(_FIELDS, body)


def estimated_tokens(chars: int) -> int:
    """What a vendor that does not count is said to have read."""
    return -(-chars // CHARS_PER_TOKEN)


def _chars(given: str | int | Sequence[str | int | list[int]]) -> int:
    if isinstance(given, int):
        return CHARS_PER_TOKEN
    return len(given) if isinstance(given, str) else sum(_chars(item) for item in given)


def parse_conversation(request: Request) -> Conversation:
    """There is none. Raises UnsupportedContent."""
    raise UnsupportedContent("Embeddings are no conversation.", param="model")


def render_completion(completion: Completion, metadata: Mapping[str, Any] | None, request: Request) -> bytes:
    """A list of embeddings; a vendor's own body is passed on with ``metadata`` spliced in at its end."""
    body = completion.body
    if body is None:
        pack = _outline(_encode(request.fields)).encoding_format == "base64"
        data = [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if pack else vector}
            for index, vector in enumerate(completion.vectors)
        ]
        tokens = completion.usage.total_input if completion.usage else estimated_tokens(request.input_chars)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        body = _encode({"object": "list", "data": data, "model": completion.model, "usage": usage})
    return body if metadata is None else splice_metadata(body, metadata)


def _packed(vector: Sequence[float]) -> str:
    """Little-endian 32-bit floats as base64, the form the official SDKs ask for."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


# --------------------------------------------------------------------------- vendors of the same format


def render_request(
    request: Request, conversation: ConversationOf, vendor_model: str, profile: VendorProfile
) -> VendorRequest:
    """The caller's own fields, under the vendor's name of the model."""
    fields = {name: value for name, value in request.fields.items() if name not in profile.unsupported}
    fields["model"] = Raw(_encode(vendor_model))
    dropped = tuple(name for name in request.fields if name in profile.unsupported)
    return VendorRequest(PATH, _encode(fields), dropped=dropped)


def parse_completion(body: bytes, passthrough: bool) -> Completion:
    """Raises ParseError for what is no list of embeddings, ProviderError for an error in its place."""
    try:
        answer = _ANSWER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ParseError("The answer is not a list of embeddings.") from None
    if answer.error:
        raise answered_error(answer.error, "status")
    if not answer.data:
        raise ParseError("The answer holds no embeddings.")
    return Completion(id="", model=answer.model, usage=_usage(answer.usage), body=body)


def _usage(usage: Any) -> Usage | None:
    """An embedding has a prompt and no answer; some vendors give the total alone."""
    if not isinstance(usage, dict):
        return None
    prompt = usage.get("prompt_tokens", usage.get("total_tokens"))
    return parse_usage({"prompt_tokens": prompt, "completion_tokens": 0})


# --------------------------------------------------------------------------- vendors with formats of their own


def texts_of(request: Request) -> tuple[list[str], int | None]:
    """The texts to embed and the dimensions asked for.

    Raises UnsupportedContent for token numbers, which only their own vendor can read.
    """
    outline = _outline(_encode(request.fields))
    given = [outline.input] if isinstance(outline.input, str) else outline.input
    texts = [item for item in given if isinstance(item, str)]
    if len(texts) != len(given):
        raise UnsupportedContent("Only texts can be embedded by this model, not token numbers.", param="input")
    return texts, outline.dimensions
