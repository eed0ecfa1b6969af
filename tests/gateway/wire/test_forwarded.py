"""Forms and streams of the endpoints that are passed on."""

import httpx2
import msgspec
import openai
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.errors import InvalidRequest
from gateway.wire import forwarded, openai_embeddings
from gateway.wire.types import Upload, Usage, VendorProfile

NAMES = st.text("abcdefghij_", min_size=1, max_size=8).filter(lambda name: name != "model")
PROFILE = VendorProfile()


def form(boundary: str, parts: list[tuple[str, bytes, bool]]) -> bytes:
    written = b""
    for name, content, is_file in parts:
        file = b'; filename="a.wav"\r\nContent-Type: audio/wav' if is_file else b""
        head = b'--%b\r\nContent-Disposition: form-data; name="%b"%b' % (boundary.encode(), name.encode(), file)
        written += head + b"\r\n\r\n" + content + b"\r\n"
    return written + b"--%b--\r\n" % boundary.encode()


@given(
    boundary=st.text("abcdef0123456789-", min_size=4, max_size=40),
    others=st.lists(st.tuples(NAMES, st.binary(max_size=60), st.booleans()), max_size=4),
    place=st.integers(0, 4),
    model=st.text("abc-", min_size=1, max_size=9),
)
def test_only_the_models_name_changes_in_a_form(
    boundary: str, others: list[tuple[str, bytes, bool]], place: int, model: str
) -> None:
    assume(all(f"--{boundary}".encode() not in b"\r\n" + content for _, content, _ in others))
    parts = [*others[:place], ("model", b"asked-for", False), *others[place:]]
    upload = Upload(f"multipart/form-data; boundary={boundary}", form(boundary, parts))

    sent = forwarded.with_model(upload, model)

    assert sent == form(boundary, [(n, model.encode() if n == "model" else c, f) for n, c, f in parts])
    assert forwarded.form_parts(upload.body, upload.content_type) == parts


def test_a_form_without_a_model_gets_one() -> None:
    upload = Upload("multipart/form-data; boundary=xyz", form("xyz", [("file", b"abc", True)]))
    sent = forwarded.with_model(upload, "whisper-1")
    assert {name: content for name, content, _ in forwarded.form_parts(sent, upload.content_type)} == {
        "model": b"whisper-1",
        "file": b"abc",
    }


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"--y\r\n\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc'),
    ],
)
def test_what_is_no_form_is_refused(content_type: str, body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        forwarded.transcription.parse_request(body, {"content-type": content_type})


def captured(call: object) -> httpx2.Request:
    """The request that the official SDK would send."""
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(500)

    with (
        openai.OpenAI(
            base_url="http://gateway/v1",
            api_key="sk-test",
            max_retries=0,
            http_client=openai.DefaultHttpxClient(transport=httpx2.MockTransport(answer)),
        ) as client,
        pytest.raises(openai.InternalServerError),
    ):
        call(client)  # type: ignore[operator]
    seen[0].read()
    return seen[0]


def test_the_sdks_own_upload_is_understood() -> None:
    sent = captured(lambda client: client.audio.transcriptions.create(model="whisper", file=("a.wav", b"abc")))
    request = forwarded.transcription.parse_request(sent.content, dict(sent.headers))
    assert (request.model, request.operation) == ("whisper", "transcription")
    assert request.upload is not None
    assert b"abc" in request.upload.body


def test_the_sdk_asks_for_packed_vectors_and_that_is_kept() -> None:
    sent = captured(lambda client: client.embeddings.create(model="m", input=["a", "b"]))
    request = openai_embeddings.parse_request(sent.content, dict(sent.headers))
    rendered = openai_embeddings.render_request(request, lambda _: None, "vendor-m", PROFILE)  # type: ignore[arg-type, return-value]
    body = msgspec.json.decode(rendered.body)
    assert (body["model"], body["input"], body["encoding_format"]) == ("vendor-m", ["a", "b"], "base64")


def test_vectors_are_packed_as_the_sdk_unpacks_them() -> None:
    request = openai_embeddings.parse_request(b'{"model":"m","input":"a","encoding_format":"base64"}', {})
    from gateway.wire.types import Completion

    body = openai_embeddings.render_completion(Completion("", "m", None, vectors=((0.5, -2.0),)), None, request)
    assert msgspec.json.decode(body)["data"][0]["embedding"] == "AAAAPwAAAMA="


@given(st.lists(st.integers(0, 600), max_size=8))
def test_a_stream_of_completions_reads_the_same_however_it_is_split(cuts: list[int]) -> None:
    events = [{"choices": [{"text": f" t{n}", "finish_reason": None}]} for n in range(5)]
    events.append({"choices": [{"text": "", "finish_reason": "length"}]})
    usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    written = [b"data: %b\n\n" % msgspec.json.encode(event) for event in [*events, {"choices": [], "usage": usage}]]
    data = b"".join(written) + b"data: [DONE]\n\n"
    parser = forwarded.CompletionStream()
    chunks = []
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in zip(places, places[1:], strict=False):  # noqa: RUF007 - the pieces of a cut
        chunks += parser.parse_chunk(data[start:end])
    chunks += parser.parse_end()

    assert "".join(chunk.text for chunk in chunks) == " t0 t1 t2 t3 t4"
    assert [chunk.finish_reason for chunk in chunks if chunk.final] == ["length"]
    assert [chunk.usage.output for chunk in chunks if chunk.usage] == [5]
    assert parser.complete
    assert b"".join(chunk.wire or b"" for chunk in chunks) + b"data: [DONE]\n\n" == data


@pytest.mark.parametrize(
    ("choices", "generated"),
    [([{"text": "one two"}, {"text": "three"}], ("one two", "three")), ([{"text": None}, "odd"], ()), (None, ())],
)
def test_a_completion_without_usage_is_known_by_what_it_says(choices: object, generated: tuple[str, ...]) -> None:
    completion = forwarded.completions.parse_completion(msgspec.json.encode({"choices": choices}), passthrough=True)
    assert (completion.usage, completion.generated) == (None, generated)


def test_what_generates_no_text_is_not_counted_by_it() -> None:
    completion = forwarded.moderations.parse_completion(b'{"results": []}', passthrough=True)
    assert completion.usage == Usage(source="estimated")
