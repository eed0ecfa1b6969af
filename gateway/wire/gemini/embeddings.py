"""Gemini's embeddings, as the format of a vendor."""

from urllib.parse import quote

import msgspec
from msgspec import Struct

from gateway.wire.gemini.answers import open_parser, parse_error
from gateway.wire.openai_embeddings import texts_of
from gateway.wire.types import Completion, ParseError, Request, VendorProfile, VendorRequest
from gateway.wire.verbs import ConversationOf

__all__ = ["DIALECT", "open_parser", "parse_completion", "parse_error", "render_request"]

DIALECT = "gemini_embeddings"


class _Embedding(Struct):
    values: tuple[float, ...]


class _Answer(Struct):
    embeddings: list[_Embedding]


_ANSWER = msgspec.json.Decoder(_Answer)


def render_request(
    request: Request, conversation: ConversationOf, vendor_model: str, profile: VendorProfile
) -> VendorRequest:
    """``batchEmbedContents``. Raises UnsupportedContent for token numbers."""
    texts, dimensions = texts_of(request)
    name = vendor_model.removeprefix("models/")
    wanted = {} if dimensions is None else {"outputDimensionality": dimensions}
    requests = [{"model": f"models/{name}", "content": {"parts": [{"text": text}]}} | wanted for text in texts]
    return VendorRequest(
        f"/models/{quote(name, safe='')}:batchEmbedContents", msgspec.json.encode({"requests": requests})
    )


def parse_completion(body: bytes, passthrough: bool) -> Completion:
    """The vectors; Gemini does not count what it read. Raises ParseError."""
    try:
        answer = _ANSWER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ParseError("The answer holds no embeddings.") from None
    return Completion(id="", model="", usage=None, vectors=tuple(item.values for item in answer.embeddings))
