"""What every path has in common: headers of errors, names, pages that are not there, files."""

import uuid

import httpx
import openai
import pytest

from tests.e2e.conftest import TOKEN
from tests.e2e.gateway_process import GatewayProcess

KEY = {"authorization": f"Bearer {TOKEN}"}


FAILING = """
tenants:
  - slug: acme
    models:
      - {name: fails, provider: openai, vendor_model: fails-500}
      - {name: fails-too, provider: openai, vendor_model: failstoo-500}
      - {name: backup-fails, provider: openai, vendor_model: backup-503}
      - {name: chain, provider: openai, vendor_model: chain-500, fallbacks: [backup-fails]}
      - {name: backup-fails-too, provider: openai, vendor_model: backuptoo-503}
      - {name: chain-too, provider: openai, vendor_model: chaintoo-500, fallbacks: [backup-fails-too]}
"""


@pytest.fixture(scope="module", autouse=True)
def _failing_models(gateway: GatewayProcess) -> None:
    """Of their own: a circuit that they open is nobody else's."""
    gateway.apply(FAILING)


def ask(gateway: GatewayProcess, model: str, path: str = "/v1/chat/completions", **headers: str) -> httpx.Response:
    body = {"model": model, "max_tokens": 20, "messages": [{"role": "user", "content": "one two"}]}
    return httpx.post(f"{gateway.url}{path}", json=body, headers={**KEY, **headers}, timeout=30)


def facts_of(answer: httpx.Response) -> tuple[str | None, ...]:
    return tuple(answer.headers.get(f"x-gateway-{name}") for name in ("provider", "model", "fallback", "cache"))


@pytest.mark.parametrize(("path", "model"), [("/v1/chat/completions", "fails"), ("/v1/messages", "fails-too")])
def test_an_error_names_the_target_that_was_tried_last(gateway: GatewayProcess, path: str, model: str) -> None:
    answer = ask(gateway, model, path)
    assert answer.status_code == 502
    assert facts_of(answer) == ("openai", model, "false", "miss")
    assert answer.headers["x-request-id"]


def test_an_error_of_a_chain_names_its_last_target(gateway: GatewayProcess) -> None:
    answer = ask(gateway, "chain")
    assert answer.status_code == 502
    assert facts_of(answer) == ("openai", "backup-fails", "true", "miss")


def test_an_error_with_an_idempotency_key_says_everything_once(gateway: GatewayProcess) -> None:
    answer = ask(gateway, "chain-too", **{"idempotency-key": str(uuid.uuid4())})
    assert answer.status_code == 502
    assert facts_of(answer) == ("openai", "backup-fails-too", "true", "miss")
    names = [name for name, _ in answer.headers.multi_items()]
    assert len(names) == len(set(names))


def test_an_error_without_a_target_says_at_least_that_it_is_from_no_cache(gateway: GatewayProcess) -> None:
    for answer in (
        ask(gateway, "no-such-model"),
        httpx.post(f"{gateway.url}/v1/chat/completions", json={}),
        httpx.get(f"{gateway.url}/v1/chat/completions"),
    ):
        assert answer.status_code in (401, 404, 405)
        assert facts_of(answer) == (None, None, None, "miss")


def test_a_model_is_described_under_every_name_that_chat_takes(gateway: GatewayProcess) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=TOKEN, max_retries=0) as client:
        for name in ("openai-tok8", "openai/openai-tok8", "openai/m-tok8", "vendor/with/slashes", "auto"):
            assert ask(gateway, name).status_code == 200
            assert client.models.retrieve(name).id == name
        assert client.models.retrieve("openai/openai-tok8").owned_by == "openai"
        with pytest.raises(openai.NotFoundError, match="Did you mean 'openai-tok8'"):
            client.models.retrieve("openai-tok88")


def test_a_model_that_a_key_may_not_use_is_as_unknown_as_one_that_is_not_there(gateway: GatewayProcess) -> None:
    narrow = {"authorization": "Bearer e2e-narrow-0123456789-abcdefghij"}
    found = httpx.get(f"{gateway.url}/v1/models/openai/openai-tok8", headers=narrow)
    hidden = httpx.get(f"{gateway.url}/v1/models/openai/openai-500", headers=narrow)
    assert (found.status_code, hidden.status_code) == (200, 404)
    assert hidden.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("score", [4.5, True, "4", [4]])
def test_a_score_that_is_none_is_explained_in_words(gateway: GatewayProcess, score: object) -> None:
    body = {"request_id": str(uuid.uuid4()), "score": score}
    answer = httpx.post(f"{gateway.url}/v1/feedback", json=body, headers=KEY)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "'score' must be a whole number from 1 to 5."
    assert answer.json()["error"]["param"] == "score"


@pytest.mark.parametrize("path", ["/api/", "/api/costs", "/api/spend/", "/api/nothing/at/all?x=1"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_unknown_path_of_the_api_is_an_error_of_the_api(gateway: GatewayProcess, method: str, path: str) -> None:
    answer = httpx.request(method, f"{gateway.url}{path}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"detail": f"Unknown request URL: {method} {path.partition('?')[0]}."}


def test_static_files_are_sent_whole_compressed_and_in_parts_without_a_warning(gateway: GatewayProcess) -> None:
    url = f"{gateway.url}/static/admin_pointsman/pointsman.css"
    whole = httpx.get(url)
    assert (whole.status_code, whole.headers["content-type"]) == (200, 'text/css; charset="utf-8"')
    assert len(whole.content) == int(whole.headers["content-length"]) > 1000
    part = httpx.get(url, headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    head = httpx.head(url)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(whole.content)))
    same = httpx.get(url, headers={"if-none-match": whole.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    assert httpx.post(url).status_code == 405
    assert "StreamingHttpResponse" not in gateway.output


def test_a_refused_page_is_one_line_of_the_log(gateway: GatewayProcess) -> None:
    before = len(gateway.output)
    answer = httpx.post(f"{gateway.url}/admin/login/", data={"username": "x"})  # without the form's token
    assert answer.status_code == 403
    assert gateway.output[before:].count("\n") == 1
    assert "Forbidden" in gateway.output[before:]
