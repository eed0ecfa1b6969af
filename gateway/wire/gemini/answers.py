"""Answers of ``generateContent``: whole responses, streams of responses, refusals."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct, field

from gateway.errors import GatewayError, ProviderError
from gateway.wire.gemini import signatures
from gateway.wire.refusals import classify_refusal, provider_code
from gateway.wire.sse import Event, EventSplitter
from gateway.wire.translation import (
    ChunkReader,
    arguments_text,
    believable,
    generated_call_id,
    generated_texts,
    token_count,
)
from gateway.wire.types import (
    Choice,
    Chunk,
    Completion,
    FinishReason,
    ParseError,
    Part,
    Text,
    Thinking,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from gateway.wire.verbs import StreamParser

_FINISH: dict[str, FinishReason] = {
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
}
# The model's answer could not be read by the vendor itself: a failure, not an empty answer.
_BROKEN = frozenset({"MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "MALFORMED_RESPONSE", "TOO_MANY_TOOL_CALLS"})


class _FunctionCall(Struct):
    name: str = ""
    id: str | None = None
    args: Raw = field(default_factory=lambda: Raw(b""))


class _Part(Struct, rename="camel"):
    text: str | None = None
    thought: bool = False
    thought_signature: str | None = None
    function_call: _FunctionCall | None = None


class _Content(Struct):
    parts: list[_Part] = []


class _Candidate(Struct, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None
    index: int = 0


class _Modality(Struct, rename="camel"):
    modality: str = ""
    token_count: Any = None


class _Usage(Struct, rename="camel"):
    prompt_token_count: Any = None
    cached_content_token_count: Any = None
    candidates_token_count: Any = None
    thoughts_token_count: Any = None
    tool_use_prompt_token_count: Any = None
    prompt_tokens_details: list[_Modality] | None = None
    cache_tokens_details: list[_Modality] | None = None
    candidates_tokens_details: list[_Modality] | None = None


class _Feedback(Struct, rename="camel"):
    block_reason: str | None = None


class _ErrorDetail(Struct, rename="camel"):
    reason: str | None = None
    retry_delay: str | None = None


class _Error(Struct):
    code: Any = None
    message: str | None = None
    status: str | None = None
    details: list[_ErrorDetail] = []


class _Response(Struct, rename="camel"):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: _Usage | None = None
    model_version: str = ""
    response_id: str = ""
    error: _Error | None = None


_decoder = msgspec.json.Decoder(_Response)


def parse_completion(body: bytes, passthrough: bool) -> Completion:
    """A whole answer, always translated. Raises ParseError, or ProviderError for an error in a 200."""
    try:
        response = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ParseError("The answer is not a Gemini response.") from None
    if response.error is not None:
        raise _failure(response.error, kind="status")
    if _is_blocked(response):
        choices: tuple[Choice, ...] = (Choice((), "content_filter"),)
    elif response.candidates:
        choices = tuple(_choice(candidate, response.response_id) for candidate in response.candidates)
    else:
        raise ParseError("The answer is a Gemini response without candidates.")
    return Completion(
        id=response.response_id,
        model=response.model_version,
        usage=_usage(response.usage_metadata),
        choices=choices,
        finish_reason=choices[0].finish_reason,
        generated=generated_texts(part for choice in choices for part in choice.parts),
    )


def _is_blocked(response: _Response) -> bool:
    return not response.candidates and bool(response.prompt_feedback and response.prompt_feedback.block_reason)


def _choice(candidate: _Candidate, response_id: str) -> Choice:
    parts: list[Part] = []
    calls = 0
    for part in candidate.content.parts if candidate.content else ():
        if (call := part.function_call) is not None:
            if part.thought_signature:
                _sign(parts, part.thought_signature)
            call_id = _call_id(call, response_id, candidate.index, calls)
            parts.append(ToolCall(call_id, call.name, arguments_text(call.args)))
            calls += 1
        elif part.text:
            parts.append(Thinking(part.text) if part.thought else Text(part.text))
    return Choice(tuple(parts), _finish_reason(candidate.finish_reason or "STOP", calls, kind="status"))


def _sign(parts: list[Part], signature: str) -> None:
    """Signs the thinking that the answer so far ends with, if it does."""
    thought = ""
    if parts and isinstance(last := parts[-1], Thinking):
        thought = last.text
        parts.pop()
    parts.append(Thinking(thought, signatures.to_canonical(signature)))


def _call_id(call: _FunctionCall, response_id: str, choice: int, number: int) -> str:
    return call.id or generated_call_id(response_id, choice, number, call.name, arguments_text(call.args))


def _finish_reason(reason: str, calls: int, kind: str) -> FinishReason:
    """Raises ProviderError for an answer the vendor could not make sense of."""
    if reason in _BROKEN:
        raise ProviderError(
            "The provider could not read the function call its model wrote.", kind=kind, vendor_code=reason
        )
    return _FINISH.get(reason, "tool_calls" if calls else "stop")


def _usage(reported: _Usage | None) -> Usage | None:
    """Disjoint classes: the prompt's count includes cached tokens, the candidates' excludes thoughts."""
    if reported is None:
        return None
    prompt, output = token_count(reported.prompt_token_count), token_count(reported.candidates_token_count)
    if prompt is None and output is None:
        return None
    prompt, output = prompt or 0, output or 0
    cached = min(token_count(reported.cached_content_token_count) or 0, prompt)
    audio = max(_audio(reported.prompt_tokens_details) - _audio(reported.cache_tokens_details), 0)
    audio = min(audio, prompt - cached)
    spoken = min(_audio(reported.candidates_tokens_details), output)
    usage = Usage(
        input=prompt - cached - audio + (token_count(reported.tool_use_prompt_token_count) or 0),
        cached_input=cached,
        output=output - spoken,
        reasoning=token_count(reported.thoughts_token_count) or 0,
        audio_input=audio,
        audio_output=spoken,
    )
    return believable(usage)


def _audio(details: list[_Modality] | None) -> int:
    return sum(token_count(entry.token_count) or 0 for entry in details or () if entry.modality == "AUDIO")


# --------------------------------------------------------------------------- streams


def open_parser(passthrough: bool) -> StreamParser:
    """A parser of ``alt=sse`` streams; ``passthrough`` makes no difference, every stream is translated."""
    return ResponseStream()


class ResponseStream(ChunkReader[Event]):
    """Reads one streamed answer; ``complete`` once every candidate seen has given its finish reason."""

    def __init__(self) -> None:
        super().__init__(EventSplitter())
        self._response_id = ""
        self._calls: dict[int, int] = {}  # by candidate
        self._unfinished: set[int] = set()

    def _read(self, frame: Event) -> list[Chunk]:
        response = _decoder.decode(frame.data)
        if response.error is not None:
            raise _failure(response.error, kind="stream")
        self._response_id = self._response_id or response.response_id
        chunks: list[Chunk] = []
        for candidate in response.candidates or ():
            chunks += self._read_candidate(candidate)
        if _is_blocked(response):
            chunks.append(Chunk(finish_reason="content_filter"))
            self.complete = True
        usage = _usage(response.usage_metadata)
        if usage is not None and not chunks:
            chunks.append(Chunk())
        for chunk in chunks:
            chunk.id, chunk.model, chunk.usage = response.response_id or None, response.model_version or None, usage
        return chunks

    def _read_candidate(self, candidate: _Candidate) -> list[Chunk]:
        index = candidate.index
        chunks = [
            chunk
            for part in (candidate.content.parts if candidate.content else ())
            if (chunk := self._read_part(part, index)) is not None
        ]
        self._unfinished.add(index)
        if candidate.finish_reason is not None:
            reason = _finish_reason(candidate.finish_reason, self._calls.get(index, 0), kind="stream")
            chunks.append(Chunk(index=index, finish_reason=reason))
            self._unfinished.discard(index)
        self.complete = not self._unfinished
        return chunks

    def _read_part(self, part: _Part, index: int) -> Chunk | None:
        if (call := part.function_call) is not None:
            number = self._calls.get(index, 0)
            self._calls[index] = number + 1
            arguments = arguments_text(call.args)
            call_id = _call_id(call, self._response_id, index, number)
            return Chunk(
                index=index,
                signature=signatures.to_canonical(part.thought_signature) if part.thought_signature else None,
                tool_calls=(ToolCallDelta(number, call_id, call.name, arguments),),
                output_chars=len(arguments),
            )
        if not part.text:
            return None
        if part.thought:
            return Chunk(index=index, thinking=part.text, output_chars=len(part.text))
        return Chunk(index=index, text=part.text, output_chars=len(part.text))


# --------------------------------------------------------------------------- errors

_DELAY = re.compile(r"(\d+(?:\.\d+)?)s")


class _ErrorBody(Struct):
    error: _Error | None = None


_error_decoder = msgspec.json.Decoder(_ErrorBody | list[_ErrorBody])


def parse_error(status: int, headers: Mapping[str, str], body: bytes) -> ProviderError | GatewayError:
    """A refusal by ``status``, except that a 400 about our key, account or region is not the caller's mistake."""
    error = _decode_error(body)
    reasons = {detail.reason for detail in error.details}
    message = error.message or ""
    if status == 400 and ("API_KEY_INVALID" in reasons or "API key" in message):
        status = 401
    elif status == 400 and error.status == "FAILED_PRECONDITION":
        status = 403
    if (delay := _retry_delay(error)) is not None:
        headers = {"retry-after": delay}
    return classify_refusal(status, headers, message, error.status)


def _decode_error(body: bytes) -> _Error:
    """The error object, which streaming calls wrap in a list."""
    try:
        decoded = _error_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Error()
    if isinstance(decoded, list):
        decoded = decoded[0] if decoded else _ErrorBody()
    return decoded.error or _Error()


def _retry_delay(error: _Error) -> str | None:
    """Seconds, out of the ``RetryInfo`` detail ("34.07s")."""
    delays = (_DELAY.fullmatch(detail.retry_delay) for detail in error.details if detail.retry_delay)
    return next((found[1] for found in delays if found), None)


def _failure(error: _Error, kind: str) -> ProviderError:
    """An error reported after a 200: the attempt failed, whoever is at fault."""
    status = token_count(error.code)
    delay = _retry_delay(error)
    return ProviderError(
        "The provider reported an error instead of finishing its answer.",
        kind=kind,
        vendor_status=status,
        vendor_code=provider_code(error.status),
        retryable=status != 400,
        retry_after_s=float(delay) if delay else None,
    )
