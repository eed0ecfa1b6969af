"""Everything a vendor can do wrong, with one fallback: what the caller gets, what the ledger says."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from gateway.conformance.vendors import VendorServer
from tests import provision
from tests.e2e.gateway_process import GatewayProcess

TOKEN = "fault-token-0123456789-abcdefgh"
WHOLE_TEXT = " ".join(f"tok{number}" for number in range(1, 61))
FAULTS = {
    "openai": ("openai-compatible", "/v1"),
    "responses": ("openai-responses", "/v1"),
    "anthropic": ("anthropic", ""),
    "gemini": ("gemini", "/v1beta"),
    "ollama": ("ollama", ""),
}

# What a vendor does before it has said anything: the caller notices nothing, streamed or not.
BEFORE = (
    "reset",
    "429",
    "429s2",
    "429date",
    "500",
    "503",
    "401",
    "404",
    "silent",
    "headers-silent",
    "slowfirst30",
    "wrongtype",
    "empty",
)
# And after it has begun: a stream has to be completed by the fallback, a whole answer comes from it.
MIDWAY = ("stall20", "cut40fin", "cut40rst", "errevent20", "giant")
# Those that are noticed by waiting, a second each.
AWAITED = ("silent", "headers-silent", "slowfirst30", "stall20", "nodone")


def declaration(url: str) -> str:
    lines = ["tenants:", "  - slug: acme", "    projects: [{slug: web}]", "    providers:"]
    limits = "deadlines: {connect: 1, first_token: 1, between_chunks: 1, total: 20}"
    for name, (kind, path) in FAULTS.items():
        lines.append(f'      - {{name: {name}, kind: {kind}, base_url: "{url}{path}", api_key: "sk-{name}", {limits}}}')
        lines.append(
            f'      - {{name: {name}-2, kind: {kind}, base_url: "{url}{path}", api_key: "sk-{name}-2", {limits}}}'
        )
    lines.append(
        f'      - {{name: gone, kind: openai-compatible, base_url: "http://127.0.0.1:9/v1", api_key: "sk-g", {limits}}}'
    )
    price = "price: {input: 1, output: 2}"
    lines.append("    models:")
    for name in FAULTS:
        lines.append(f"      - {{name: {name}-backup, provider: {name}-2, vendor_model: b-tok60, {price}}}")
        lines.append(
            f"      - {{name: {name}-prefill, provider: {name}-2, vendor_model: p-tok60, {price}, capabilities: [prefill]}}"
        )
        for fault in (*BEFORE, *MIDWAY, "badevent10", "nodone", "nousage", "usageall"):
            lines.append(
                f"      - {{name: {name}-{fault}, provider: {name}, vendor_model: x-{fault}-tok60, {price}, "
                f"fallbacks: [{name}-backup]}}"
            )
        for other in FAULTS:
            lines.append(
                f"      - {{name: {name}-to-{other}, provider: {name}, vendor_model: y-cut40rst-tok60, {price}, "
                f"fallbacks: [{other}-backup]}}"
            )
    lines.append(
        f"      - {{name: refused, provider: gone, vendor_model: x-tok60, {price}, fallbacks: [openai-backup]}}"
    )
    lines.append(
        f"      - {{name: differs, provider: openai, vendor_model: z-cut40rst-tok60, {price}, fallbacks: [shorter, openai-backup]}}"
    )
    lines.append(f"      - {{name: shorter, provider: openai-2, vendor_model: s-tok5, {price}}}")
    lines.append(
        f"      - {{name: hopeless, provider: openai, vendor_model: h-cut40rst-tok60, {price}, fallbacks: [shorter]}}"
    )
    lines.append(f"      - {{name: alone, provider: openai, vendor_model: a-cut40rst-tok60, {price}}}")
    lines += [
        f"      - {{name: p-anew, provider: openai-2, vendor_model: f-freshprefill-tok60, {price}, capabilities: [prefill]}}",
        f"      - {{name: prefill-anew, provider: openai, vendor_model: a-cut40rst-tok60, {price}, fallbacks: [p-anew]}}",
        f"      - {{name: p-refuses, provider: openai-2, vendor_model: r-noprefill-tok60, {price}, capabilities: [prefill]}}",
        (
            f"      - {{name: slow, provider: openai, vendor_model: sl-slowfirst6-tok60, {price}, "
            f"fallbacks: [openai-backup], hedging: true, deadlines: {{first_token: 15}}}}"
        ),
    ]
    for name in ("openai", "anthropic"):
        lines.append(
            f"      - {{name: {name}-continued, provider: {name}, vendor_model: c-cut40rst-tok60, {price}, "
            f"fallbacks: [{name}-prefill]}}"
        )
    lines.append(
        f"      - {{name: no-prefill, provider: openai, vendor_model: n-cut40rst-tok60, {price}, fallbacks: [p-refuses]}}"
    )
    lines.append(
        f"      - {{name: tooling, provider: openai, vendor_model: t-tool-errevent2, {price}, fallbacks: [openai-backup]}}"
    )
    lines.append("    tokens:\n      - {name: ci, project: web, value: {env: FAULT_TOKEN}, models: ['*']}\n")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def faulty() -> Iterator[VendorServer]:
    with VendorServer(process=True) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(faulty: VendorServer, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[GatewayProcess]:
    database = provision.create_database(f"{provision.PREFIX}_faults_{os.getpid()}")
    folder: Path = tmp_path_factory.mktemp("faults")
    running = GatewayProcess(database, folder)
    running.apply(declaration(faulty.url), FAULT_TOKEN=TOKEN)
    with running:
        yield running
    provision.drop_database(database.name)


@pytest.fixture(scope="module")
def client(gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=TOKEN, max_retries=0, timeout=30) as client:
        yield client


USER = [{"role": "user", "content": "go on"}]


class Told:
    """What a caller got of one streamed answer."""

    def __init__(self, client: openai.OpenAI, model: str) -> None:
        self.texts: list[str] = []
        self.finish: str | None = None
        self.metadata: dict = {}
        started = time.monotonic()
        stream = client.chat.completions.create(
            model=model, messages=USER, stream=True, stream_options={"include_usage": True}
        )
        self.ids = set()
        self.usage = None
        for chunk in stream:
            self.ids.add(chunk.id)
            for choice in chunk.choices:
                self.texts.append(choice.delta.content or "")
                self.finish = choice.finish_reason or self.finish
            if extra := (chunk.model_extra or {}).get("x-gateway"):
                self.metadata = extra
            self.usage = chunk.usage or self.usage
        self.seconds = time.monotonic() - started

    @property
    def text(self) -> str:
        return "".join(self.texts)


@pytest.fixture(scope="module")
def answer(client: openai.OpenAI) -> Iterator[Callable[[str], Told]]:
    """What a caller gets of a model. All the faults that take waiting are waited for at the same time."""
    awaited = [f"{vendor}-{fault}" for vendor in FAULTS for fault in AWAITED]
    with ThreadPoolExecutor(len(awaited)) as callers:
        asked = {model: callers.submit(Told, client, model) for model in awaited}
        yield lambda model: asked[model].result() if model in asked else Told(client, model)


@pytest.mark.parametrize("vendor", FAULTS)
@pytest.mark.parametrize("fault", [*BEFORE, *MIDWAY])
def test_a_fault_gives_the_whole_answer_from_the_fallback(
    answer: Callable[[str], Told], gateway: GatewayProcess, vendor: str, fault: str
) -> None:
    told = answer(f"{vendor}-{fault}")

    assert (told.text.strip(), told.finish) == (WHOLE_TEXT, "stop")
    assert len(told.ids) == 1
    assert told.seconds < 15
    assert told.metadata["provider"] == f"{vendor}-2"
    lines = gateway.line_of(told.metadata["request_id"])
    assert [line["state"] for line in lines] == ["failed"] * (len(lines) - 1) + ["settled"]
    assert lines[-1]["output_tokens"] == 60
    assert told.usage is not None
    assert told.usage.completion_tokens == 60


@pytest.mark.parametrize("target", FAULTS)
@pytest.mark.parametrize("vendor", FAULTS)
def test_a_cut_stream_is_completed_by_a_vendor_of_any_format(client: openai.OpenAI, vendor: str, target: str) -> None:
    told = Told(client, f"{vendor}-to-{target}")

    assert (told.text.strip(), told.finish) == (WHOLE_TEXT, "stop")
    (rescue,) = told.metadata["rescues"]
    assert (rescue["from"], rescue["to"], rescue["how"]) == (vendor, f"{target}-2", "restart")


def test_an_answer_that_differs_is_not_glued_on_and_the_next_target_is_asked(
    client: openai.OpenAI, gateway: GatewayProcess
) -> None:
    told = Told(client, "differs")

    assert told.text == WHOLE_TEXT
    lines = gateway.line_of(told.metadata["request_id"])
    assert [(line["model"], line["state"]) for line in lines] == [
        ("differs", "failed"),
        ("shorter", "failed"),
        ("openai-backup", "settled"),
    ]


@pytest.mark.parametrize("vendor", ["openai", "anthropic"])
def test_a_target_that_takes_a_beginning_continues_it(
    client: openai.OpenAI, gateway: GatewayProcess, vendor: str
) -> None:
    told = Told(client, f"{vendor}-continued")

    assert told.text == WHOLE_TEXT
    assert [rescue["how"] for rescue in told.metadata["rescues"]] == ["continuation"]
    assert gateway.line_of(told.metadata["request_id"])[-1]["output_tokens"] <= 21  # only the rest was generated


def test_a_target_that_ignores_the_beginning_repeats_nothing(client: openai.OpenAI) -> None:
    assert Told(client, "prefill-anew").text == WHOLE_TEXT


def test_a_refused_beginning_is_not_the_answer(client: openai.OpenAI) -> None:
    told = Told(client, "no-prefill")

    assert told.text == WHOLE_TEXT
    assert [rescue["how"] for rescue in told.metadata["rescues"]] == ["restart"]


def test_a_second_target_is_asked_when_the_first_is_slow(client: openai.OpenAI, gateway: GatewayProcess) -> None:
    told = Told(client, "slow")

    assert told.text == WHOLE_TEXT
    assert told.seconds < 5
    lines = gateway.line_of(told.metadata["request_id"])
    assert [(line["purpose"], line["state"]) for line in lines] == [("serve", "cancelled"), ("hedge", "settled")]


@pytest.mark.parametrize("model", ["hopeless", "alone", "tooling"])
def test_what_cannot_be_completed_ends_in_an_error_and_not_as_if_it_were_complete(
    client: openai.OpenAI, model: str
) -> None:
    stream = client.chat.completions.create(
        model=model,
        messages=USER,
        stream=True,
        tools=[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
    )
    finished = []

    def read() -> None:
        for chunk in stream:
            finished.extend(choice.finish_reason for choice in chunk.choices if choice.finish_reason)

    with pytest.raises(openai.APIError):
        read()
    assert finished == []


def test_a_refused_connection_goes_to_the_fallback(client: openai.OpenAI) -> None:
    assert Told(client, "refused").text == WHOLE_TEXT


@pytest.mark.parametrize("vendor", FAULTS)
def test_a_missing_end_marker_after_a_finish_reason_is_a_complete_answer(
    answer: Callable[[str], Told], vendor: str
) -> None:
    told = answer(f"{vendor}-nodone")

    assert (told.text, told.finish, told.metadata["provider"]) == (WHOLE_TEXT, "stop", vendor)
    assert told.seconds < 8
