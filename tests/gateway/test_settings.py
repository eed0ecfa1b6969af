"""What settings there are: the code, the documentation, the example and the compose file tell the same."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import global_settings

from tests.provision import ROOT

READERS = ("gateway/settings.py", "gateway/connections.py", "gateway/installation.py", "gateway/first_run.py")
READ = re.compile(r"""(?:installation\.\w+|env(?:iron)?(?:\(\))?\.\w+)\(\s*"([A-Z][A-Z0-9_]+)\"""")
MADE_BY_US = {"PROMETHEUS_MULTIPROC_DIR"}
OF_COMPOSE = {"POSTGRES_PASSWORD", "POSTGRES_OWNER_PASSWORD", "POSTGRES_APP_PASSWORD"}
FIXED_IN_CONTAINERS = {"HOST", "PORT", "DATA_DIR"}  # the Dockerfile's
OF_MIGRATE = {"DATABASE_OWNER_URL", "ADMIN_EMAIL", "ADMIN_PASSWORD"}


def text_of(path: str) -> str:
    return Path(ROOT, path).read_text()


def settings_read() -> set[str]:
    return {name for path in READERS for name in READ.findall(text_of(path))} - MADE_BY_US


def settings_documented() -> set[str]:
    rows = re.findall(r"^\| (`[^|]+) \|", text_of("docs/configuration.md"), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([A-Z][A-Z0-9_]+)`", row)}


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load(text_of("docker-compose.yml"))["services"])


def test_every_setting_is_documented_and_nothing_else_is() -> None:
    assert len(settings_read()) > 40
    assert settings_documented() == settings_read()


def test_every_setting_is_used() -> None:
    """By Django itself, by our code, or by another setting."""
    kept = text_of("gateway/settings.py")
    names = set(re.findall(r"^([A-Z][A-Z0-9_]+) = (?:installation|env)\.", kept, re.MULTILINE))
    apps = ("gateway", "tenants", "routing", "billing", "audit")
    code = "".join(
        path.read_text() for app in apps for path in Path(ROOT, app).rglob("*.py") if path.name != "settings.py"
    )
    of_django = {name for name in names if hasattr(global_settings, name)}
    assert len(names) > 30
    unused = {
        name
        for name in names - of_django
        if not re.search(rf"\b{name}\b", code) and not re.search(rf"(?<!\")\b{name}\b(?!\"| =)", kept)
    }
    assert unused == set()


def test_the_example_names_settings_only() -> None:
    named = set(re.findall(r"^#([A-Z][A-Z0-9_]+)=", text_of(".env.example"), re.MULTILINE))
    assert named >= OF_COMPOSE
    assert named - OF_COMPOSE <= settings_read()


@pytest.mark.parametrize("service", ["web", "worker", "beat", "migrate"])
def test_containers_are_given_every_setting(service: str) -> None:
    given = set(compose()[service]["environment"])
    wanted = settings_read() - FIXED_IN_CONTAINERS
    assert given == (wanted if service == "migrate" else wanted - OF_MIGRATE)


def test_what_a_container_is_given_is_under_its_own_name() -> None:
    for name, value in compose()["web"]["environment"].items():
        if name not in ("DATABASE_URL", "REDIS_URL"):
            assert value is None or value.startswith(f"${{{name}:"), name


# ----------------------------------------------------------------------------- values that cannot be meant


def started_with(**settings: str) -> subprocess.CompletedProcess[str]:
    nowhere = {"DATABASE_URL": "postgresql://x@127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1/0"}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "manage.py", "down"],
        cwd=ROOT, env=os.environ | nowhere | settings, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("PORT", "abc", "PORT must be a whole number from 1 to 65535, and is 'abc'."),
        ("PORT", "99999", "PORT must be a whole number from 1 to 65535, and is '99999'."),
        ("WEB_WORKERS", "0", "WEB_WORKERS must be a whole number of 1 or more, and is '0'."),
        ("DRAIN_S", "soon", "DRAIN_S must be a number of seconds, 0 or more, and is 'soon'."),
        ("BODY_TIMEOUT_S", "0", "BODY_TIMEOUT_S must be a number of seconds above 0, and is '0'."),
        ("TRUSTED_PROXIES", "10.0.0.0/8, here", "TRUSTED_PROXIES must be networks such as 10.0.0.0/8, separated by commas, and is 'here'."),
        ("HTTPS", "maybe", "HTTPS must be true or false, and is 'maybe'."),
        ("LOG_LEVEL", "LOUD", "LOG_LEVEL must be one of CRITICAL, ERROR, WARNING, INFO, DEBUG, and is 'LOUD'."),
        ("DATABASE_URL", "me:secret@db/x", "DATABASE_URL must begin with postgresql:// or postgres://."),
        ("REDIS_URL", "localhost:6379", "REDIS_URL must begin with redis:// or rediss:// or unix://."),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_meant_is_one_clear_line(tmp_path: Path, name: str, value: str, told: str) -> None:
    done = started_with(DATA_DIR=str(tmp_path), **{name: value})
    assert (done.returncode, done.stderr, done.stdout) == (1, f"error: {told}\n", "")


def test_an_unreadable_time_limit_is_refused_where_connections_are_made() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import gateway.connections"],
        cwd=ROOT, env=os.environ | {"STALLED_WRITE_S": "never"}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "error: STALLED_WRITE_S must be a number of seconds, 0 or more, and is 'never'.\n"


def test_nothing_is_stopped_where_nothing_runs_and_nothing_is_started_for_it(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_URL")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-X", "importtime", "manage.py", "down"],
        cwd=ROOT, env=environment | {"DATA_DIR": str(tmp_path / "var")}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "Nothing is running.\n")
    assert not (tmp_path / "var" / "postgres").exists()
    for module in ("django.db.models", "tenants.models", "django.contrib.admin", "numpy", "aiohttp"):
        assert not re.search(rf"\| +{re.escape(module)}$", done.stderr, re.MULTILINE), module


LOADS = """
import sys, django
django.setup()
assert "gateway.admin" not in sys.modules, "commands load the operators' pages"
from django.contrib import admin
from django.core import checks
found = checks.run_checks()
print(len(found), admin.site.is_registered(__import__("tenants.models").models.Tenant))
"""


def test_the_operators_pages_are_loaded_for_checks_but_not_for_every_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOADS],
        cwd=ROOT, env=os.environ | {"DJANGO_SETTINGS_MODULE": "gateway.settings", "DATA_DIR": str(tmp_path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "0 True\n"), done.stderr
