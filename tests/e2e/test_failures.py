"""What callers see when something goes wrong, and what the ledger says of it."""

import json
import time
from typing import Any

import httpx
import openai
import pytest

from gateway.conformance.vendors import VendorServer
from tests.e2e.conftest import OTHER_TOKEN, TOKEN, VENDORS
from tests.e2e.gateway_process import GatewayProcess
from tests.e2e.test_chat_completions import FORMATS, USER, metadata_of, streamed, text_of, whole


def post(
    gateway: GatewayProcess, body: bytes | dict[str, Any], token: str | None = TOKEN, **headers: str
) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    if token:
        headers["authorization"] = f"Bearer {token}"
    return httpx.post(f"{gateway.url}/v1/chat/completions", content=content, headers=headers, timeout=20)


# ----------------------------------------------------------------- the caller's own mistakes


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_request_error"),
        (b"{", 400, "invalid_request_error"),
        (b"[]", 400, "invalid_request_error"),
        (b'{"model": "openai-tok8", "messages": "hello"}', 400, "invalid_request_error"),
        (b'{"model": "openai-tok8", "messages": []}', 400, "invalid_request_error"),
        (b'{"model": 7, "messages": [{"role": "user", "content": "x"}]}', 400, "invalid_request_error"),
        (b'{"model": "openai-tok8", "messages": [{"role": "king", "content": "x"}]}', 400, "invalid_request_error"),
        (b'{"model": "openai-tok8", "messages": [{"role": "user", "content": 5}]}', 400, "invalid_request_error"),
        (b'{"model": "a", "model": "b", "messages": [{"role": "user", "content": "x"}]}', 400, "invalid_request_error"),
        (b'{"model": "openai-tok8", "messages": [{"role": "user", "content": "\xff"}]}', 400, "invalid_request_error"),
        (
            b'{"model": "openai-tok8", "n": NaN, "messages": [{"role": "user", "content": "x"}]}',
            400,
            "invalid_request_error",
        ),
        (b'{"x":' + b"[" * 100 + b"]" * 100 + b"}", 400, "invalid_request_error"),
        (b'{"model": "openai-tok9", "messages": [{"role": "user", "content": "x"}]}', 404, "model_not_found"),
    ],
)
def test_bad_bodies_are_refused_clearly(gateway: GatewayProcess, body: bytes, status: int, code: str) -> None:
    answer = post(gateway, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert error["message"]
    assert error["type"]
    assert answer.headers["x-request-id"]
    assert answer.headers["x-should-retry"] == "false"


def test_an_unknown_model_is_answered_with_near_matches(gateway: GatewayProcess) -> None:
    answer = post(gateway, {"model": "openai-tok9", "messages": USER})
    assert "openai-tok8" in answer.json()["error"]["message"]


@pytest.mark.parametrize("token", [None, "", "nonsense", "gw_" + "a" * 12 + "_" + "b" * 43 + "00000000", "x" * 40])
def test_without_a_valid_key_nothing_is_served(gateway: GatewayProcess, token: str | None) -> None:
    answer = post(gateway, {"model": "openai-tok8", "messages": USER}, token)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("header", ["x-api-key", "api-key", "x-goog-api-key"])
def test_keys_are_taken_from_every_usual_header(gateway: GatewayProcess, header: str) -> None:
    assert post(gateway, {"model": "openai-tok8", "messages": USER}, None, **{header: TOKEN}).status_code == 200


def test_another_tenants_models_do_not_exist(gateway: GatewayProcess) -> None:
    theirs = post(gateway, {"model": "openai-tok8", "messages": USER}, OTHER_TOKEN)
    nobodys = post(gateway, {"model": "openai-tok7", "messages": USER}, OTHER_TOKEN)
    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.json()["error"]["message"].replace("tok8", "tok7") == nobodys.json()["error"]["message"]


def test_a_key_may_use_only_its_models(gateway: GatewayProcess) -> None:
    narrow = "e2e-narrow-0123456789-abcdefghij"
    assert post(gateway, {"model": "openai-tok8", "messages": USER}, narrow).status_code == 200
    refused = post(gateway, {"model": "backup", "messages": USER}, narrow)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")


def test_a_keys_own_limit_is_kept_and_announced(gateway: GatewayProcess) -> None:
    slow = "e2e-slow-0123456789-abcdefghij"
    answers = [post(gateway, {"model": "openai-tok8", "messages": USER}, slow) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["x-ratelimit-limit-requests"] == "2"
    assert answers[0].headers["x-ratelimit-remaining-requests"] == "1"
    assert int(answers[2].headers["retry-after"]) >= 1
    assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"


def test_a_revoked_key_is_refused_on_the_next_request(gateway: GatewayProcess) -> None:
    issued = gateway.manage("issue_token", "--tenant", "acme", "--project", "web", "--name", "brief", "--json")
    token = json.loads(issued.stdout)["token"]
    assert post(gateway, {"model": "openai-tok8", "messages": USER}, token).status_code == 200
    gateway.manage("revoke_token", "--tenant", "acme", "--name", "brief")
    assert post(gateway, {"model": "openai-tok8", "messages": USER}, token).status_code == 401


def test_other_methods_and_paths_are_refused_in_the_dialect(gateway: GatewayProcess) -> None:
    wrong_method = httpx.get(f"{gateway.url}/v1/chat/completions")
    assert (wrong_method.status_code, wrong_method.json()["error"]["code"]) == (405, "method_not_allowed")
    unknown = httpx.post(f"{gateway.url}/v1/unheard/of", json={})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")


# ----------------------------------------------------------------- vendors that fail


def test_a_500_is_asked_again_once_and_then_the_fallback(client: openai.OpenAI, gateway: GatewayProcess) -> None:
    for answer in (whole(client, "broken"), streamed(client, "broken")):
        metadata = metadata_of(answer)
        assert (metadata["model"], metadata["fallback_used"]) == ("backup", True)
        assert [tried["outcome"] for tried in metadata["attempts"]] == ["failed", "failed", "settled"]
        lines = gateway.line_of(metadata["request_id"])
        assert [(line["model"], line["purpose"], line["state"]) for line in lines] == [
            ("broken", "serve", "failed"),
            ("broken", "retry", "failed"),
            ("backup", "fallback", "settled"),
        ]


@pytest.mark.parametrize("model", ["dead", "quiet"])
def test_a_fallback_answers_when_its_model_fails(client: openai.OpenAI, gateway: GatewayProcess, model: str) -> None:
    for answer in (whole(client, model), streamed(client, model)):
        metadata = metadata_of(answer)
        assert (metadata["model"], metadata["fallback_used"]) == ("backup", True)
        assert [tried["outcome"] for tried in metadata["attempts"]] == ["failed", "settled"]
        failed, served = gateway.line_of(metadata["request_id"])
        assert (failed["model"], failed["state"], failed["output_tokens"], failed["cost_usd"]) == (
            model,
            "failed",
            0,
            "0",
        )
        assert (served["model"], served["state"], served["purpose"]) == ("backup", "settled", "fallback")


def test_no_fallback_is_tried_where_the_caller_forbids_it(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as failure:
        whole(client, "broken", extra_body={"x-fallback": False})
    assert failure.value.code == "provider_error"


@pytest.mark.parametrize("vendor", FORMATS)
@pytest.mark.parametrize("fault", ["500", "503", "401", "reset", "wrongtype", "empty"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_failed_vendor_is_a_502_that_gives_nothing_away(
    client: openai.OpenAI, gateway: GatewayProcess, vendor: str, fault: str, stream: bool
) -> None:
    with pytest.raises(openai.InternalServerError) as failure:
        (streamed if stream else whole)(client, f"{vendor}-{fault}")
    assert (failure.value.status_code, failure.value.code) == (502, "provider_error")
    told = failure.value.response.text
    assert "127.0.0.1" not in told
    assert f"sk-{vendor}" not in told
    assert "org-scripted" not in told


def test_a_silent_vendor_is_a_timeout(client: openai.OpenAI) -> None:
    started = time.monotonic()
    with pytest.raises(openai.InternalServerError) as failure:
        whole(client, "quiet-alone")
    assert (failure.value.status_code, failure.value.code) == (504, "timeout")
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("vendor", FORMATS)
def test_a_context_that_is_too_long_is_the_callers_to_mend(client: openai.OpenAI, vendor: str) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        whole(client, f"{vendor}-ctx")
    assert refusal.value.code == "context_length_exceeded"


@pytest.mark.parametrize("vendor", FORMATS)
@pytest.mark.parametrize("fault", ["cut40rst-tok60", "cut40fin-tok60", "errevent5"])
def test_a_cut_stream_ends_in_an_error_and_never_as_if_complete(
    client: openai.OpenAI, gateway: GatewayProcess, vendor: str, fault: str
) -> None:
    body = {"model": f"{vendor}-{fault}", "messages": USER, "stream": True}
    answer = post(gateway, body)
    assert answer.status_code == 200
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[-1] != "[DONE]"
    assert json.loads(events[-1])["error"]["code"] == "provider_error"
    with pytest.raises(openai.APIError):
        streamed(client, f"{vendor}-{fault}")
    (line,) = gateway.line_of(answer.headers["x-request-id"])
    assert (line["state"], line["estimated"]) == ("failed", True)
    assert line["output_tokens"] > 0


def test_a_missing_end_marker_does_not_hold_up_a_complete_stream(client: openai.OpenAI) -> None:
    started = time.monotonic()
    assert len(text_of(streamed(client, "openai-nodone")).split()) == 8
    assert time.monotonic() - started < 8


# ----------------------------------------------------------------- callers that leave


def leave_after(gateway: GatewayProcess, model: str, events: int) -> str:
    """Read some events of a stream, then hang up; the request's id."""
    body = {"model": model, "messages": USER, "stream": True}
    headers = {"authorization": f"Bearer {TOKEN}"}
    with (
        httpx.Client() as http,
        http.stream("POST", f"{gateway.url}/v1/chat/completions", json=body, headers=headers) as answer,
    ):
        seen = 0
        for line in answer.iter_lines():
            seen += line.startswith("data: ")
            if seen >= events:
                break
        return answer.headers["x-request-id"]


@pytest.mark.parametrize("vendor", FORMATS)
def test_a_hang_up_stops_the_vendor_and_is_charged_by_what_was_seen(
    gateway: GatewayProcess, vendors: VendorServer, vendor: str
) -> None:
    vendors.reset()
    request_id = leave_after(gateway, f"{vendor}-tok60-gap20", 10)
    (call,) = vendors.wait_for(lambda log: bool(log) and log[-1].client_gone_at is not None)
    (line,) = gateway.line_of(request_id)
    assert (line["state"], line["estimated"]) == ("cancelled", True)
    assert 5 <= line["output_tokens"] <= call.generated_tokens + 1 < 60


def test_a_drained_stream_is_charged_by_the_vendors_own_count(gateway: GatewayProcess, vendors: VendorServer) -> None:
    vendors.reset()
    request_id = leave_after(gateway, "patient", 5)
    vendors.wait_for(lambda log: bool(log) and log[-1].outcome == "answered", timeout_s=5)
    (line,) = gateway.line_of(request_id)
    assert (line["state"], line["estimated"], line["output_tokens"]) == ("settled", False, 40)


def test_a_hang_up_before_the_answer_stops_the_vendor(gateway: GatewayProcess, vendors: VendorServer) -> None:
    vendors.reset()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{gateway.url}/v1/chat/completions",
            json={"model": "openai-silent", "messages": USER},
            headers={"authorization": f"Bearer {TOKEN}"},
            timeout=0.5,
        )
    vendors.wait_for(lambda log: bool(log) and log[-1].outcome == "gone")
    assert VENDORS["openai"]


# ----------------------------------------------------------------- the ledger


def test_the_ledger_equals_the_vendors_own_meter(
    gateway: GatewayProcess, client: openai.OpenAI, vendors: VendorServer
) -> None:
    vendors.reset()
    ids = set()
    for vendor in FORMATS:
        for model in (f"{vendor}-tok8", f"{vendor}-tok8-cached25", f"{vendor}-tok8-think12"):
            ids.add(metadata_of(whole(client, model, reasoning_effort="low", max_tokens=4000))["request_id"])
            ids.add(metadata_of(streamed(client, model, reasoning_effort="low", max_tokens=4000))["request_id"])
    time.sleep(0.5)
    lines = [line for line in gateway.ledger() if line["request_id"] in ids]
    metered = [call.metered for call in vendors.log]
    assert len(lines) == len(metered) == len(ids)
    assert {(line["state"], line["estimated"]) for line in lines} == {("settled", False)}
    assert sum(line["input_tokens"] for line in lines) == sum(usage.input for usage in metered)
    assert sum(line["cached_input_tokens"] for line in lines) == sum(usage.cached_input for usage in metered)
    generated = sum(line["output_tokens"] + line["reasoning_tokens"] for line in lines)
    assert generated == sum(usage.output + usage.reasoning for usage in metered)


def test_missing_usage_is_estimated_and_said_to_be(gateway: GatewayProcess, client: openai.OpenAI) -> None:
    for answer in (whole(client, "openai-tok20-nousage"), streamed(client, "openai-tok20-nousage")):
        (line,) = gateway.line_of(metadata_of(answer)["request_id"])
        assert line["estimated"] is True
        assert line["output_tokens"] == 20


def test_an_unknown_price_is_not_zero(gateway: GatewayProcess, client: openai.OpenAI) -> None:
    metadata = metadata_of(whole(client, "unpriced"))
    assert metadata["cost_usd"] is None
    (line,) = gateway.line_of(metadata["request_id"])
    assert line["cost_usd"] is None
