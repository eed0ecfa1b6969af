"""What vendors offer beside conversations: embeddings, moderation, images, sound, ranking, counting.

Answers follow from the question alone, so that a test knows them: a vector is made of its text's digest, a
transcript says what file was heard.
"""

import base64
import hashlib
import re
import struct
from collections.abc import Callable
from typing import Any

from gateway.conformance.vendors.answers import Metered, count_tokens
from gateway.conformance.vendors.formats import JSON, Refusal, check, dump
from gateway.conformance.vendors.http import HttpRequest

DIMENSIONS = 8
_JSON_TYPE = "application/json"
GEMINI_EMBEDDINGS = re.compile(r"/v1beta/models/([^/:]+):batchEmbedContents")
_FORM_FIELD = re.compile(rb'name="(\w+)"(?:; filename="([^"]*)")?[^\r\n]*(?:\r\n[^\r\n]+)*\r\n\r\n')

Answered = tuple[str, bytes, Metered]  # content type, body, what is billed


def vector_of(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """A vector that depends on the text alone; its numbers are exact in 32 bits."""
    digest = hashlib.sha256(text.encode()).digest() * (dimensions // 32 + 1)
    return [byte / 256 for byte in digest[:dimensions]]


def embeddings(request: HttpRequest, body: JSON) -> Answered:
    given: Any = body.get("input")
    check(given not in (None, "", []), "'$.input' is invalid. Please check the API reference.", param="input")
    batch = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    texts = [item if isinstance(item, str) else " ".join(map(str, item)) for item in batch]
    dimensions = body.get("dimensions") or DIMENSIONS
    vectors: list[Any] = [vector_of(text, dimensions) for text in texts]
    if body.get("encoding_format") == "base64":
        vectors = [base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode() for vector in vectors]
    used = sum(len(text.split()) for text in texts)
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    usage = {"prompt_tokens": used, "total_tokens": used}
    return (
        _JSON_TYPE,
        dump({"object": "list", "data": data, "model": body["model"], "usage": usage}),
        Metered(input=used),
    )


def moderations(request: HttpRequest, body: JSON) -> Answered:
    check(body.get("input"), "Missing required parameter: 'input'.", param="input")
    batch = body["input"] if isinstance(body["input"], list) else [body["input"]]
    results = [
        {"flagged": "bad" in str(text), "categories": {"violence": "bad" in str(text)}, "category_scores": {}}
        for text in batch
    ]
    return _JSON_TYPE, dump({"id": "modr-1", "model": body["model"], "results": results}), Metered()


def images(request: HttpRequest, body: JSON) -> Answered:
    check(body.get("prompt"), "Missing required parameter: 'prompt'.", param="prompt")
    used = len(str(body["prompt"]).split())
    pixel = base64.b64encode(b"\x89PNG scripted").decode()
    usage = {"input_tokens": used, "output_tokens": 272, "total_tokens": used + 272}
    answer = {"created": 1, "data": [{"b64_json": pixel}] * (body.get("n") or 1), "usage": usage}
    return _JSON_TYPE, dump(answer), Metered(input=used, output=272)


def speech(request: HttpRequest, body: JSON) -> Answered:
    check(body.get("input"), "Missing required parameter: 'input'.", param="input")
    check(body.get("voice"), "Missing required parameter: 'voice'.", param="voice")
    return "audio/mpeg", b"ID3" + str(body["input"]).encode(), Metered()


def transcription(request: HttpRequest, body: JSON) -> Answered:
    fields = form_of(request)
    check("file" in fields, "Missing required parameter: 'file'.", param="file")
    name, content = fields["file"]
    text = f"heard {name} of {len(content)} bytes"
    if fields.get("response_format", ("", b""))[1] == b"text":
        return "text/plain; charset=utf-8", text.encode(), Metered()
    usage = {"type": "tokens", "input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    return _JSON_TYPE, dump({"text": text, "usage": usage}), Metered(input=10, output=5)


def rerank(request: HttpRequest, body: JSON) -> Answered:
    documents: Any = body.get("documents")
    check(body.get("query") and isinstance(documents, list), "query and documents are required")
    order = sorted(range(len(documents)), key=lambda index: -len(str(documents[index])))
    results = [{"index": index, "relevance_score": 1 / (place + 1)} for place, index in enumerate(order)]
    answer = {"id": "rr-1", "results": results, "meta": {"billed_units": {"search_units": 1}}}
    return _JSON_TYPE, dump(answer), Metered()


def completions(request: HttpRequest, body: JSON) -> Answered:
    check(body.get("prompt"), "Missing required parameter: 'prompt'.", param="prompt")
    prompt = str(body["prompt"])
    text = " tok1 tok2 tok3"
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": "stop"}
    used = len(prompt.split())
    usage = {"prompt_tokens": used, "completion_tokens": 3, "total_tokens": used + 3}
    envelope = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body["model"]}
    if not body.get("stream"):
        return _JSON_TYPE, dump({**envelope, "choices": [choice], "usage": usage}), Metered(input=used, output=3)
    events: list[JSON] = [
        {**envelope, "choices": [{**choice, "text": f" {piece}", "finish_reason": None}]} for piece in text.split()
    ]
    events.append({**envelope, "choices": [{**choice, "text": ""}]})
    if (body.get("stream_options") or {}).get("include_usage"):
        events.append({**envelope, "choices": [], "usage": usage})
    written = b"".join(b"data: %b\n\n" % dump(event) for event in events) + b"data: [DONE]\n\n"
    return "text/event-stream", written, Metered(input=used, output=3)


def counted(request: HttpRequest, body: JSON) -> Answered:
    check(request.headers.get("anthropic-version"), "anthropic-version: header is required")
    check(body.get("messages"), "messages: at least one message is required")
    check("max_tokens" not in body, "max_tokens: Extra inputs are not permitted")
    return _JSON_TYPE, dump({"input_tokens": count_tokens([str(body["messages"])])}), Metered()


def gemini_embeddings(request: HttpRequest, body: JSON) -> Answered:
    wanted: Any = body.get("requests")
    check(isinstance(wanted, list) and wanted, "at least one request is required")
    vectors = []
    for one in wanted:
        check(one.get("model", "").startswith("models/"), "model is not specified")
        text = " ".join(part["text"] for part in one["content"]["parts"])
        vectors.append({"values": vector_of(text, one.get("outputDimensionality") or DIMENSIONS)})
    return _JSON_TYPE, dump({"embeddings": vectors}), Metered()


def ollama_embeddings(request: HttpRequest, body: JSON) -> Answered:
    given: Any = body.get("input")
    check(given, "missing input")
    texts = [given] if isinstance(given, str) else given
    read = count_tokens(texts)
    vectors = [vector_of(text, body.get("dimensions") or DIMENSIONS) for text in texts]
    answer = {"model": body["model"], "embeddings": vectors, "prompt_eval_count": read}
    return _JSON_TYPE, dump(answer), Metered(input=read)


def operation_of(path: str) -> "Operation | None":
    """What is done at ``path``, if it is no conversation."""
    return gemini_embeddings if GEMINI_EMBEDDINGS.fullmatch(path) else OPERATIONS.get(path)


def vendor_named(path: str) -> str:
    """Whose path it is."""
    if GEMINI_EMBEDDINGS.fullmatch(path):
        return "gemini"
    return {"/api/embed": "ollama", "/v1/messages/count_tokens": "anthropic"}.get(path, "openai")


def model_named(request: HttpRequest, body: JSON) -> str:
    """The model of a JSON body or a form, "" if none is named."""
    if "multipart/form-data" in request.headers.get("content-type", ""):
        return form_of(request).get("model", ("", b""))[1].decode(errors="replace")
    if found := GEMINI_EMBEDDINGS.fullmatch(request.path):
        return found[1]
    model = body.get("model")
    return model if isinstance(model, str) else ""


Operation = Callable[[HttpRequest, JSON], Answered]
OPERATIONS: dict[str, Operation] = {
    "/v1/embeddings": embeddings,
    "/v1/moderations": moderations,
    "/v1/images/generations": images,
    "/v1/audio/speech": speech,
    "/v1/audio/transcriptions": transcription,
    "/v1/audio/translations": transcription,
    "/v1/rerank": rerank,
    "/api/embed": ollama_embeddings,
    "/v1/completions": completions,
    "/v1/messages/count_tokens": counted,
}


def form_of(request: HttpRequest) -> dict[str, tuple[str, bytes]]:
    """File name and content of each field of a multipart form. Raises Refusal."""
    _, _, boundary = request.headers.get("content-type", "").partition("boundary=")
    check(boundary, "Could not parse multipart form")
    fields: dict[str, tuple[str, bytes]] = {}
    for part in request.body.split(b"--" + boundary.strip('"').encode())[1:-1]:
        if (found := _FORM_FIELD.search(part)) is None:
            raise Refusal(400, "Could not parse multipart form")
        fields[found[1].decode()] = ((found[2] or b"").decode(), part[found.end() : -2])
    return fields
