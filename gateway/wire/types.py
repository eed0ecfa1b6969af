"""The canonical forms every wire format translates to and from.

Pure data: no I/O, no framework. A *caller's* format parses bytes into a :class:`Request` and renders
a :class:`Completion` or :class:`Chunk` back; a *vendor's* format renders a request and parses what
comes back. Each format module offers the same verbs (see :mod:`gateway.wire`).
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Raw, Struct, field

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
Role = Literal["system", "user", "assistant", "tool"]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
ServiceTier = Literal["", "batch", "flex", "priority", "ultrafast", "other"]
Operation = Literal[
    "chat",  # a conversation, whatever its dialect: what can be routed, translated and rescued
    "count_tokens",
    "embeddings",
    "completions",
    "moderations",
    "images",
    "speech",
    "transcription",
    "translation",
    "rerank",
]


# --------------------------------------------------------------------------- messages


class Text(Struct, tag="text", frozen=True):
    text: str


class Image(Struct, tag="image", frozen=True):
    """An image by ``url`` (https) or inline (``data`` is base64 of ``media_type``); never both."""

    url: str | None = None
    data: str | None = None
    media_type: str | None = None
    detail: str | None = None


class Audio(Struct, tag="audio", frozen=True):
    """Inline audio; ``data`` is base64, ``format`` as OpenAI names it (``wav``, ``mp3``)."""

    data: str
    format: str


class File(Struct, tag="file", frozen=True):
    """A document by ``url``, vendor ``file_id`` or inline base64 ``data`` of ``media_type``."""

    data: str | None = None
    media_type: str | None = None
    url: str | None = None
    file_id: str | None = None
    filename: str | None = None


class Thinking(Struct, tag="thinking", frozen=True):
    """Reasoning text. ``signature`` proves it to the vendor it came from; ``redacted`` is opaque data."""

    text: str = ""
    signature: str | None = None
    redacted: str | None = None


class ToolCall(Struct, tag="tool_call", frozen=True):
    """The model asks for a tool; ``arguments`` is JSON text exactly as generated ("" counts as "{}")."""

    id: str
    name: str
    arguments: str


class ToolResult(Struct, tag="tool_result", frozen=True):
    tool_call_id: str
    content: "tuple[Text | Image, ...]"
    is_error: bool = False


class Refusal(Struct, tag="refusal", frozen=True):
    text: str


Part = Text | Image | Audio | File | Thinking | ToolCall | ToolResult | Refusal


class Message(Struct, frozen=True):
    """One turn. System messages may stand anywhere; tool results have the role ``tool``."""

    role: Role
    parts: tuple[Part, ...]
    name: str | None = None


class Tool(Struct, frozen=True):
    """A function the model may call; ``parameters`` is a JSON Schema object."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolChoice(Struct, frozen=True):
    mode: Literal["auto", "none", "required", "tool"]
    name: str | None = None  # with mode "tool"


class ResponseFormat(Struct, frozen=True):
    """``json`` asks for any JSON object, ``json_schema`` for one that fits ``schema``."""

    kind: Literal["text", "json", "json_schema"]
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class Sampling(Struct, frozen=True):
    """Tuning knobs. A vendor that lacks one has it dropped with a note; content is never dropped."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    reasoning_effort: ReasoningEffort | None = None
    thinking_budget: int | None = None  # tokens
    parallel_tool_calls: bool | None = None


class Conversation(Struct, frozen=True):
    """What is said and asked, independent of any dialect. Derived from a request only when needed:
    same-format traffic never pays for it. ``unknown`` names top-level fields of the caller's that have no place
    here: whoever renders the conversation notes them as dropped."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    response_format: ResponseFormat | None = None
    sampling: Sampling = Sampling()
    unknown: tuple[str, ...] = ()


class Needs(Struct, frozen=True):
    """What a target must be capable of for this request; cheap to know without a full translation."""

    vision: bool = False
    audio: bool = False
    files: bool = False
    tools: bool = False
    json_schema: bool = False


class Extensions(Struct, frozen=True):
    """The gateway's own request fields (``x-...`` in the body, ``x-gateway-...`` as headers)."""

    routing_strategy: Literal["cost", "quality", "latency", "balanced"] | None = None
    prefer_provider: str | None = None
    cache: bool | None = None
    budget_key: str | None = None
    task_type: str | None = None
    complexity: str | None = None
    tags: tuple[str, ...] = ()
    timeout_s: float | None = None
    fallback: bool | None = None
    session_id: str | None = None


class Upload(Struct, frozen=True):
    """A form with a file, as it came in. ``content_type`` names the boundary."""

    content_type: str
    body: bytes


class Worded(Protocol):
    """A part of a content, as far as it is text."""

    text: str | None


Content = str | Sequence[Worded] | None


class Gist(Struct, frozen=True):
    """What a prompt is about: the user's last turn that has words, the system's first, and the number of turns. They
    refer to what was decoded anyway."""

    said: Content = None
    system: Content = None
    turns: int = 1

    @property
    def question(self) -> str:
        return self.said if isinstance(self.said, str) else _worded(self.said)

    @property
    def instructions(self) -> str:
        return self.system if isinstance(self.system, str) else _worded(self.system)


def has_words(content: Content) -> bool:
    """Whether there is any text in it."""
    return bool(content) if content is None or isinstance(content, str) else any(part.text for part in content)


def _worded(parts: Sequence[Worded] | None) -> str:
    return "\n".join(part.text for part in parts if part.text) if parts else ""


NO_GIST = Gist()


class Request(Struct):
    """One parsed call. ``fields`` are the caller's top-level body fields in their order, each value the
    very bytes that came in; the gateway's extensions are already taken out.

    ``input_chars`` is the size of the prompt in characters (text only where that is cheap to know, else
    the JSON that holds it): the base of the token estimate used before a vendor reports usage.
    ``affinity`` names what keeps a conversation with the deployment that holds its prompt cache or can read its
    encrypted reasoning (None: any will do); a session id the caller gives goes before it.
    ``continues`` is the id of an earlier answer, stored with whoever gave it, that this request goes on from.
    ``vendor_headers`` are the caller's that belong to its dialect and go on to vendors of the same one.
    ``upload`` is a body that is not JSON (a form with a file), with its content type; ``fields`` are then the
    form's text fields as JSON strings.
    """

    dialect: str
    fields: dict[str, Raw]
    model: str
    stream: bool
    include_usage: bool
    max_tokens: int | None
    choices: int
    end_user: str | None
    needs: Needs
    input_chars: int
    extensions: Extensions
    operation: Operation = "chat"
    affinity: str | None = None
    continues: str | None = None
    upload: "Upload | None" = None
    vendor_headers: Mapping[str, str] = {}
    gist: Gist = NO_GIST
    _conversation: Conversation | None = None


# --------------------------------------------------------------------------- answers


class Usage(Struct, frozen=True):
    """Disjoint token classes: every token is counted in exactly one field, so that cost is a plain sum.

    A vendor's inclusive counts are taken apart by its parser: ``input`` excludes cached and cache-write
    tokens, ``output`` excludes reasoning, audio is taken out of both.
    ``source`` says who counted: the vendor, a tokenizer of ours, or an estimate from characters; ``service_tier`` in
    which of its tiers the vendor says it served the call, as they are priced differently ("": the standard one;
    "priority" is whatever costs more for being faster and has a price).
    """

    input: int = 0
    cached_input: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    reasoning: int = 0
    audio_input: int = 0
    audio_output: int = 0
    source: Literal["vendor", "counted", "estimated"] = "vendor"
    service_tier: ServiceTier = ""

    @property
    def total_input(self) -> int:
        return self.input + self.cached_input + self.cache_write_5m + self.cache_write_1h + self.audio_input

    @property
    def total_output(self) -> int:
        return self.output + self.reasoning + self.audio_output


TOKEN_CLASSES = tuple(name for name in Usage.__struct_fields__ if name not in ("source", "service_tier"))


_TIERS: Mapping[str, ServiceTier] = {
    "batch": "batch",
    "flex": "flex",
    "priority": "priority",
    "fast": "priority",  # what OpenAI calls its priority tier by now; it takes either name
    "ultrafast": "ultrafast",
    # The standard tier; "scale" and its like are paid for in advance and charged the standard price.
    **dict.fromkeys(("", "auto", "default", "standard", "standard_only", "on_demand", "scale", "provisioned"), ""),
}


def service_tier(said: object) -> ServiceTier:
    """The tier of that name: "" for the standard one, by whatever name, "other" for a name nobody knows."""
    return _TIERS.get(said, "other") if isinstance(said, str) else ""


class Choice(Struct, frozen=True):
    parts: tuple[Part, ...]  # Text, Thinking, ToolCall, Refusal
    finish_reason: FinishReason
    stop_sequence: str | None = None


class Completion(Struct):
    """A whole answer. ``body`` is the vendor's JSON, passed on untouched when the caller speaks the same
    format (``choices`` is then empty); otherwise ``choices`` carry the canonical content. ``content_type`` is
    that of a body which is not JSON (speech)."""

    id: str
    model: str
    usage: Usage | None
    choices: tuple[Choice, ...] = ()
    created: int = 0  # Unix seconds
    body: bytes | None = None
    finish_reason: FinishReason | None = None
    generated: tuple[
        str, ...
    ] = ()  # what the model wrote, text, thoughts and arguments: counted where usage is missing
    dropped: tuple[str, ...] = ()
    content_type: str | None = None
    vectors: tuple[tuple[float, ...], ...] = ()  # of embeddings that had to be translated


class ToolCallDelta(Struct, frozen=True):
    """``index`` numbers the calls of one answer; ``id`` and ``name`` come once, with the first piece."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class OpenBlock(Struct, frozen=True):
    """The content block a passed-through stream is in the middle of, in dialects that number them."""

    index: int
    kind: str


class Chunk(Struct):
    """A piece of a streamed answer.

    ``wire`` holds the vendor's own bytes (whole SSE events) when the caller speaks the same format: they go out
    untouched; what they say stands in the other fields all the same, as a rescue has to know it, and ``block`` is
    where they leave off. ``output_chars`` counts the characters generated in it either way, ``output_pieces`` the
    deltas they came in where several were gathered (0: it is one; most vendors send one token in each), so that a
    stream that is cut can still be accounted for. ``final`` marks the chunk that carries the finish reason and is
    held back until usage is known.
    """

    index: int = 0
    text: str = ""
    thinking: str = ""
    signature: str | None = None
    redacted_thinking: str | None = None
    refusal: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    finish_reason: FinishReason | None = None
    stop_sequence: str | None = None
    usage: Usage | None = None
    id: str | None = None
    model: str | None = None
    wire: bytes | None = None
    output_chars: int = 0
    output_pieces: int = 0
    block: OpenBlock | None = None

    @property
    def final(self) -> bool:
        return self.finish_reason is not None

    def join(self, later: "Chunk") -> None:
        """Takes in what directly follows; neither of the two is final."""
        pieces = (self.output_pieces or (self.output_chars > 0)) + (later.output_pieces or (later.output_chars > 0))
        self.text += later.text
        self.thinking += later.thinking
        self.signature = later.signature or self.signature
        self.redacted_thinking = later.redacted_thinking or self.redacted_thinking
        self.refusal += later.refusal
        self.tool_calls += later.tool_calls
        self.usage = later.usage or self.usage
        self.id, self.model = self.id or later.id, self.model or later.model
        self.wire = (self.wire or b"") + (later.wire or b"")
        self.output_chars += later.output_chars
        self.output_pieces = pieces if pieces > 1 else 0
        self.block = later.block or self.block


class VendorRequest(Struct):
    """What is sent to a vendor: ``path`` is appended to the provider's base URL."""

    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()  # tuning knobs this vendor does not have


class VendorProfile(Struct, frozen=True):
    """How a vendor departs from the format it speaks (the catalogue's ``quirks``), as the renderers see it."""

    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None  # None: as the caller sent it
    stream_usage: bool = True  # accepts stream_options.include_usage
    unsupported: frozenset[str] = frozenset()  # top-level fields to drop with a note
    default_max_tokens: int = 4096  # for formats where the limit is mandatory
    usage_inclusive_reasoning: bool = True  # completion_tokens includes reasoning tokens
    json_schema: bool = True  # response_format json_schema is understood


class ParseError(ValueError):
    """A vendor sent what its format does not allow. The message is ours and safe to log."""


class MalformedJson(ValueError):
    """A body is not acceptable JSON; the message says why, for the caller."""


_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # +1 and -1 as signed bytes
MAX_DEPTH = 64


def decode_fields(body: bytes) -> dict[str, Raw]:
    """Top-level fields of a JSON object, each value as the raw bytes that came in, in order.

    Raises MalformedJson when the body is not one object, is not UTF-8, holds NaN or Infinity, repeats a
    top-level key, or nests deeper than ``MAX_DEPTH``.
    """
    try:
        body.decode()  # a raw slice is passed on unread: nobody after us would notice bad UTF-8
        fields = msgspec.json.decode(body, type=dict[str, Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise MalformedJson(f"The body is not a JSON object: {exc}") from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _deeper_than(body, MAX_DEPTH):
        raise MalformedJson(f"The body nests deeper than {MAX_DEPTH} levels.")
    again = msgspec.json.encode(fields)
    # Encoding never lengthens: equal lengths mean a compact body that lost nothing. Only others (white
    # space, an escaped key, a repeated one) pay for the exact check.
    if len(again) != len(body) and _colons(body) != _colons(again):
        raise MalformedJson("The body repeats a top-level key.")
    return fields


def _colons(body: bytes) -> int:
    """Key-value pairs at every level: a repeated top-level key, dropped by the decoder, changes the count."""
    return _outside_strings(body).count(b":")


def _deeper_than(body: bytes, limit: int) -> bool:
    steps = _outside_strings(body).translate(_STEPS, _NOT_BRACKETS)
    return max(accumulate(memoryview(steps).cast("b")), default=0) > limit


def _outside_strings(body: bytes) -> bytes:
    """Sound JSON without its strings: once escapes are gone, every other piece between quotes is outside.
    (bytes methods, because a regular expression takes a second for a body of some megabytes)"""
    return b"".join(body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
