"""What vendors offer beside conversations: embeddings, completions, moderation, images, sound, ranking, counting.

Answers follow from the question alone, so that a test knows them: a vector is made of its text's digest, a
transcript says what file was heard. Each operation raises Refusal for what its original refuses.
"""

import base64
import hashlib
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gateway.conformance.vendors.answers import Metered, count_tokens
from gateway.conformance.vendors.anthropic import Anthropic
from gateway.conformance.vendors.formats import JSON, check, dump, is_count, is_number, sse, words
from gateway.conformance.vendors.forms import form_of, is_form
from gateway.conformance.vendors.http import HttpRequest

DIMENSIONS = 8
IMAGE_TOKENS = 272
_COMPLETION = (" tok1", " tok2", " tok3")
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="  # a PNG
_JSON_TYPE = "application/json"
_HARMS = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")
_SOUNDS = {"mp3": "mpeg", "opus": "opus", "aac": "aac", "flac": "flac", "wav": "wav", "pcm": "pcm"}
_SIZES = ("auto", "256x256", "512x512", "1024x1024", "1024x1536", "1536x1024", "1024x1792", "1792x1024")
_NOT_COUNTED = words("max_tokens stream temperature top_p top_k stop_sequences metadata")
_GEMINI_EMBEDDINGS = re.compile(r"/v1beta/models/([^/:]+):batchEmbedContents")
_GEMINI_FIELDS = words("model content taskType title outputDimensionality")
_OLLAMA_FIELDS = words("model input truncate options keep_alive dimensions")


@dataclass(slots=True)
class Answered:
    """An answer and what is billed for it; a body in pieces is a stream of events."""

    body: bytes | list[bytes]
    metered: Metered = field(default_factory=Metered)
    content_type: str = _JSON_TYPE


Operation = Callable[[HttpRequest, JSON], Answered]


def vector_of(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """A vector that depends on the text alone; its numbers are exact in 32 bits."""
    digest = hashlib.sha256(text.encode()).digest() * (dimensions // 32 + 1)
    return [byte / 256 for byte in digest[:dimensions]]


# ----------------------------------------------------------------- OpenAI


def embeddings(request: HttpRequest, body: JSON) -> Answered:
    """Of one text or token array, or a batch of either; a token array counts as the text of its numbers."""
    batch = _batch(body.get("input"))
    check(batch and len(batch) <= 2048, "'$.input' is invalid. Please check the API reference.", param="input")
    texts = [item if isinstance(item, str) else " ".join(map(str, item)) for item in batch]
    check(all(texts), "'$.input' is invalid: it holds an empty text.", param="input")
    dimensions, encoding = body.get("dimensions", DIMENSIONS), body.get("encoding_format", "float")
    check(is_count(dimensions), "Invalid value for 'dimensions': must be greater than 0.", param="dimensions")
    check(encoding in ("float", "base64"), f"Invalid value: '{encoding}'.", param="encoding_format")
    vectors: list[Any] = [vector_of(text, dimensions) for text in texts]
    if encoding == "base64":
        vectors = [base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode() for vector in vectors]
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    used = count_tokens(texts)
    usage = {"prompt_tokens": used, "total_tokens": used}
    answer = {"object": "list", "data": data, "model": body["model"], "usage": usage}
    return Answered(dump(answer), Metered(input=used, usage_sent=True))


def _batch(given: Any) -> list[Any]:
    """The inputs as a list of texts and token arrays; empty where they are neither."""
    if isinstance(given, str) or _are_tokens(given):
        return [given]
    if not isinstance(given, list):
        return []
    alike = all(isinstance(item, str) for item in given) or all(_are_tokens(item) for item in given)
    return given if alike else []


def _are_tokens(given: Any) -> bool:
    return isinstance(given, list) and bool(given) and all(is_count(token, 0) for token in given)


def completions(request: HttpRequest, body: JSON) -> Answered:
    """Three tokens, or as many of them as ``max_tokens`` allows."""
    check("messages" not in body, "Unrecognized request argument supplied: messages", param="messages")
    batch = _batch(body.get("prompt"))
    check(len(batch) == 1, "Missing required parameter: 'prompt'.", param="prompt")
    limit = body.get("max_tokens", 16)
    check(is_count(limit, 0), "Invalid 'max_tokens': integer below minimum value.", param="max_tokens")
    check(is_number(body.get("temperature", 1), 0, 2), "Invalid 'temperature': out of range.", param="temperature")
    stream = body.get("stream") is True
    options = body.get("stream_options")
    check(stream or options is None, "The 'stream_options' parameter is only allowed when 'stream' is enabled.")
    read = count_tokens([batch[0]]) if isinstance(batch[0], str) else len(batch[0])
    pieces = _COMPLETION[:limit]
    finish = "length" if len(pieces) < len(_COMPLETION) else "stop"
    usage = {"prompt_tokens": read, "completion_tokens": len(pieces), "total_tokens": read + len(pieces)}
    envelope = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body["model"]}
    metered = Metered(input=read, output=len(pieces), usage_sent=True)

    def answer(text: str, finish: str | None, **told: Any) -> JSON:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        return {**envelope, "choices": [choice], **told}

    if not stream:
        return Answered(dump(answer("".join(pieces), finish, usage=usage)), metered)
    events = [sse(answer(piece, None)) for piece in pieces] + [sse(answer("", finish))]
    metered.usage_sent = bool((options or {}).get("include_usage"))
    if metered.usage_sent:
        events.append(sse({**envelope, "choices": [], "usage": usage}))
    return Answered([*events, b"data: [DONE]\n\n"], metered, "text/event-stream; charset=utf-8")


def moderations(request: HttpRequest, body: JSON) -> Answered:
    """Flags as violence whatever holds the word "bad"."""
    given = body.get("input")
    batch = given if isinstance(given, list) else [given]
    sound = batch and all(isinstance(item, dict) or (isinstance(item, str) and item) for item in batch)
    check(sound, "Missing required parameter: 'input'.", param="input")
    parts = [item for item in batch if isinstance(item, dict)]
    if parts:  # of one input
        check(all(part.get("type") in ("text", "image_url") for part in parts), "Invalid 'input'.", param="input")
        batch = [" ".join(part.get("text", "") for part in parts)]
    return Answered(dump({"id": "modr-1", "model": body["model"], "results": [_judged(str(text)) for text in batch]}))


def _judged(text: str) -> JSON:
    flagged = "bad" in text
    categories = {name: flagged and name == "violence" for name in _HARMS}
    scores = {name: 0.9 if guilty else 0.0 for name, guilty in categories.items()}
    types = {name: ["text"] for name in _HARMS}
    return {
        "flagged": flagged,
        "categories": categories,
        "category_scores": scores,
        "category_applied_input_types": types,
    }


def images(request: HttpRequest, body: JSON) -> Answered:
    prompt, number = body.get("prompt"), body.get("n", 1)
    check(isinstance(prompt, str) and prompt, "Missing required parameter: 'prompt'.", param="prompt")
    check(is_count(number) and number <= 10, "Invalid 'n': must be between 1 and 10.", param="n")
    check(body.get("size", "auto") in _SIZES, f"Invalid value: '{body.get('size')}'.", param="size")
    check(body.get("response_format", "b64_json") == "b64_json", "Unknown parameter: 'response_format'.")
    read, made = count_tokens([str(prompt)]), IMAGE_TOKENS * number
    details = {"text_tokens": read, "image_tokens": 0}
    counts = {"input_tokens": read, "output_tokens": made, "total_tokens": read + made}
    answer = {
        "created": 1,
        "data": [{"b64_json": _PIXEL}] * number,
        "usage": {**counts, "input_tokens_details": details},
    }
    return Answered(dump(answer), Metered(input=read, output=made, usage_sent=True))


def speech(request: HttpRequest, body: JSON) -> Answered:
    """The text itself, after the mark of an MP3."""
    text, kind = body.get("input"), body.get("response_format", "mp3")
    check(isinstance(text, str) and text, "Missing required parameter: 'input'.", param="input")
    check(len(str(text)) <= 4096, "String should have at most 4096 characters", param="input")
    check(body.get("voice"), "Missing required parameter: 'voice'.", param="voice")
    check(kind in _SOUNDS, f"Invalid value: '{kind}'.", param="response_format")
    check(is_number(body.get("speed", 1), 0.25, 4), "Invalid 'speed': must be between 0.25 and 4.", param="speed")
    return Answered(b"ID3" + str(text).encode(), content_type=f"audio/{_SOUNDS[kind]}")


def transcription(request: HttpRequest, body: JSON) -> Answered:
    text, as_json = _heard(request)
    if not as_json:
        return Answered(text.encode(), Metered(input=10, output=5), "text/plain; charset=utf-8")
    usage = {"type": "tokens", "input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    return Answered(dump({"text": text, "usage": usage}), Metered(input=10, output=5, usage_sent=True))


def translation(request: HttpRequest, body: JSON) -> Answered:
    """Without usage, as the original, which bills by the minute."""
    check("language" not in form_of(request), "Unrecognized request argument supplied: language", param="language")
    text, as_json = _heard(request)
    return Answered(dump({"text": text})) if as_json else Answered(text.encode(), content_type="text/plain")


def _heard(request: HttpRequest) -> tuple[str, bool]:
    """What an uploaded file says, and whether the caller wants JSON."""
    fields = form_of(request)
    name, content = fields.get("file", ("", b""))
    check(name, "Missing required parameter: 'file'.", param="file")
    check(content, "Audio file is too short. Minimum audio length is 0.1 seconds.", param="file")
    kind = fields.get("response_format", ("", b"json"))[1]
    check(
        kind in (b"json", b"text"),
        f"response_format {kind.decode(errors='replace')!r} is not compatible",
        param="response_format",
    )
    return f"heard {name} of {len(content)} bytes", kind == b"json"


def rerank(request: HttpRequest, body: JSON) -> Answered:
    """The longest document first; billed as one search."""
    documents: Any = body.get("documents")
    check(isinstance(body.get("query"), str) and body["query"], "invalid request: query is required")
    listed = isinstance(documents, list) and bool(documents)
    check(listed, "invalid request: list of documents must not be empty")
    sound = all(isinstance(item, str) or (isinstance(item, dict) and "text" in item) for item in documents)
    check(sound, "invalid request: documents must be texts or objects with a text")
    top = body.get("top_n", len(documents))
    check(is_count(top), "invalid request: top_n must be at least 1")
    texts = [item if isinstance(item, str) else str(item["text"]) for item in documents]
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))[:top]
    results: list[JSON] = [{"index": index, "relevance_score": 1 / place} for place, index in enumerate(order, 1)]
    if body.get("return_documents") is True:
        results = [{**result, "document": {"text": texts[result["index"]]}} for result in results]
    return Answered(dump({"id": "rr-1", "results": results, "meta": {"billed_units": {"search_units": 1}}}))


# ----------------------------------------------------------------- other vendors


def counted(request: HttpRequest, body: JSON) -> Answered:
    """As many tokens as the same conversation would be billed for."""
    for name in body:
        check(name not in _NOT_COUNTED, f"{name}: Extra inputs are not permitted")
    prompt = Anthropic().parse(request, {**body, "max_tokens": 1_000_000})
    return Answered(dump({"input_tokens": count_tokens(prompt.texts)}))


def gemini_embeddings(request: HttpRequest, body: JSON) -> Answered:
    """Tells no usage, as the original."""
    wanted: Any = body.get("requests")
    check(set(body) <= {"requests"}, "Invalid JSON payload received. Unknown name: Cannot find field.")
    check(isinstance(wanted, list) and wanted, "* BatchEmbedContentsRequest.requests: at least one request is required")
    vectors, texts = [], []
    for i, one in enumerate(wanted):
        at = f"requests[{i}]"
        check(set(one) <= _GEMINI_FIELDS, f"Invalid JSON payload received. Unknown name at '{at}': Cannot find field.")
        same = one.get("model") == f"models/{model_named(request, body)}"
        check(same, f"* BatchEmbedContentsRequest.{at}.model: must match the model in the batch's URL")
        texts.append(" ".join(part["text"] for part in one["content"]["parts"]))
        check(texts[-1], f"* BatchEmbedContentsRequest.{at}.content: contents is not specified")
        dimensions = one.get("outputDimensionality", DIMENSIONS)
        check(is_count(dimensions), f"* BatchEmbedContentsRequest.{at}.output_dimensionality: must be positive")
        vectors.append({"values": vector_of(texts[-1], dimensions)})
    return Answered(dump({"embeddings": vectors}), Metered(input=count_tokens(texts)))


def ollama_embeddings(request: HttpRequest, body: JSON) -> Answered:
    given: Any = body.get("input")
    texts = [given] if isinstance(given, str) else given
    check(isinstance(texts, list) and all(isinstance(text, str) for text in texts), "invalid input type")
    check(all(name in _OLLAMA_FIELDS for name in body), "json: unknown field")
    dimensions = body.get("dimensions", DIMENSIONS)
    check(is_count(dimensions), "json: cannot unmarshal into Go struct field EmbedRequest.dimensions of type int")
    read = count_tokens(texts)
    durations = {"total_duration": 1_000_000, "load_duration": 1000}
    vectors = [vector_of(text, dimensions) for text in texts]
    answer = {"model": body["model"], "embeddings": vectors, **durations, "prompt_eval_count": read}
    return Answered(dump(answer), Metered(input=read, usage_sent=True))


# ----------------------------------------------------------------- where they are

_OPENAI: dict[str, Operation] = {
    "/v1/embeddings": embeddings,
    "/v1/completions": completions,
    "/v1/moderations": moderations,
    "/v1/images/generations": images,
    "/v1/audio/speech": speech,
    "/v1/audio/transcriptions": transcription,
    "/v1/audio/translations": translation,
    "/v1/rerank": rerank,
}
_OTHERS: dict[str, tuple[str, Operation]] = {
    "/api/embed": ("ollama", ollama_embeddings),
    "/v1/messages/count_tokens": ("anthropic", counted),
}


def operation_of(path: str) -> tuple[str, Operation] | None:
    """The vendor's name and what is done at ``path``, if it is no conversation."""
    if (operation := _OPENAI.get(path)) is not None:
        return "openai", operation
    return ("gemini", gemini_embeddings) if _GEMINI_EMBEDDINGS.fullmatch(path) else _OTHERS.get(path)


def model_named(request: HttpRequest, body: JSON) -> str:
    """The model of a JSON body or a form, "" if none is named."""
    if is_form(request):
        return form_of(request).get("model", ("", b""))[1].decode(errors="replace")
    if found := _GEMINI_EMBEDDINGS.fullmatch(request.path):
        return found[1]
    model = body.get("model")
    return model if isinstance(model, str) else ""
