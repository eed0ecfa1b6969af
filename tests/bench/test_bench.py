"""One small run of the whole benchmark: it says nothing about speed, but that all of it is measured, and rightly."""

import json
import subprocess
import sys
from pathlib import Path

from bench.report import ROWS

ROOT = Path(__file__).resolve().parents[2]
RUN_TIMEOUT_S = 120
OURS = {row for row in ROWS if row.startswith(("postgres_", "redis_")) or row.endswith(("_routed", "_named"))}
ONLY_OF_A_GATEWAY = OURS | {"p50_added_ms_1", "cpu_us_added"}


def test_a_run_fills_every_row_and_finds_every_request_in_the_ledger() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--routed", "--requests", "64", "--json"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report["columns"]) == {"bare", "gateway"}
    assert all(report["columns"]["gateway"][row] is not None for row in ROWS)
    assert {row for row in ROWS if report["columns"]["bare"][row] is None} == ONLY_OF_A_GATEWAY
    assert report["ratio"]["cpu_us_32"] > 0
    assert report["ledger"]["kept"]["attempts"] == report["ledger"]["sent"]["attempts"] > 64
    assert len(report["required"]) == 7
    assert report["required"][-1]["met"], report["ledger"]
    assert report["machine"]["packages"]["uvicorn"]
