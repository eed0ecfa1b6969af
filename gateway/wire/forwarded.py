"""OpenAI's smaller endpoints, passed on to vendors that have them: completions, moderations, images, sound, ranking.

Nothing is translated: of the request only the model's name is replaced, the answer's bytes go back as they came, and
what the vendor says it used is metered. One :class:`Forwarded` is the format of one endpoint, toward callers and
vendors alike.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct

from gateway.errors import GatewayError, InvalidRequest, UnsupportedContent
from gateway.wire.extensions import take_extensions
from gateway.wire.metadata import splice_metadata
from gateway.wire.openai_chat.caller_answers import ChatStreamRenderer, render_error
from gateway.wire.openai_chat.usage import parse_usage
from gateway.wire.openai_chat.vendor_errors import answered_error, parse_error
from gateway.wire.sse import MAX_EVENT_BYTES, Framer, parse_events
from gateway.wire.types import (
    Chunk,
    Completion,
    Conversation,
    Needs,
    Operation,
    ParseError,
    Request,
    Upload,
    Usage,
    VendorProfile,
    VendorRequest,
)
from gateway.wire.validation import MAX_OUTPUT_TOKENS, body_fields, decode_or_refuse, model_or_default
from gateway.wire.verbs import ConversationOf, StreamParser, StreamRenderer

DIALECT = "openai"

_encode = msgspec.json.Encoder().encode
_BOUNDARY = re.compile(r'boundary="?([^";,]{1,200})"?', re.IGNORECASE)
_FIELD_NAME = re.compile(rb'content-disposition:[^\r\n]*?[; ]name="([^"\r\n]*)"', re.IGNORECASE)
_FILE_NAME = re.compile(rb"content-disposition:[^\r\n]*?[; ]filename\*?=", re.IGNORECASE)
MAX_PARTS = 64


class _Outline(Struct):
    model: str | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = None
    n: int | None = None
    user: str | None = None


_OUTLINE = msgspec.json.Decoder(_Outline)


class _Answer(Struct):
    model: Any = None
    id: Any = None
    usage: Any = None
    error: Any = None
    choices: Any = None


_ANSWER = msgspec.json.Decoder(_Answer)


class Forwarded:
    """The format of one endpoint at ``path`` below the vendor's base URL. ``text_field`` is what its prompt is called;
    ``json`` says whether its answers are JSON objects, with room for the gateway's metadata."""

    DIALECT = DIALECT

    def __init__(self, operation: Operation, path: str, text_field: str | None, *, json: bool = True) -> None:
        self._operation, self._path, self._text_field, self._json = operation, path, text_field, json

    # ------------------------------------------------------------------ toward callers

    def parse_request(self, body: bytes, headers: Mapping[str, str]) -> Request:
        """Bytes to a request; header names are lower-case. Raises InvalidRequest, naming the field at fault."""
        content_type = headers.get("content-type", "")
        if content_type.lower().startswith("multipart/form-data"):
            return self._parse_form(body, content_type, headers)
        fields = body_fields(body)
        outline = decode_or_refuse(_OUTLINE, body)
        if outline.max_tokens is not None and not 0 < outline.max_tokens <= MAX_OUTPUT_TOKENS:
            raise InvalidRequest(f"'max_tokens' must be between 1 and {MAX_OUTPUT_TOKENS}.", param="max_tokens")
        if self._text_field is None:
            raise InvalidRequest("Send this request as multipart/form-data.")
        if self._text_field not in fields:
            raise InvalidRequest(f"Missing required field '{self._text_field}'.", param=self._text_field)
        stream = bool(outline.stream) and self._operation == "completions"
        if outline.stream and not stream:
            raise InvalidRequest("This endpoint cannot be streamed.", param="stream")
        return self._request(
            fields,
            take_extensions(fields, headers),
            outline.model,
            chars=len(memoryview(fields[self._text_field])),
            stream=stream,
            include_usage=bool((outline.stream_options or {}).get("include_usage")),
            max_tokens=outline.max_tokens,
            choices=outline.n or 1,
            end_user=outline.user or None,
        )

    def _parse_form(self, body: bytes, content_type: str, headers: Mapping[str, str]) -> Request:
        values = {name: value for name, value, is_file in form_parts(body, content_type) if not is_file}
        try:
            fields = {name: Raw(_encode(value.decode())) for name, value in values.items()}
        except UnicodeDecodeError:
            raise InvalidRequest("A field of the form is not UTF-8.") from None
        if values.get("stream", b"").lower() in (b"true", b"1"):
            raise InvalidRequest("This endpoint cannot be streamed.", param="stream")
        request = self._request(fields, take_extensions({}, headers), values.get("model", b"").decode(), chars=0)
        request.upload = Upload(content_type, body)
        return request

    def _request(
        self, fields: dict[str, Raw], extensions: Any, model: str | None, *, chars: int, **known: Any
    ) -> Request:
        settings = {"stream": False, "include_usage": True, "max_tokens": None, "choices": 1, "end_user": None} | known
        return Request(
            dialect=DIALECT,
            fields=fields,
            model=model_or_default(model),
            needs=Needs(),
            input_chars=chars,
            extensions=extensions,
            operation=self._operation,
            **settings,
        )

    def parse_conversation(self, request: Request) -> Conversation:
        """There is none. Raises UnsupportedContent."""
        raise UnsupportedContent("This request is no conversation.", param="model")

    def render_completion(self, completion: Completion, metadata: Mapping[str, Any] | None, request: Request) -> bytes:
        """The answer's own bytes; ``metadata`` is spliced into a JSON object."""
        body = completion.body or b""
        is_object = completion.content_type is None or completion.content_type.startswith("application/json")
        return body if metadata is None or not is_object else splice_metadata(body, metadata)

    def open_stream(self, request: Request) -> StreamRenderer:
        return ChatStreamRenderer(request.model, request.include_usage)

    def render_error(self, error: GatewayError, request_id: str) -> bytes:
        return render_error(error, request_id)

    # ------------------------------------------------------------------ toward vendors

    def render_request(
        self, request: Request, conversation: ConversationOf, vendor_model: str, profile: VendorProfile
    ) -> VendorRequest:
        """The caller's own fields or form, under the vendor's name of the model."""
        if request.upload is not None:
            body = with_model(request.upload, vendor_model)
            return VendorRequest(self._path, body, {"Content-Type": request.upload.content_type})
        fields = request.fields | {"model": Raw(_encode(vendor_model))}
        if request.stream:
            fields["stream_options"] = Raw(b'{"include_usage":true}')
        return VendorRequest(self._path, _encode(fields))

    def parse_completion(self, body: bytes, passthrough: bool) -> Completion:
        """What the vendor says it used; the body is kept. Raises ParseError, or ProviderError for an error in a 200."""
        try:
            answer = _ANSWER.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if self._json:
                raise ParseError("The answer is not a JSON object.") from None
            return Completion(id="", model="", usage=Usage(source="estimated"), body=body)
        if answer.error:
            raise answered_error(answer.error, "status")
        completion = Completion(
            id="", model=answer.model if isinstance(answer.model, str) else "", usage=None, body=body
        )
        completion.usage = used(answer.usage)
        if completion.usage is None and self._operation == "completions":
            completion.generated = _texts_of(answer.choices)
        elif completion.usage is None:
            completion.usage = Usage(source="estimated")
        return completion

    def open_parser(self, passthrough: bool) -> StreamParser:
        return CompletionStream()

    def parse_error(self, status: int, headers: Mapping[str, str], body: bytes) -> GatewayError:
        return parse_error(status, headers, body)


completions = Forwarded("completions", "/completions", "prompt")
moderations = Forwarded("moderations", "/moderations", "input")
images = Forwarded("images", "/images/generations", "prompt")
rerank = Forwarded("rerank", "/rerank", "query")
speech = Forwarded("speech", "/audio/speech", "input", json=False)
transcription = Forwarded("transcription", "/audio/transcriptions", None, json=False)
translation = Forwarded("translation", "/audio/translations", None, json=False)


def _texts_of(choices: Any) -> tuple[str, ...]:
    """What completions say, as far as it is there; the vendor's body is passed on whatever it holds."""
    found = (choice.get("text") for choice in choices if isinstance(choice, dict)) if isinstance(choices, list) else ()
    return tuple(text for text in found if isinstance(text, str))


def used(usage: Any) -> Usage | None:
    """What these endpoints say they used, whichever names they have for it; None for what is no count of tokens."""
    if not isinstance(usage, dict):
        return None
    prompt = usage.get("prompt_tokens", usage.get("input_tokens"))
    completion = usage.get("completion_tokens", usage.get("output_tokens", 0))
    if prompt is None:
        prompt = usage.get("total_tokens")
    return parse_usage({"prompt_tokens": prompt, "completion_tokens": completion})


# --------------------------------------------------------------------------- streamed completions


class _Choice(Struct, gc=False):
    text: str | None = None
    finish_reason: str | None = None


class _Event(Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None


_EVENT = msgspec.json.Decoder(_Event)


class CompletionStream:
    """Reads a stream of ``text_completion`` events, however its bytes are split; each chunk has its event's bytes."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.skipped = 0
        self.complete = False
        self._framer = Framer(max_event_bytes)

    def parse_chunk(self, data: bytes) -> list[Chunk]:
        """Chunks completed by ``data``. Raises ProviderError for an error event, ParseError for a giant one."""
        return self._read(self._framer.feed(data))

    def parse_end(self) -> list[Chunk]:
        """What the vendor's closing of the connection completes. Raises as :meth:`parse_chunk`."""
        return self._read(self._framer.finish())

    def _read(self, block: bytes) -> list[Chunk]:
        chunks: list[Chunk] = []
        for event in parse_events(block):
            if event.data.strip() == b"[DONE]":
                self.complete = True
                break
            try:
                chunks.append(self._chunk(_EVENT.decode(event.data), event.data))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self.skipped += 1
        return chunks

    def _chunk(self, event: _Event, data: bytes) -> Chunk:
        if event.error:
            raise answered_error(event.error, "stream")
        text = "".join(choice.text or "" for choice in event.choices or ())
        chunk = Chunk(text=text, output_chars=len(text), wire=b"data: %b\n\n" % data)
        if any(choice.finish_reason for choice in event.choices or ()):
            self.complete = True
            chunk.finish_reason = "length" if (event.choices or [_Choice()])[0].finish_reason == "length" else "stop"
        chunk.usage = used(event.usage)
        return chunk


# --------------------------------------------------------------------------- forms


def form_parts(body: bytes, content_type: str) -> list[tuple[str, bytes, bool]]:
    """Name, content and whether it is a file, of each part of a form. Raises InvalidRequest."""
    return [(name, body[start:end], is_file) for name, start, end, is_file in _places(body, content_type)]


def with_model(upload: Upload, vendor_model: str) -> bytes:
    """The form with another value for ``model`` (added where there is none); every other byte stays what it was."""
    body = upload.body
    for name, start, end, _ in _places(body, upload.content_type):
        if name == "model":
            return body[:start] + vendor_model.encode() + body[end:]
    delimiter = b"--" + _boundary(upload.content_type)
    added = b'%b\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n' % (delimiter, vendor_model.encode())
    return added + body[body.index(delimiter) :]


def _places(body: bytes, content_type: str) -> list[tuple[str, int, int, bool]]:
    """Where each part's content begins and ends."""
    delimiter = b"\r\n--" + _boundary(content_type)
    found: list[tuple[str, int, int, bool]] = []
    at = 0 if body.startswith(delimiter[2:]) else body.find(delimiter) + 2
    position = at + len(delimiter) - 2
    if at == 1:
        raise InvalidRequest("The form does not begin with its boundary.")
    while not body.startswith(b"--", position):
        head_end = body.find(b"\r\n\r\n", position)
        end = body.find(delimiter, head_end + 2)
        if head_end < 0 or end < 0 or len(found) >= MAX_PARTS:
            raise InvalidRequest("The form is not valid multipart/form-data.")
        head = body[position:head_end]
        if (named := _FIELD_NAME.search(head)) is None:
            raise InvalidRequest("A part of the form has no name.")
        name = named[1].decode(errors="replace")
        found.append((name, head_end + 4, end, _FILE_NAME.search(head) is not None))
        position = end + len(delimiter)
    return found


def _boundary(content_type: str) -> bytes:
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise InvalidRequest("The form's content type names no boundary.")
    return found[1].encode()


__all__ = [
    "CompletionStream",
    "Forwarded",
    "completions",
    "form_parts",
    "images",
    "moderations",
    "rerank",
    "speech",
    "transcription",
    "translation",
    "used",
    "with_model",
]
