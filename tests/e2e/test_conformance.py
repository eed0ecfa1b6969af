"""The shipped matrix holds on a gateway as it stands, and says so when it does not."""

import json

import pytest

from gateway.conformance.matrix import DIALECTS, FEATURES, VENDORS
from tests.e2e.gateway_process import GatewayProcess


def test_every_cell_holds(gateway: GatewayProcess) -> None:
    done = gateway.manage("conformance", "--url", gateway.url, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = sum(len(DIALECTS) - len(feature.unsaid_in) for feature in FEATURES)
    assert f"All {said * len(VENDORS) * 2} cells hold." in done.stdout


@pytest.mark.parametrize("feature", ["text", "tool call"])
def test_cells_are_told_one_a_line_and_a_gateway_that_is_away_fails_them(gateway: GatewayProcess, feature: str) -> None:
    done = gateway.manage("conformance", "--url", "http://127.0.0.1:9", "--json", check=False)
    assert done.returncode == 1
    cells = [json.loads(line) for line in done.stdout.splitlines()]
    assert not any(cell["passed"] for cell in cells if cell["feature"] == feature)
