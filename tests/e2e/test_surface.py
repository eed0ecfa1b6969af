"""Closed by default: whatever is not listed here as open asks who is calling."""

import re
import uuid
from collections.abc import Iterator

import httpx
import pytest
from django.core.management import get_commands
from django.urls import URLPattern, URLResolver, get_resolver

from gateway.consumers import FORWARDED
from tests.e2e.gateway_process import GatewayProcess

OPEN = {
    "": "leads to the sign-in page",
    "health": "readiness, for load balancers",
    "health/live": "liveness, for orchestrators",
    "health/ready": "readiness, for load balancers",
    "metrics": "asks for METRICS_TOKEN or a listed network (test_metrics.py)",
    "v1/<path:rest>": "tells anybody only that a path is unknown",
    "api/": "tells anybody only that a path is unknown",
    "api/<path:rest>": "tells anybody only that a path is unknown",
    "v1/": "has no view of its own: the API's name for reversing",
    "admin/login/": "is the sign-in page",
    "admin/logout/": "leads back to the sign-in page",
    "admin/(?P<url>.*)$": "tells anybody only that a page is unknown",
}
COMMANDS = {
    "add_provider", "apply", "audit_retention", "auto_ab", "build_router_features", "check_provider", "classify",
    "conformance", "cost_migration", "create_tenant", "doctor", "down", "experiments", "export_ledger",
    "import_prices", "import_scores", "issue_token", "judge", "learn", "migrate", "off_policy", "prepare", "reap", "reconcile",
    "replay", "reprice", "retention", "revoke_token", "rollup", "rotate_master_key", "routerlab", "send_alerts",
    "serve", "up", "usage_report", "verify_audit", "verify_ledger",
    "weight_snapshots",
}  # fmt: skip


def paths(resolver: URLResolver | None = None, prefix: str = "") -> Iterator[str]:
    """Every path Django answers, as its pattern."""
    for entry in (resolver or get_resolver()).url_patterns:
        path = prefix + str(entry.pattern)
        if isinstance(entry, URLResolver):
            yield from paths(entry, path)
        elif isinstance(entry, URLPattern):
            yield path


def sample(pattern: str) -> str:
    """A path that the pattern matches."""
    pattern = pattern.replace("<uuid:pk>", str(uuid.UUID(int=0)))
    path = re.sub(r"\(\?P<\w+>([^()|]+)[^()]*\)", r"\1", pattern.replace("^", "").replace("$", ""))
    return re.sub(r"<[^>]+>", "1", path)


@pytest.mark.parametrize("pattern", sorted(set(paths()) - set(OPEN)))
def test_whoever_is_not_known_is_asked_for_credentials(gateway: GatewayProcess, pattern: str) -> None:
    answer = httpx.get(f"{gateway.url}/{sample(pattern)}")
    if pattern.startswith("api/"):
        assert answer.status_code == 401
    elif pattern.startswith("v1/"):
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    else:
        assert answer.status_code == 302
        assert answer.headers["location"].startswith("/admin/login/")


@pytest.mark.parametrize("path", FORWARDED)
def test_forwarded_paths_ask_for_a_key(gateway: GatewayProcess, path: str) -> None:
    assert httpx.post(f"{gateway.url}/{path}", json={}).status_code == 401


def test_every_page_carries_a_strict_content_security_policy(gateway: GatewayProcess) -> None:
    policy = httpx.get(f"{gateway.url}/admin/login/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_every_command_is_known() -> None:
    assert {
        name for name, app in get_commands().items() if app in {"gateway", "tenants", "billing", "routing", "audit"}
    } == COMMANDS
