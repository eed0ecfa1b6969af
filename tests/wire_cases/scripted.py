"""The scripted vendors without their server: is a request sound to them, and how do they answer it."""

from typing import Final
from urllib.parse import parse_qsl, urlsplit

from gateway.conformance.vendors.answers import Answer, Prompt, plan
from gateway.conformance.vendors.anthropic import Anthropic
from gateway.conformance.vendors.behaviours import Behaviour, parse_behaviour
from gateway.conformance.vendors.formats import Format, Refusal, dump
from gateway.conformance.vendors.gemini import Gemini
from gateway.conformance.vendors.http import HttpRequest
from gateway.conformance.vendors.ollama import Ollama
from gateway.conformance.vendors.openai import OpenAI
from gateway.conformance.vendors.responses import OpenAIResponses
from gateway.wire.types import VendorRequest
from tests.wire_cases.cells import Cell
from tests.wire_cases.transcript import VendorAnswer

ANSWERED_AT: Final = 1_750_000_000
_VENDORS: Final[dict[str, tuple[Format, str]]] = {  # and the path below which each is reached
    "openai_chat": (OpenAI(), "/v1"),
    "openai_responses": (OpenAIResponses(), "/v1"),
    "anthropic_messages": (Anthropic(), ""),
    "gemini": (Gemini(), "/v1beta"),
    "ollama": (Ollama(), ""),
}


def prompt_of(cell: Cell, sent: VendorRequest) -> Prompt:
    """What the vendor understands. Raises Refusal for a request that it does not take."""
    vendor, base = _VENDORS[cell.vendor_dialect]
    target = urlsplit(base + sent.path)
    headers = {name.lower(): value for name, value in sent.headers.items()}
    request = HttpRequest("POST", target.path, dict(parse_qsl(target.query)), headers, sent.body)
    return vendor.parse(request, request.json())


def answer(cell: Cell, sent: VendorRequest, words: str) -> VendorAnswer:
    """How the vendor answers when it behaves as ``words`` say. Raises Refusal as :func:`prompt_of` does."""
    vendor, _ = _VENDORS[cell.vendor_dialect]
    behaviour = parse_behaviour(words)
    prompt = prompt_of(cell, sent)
    if behaviour.context_exceeded:
        return _error(vendor, vendor.context_exceeded(prompt))
    planned = plan(prompt, behaviour, vendor.reports_cache, vendor.reports_cache_writes)
    vendor.adapt(planned)
    _name(planned)
    if not prompt.stream:
        return VendorAnswer(200, dump(vendor.whole(planned, prompt)))
    return VendorAnswer(200, _events(vendor, planned, prompt, behaviour))


def _name(planned: Answer) -> None:
    """Every answer bears the same ids and time: only what differs by the case is to differ."""
    planned.id, planned.created = "00000001", ANSWERED_AT
    for number, call in enumerate(planned.calls, 1):
        call.id = f"{number:08d}"


def _error(vendor: Format, refusal: Refusal) -> VendorAnswer:
    return VendorAnswer(refusal.status, dump(vendor.error_body(refusal)))


def _events(vendor: Format, planned: Answer, prompt: Prompt, behaviour: Behaviour) -> bytes:
    events: list[bytes] = []
    contents = 0
    for frame in vendor.frames(planned, prompt, behaviour):
        if frame.kind == "content" and contents == behaviour.error_after:
            events.append(vendor.error_event(planned, len(events)))
            break
        contents += frame.kind == "content"
        events.append(frame.data)
    return b"".join(events)
