from urllib.parse import urlsplit

import pytest

from gateway.providers import catalog
from gateway.providers.addresses import AddressGuard
from gateway.providers.client import VENDOR_FORMATS

LOCAL = {"ollama"}


def test_has_a_row_for_every_kind_the_documents_name() -> None:
    documented = {
        "openai", "anthropic", "gemini", "mistral", "groq", "together", "fireworks", "deepseek", "xai", "zai",
        "openrouter", "cohere", "perplexity", "azure-openai", "ollama", "vllm", "openai-compatible", "openai-responses", "demo",
    }  # fmt: skip
    assert documented == set(catalog.KINDS)


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(KeyError, match="openai-compatible"):
        catalog.get("nonesuch")


@pytest.mark.parametrize("kind", catalog.KINDS)
def test_a_row_is_consistent(kind: str) -> None:
    row = catalog.get(kind)
    assert row.kind == kind
    assert row.label
    assert row.format in VENDOR_FORMATS["chat"]
    assert row.format == VENDOR_FORMATS["chat"][row.format].DIALECT
    if row.key_required:
        assert row.auth is not None
        assert row.key_env
    if row.base_url is not None:
        assert not row.base_url.endswith("/")
        assert urlsplit(row.base_url).query == ""


@pytest.mark.parametrize("kind", [kind for kind in catalog.KINDS if kind not in LOCAL])
def test_a_rows_base_url_passes_the_guard(kind: str) -> None:
    base_url = catalog.get(kind).base_url
    if base_url is not None:
        AddressGuard().check_url(base_url)
    else:
        assert kind in {"azure-openai", "vllm", "openai-compatible"}


@pytest.mark.parametrize("kind", LOCAL)
def test_a_local_vendor_needs_the_operators_leave(kind: str) -> None:
    base_url = catalog.get(kind).base_url
    assert base_url is not None
    with pytest.raises(ValueError, match="ALLOWED_UPSTREAMS"):
        AddressGuard().check_url(base_url)
    AddressGuard(["127.0.0.1/32"]).check_url(base_url)
