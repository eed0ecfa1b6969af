"""The numbered events of a streamed answer of OpenAI's Responses API."""

from collections.abc import Callable, Iterator
from itertools import count, zip_longest
from typing import Any

from gateway.conformance.vendors.answers import Answer, Frame, Prompt
from gateway.conformance.vendors.formats import JSON, sse
from gateway.conformance.vendors.openai import logprobs_of
from gateway.conformance.vendors.responses_answers import call_of, message_of, part_of, reasoning_of, response_of

Event = Callable[..., bytes]  # (its name, **what it tells) -> its bytes


def frames_of(answer: Answer, prompt: Prompt, *, with_usage: bool) -> Iterator[Frame]:
    """All events of ``answer`` in order; each is one frame, so that a frame's place is its sequence number."""
    numbers = count()

    def event(name: str, **told: Any) -> bytes:
        return sse({"type": name, **told, "sequence_number": next(numbers)}, name)

    begun = response_of(answer, prompt, "begun")
    yield Frame(event("response.created", response=begun))
    yield Frame(event("response.in_progress", response=begun))
    index = 0
    if answer.thinking:
        yield from _thinking(answer, prompt, index, event)
        index += 1
    if answer.text:
        yield from _text(answer, prompt, index, event)
        index += 1
    yield from _calls(answer, index, event)
    response = response_of(answer, prompt, "finished")
    if not with_usage:
        response["usage"] = None
    yield Frame(event(f"response.{response['status']}", response=response), "final", carries_usage=with_usage)


def _thinking(answer: Answer, prompt: Prompt, index: int, event: Event) -> Iterator[Frame]:
    item = reasoning_of(answer, prompt, None)
    at = {"item_id": item["id"], "output_index": index, "summary_index": 0}
    part = {"type": "summary_text", "text": ""}
    yield Frame(event("response.output_item.added", output_index=index, item=item))
    yield Frame(event("response.reasoning_summary_part.added", **at, part=part))
    for thought in answer.thinking:
        yield Frame(event("response.reasoning_summary_text.delta", **at, delta=thought), "content", 0, 1)
    text = "".join(answer.thinking)
    yield Frame(event("response.reasoning_summary_text.done", **at, text=text))
    yield Frame(event("response.reasoning_summary_part.done", **at, part={**part, "text": text}))
    yield Frame(event("response.output_item.done", output_index=index, item=reasoning_of(answer, prompt, text)))


def _text(answer: Answer, prompt: Prompt, index: int, event: Event) -> Iterator[Frame]:
    at = {"item_id": f"msg_{answer.id}", "output_index": index, "content_index": 0}
    refused = answer.finish == "refusal"
    kind = "refusal" if refused else "output_text"
    yield Frame(event("response.output_item.added", output_index=index, item=message_of(answer, prompt, None)))
    yield Frame(event("response.content_part.added", **at, part=part_of(answer, prompt, "")))
    for token in answer.text:
        probable: JSON = {} if refused else {"logprobs": logprobs_of([token]) if prompt.logprobs else []}
        yield Frame(event(f"response.{kind}.delta", **at, delta=token, **probable), "content", 1)
    text = "".join(answer.text)
    part = part_of(answer, prompt, text)
    said = {"refusal": text} if refused else {"text": text, "logprobs": part["logprobs"]}
    yield Frame(event(f"response.{kind}.done", **at, **said))
    yield Frame(event("response.content_part.done", **at, part=part))
    yield Frame(event("response.output_item.done", output_index=index, item=message_of(answer, prompt, text)))


def _calls(answer: Answer, first: int, event: Event) -> Iterator[Frame]:
    """The pieces of parallel calls take turns."""
    numbered = list(enumerate(answer.calls, first))
    for index, call in numbered:
        yield Frame(event("response.output_item.added", output_index=index, item=call_of(call, None)))
    for turn in zip_longest(*(call.pieces for _, call in numbered)):
        for (index, call), piece in zip(numbered, turn, strict=True):
            if piece is not None:
                at = {"item_id": f"fc_{call.id}", "output_index": index}
                yield Frame(event("response.function_call_arguments.delta", **at, delta=piece), "content", 1)
    for index, call in numbered:
        at = {"item_id": f"fc_{call.id}", "output_index": index}
        yield Frame(event("response.function_call_arguments.done", **at, arguments=call.arguments))
        yield Frame(event("response.output_item.done", output_index=index, item=call_of(call, call.arguments)))
