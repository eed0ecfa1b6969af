"""The official JavaScript SDKs against the gateway, where Node and its package registry are there."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import TOKEN, VENDORS
from tests.e2e.gateway_process import GatewayProcess
from tests.provision import ROOT

UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH")
HERE = Path(__file__).parent / "js"
TEXT = " ".join(f"tok{number}" for number in range(1, 9))


@pytest.fixture(scope="module")
def installed() -> Path:
    """The pinned packages under ``var``, installed once."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("Node is not installed on this machine")
    folder = ROOT / "var" / "tests" / "js"
    wanted = (HERE / "package.json").read_text()
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "installed"
    if not done.exists() or done.read_text() != wanted:
        shutil.copy(HERE / "package.json", folder)
        command = ["npm", "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"]
        try:
            installing = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=120)
        except subprocess.TimeoutExpired:
            pytest.skip("the package registry has not answered within two minutes")
        if any(code in installing.stderr for code in UNREACHABLE):
            pytest.skip("no package registry can be reached from this machine")
        assert installing.returncode == 0, installing.stderr
        done.write_text(wanted)
    shutil.copy(HERE / "clients.mjs", folder)
    return folder


@pytest.fixture(scope="module")
def told(installed: Path, gateway: GatewayProcess) -> dict[str, Any]:
    command = ["node", "clients.mjs", gateway.url, TOKEN]
    done = subprocess.run(command, cwd=installed, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("dialect", ["chat", "responses", "messages"])
def test_whole_and_streamed_answers_agree(told: dict[str, Any], dialect: str, vendor: str) -> None:
    answer = told[dialect][vendor]
    assert (answer["whole"], answer["streamed"]) == (TEXT, TEXT)
    assert answer.get("tokens", 8) == 8
    assert answer.get("inOrder", True)


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("dialect", ["chatTool", "messagesTool"])
def test_tool_calls_arrive_whole(told: dict[str, Any], dialect: str, vendor: str) -> None:
    call = told[dialect][vendor]
    assert call["name"]
    assert isinstance(call["arguments"], dict)
    assert call["arguments"]


def test_errors_are_the_sdks_own(told: dict[str, Any]) -> None:
    assert told["unknownModel"] == {"kind": "NotFoundError", "status": 404, "code": "model_not_found"}
    assert (told["unknownModelAnthropic"]["kind"], told["unknownModelAnthropic"]["status"]) == ("NotFoundError", 404)
    assert told["unknownKey"] == {"kind": "AuthenticationError", "status": 401, "code": "invalid_api_key"}
