"""What a vendor was asked and what it answers, independent of any wire format."""

import hashlib
import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count, cycle
from typing import Any, Literal

from gateway.conformance.vendors.behaviours import GIANT_BYTES, Behaviour
from gateway.conformance.vendors.schemas import instance_of

Finish = Literal["stop", "length", "tool_calls", "content_filter", "refusal"]

REFUSAL = "I cannot help with that."
CITIES = ("Paris", "Rome")
_WORD = re.compile(r"\s*\S+|\s+$")
_SALT = re.compile(r"~\d+")
_NUMBERS = count(1)


@dataclass(slots=True)
class OfferedTool:
    name: str
    schema: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Prompt:
    """A valid request, as far as the answer depends on it.

    ``texts`` are all texts of the conversation (see :func:`count_tokens`); ``media`` the media of the last user
    message: a MIME type for inline data, ``url:...`` for a reference. ``tools`` is empty when the caller forbids
    calls; a chosen tool comes first. ``prefill`` is the text of the assistant's turn that ends the conversation, None
    when another turn does. ``account`` is the key that was used, ``settings`` are the fields that the answer repeats
    or obeys: both matter to OpenAI's Responses only. ``service_tier`` is the one that is asked for, as the vendor names
    it in its answer ("": none).
    """

    model: str
    stream: bool
    texts: list[str] = field(default_factory=list)
    last_user_text: str = ""
    media: list[str] = field(default_factory=list)
    tools: list[OfferedTool] = field(default_factory=list)
    after_tool_result: bool = False
    json_schema: dict[str, Any] | None = None
    max_tokens: int | None = None
    stop: list[str] = field(default_factory=list)
    choices: int = 1
    include_usage: bool = True
    logprobs: bool = False
    prefill: str | None = None
    account: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    service_tier: str = ""


@dataclass(slots=True)
class Metered:
    """Disjoint token counts of one call. ``usage_sent``: the usage of the complete answer reached the wire."""

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    usage_sent: bool = False

    @property
    def prompt(self) -> int:
        return self.input + self.cached_input + self.cache_write

    @property
    def completion(self) -> int:
        return self.output + self.reasoning


@dataclass(slots=True)
class Call:
    """A tool call; ``pieces`` joined are its arguments as JSON, each piece is one output token."""

    id: str
    name: str
    pieces: list[str]

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)


@dataclass(slots=True)
class Answer:
    """One planned answer: each piece of text, thinking or arguments is one token. ``usage`` is for all choices."""

    id: str
    model: str
    created: int
    text: list[str]
    thinking: list[str]
    calls: list[Call]
    finish: Finish
    usage: Metered
    stop_sequence: str | None = None
    service_tier: str = ""


@dataclass(slots=True)
class Frame:
    """One event (or line) of a stream.

    ``content`` frames carry ``output`` and ``reasoning`` tokens and are what pace and faults count, ``final`` tells why
    the answer ended, ``end`` is a mere marker. ``carries_usage``: with this frame the report of usage is complete.
    """

    data: bytes
    kind: Literal["open", "content", "final", "end"] = "open"
    output: int = 0
    reasoning: int = 0
    carries_usage: bool = False


def count_tokens(texts: Iterable[str]) -> int:
    """Prompt tokens: whitespace-separated words of all text content.

    Counted are system prompts, text parts and the text of tool results; not counted are media, thinking, tool
    definitions and the arguments of tool calls. A faithful translation between formats keeps the count.
    """
    return sum(len(text.split()) for text in texts)


def plan(prompt: Prompt, behaviour: Behaviour, caches: bool = True, writes_cache: bool = False) -> Answer:
    """The answer to ``prompt``. ``caches`` and ``writes_cache`` say which cache counts the format reports."""
    number = next(_NUMBERS)
    thinking = _numbered("think", behaviour.thinking)
    calls = _calls(prompt, behaviour)
    text = _text(prompt, behaviour, bool(calls))
    text = _continued(text, prompt.prefill or "", behaviour, number)
    text, stop_sequence = _stopped(text, prompt.stop if behaviour.stop else [])
    finish: Finish = "tool_calls" if calls else "stop"
    if prompt.max_tokens is not None and len(text) > prompt.max_tokens:
        text, finish, stop_sequence, calls = text[: prompt.max_tokens], "length", None, []
    elif behaviour.length:
        finish = "length"
    elif behaviour.refuse:
        finish = "refusal"
    elif behaviour.filter:
        finish = "content_filter"

    prompt_tokens = count_tokens(prompt.texts)
    cached = prompt_tokens * behaviour.cached_percent // 100 if caches else 0
    written = prompt_tokens * behaviour.cache_write_percent // 100 if writes_cache else 0
    usage = Metered(
        input=prompt_tokens - cached - written,
        cached_input=cached,
        cache_write=written,
        output=(len(text) + sum(len(call.pieces) for call in calls)) * prompt.choices,
        reasoning=len(thinking) * prompt.choices,
    )
    identity = f"{number:08d}", prompt.model, int(time.time())
    return Answer(*identity, text, thinking, calls, finish, usage, stop_sequence, prompt.service_tier)


def signature_of(thinking: str) -> str:
    """What a vendor signs its thinking with: a later turn must hand both back unchanged."""
    return "sig" + hashlib.sha256(thinking.encode()).hexdigest()[:32]


def _numbered(stem: str, number: int, width: int = 0) -> list[str]:
    """Words apart from each other by a space, each at least ``width`` characters long without it."""
    return [f"{' ' if i > 1 else ''}{f'{stem}{i}'.ljust(width, '.')}" for i in range(1, number + 1)]


def _text(prompt: Prompt, behaviour: Behaviour, has_calls: bool) -> list[str]:
    if behaviour.giant:
        return ["x" * GIANT_BYTES]
    if behaviour.refuse:
        return _WORD.findall(REFUSAL)
    if behaviour.json:
        schema = prompt.json_schema
        value = instance_of(schema, schema) if schema else {"answer": "tok1"}
        written = json.dumps(value)
        return [written[i : i + 4] for i in range(0, len(written), 4)]
    if behaviour.echo:
        media = f" [{' '.join(prompt.media)}]" if prompt.media else ""
        return _WORD.findall(prompt.last_user_text + media)
    if has_calls and behaviour.tokens is None:
        return []
    return _numbered("tok", behaviour.text_tokens, behaviour.token_chars)


def _continued(pieces: list[str], beginning: str, behaviour: Behaviour, salt: int) -> list[str]:
    """What follows ``beginning`` where the text begins so, else the whole text; the words of "varyK" get their salt.

    A beginning with another call's salt is continued too: a model goes on with what it is given.
    """
    if behaviour.prefill == "ignore":
        beginning = ""
    if behaviour.vary_from is None:
        return _after(pieces, beginning)
    rest = _after(pieces, _SALT.sub("", beginning))
    numbered = enumerate(rest, len(pieces) - len(rest) + 1)
    return [f"{piece}~{salt}" if number >= behaviour.vary_from else piece for number, piece in numbered]


def _after(pieces: list[str], beginning: str) -> list[str]:
    """The pieces without ``beginning``; all of them unless they begin with it."""
    if not beginning or not "".join(pieces).startswith(beginning):
        return pieces
    left = len(beginning)
    for i, piece in enumerate(pieces):
        if left < len(piece):
            return [piece[left:], *pieces[i + 1 :]]
        left -= len(piece)
    return []


def _calls(prompt: Prompt, behaviour: Behaviour) -> list[Call]:
    if not prompt.tools or prompt.after_tool_result:
        return []
    calls = []
    for i in range(behaviour.tool_calls):
        tool = prompt.tools[min(i, len(prompt.tools) - 1)]
        arguments = json.dumps({"city": CITIES[i % len(CITIES)]})
        calls.append(Call(f"{next(_NUMBERS):08d}", tool.name, _odd_pieces(arguments)))
    return calls


def _odd_pieces(written: str) -> list[str]:
    """Pieces of 1, 2, 3, 5 characters in turn: none of them is JSON by itself."""
    pieces: list[str] = []
    start = 0
    for size in cycle((1, 2, 3, 5)):
        if start >= len(written):
            return pieces
        pieces.append(written[start : start + size])
        start += size
    raise AssertionError("unreachable: cycle never ends")


def _stopped(pieces: list[str], stop: list[str]) -> tuple[list[str], str | None]:
    """The pieces up to the first stop sequence, and that sequence."""
    text = "".join(pieces)
    found = [(text.index(sequence), sequence) for sequence in stop if sequence and sequence in text]
    if not found:
        return pieces, None
    end, sequence = min(found)
    kept, length = [], 0
    for piece in pieces:
        if length >= end:
            break
        kept.append(piece[: end - length])
        length += len(piece)
    return kept, sequence
