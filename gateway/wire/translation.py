"""What the translations between the canonical form and the vendors' own formats have in common.

Only formats that differ from the caller's need this; same-format traffic is passed through untouched.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from msgspec import Raw

from gateway.errors import InvalidRequest, ProviderError, UnsupportedContent
from gateway.wire.types import Chunk, Message, ParseError, Part, Refusal, Sampling, Text, Thinking, ToolCall, Usage

MAX_TOKENS = 1_000_000_000  # a count beyond this is a mistake, not a bill

FrameT = TypeVar("FrameT")
Block = dict[str, Any]

# Values that ask for what every vendor does anyway: leaving them out loses nothing.
_NEUTRAL: dict[str, Any] = {
    "stop": (),
    "n": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logprobs": False,
    "parallel_tool_calls": True,
}


# --------------------------------------------------------------------------- requests


def accepted_knobs(sampling: Sampling, lacking: frozenset[str]) -> tuple[Sampling, list[str]]:
    """The sampling without the knobs in ``lacking``, and the names of those that were really turned."""
    dropped = [
        name for name in Sampling.__struct_fields__ if name in lacking and _is_turned(name, getattr(sampling, name))
    ]
    if dropped:
        sampling = msgspec.structs.replace(sampling, **{name: () if name == "stop" else None for name in dropped})
    return sampling, dropped


def _is_turned(name: str, value: Any) -> bool:
    return value is not None and value != _NEUTRAL.get(name)


def one_choice_only(sampling: Sampling, provider: str) -> None:
    """Raises InvalidRequest when several choices are asked of a provider that answers once."""
    if sampling.n is not None and sampling.n != 1:
        raise InvalidRequest(f"{provider} gives one choice per request: n must be 1.", param="n")


def split_system(messages: Sequence[Message]) -> tuple[str, Sequence[Message]]:
    """System text, hoisted from wherever it stands and joined by blank lines, and the other messages.

    A conversation of nothing but system messages becomes one user turn: vendors demand one.
    Raises UnsupportedContent for system content that is not text, InvalidRequest for an empty conversation.
    """
    system = "\n\n".join(plain_text(message) for message in messages if message.role == "system")
    turns = [message for message in messages if message.role != "system"]
    if turns:
        return system, turns
    if not system:
        raise InvalidRequest("The conversation is empty.", param="messages")
    return "", [Message("user", (Text(system),))]


def plain_text(message: Message) -> str:
    """The text of a message that may hold nothing else. Raises UnsupportedContent."""
    for part in message.parts:
        if not isinstance(part, Text | Refusal):
            raise UnsupportedContent(f"A {message.role} message may hold text only here.", param="messages")
    return "\n\n".join(part.text for part in message.parts if isinstance(part, Text | Refusal) and part.text)


def merge_turns(turns: Iterable[tuple[str, list[Block]]]) -> list[tuple[str, list[Block]]]:
    """Neighbouring turns of one role joined and empty ones left out, for vendors that demand alternation.

    Raises InvalidRequest when nothing is left.
    """
    merged: list[tuple[str, list[Block]]] = []
    for role, blocks in turns:
        if not blocks:
            continue
        if merged and merged[-1][0] == role:
            merged[-1][1].extend(blocks)
        else:
            merged.append((role, blocks))
    if not merged:
        raise InvalidRequest("The conversation is empty.", param="messages")
    return merged


def tool_names(messages: Iterable[Message]) -> dict[str, str]:
    """Tool call id to function name, for vendors that match results by name."""
    return {part.id: part.name for message in messages for part in message.parts if isinstance(part, ToolCall)}


def arguments_object(call: ToolCall) -> Raw:
    """A call's arguments as the JSON object they must be, number formatting untouched. Raises InvalidRequest."""
    text = call.arguments.strip() or "{}"
    try:
        msgspec.json.decode(text, type=dict[str, Raw])
    except (msgspec.DecodeError, RecursionError):
        raise InvalidRequest(
            f"The arguments of tool call {call.id!r} are not a JSON object.", param="messages"
        ) from None
    return Raw(text.encode())


def object_schema(parameters: dict[str, Any] | None) -> dict[str, Any]:
    """A tool's parameters as a schema that says it describes an object, as vendors demand."""
    if not parameters:
        return {"type": "object", "properties": {}}
    return parameters if "type" in parameters else {"type": "object", **parameters}


# --------------------------------------------------------------------------- answers


def arguments_text(arguments: Raw) -> str:
    """A vendor's arguments object as compact JSON text, the form in which callers get it."""
    raw = bytes(arguments)
    return msgspec.json.format(raw, indent=-1).decode() if raw and raw != b"null" else "{}"


def generated_call_id(*origin: str | int) -> str:
    """An id for a tool call that came without one: the same for the same origin, so that reading an answer
    twice gives the same id, and practically unique when the origin names the answer."""
    digest = hashlib.blake2b("\0".join(map(str, origin)).encode(), digest_size=12)
    return f"call_{digest.hexdigest()}"


def token_count(value: Any) -> int | None:
    """A vendor's count, or None where it sent nonsense (a string, a fraction, a number no answer can reach)."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None


def believable(usage: Usage) -> Usage | None:
    """None for a vendor's report of no tokens at all: that is no count of an answer."""
    return usage if usage.total_input + usage.total_output else None


def generated_texts(parts: Iterable[Part]) -> tuple[str, ...]:
    """What a model wrote for ``parts``, counted where usage is missing: of calls of tools the arguments alone, as
    nobody sees what it writes around them."""
    return tuple(
        part.arguments if isinstance(part, ToolCall) else part.text
        for part in parts
        if isinstance(part, Text | Thinking | Refusal | ToolCall)
    )


class Splitter(Protocol[FrameT]):
    """Cuts a byte stream into frames; raises ParseError for one that is too large."""

    def feed(self, data: bytes) -> list[FrameT]: ...

    def finish(self) -> list[FrameT]: ...


class ChunkReader(ABC, Generic[FrameT]):
    """A stream parser made of a splitter and the reading of one frame.

    A frame that is not JSON of the expected shape is skipped and counted: whether the stream is sound all
    the same is told by ``complete``. An error frame is raised only after the chunks before it were handed
    out, so that a caller loses nothing by how the bytes happened to be split; then it is raised for good.
    """

    def __init__(self, splitter: Splitter[FrameT]) -> None:
        self._splitter = splitter
        self._failure: ProviderError | ParseError | None = None
        self.complete = False
        self.skipped = 0

    def parse_chunk(self, data: bytes) -> list[Chunk]:
        """Chunks completed by ``data``. Raises ProviderError for an error frame, ParseError for an oversized one."""
        return self._read_all(self._splitter.feed, data)

    def parse_end(self) -> list[Chunk]:
        """Chunks completed by the vendor's closing of the connection. Raises as parse_chunk does."""
        return self._read_all(self._splitter.finish)

    @abstractmethod
    def _read(self, frame: FrameT) -> list[Chunk]:
        """Chunks of one frame. Raises ProviderError for an error frame, msgspec.DecodeError for an unsound one."""

    def _read_all(self, split: Callable[..., list[FrameT]], *data: bytes) -> list[Chunk]:
        chunks: list[Chunk] = []
        if self._failure is None:
            try:
                for frame in split(*data):
                    chunks += self._read_sound(frame)
            except (ProviderError, ParseError) as failure:
                self._failure = failure
        if self._failure is not None and not chunks:
            raise self._failure
        return chunks

    def _read_sound(self, frame: FrameT) -> list[Chunk]:
        try:
            return self._read(frame)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.skipped += 1
            return []
