"""One call to a vendor: catalogue row + wire format + transport.

The client translates and carries; which target is tried, and what happens after a failure, is the
dispatcher's business.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, urlsplit

from gateway.errors import GatewayError, ProviderError, UnsupportedContent
from gateway.providers import catalog
from gateway.providers.catalog import Vendor
from gateway.providers.demo import DemoTransport
from gateway.providers.outbound import Deadlines, OutboundRequest, Response, Sender
from gateway.providers.target import Target
from gateway.wire import (
    anthropic_messages,
    forwarded,
    gemini,
    ollama,
    ollama_embeddings,
    openai_chat,
    openai_embeddings,
    openai_responses,
)
from gateway.wire.anthropic_messages import count_tokens
from gateway.wire.gemini import embeddings as gemini_embeddings
from gateway.wire.types import Chunk, Completion, Conversation, Operation, ParseError, Request
from gateway.wire.verbs import CallerFormat, StreamParser, VendorFormat

MAX_COMPLETION_BYTES = 32 * 1024 * 1024
MAX_REFUSAL_BYTES = 64 * 1024
CLOSING_S = 5.0  # how long a finished stream may take to close; some vendors leave it open
_REMEMBERED_ENDPOINTS = 1024

CANONICAL = "canonical"  # the dialect of a request that no caller sent: rendered from its conversation everywhere
MAX_MALFORMED_EVENTS = 1  # of one stream: more is garbage


def _as_openai_does(format_: VendorFormat) -> Mapping[str, VendorFormat]:
    """An endpoint that vendors with OpenAI's formats have, and no others."""
    return {"openai_chat": format_, "openai_responses": format_}


VENDOR_FORMATS: Mapping[Operation, Mapping[str, VendorFormat]] = {
    "chat": {
        "openai_chat": openai_chat,
        "openai_responses": openai_responses,
        "anthropic_messages": anthropic_messages,
        "gemini": gemini,
        "ollama": ollama,
    },
    "count_tokens": {"anthropic_messages": count_tokens},
    "embeddings": {
        "openai_chat": openai_embeddings,
        "openai_responses": openai_embeddings,
        "gemini": gemini_embeddings,
        "ollama": ollama_embeddings,
    },
    "completions": _as_openai_does(forwarded.completions),
    "moderations": _as_openai_does(forwarded.moderations),
    "images": _as_openai_does(forwarded.images),
    "speech": _as_openai_does(forwarded.speech),
    "transcription": _as_openai_does(forwarded.transcription),
    "translation": _as_openai_does(forwarded.translation),
    "rerank": _as_openai_does(forwarded.rerank),
}
CALLER_FORMATS: Mapping[str, CallerFormat] = {
    openai_chat.DIALECT: openai_chat,
    openai_responses.DIALECT: openai_responses,
    anthropic_messages.DIALECT: anthropic_messages,
}

BINARY_ANSWERS: frozenset[Operation] = frozenset({"speech", "transcription", "translation"})  # not always JSON

HeardHeaders = Callable[[str, Mapping[str, str]], None]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how one provider is reached with one key; what every call to it shares.

    ``headers`` hold the key, so an endpoint is never logged.
    """

    vendor: Vendor
    sender: Sender
    base_url: str
    query: str
    headers: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Endpoint({self.vendor.kind})"

    @classmethod
    def of(cls, vendor: Vendor, base_url: str, secret: str, sender: Sender) -> Self:
        """Raises ProviderError (``connect``) for a provider that cannot be called as it is configured."""
        base, _, query = (base_url or vendor.base_url or "").partition("?")
        if not base:
            raise ProviderError("The provider has no base URL.", kind="connect")
        if vendor.key_required and not secret:
            raise ProviderError("The provider has no key.", kind="connect")
        if not (secret.isascii() and secret.isprintable()):
            raise ProviderError("The provider's key has characters that cannot be sent.", kind="connect")
        headers = {"Content-Type": "application/json", **vendor.headers}
        if vendor.auth is not None and secret:
            headers |= vendor.auth.render(secret)
        return cls(vendor, sender, base.rstrip("/"), query or vendor.query, headers)

    def format_of(self, operation: Operation, dialect: str) -> VendorFormat:
        """What this vendor speaks for ``operation``, the caller's own dialect if it can.

        Raises UnsupportedContent for what it does not offer.
        """
        if dialect in self.vendor.also and operation == "chat":
            return VENDOR_FORMATS["chat"][dialect]
        spoken = VENDOR_FORMATS[operation].get(self.vendor.format)
        if spoken is None:
            offered = operation.replace("_", " ")
            raise UnsupportedContent(f"This model's provider does not offer {offered}.", param="model")
        return spoken

    def outbound(
        self, operation: Operation, path: str, vendor_model: str, body: bytes, headers: Mapping[str, str]
    ) -> OutboundRequest:
        """A rendered request; ``path`` is the format's, which the vendor may replace for chat."""
        if self.vendor.chat_path is not None and operation == "chat":
            path = self.vendor.chat_path.format(model=quote(vendor_model, safe=""))
        return OutboundRequest(
            self._with_query(self.base_url + path), {**self.headers, **headers} if headers else self.headers, body
        )

    def models_request(self) -> OutboundRequest | None:
        """Asks which models there are; None where the vendor lists none."""
        models = self.vendor.models
        if models is None:
            return None
        base = self.base_url
        if models.at_origin:
            parts = urlsplit(base)
            base = f"{parts.scheme}://{parts.netloc}"
        return OutboundRequest(self._with_query(base + models.path), self.headers, method="GET")

    def _with_query(self, url: str) -> str:
        return f"{url}{'&' if '?' in url else '?'}{self.query}" if self.query else url


class VendorClient:
    """Calls vendors over ``transport``; the built-in demo is answered in-process by ``demo``. ``heard`` is told the
    headers of every answer, by the target's circuit: vendors say there what is left of their rate limits."""

    def __init__(self, transport: Sender, demo: Sender | None = None, heard: HeardHeaders | None = None) -> None:
        self._transport = transport
        self._demo = demo or DemoTransport()
        self._heard = heard
        self._endpoints: dict[tuple[str, str, str], Endpoint] = {}

    def endpoint(self, kind: str, base_url: str, secret: str) -> Endpoint:
        """The endpoint of a provider, remembered. Raises ProviderError when it is not fit to be called."""
        key = (kind, base_url, secret)
        endpoint = self._endpoints.get(key)
        if endpoint is None:
            sender = self._demo if kind == "demo" else self._transport
            endpoint = Endpoint.of(catalog.get(kind), base_url, secret, sender)
            if len(self._endpoints) >= _REMEMBERED_ENDPOINTS:
                self._endpoints.clear()
            self._endpoints[key] = endpoint
        return endpoint

    async def complete(self, target: Target, request: Request, deadlines: Deadlines) -> Completion:
        """A whole answer; where caller and vendor speak the same format it carries the vendor's body as it came.

        Raises ProviderError for what the vendor or the way to it did, and the GatewayError of a request
        that is the caller's mistake or that this vendor cannot take.
        """
        vendor, response, dropped = await self._send(target, request, deadlines)
        body = await response.read(MAX_COMPLETION_BYTES)
        try:
            completion = vendor.parse_completion(body, request.dialect == vendor.DIALECT)
        except ParseError as exc:
            raise ProviderError("The provider's answer is not in its format.", kind="protocol") from exc
        if request.operation in BINARY_ANSWERS:
            completion.content_type = response.headers.get("content-type")
        if dropped:
            completion.dropped += dropped
        return completion

    async def stream(
        self, target: Target, request: Request, deadlines: Deadlines, *, translate: bool = False
    ) -> "VendorStream":
        """A streamed answer whose headers have arrived. Raises as :meth:`complete` does.

        With ``translate`` its chunks come without the vendor's bytes, even where the caller speaks its format.
        """
        vendor, response, dropped = await self._send(target, request, deadlines)
        await _refuse_unless_stream(vendor, response)
        passthrough = request.dialect == vendor.DIALECT and not translate
        return VendorStream(response, vendor.open_parser(passthrough), dropped)

    async def _send(
        self, target: Target, request: Request, deadlines: Deadlines
    ) -> tuple[VendorFormat, Response, tuple[str, ...]]:
        """The response to a rendered request, with the names of the knobs it does not carry; refusals raise."""
        endpoint = self.endpoint(target.kind, target.base_url, target.secret)
        vendor = endpoint.format_of(request.operation, request.dialect)
        rendered = vendor.render_request(request, conversation_of, target.vendor_model, target.profile)
        outbound = endpoint.outbound(
            request.operation, rendered.path, target.vendor_model, rendered.body, rendered.headers
        )
        response = await endpoint.sender.send(outbound, deadlines)
        if self._heard is not None:
            self._heard(target.circuit, response.headers)
        if not 200 <= response.status < 300:
            raise await refusal_of(vendor, response)
        return vendor, response, rendered.dropped


class VendorStream:
    """An answer as it is generated: iterate for the chunks of each block that comes off the socket.

    Raises ProviderError when the stream breaks. One that merely ends may still be cut: ask :attr:`complete`.
    """

    __slots__ = ("_blocks", "_ended", "_parser", "_response", "dropped")

    def __init__(self, response: Response, parser: StreamParser, dropped: tuple[str, ...]) -> None:
        self.dropped = dropped
        self._response = response
        self._blocks: AsyncIterator[bytes] = response.blocks()
        self._parser = parser
        self._ended = False

    @property
    def complete(self) -> bool:
        """True once the vendor has said that the answer is finished."""
        return self._parser.complete

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Chunk]:
        parser = self._parser
        while not self._ended:
            try:
                block = await self._blocks.__anext__()
            except StopAsyncIteration:
                block = None
            except ProviderError:
                if not parser.complete:
                    raise
                block = None  # nothing was missing any more
            chunks = self._parse(block)
            if chunks:
                return chunks
        raise StopAsyncIteration

    async def up_to_first_token(self) -> list[Chunk]:
        """The chunks up to the first that says something. Raises ProviderError for a stream that never does."""
        chunks: list[Chunk] = []
        async for block in self:
            chunks += block
            if any(chunk.output_chars or chunk.final for chunk in block):
                self._response.first_token_seen()
                return chunks
        raise ProviderError("The provider's stream was empty.", kind="stream")

    def close(self) -> None:
        """Hang up on the vendor at once, unless the answer was read to its end."""
        self._ended = True
        self._response.close()

    def _parse(self, block: bytes | None) -> list[Chunk]:
        """Chunks of ``block``; None stands for the end."""
        parser = self._parser
        was_complete = parser.complete
        try:
            if block is None:
                self._ended = True
                return parser.parse_end()
            chunks = parser.parse_chunk(block)
        except ParseError as exc:
            self.close()
            raise ProviderError("The provider's stream is not in its format.", kind="protocol") from exc
        except ProviderError:
            self.close()
            raise
        if parser.skipped > MAX_MALFORMED_EVENTS and not parser.complete:
            self.close()
            raise ProviderError("The provider's stream turned to garbage.", kind="protocol")
        if parser.complete and not was_complete:
            self._response.expect_end(CLOSING_S)
        return chunks


def offers(kind: str, operation: Operation) -> bool:
    """Whether a vendor of this catalogue row can be asked for ``operation``."""
    return catalog.get(kind).format in VENDOR_FORMATS[operation]


def conversation_of(request: Request) -> Conversation:
    """What is said and asked, whoever's dialect it came in. Raises InvalidRequest or UnsupportedContent."""
    known = request._conversation  # noqa: SLF001 - the formats' memo
    return known if known is not None else CALLER_FORMATS[request.dialect].parse_conversation(request)


async def refusal_of(vendor: VendorFormat, response: Response) -> GatewayError:
    """The error that an answer outside 2xx stands for."""
    try:
        body = await response.read(MAX_REFUSAL_BYTES)
    except ProviderError:
        body = b""  # cut, or longer than any error is: the status has to say it
    return vendor.parse_error(response.status, response.headers, body)


async def _refuse_unless_stream(vendor: VendorFormat, response: Response) -> None:
    """A 200 that is no stream: an error told as JSON, or some other server's page."""
    content_type = response.headers.get("content-type", "")
    if content_type.startswith("text/html"):
        response.close()
        raise ProviderError("The provider answered with a web page.", kind="protocol")
    # Ollama's lines of JSON go by any JSON type; elsewhere JSON is a whole answer.
    if content_type.startswith("application/json") and vendor is not ollama:
        body = await response.read(MAX_COMPLETION_BYTES)
        try:
            vendor.parse_completion(body, False)  # raises the error it tells of
        except ParseError as exc:
            raise ProviderError("The provider's answer is not in its format.", kind="protocol") from exc
        raise ProviderError("The provider answered in one piece where a stream was asked for.", kind="protocol")
