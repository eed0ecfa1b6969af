"""Callers' answers as the official SDKs understand them: every body and event has to fit the SDK's own type.

What an SDK lets through in silence, the order of events for one, is asserted here.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from anthropic.types import Message, RawMessageStreamEvent
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

_DONE: Final = "[DONE]"
_MESSAGES_EVENT: Final[TypeAdapter[Any]] = TypeAdapter(RawMessageStreamEvent)
_RESPONSES_EVENT: Final[TypeAdapter[Any]] = TypeAdapter(ResponseStreamEvent)


@dataclass(slots=True)
class Heard:
    """What a caller has in the end, whichever way it came. ``calls`` are id, name and arguments; ``usage`` is as the
    dialect counts."""

    finish: str | None = None
    text: str = ""
    thinking: str = ""
    signatures: list[str] = field(default_factory=list)
    refusal: str = ""
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    usage: dict[str, Any] | None = None


def data_of(events: bytes) -> list[str]:
    """The data of server-sent events, each of which stands on one line."""
    return [line.removeprefix("data: ") for line in events.decode().split("\n") if line.startswith("data: ")]


def names_of(events: bytes) -> list[str]:
    return [line.removeprefix("event: ") for line in events.decode().split("\n") if line.startswith("event: ")]


def _told(counts: BaseModel | None) -> dict[str, Any] | None:
    return None if counts is None else counts.model_dump(exclude_none=True)


# --------------------------------------------------------------------------- chat completions


def _chat_whole(body: bytes) -> Heard:
    completion = ChatCompletion.model_validate_json(body)
    (choice,) = completion.choices
    message = choice.message
    heard = Heard(choice.finish_reason, message.content or "", usage=_told(completion.usage))
    heard.thinking = getattr(message, "reasoning_content", None) or ""
    heard.refusal = message.refusal or ""
    for call in message.tool_calls or ():
        assert call.type == "function"
        heard.calls.append((call.id, call.function.name, json.loads(call.function.arguments)))
    return heard


def _chat_streamed(events: bytes) -> Heard:
    *said, end = data_of(events)
    assert end == _DONE
    chunks = [ChatCompletionChunk.model_validate_json(data) for data in said]
    assert len({(chunk.id, chunk.model, chunk.created) for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    heard = Heard()
    calls: dict[int, list[str]] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            assert heard.finish is None, "nothing is said after the finish reason"
            delta, heard.finish = choice.delta, choice.finish_reason
            heard.text += delta.content or ""
            heard.refusal += delta.refusal or ""
            heard.thinking += getattr(delta, "reasoning_content", None) or ""
            for piece in delta.tool_calls or ():
                assert piece.function is not None
                if piece.index not in calls:
                    assert piece.id and piece.function.name
                    calls[piece.index] = [piece.id, piece.function.name, ""]
                calls[piece.index][2] += piece.function.arguments or ""
        heard.usage = _told(chunk.usage) or heard.usage
    heard.calls = [(id_, name, json.loads(arguments)) for _, (id_, name, arguments) in sorted(calls.items())]
    return heard


# --------------------------------------------------------------------------- messages


def _messages_whole(body: bytes) -> Heard:
    message = Message.model_validate_json(body)
    heard = Heard(message.stop_reason, usage=_told(message.usage))
    for block in message.content:
        match block.type:
            case "text":
                heard.text += block.text
            case "thinking":
                heard.thinking += block.thinking
                heard.signatures.append(block.signature)
            case "tool_use":
                heard.calls.append((block.id, block.name, block.input))
            case other:
                raise AssertionError(other)
    return heard


def _messages_streamed(events: bytes) -> Heard:
    read = [_MESSAGES_EVENT.validate_json(data) for data in data_of(events) if json.loads(data)["type"] != "ping"]
    assert read[0].type == "message_start"
    assert not read[0].message.content
    assert [event.type for event in read[-2:]] == ["message_delta", "message_stop"]
    heard = Heard(read[-2].delta.stop_reason, usage=_told(read[0].message.usage))
    heard.usage = (heard.usage or {}) | (_told(read[-2].usage) or {})
    for index, block in enumerate(_blocks_of(read[1:-2])):
        opening, *deltas = block[:-1]
        assert {event.index for event in block} == {index}
        pieces = [_piece(event.delta) for event in deltas]
        match opening.content_block.type:
            case "text":
                heard.text += opening.content_block.text + "".join(pieces)
            case "thinking":
                said = [event.delta.thinking for event in deltas if event.delta.type == "thinking_delta"]
                heard.thinking += opening.content_block.thinking + "".join(said)
                signed = [event.delta.signature for event in deltas if event.delta.type == "signature_delta"]
                heard.signatures.append(opening.content_block.signature + "".join(signed))
            case "tool_use":
                call = opening.content_block
                heard.calls.append((call.id, call.name, json.loads("".join(pieces) or "{}")))
    return heard


def _blocks_of(events: Iterable[Any]) -> list[list[Any]]:
    """The events of each content block: opened, closed, and nothing else in between."""
    blocks: list[list[Any]] = []
    for event in events:
        if event.type == "content_block_start":
            assert not blocks or blocks[-1][-1].type == "content_block_stop"
            blocks.append([event])
        else:
            assert event.type in ("content_block_delta", "content_block_stop")
            assert blocks[-1][-1].type != "content_block_stop"
            blocks[-1].append(event)
    assert all(block[-1].type == "content_block_stop" for block in blocks)
    return blocks


def _piece(delta: Any) -> str:
    match delta.type:
        case "text_delta":
            return str(delta.text)
        case "input_json_delta":
            return str(delta.partial_json)
    return ""


# --------------------------------------------------------------------------- responses


def _responses_whole(body: bytes) -> Heard:
    return _of_response(Response.model_validate_json(body))


def _of_response(response: Response) -> Heard:
    incomplete = response.incomplete_details
    heard = Heard(incomplete.reason if incomplete else response.status, usage=_told(response.usage))
    for item in response.output:
        match item.type:
            case "message":
                for part in item.content:
                    if part.type == "refusal":
                        heard.refusal += part.refusal
                    else:
                        heard.text += part.text
            case "reasoning":
                heard.thinking += "".join(part.text for part in item.summary)
            case "function_call":
                heard.calls.append((item.call_id, item.name, json.loads(item.arguments)))
            case other:
                raise AssertionError(other)
    return heard


def _responses_streamed(events: bytes) -> Heard:
    """The response that the last event tells; what was said on the way has to be the same."""
    read = [_RESPONSES_EVENT.validate_json(data) for data in data_of(events)]
    assert [event.sequence_number for event in read] == list(range(len(read)))
    assert [event.type for event in read[:2]] == ["response.created", "response.in_progress"]
    last = read[-1]
    assert last.type in ("response.completed", "response.incomplete")
    items = [event.item for event in read if event.type == "response.output_item.done"]
    in_order = sorted(zip(_indexes(read), items, strict=True), key=lambda placed: placed[0])
    assert [item for _, item in in_order] == last.response.output
    for index, item in in_order:
        _check_growth(item, [event for event in read if getattr(event, "output_index", None) == index])
    return _of_response(last.response)


def _indexes(read: Iterable[Any]) -> list[int]:
    return [event.output_index for event in read if event.type == "response.output_item.done"]


def _check_growth(item: Any, about: list[Any]) -> None:
    """An item is opened first and closed last, and its deltas are what it holds in the end."""
    assert (about[0].type, about[-1].type) == ("response.output_item.added", "response.output_item.done")
    assert about[0].item.id == item.id
    assert {event.item_id for event in about[1:-1]} == {item.id}
    grown = "".join(event.delta for event in about if event.type.endswith(".delta"))
    match item.type:
        case "message":
            assert grown == "".join(getattr(part, "text", "") or getattr(part, "refusal", "") for part in item.content)
        case "reasoning":
            assert grown == "".join(part.text for part in item.summary)
        case "function_call":
            assert json.loads(grown or "{}") == json.loads(item.arguments)


WHOLE: Final[dict[str, Callable[[bytes], Heard]]] = {
    "openai_chat": _chat_whole,
    "openai_responses": _responses_whole,
    "anthropic_messages": _messages_whole,
}
STREAMED: Final[dict[str, Callable[[bytes], Heard]]] = {
    "openai_chat": _chat_streamed,
    "openai_responses": _responses_streamed,
    "anthropic_messages": _messages_streamed,
}
