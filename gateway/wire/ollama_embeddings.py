"""Ollama's embeddings, as the format of a vendor."""

from typing import Any

import msgspec
from msgspec import Struct

from gateway.wire.ollama import open_parser, parse_error
from gateway.wire.openai_embeddings import texts_of
from gateway.wire.translation import believable, token_count
from gateway.wire.types import Completion, ParseError, Request, Usage, VendorProfile, VendorRequest
from gateway.wire.verbs import ConversationOf

__all__ = ["DIALECT", "open_parser", "parse_completion", "parse_error", "render_request"]

DIALECT = "ollama_embeddings"
PATH = "/api/embed"


class _Answer(Struct):
    embeddings: tuple[tuple[float, ...], ...]
    model: str = ""
    prompt_eval_count: Any = None


_ANSWER = msgspec.json.Decoder(_Answer)


def render_request(
    request: Request, conversation: ConversationOf, vendor_model: str, profile: VendorProfile
) -> VendorRequest:
    """``POST /api/embed``. Raises UnsupportedContent for token numbers."""
    texts, dimensions = texts_of(request)
    body: dict[str, Any] = {"model": vendor_model, "input": texts}
    if dimensions is not None:
        body["dimensions"] = dimensions
    return VendorRequest(PATH, msgspec.json.encode(body))


def parse_completion(body: bytes, passthrough: bool) -> Completion:
    """The vectors and what was counted. Raises ParseError."""
    try:
        answer = _ANSWER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ParseError("The answer holds no embeddings.") from None
    read = token_count(answer.prompt_eval_count)
    usage = None if read is None else believable(Usage(input=read))
    return Completion(id="", model=answer.model, usage=usage, vectors=answer.embeddings)
