"""One gateway and one set of scripted vendors for all black-box tests of a worker."""

import os
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from gateway.conformance.vendors import VendorServer
from tests import provision
from tests.e2e.gateway_process import GatewayProcess

TOKEN = "e2e-token-0123456789-abcdefghij"
KEPT_TOKEN = "e2e-kept-0123456789-abcdefghij"
OTHER_TOKEN = "e2e-other-0123456789-abcdefghij"

# Each vendor format serves every scripted behaviour under "<provider>/<behaviour>"; the models that tests ask for are
# declared here.
BEHAVIOURS = (
    "tok8", "tok8-cached25", "tok8-think12", "tool", "tools2", "json", "refuse", "filter", "length", "echo", "stop",
    "tok60-gap20", "tok20-nousage", "500", "503", "429s2", "401", "ctx", "reset", "silent", "cut40rst-tok60", "cut40fin-tok60",
    "errevent5", "nodone", "wrongtype", "empty", "tok8-gap300", "usageall-tok8", "tok40-gap50",
)  # fmt: skip
VENDORS = {
    "openai": ("openai-compatible", "/v1"),
    "responses": ("openai-responses", "/v1"),
    "anthropic": ("anthropic", ""),
    "gemini": ("gemini", "/v1beta"),
    "ollama": ("ollama", ""),
}


def declaration(vendor_url: str) -> str:
    """The tenant all tests share: every behaviour in every format, priced, and some chains."""
    lines = ["tenants:", "  - slug: acme", "    projects: [{slug: web}]", "    providers:"]
    for name, (kind, path) in VENDORS.items():
        lines.append(f'      - {{name: {name}, kind: {kind}, base_url: "{vendor_url}{path}", api_key: "sk-{name}"}}')
    lines.append(
        f'      - {{name: drained, kind: openai-compatible, base_url: "{vendor_url}/v1", api_key: "sk-d", on_disconnect: drain}}'
    )
    lines.append('      - {name: nowhere, kind: openai-compatible, base_url: "http://127.0.0.1:9/v1", api_key: "sk-n"}')
    lines.append(
        f'      - {{name: hasty, kind: openai-compatible, base_url: "{vendor_url}/v1", api_key: "sk-h", '
        "deadlines: {connect: 1, first_token: 1, between_chunks: 1, total: 10}}"
    )
    lines.append("    models:")
    price = "price: {input: 0.15, output: 0.60, cached_input: 0.075}"
    for name in VENDORS:
        for behaviour in BEHAVIOURS:
            lines.append(
                f"      - {{name: {name}-{behaviour}, provider: {name}, vendor_model: m-{behaviour}, {price}}}"
            )
    lines += [
        f"      - {{name: backup, provider: openai, vendor_model: backup-tok8, {price}}}",
        f"      - {{name: dead, provider: nowhere, vendor_model: dead-tok8, {price}, fallbacks: [backup]}}",
        f"      - {{name: quiet, provider: hasty, vendor_model: quiet-silent, {price}, fallbacks: [backup]}}",
        f"      - {{name: quiet-alone, provider: hasty, vendor_model: quiet-silent, {price}}}",
        f"      - {{name: limited, provider: openai, vendor_model: limited-429s2, {price}, fallbacks: [dead]}}",
        f"      - {{name: broken, provider: openai, vendor_model: broken-500, {price}, fallbacks: [backup]}}",
        f"      - {{name: down-once, provider: openai, vendor_model: idempotent-503, {price}}}",
        f"      - {{name: broken-once, provider: openai, vendor_model: idempotent-errevent5, {price}}}",
        f"      - {{name: patient, provider: drained, vendor_model: patient-tok40-gap20, {price}}}",
        "      - {name: unpriced, provider: openai, vendor_model: unpriced-tok8}",
        f"      - {{name: vendor/with/slashes, provider: openai, vendor_model: slashed-tok8, {price}}}",
        "    aliases: [{name: auto, model: backup}]",
        "    tokens:",
        "      - {name: ci, project: web, value: {env: E2E_TOKEN}, models: ['*']}",
        "      - {name: narrow, project: web, value: {env: E2E_NARROW}, models: [openai-tok8]}",
        "      - {name: slow, project: web, value: {env: E2E_SLOW}, models: ['*'], requests_per_minute: 2}",
        "  - slug: globex",
        "    projects: [{slug: main}]",
        "    tokens:",
        "      - {name: other, project: main, value: {env: E2E_OTHER}, models: ['*']}",
        "  - slug: initech",
        "    log_content: true",
        "    projects: [{slug: main}]",
        f'    providers: [{{name: kept, kind: openai-compatible, base_url: "{vendor_url}/v1", api_key: "sk-kept"}}]',
        f"    models: [{{name: kept, provider: kept, vendor_model: kept-tok8, {price}}}]",
        "    tokens: [{name: kept, project: main, value: {env: E2E_KEPT}, models: ['*']}]",
    ]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def vendors() -> Iterator[VendorServer]:
    with VendorServer(process=True) as server:
        yield server


@pytest.fixture(scope="session")
def gateway(vendors: VendorServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    database = provision.create_database(f"{provision.PREFIX}_e2e_{os.getpid()}")
    folder: Path = tmp_path_factory.mktemp("gateway")
    running = GatewayProcess(database, folder)
    running.apply(
        declaration(vendors.url),
        E2E_TOKEN=TOKEN,
        E2E_OTHER=OTHER_TOKEN,
        E2E_KEPT=KEPT_TOKEN,
        E2E_NARROW="e2e-narrow-0123456789-abcdefghij",
        E2E_SLOW="e2e-slow-0123456789-abcdefghij",
    )
    with running:
        yield running
    provision.drop_database(database.name)


@pytest.fixture(scope="session")
def client(gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=TOKEN, max_retries=0, timeout=20) as client:
        yield client
