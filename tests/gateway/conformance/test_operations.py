"""What the scripted vendors offer beside conversations, as the official SDKs and a bare client see it."""

import base64
import struct
import time
from typing import Any

import anthropic
import httpx
import openai
import pytest

from gateway.conformance.vendors import VendorServer
from gateway.conformance.vendors.operations import vector_of
from tests.gateway.conformance.sample_requests import ANTHROPIC_TOOLS, USER

SOUND = ("speech.wav", bytes(range(256)) * 4 + b"\r\n--no-boundary\r\n", "audio/wav")


class TestEmbeddings:
    @pytest.mark.parametrize("given", ["one two", ["one two"], ["one two", "three"]])
    def test_sdk_reads_vectors_made_of_the_text(self, oai: openai.OpenAI, vendor: VendorServer, given: Any) -> None:
        texts = [given] if isinstance(given, str) else given
        answer = oai.embeddings.create(model="m", input=given)  # the SDK asks for base64 and unpacks it
        assert [item.embedding for item in answer.data] == [vector_of(text) for text in texts]
        used = sum(len(text.split()) for text in texts)
        assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (used, used)
        call = vendor.log[-1]
        assert (call.metered.input, call.metered.output, call.metered.usage_sent) == (used, 0, True)
        assert (call.format, call.outcome) == ("openai", "answered")

    def test_floats_base64_and_dimensions_agree(self, http: httpx.Client) -> None:
        def embed(**options: Any) -> Any:
            body = {"model": "m", "input": "one", "dimensions": 40, **options}
            return http.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]

        floats = embed(encoding_format="float")
        assert floats == vector_of("one", 40)
        assert len(floats) == 40
        assert list(struct.unpack("<40f", base64.b64decode(embed(encoding_format="base64")))) == floats

    def test_token_arrays_count_their_tokens(self, oai: openai.OpenAI) -> None:
        one = oai.embeddings.create(model="m", input=[5, 6, 7], encoding_format="float")
        assert one.usage.prompt_tokens == 3
        batch = oai.embeddings.create(model="m", input=[[5, 6, 7], [8]], encoding_format="float")
        assert batch.usage.prompt_tokens == 4
        assert batch.data[0].embedding == one.data[0].embedding

    def test_geminis_batch(self, http: httpx.Client, vendor: VendorServer) -> None:
        asked = [{"model": "models/m", "content": {"parts": [{"text": text}]}} for text in ("one two", "three")]
        asked[1]["outputDimensionality"] = 3
        answer = http.post("/v1beta/models/m:batchEmbedContents", json={"requests": asked})
        assert [item["values"] for item in answer.json()["embeddings"]] == [vector_of("one two"), vector_of("three", 3)]
        call = vendor.log[-1]
        assert (call.format, call.model, call.metered.input, call.metered.usage_sent) == ("gemini", "m", 3, False)

    def test_ollamas(self, http: httpx.Client, vendor: VendorServer) -> None:
        answer = http.post("/api/embed", json={"model": "m", "input": ["one two", "three"]}).json()
        assert answer["embeddings"] == [vector_of("one two"), vector_of("three")]
        assert answer["prompt_eval_count"] == 3
        assert (vendor.log[-1].format, vendor.log[-1].metered.input) == ("ollama", 3)


class TestTexts:
    def test_sdk_reads_a_completion_whole_and_streamed(self, oai: openai.OpenAI, vendor: VendorServer) -> None:
        whole = oai.completions.create(model="m", prompt="one two")
        assert (whole.choices[0].text, whole.choices[0].finish_reason) == (" tok1 tok2 tok3", "stop")
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (2, 3)
        chunks = list(
            oai.completions.create(model="m", prompt="one two", stream=True, stream_options={"include_usage": True})
        )
        assert [chunk.choices[0].text for chunk in chunks if chunk.choices] == [" tok1", " tok2", " tok3", ""]
        assert chunks[-1].usage == whole.usage
        call = vendor.log[-1]
        assert (call.stream, call.sent_tokens, call.metered.output, call.metered.usage_sent) == (True, 3, 3, True)

    def test_a_completion_keeps_to_its_limit(self, oai: openai.OpenAI) -> None:
        short = oai.completions.create(model="m", prompt=[1, 2, 3, 4], max_tokens=2)
        assert (short.choices[0].text, short.choices[0].finish_reason) == (" tok1 tok2", "length")
        assert short.usage.prompt_tokens == 4

    def test_a_streamed_completion_tells_usage_only_when_asked(self, oai: openai.OpenAI, vendor: VendorServer) -> None:
        assert all(chunk.usage is None for chunk in oai.completions.create(model="m", prompt="one", stream=True))
        assert not vendor.log[-1].metered.usage_sent

    def test_sdk_reads_moderations(self, oai: openai.OpenAI) -> None:
        results = oai.moderations.create(model="m", input=["bad", "good"]).results
        assert [(result.flagged, result.categories.violence) for result in results] == [(True, True), (False, False)]
        parts = [{"type": "text", "text": "bad"}, {"type": "image_url", "image_url": {"url": "https://a.invalid"}}]
        assert [result.flagged for result in oai.moderations.create(model="m", input=parts).results] == [True]

    def test_rerank_orders_and_cuts(self, http: httpx.Client) -> None:
        body = {"model": "m", "query": "q", "documents": ["a", {"text": "ccc"}, "bb"]}
        results = http.post("/v1/rerank", json=body).json()["results"]
        assert [result["index"] for result in results] == [1, 2, 0]
        assert [result["relevance_score"] for result in results] == [1, 1 / 2, 1 / 3]
        top = http.post("/v1/rerank", json={**body, "top_n": 1, "return_documents": True}).json()["results"]
        assert top == [{"index": 1, "relevance_score": 1, "document": {"text": "ccc"}}]

    def test_anthropics_count_is_what_the_conversation_costs(self, claude: anthropic.Anthropic) -> None:
        asked = {"model": "m-tok1", "messages": USER, "system": "be brief", "tools": ANTHROPIC_TOOLS}
        counted = claude.messages.count_tokens(**asked).input_tokens
        assert counted == claude.messages.create(**asked, max_tokens=9).usage.input_tokens == 6


class TestMedia:
    def test_sdk_reads_images_with_usage(self, oai: openai.OpenAI, vendor: VendorServer) -> None:
        answer = oai.images.generate(model="m", prompt="a red cube", n=2)
        assert [base64.b64decode(image.b64_json)[:4] for image in answer.data] == [b"\x89PNG"] * 2
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (3, 544)
        assert (vendor.log[-1].metered.input, vendor.log[-1].metered.output) == (3, 544)

    @pytest.mark.parametrize(("wanted", "kind"), [({}, "audio/mpeg"), ({"response_format": "wav"}, "audio/wav")])
    def test_speech_is_bytes(self, oai: openai.OpenAI, wanted: dict[str, Any], kind: str) -> None:
        answer = oai.audio.speech.create(model="m", voice="alloy", input="hello", **wanted)
        assert answer.content == b"ID3hello"
        assert answer.response.headers["content-type"] == kind

    def test_a_transcript_tells_what_file_was_heard(self, oai: openai.OpenAI, vendor: VendorServer) -> None:
        heard = f"heard speech.wav of {len(SOUND[1])} bytes"
        answer = oai.audio.transcriptions.create(model="m", file=SOUND, timestamp_granularities=["word"])
        assert (answer.text, answer.usage.total_tokens) == (heard, 15)
        call = vendor.log[-1]
        assert (call.model, call.metered.input, call.metered.output, call.metered.usage_sent) == ("m", 10, 5, True)
        assert oai.audio.transcriptions.create(model="m", file=SOUND, response_format="text") == heard
        assert not vendor.log[-1].metered.usage_sent
        assert oai.audio.translations.create(model="m", file=SOUND).text == heard


class TestRefusals:
    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/v1/embeddings", {"input": "one"}),
            ("/v1/embeddings", {"model": "m", "input": []}),
            ("/v1/embeddings", {"model": "m", "input": [""]}),
            ("/v1/embeddings", {"model": "m", "input": ["one", 2]}),
            ("/v1/embeddings", {"model": "m", "input": [[1], "two"]}),
            ("/v1/embeddings", {"model": "m", "input": "one", "dimensions": 0}),
            ("/v1/embeddings", {"model": "m", "input": "one", "encoding_format": "hex"}),
            ("/v1/completions", {"model": "m", "messages": USER}),
            ("/v1/completions", {"model": "m", "prompt": "one", "max_tokens": -1}),
            ("/v1/completions", {"model": "m", "prompt": "one", "stream_options": {"include_usage": True}}),
            ("/v1/moderations", {"model": "m", "input": [{"type": "audio"}]}),
            ("/v1/moderations", {"model": "m", "input": ""}),
            ("/v1/images/generations", {"model": "m", "prompt": "x", "n": 11}),
            ("/v1/images/generations", {"model": "m", "prompt": "x", "size": "1x1"}),
            ("/v1/audio/speech", {"model": "m", "input": "x"}),
            ("/v1/audio/speech", {"model": "m", "input": "x" * 4097, "voice": "alloy"}),
            ("/v1/audio/speech", {"model": "m", "input": "x", "voice": "alloy", "response_format": "midi"}),
            ("/v1/audio/transcriptions", {"model": "m"}),
            ("/v1/rerank", {"model": "m", "documents": ["a"]}),
            ("/v1/rerank", {"model": "m", "query": "q", "documents": []}),
            ("/v1/rerank", {"model": "m", "query": "q", "documents": [5]}),
            ("/v1/rerank", {"model": "m", "query": "q", "documents": ["a"], "top_n": 0}),
            ("/v1/messages/count_tokens", {"model": "m", "messages": USER, "max_tokens": 5}),
            ("/v1/messages/count_tokens", {"model": "m", "messages": []}),
            ("/v1beta/models/m:batchEmbedContents", {"requests": []}),
            ("/v1beta/models/m:batchEmbedContents", {"requests": [{"content": {"parts": [{"text": "x"}]}}]}),
            ("/v1beta/models/m:batchEmbedContents", {"requests": [{"model": "models/m", "input": "x"}]}),
            ("/v1beta/models/m:batchEmbedContents", {"requests": [{"model": "models/m"}]}),
            ("/api/embed", {"model": "m", "input": 5}),
            ("/api/embed", {"model": "m", "prompt": "x"}),
        ],
    )
    def test_refuses_what_the_originals_refuse(
        self, path: str, body: dict[str, Any], http: httpx.Client, vendor: VendorServer
    ) -> None:
        response = http.post(path, json=body)
        assert (response.status_code, bool(response.json()["error"])) == (400, True)
        assert (vendor.log[-1].outcome, vendor.log[-1].metered.prompt) == ("refused", 0)

    @pytest.mark.parametrize(
        ("path", "fields", "files"),
        [
            ("/v1/audio/transcriptions", {"model": "m"}, {"other": SOUND}),
            ("/v1/audio/transcriptions", {"model": "m"}, {"file": ("empty.wav", b"")}),
            ("/v1/audio/transcriptions", {}, {"file": SOUND}),
            ("/v1/audio/transcriptions", {"model": "m", "response_format": "xml"}, {"file": SOUND}),
            ("/v1/audio/translations", {"model": "m", "language": "en"}, {"file": SOUND}),
        ],
    )
    def test_refuses_forms_that_lack_or_exceed(
        self, path: str, fields: dict[str, str], files: dict[str, Any], http: httpx.Client
    ) -> None:
        assert http.post(path, data=fields, files=files).status_code == 400

    def test_a_broken_form_is_a_400(self, http: httpx.Client) -> None:
        broken = http.post(
            "/v1/audio/transcriptions",
            content=b"--b\r\nnothing",
            headers={"content-type": "multipart/form-data; boundary=b"},
        )
        assert broken.status_code == 400

    def test_keys_and_scripted_refusals_apply(self, oai: openai.OpenAI, vendor: VendorServer) -> None:
        with pytest.raises(openai.InternalServerError):
            oai.embeddings.create(model="m-503", input="one")
        vendor.accept_keys(["right"])
        with pytest.raises(openai.AuthenticationError):
            oai.embeddings.create(model="m", input="one")

    def test_resets_silence_and_slowness_apply(self, http: httpx.Client, vendor: VendorServer) -> None:
        with pytest.raises(httpx.ReadError):
            http.post("/v1/embeddings", json={"model": "m-reset", "input": "one"})
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/embeddings", json={"model": "m-silent", "input": "one"}, timeout=0.2)
        assert vendor.wait_for(lambda calls: calls[-1].outcome == "gone")
        started = time.monotonic()
        http.post("/v1/embeddings", json={"model": "m-slowfirst100ms", "input": "one"})
        assert time.monotonic() - started >= 0.1
