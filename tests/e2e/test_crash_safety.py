"""Promise P1: whatever dies, the ledger has every call a vendor got, once, and nothing stays held.

The whole storm is ``python -m bench.storm``; this is a short one.
"""

import os
import subprocess
import sys
from dataclasses import replace

import openai
import pytest

from bench.storm.__main__ import storm
from bench.storm.books import Findings, Line, compare
from bench.storm.callers import Asked
from bench.storm.report import Report
from gateway.conformance.vendors import LoggedCall, Metered, VendorServer
from tests.e2e.conftest import VENDORS
from tests.e2e.gateway_process import GatewayProcess
from tests.e2e.test_chat_completions import metadata_of, text_of, whole
from tests.e2e.test_chat_completions import streamed as in_pieces
from tests.provision import ROOT

REQUESTS, KILLS = 300, 2


@pytest.fixture(scope="module")
def report() -> Report:
    return storm(REQUESTS, kills=KILLS, wait_for_reaper=False, limit_s=120)


def measured(report: Report, promise: str) -> str:
    (row,) = (row for row in report.rows if row.promise == promise)
    return row.measured


def test_no_promise_of_the_ledger_is_broken_by_kills_a_restart_and_a_flush(report: Report) -> None:
    assert report.broken() == []


def test_its_servers_start_without_a_test_runner() -> None:
    program = "from tests.e2e import own_postgres\nwith own_postgres.running(): print('up')"
    environment = {"PATH": os.environ["PATH"]}  # as for `make storm`
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "up"), done.stderr


def test_the_storm_was_one(report: Report) -> None:
    assert int(measured(report, "attempts abandoned, charged what was held")) > 0
    assert int(measured(report, "vendors' calls")) > REQUESTS / 2
    assert float(measured(report, "of them not answered well").rstrip("%")) > 8
    assert report.statuses[0] > 0  # connections of killed gateways
    assert report.statuses[503] > 0  # while PostgreSQL was away


LINE = Line(
    "a1", "storm-7", "plain", "p1", 100.0, "settled", "vendor", "", input=6, cached_input=0, output=24, reasoning=0,
    settled_at=101.0,
)  # fmt: skip
ESTIMATE = replace(LINE, usage_source="estimated", outcome="failed")


def a_call(started_at: float = 100.1, *, usage_sent: bool = True) -> LoggedCall:
    prompt = {"messages": [{"role": "user", "content": "This is storm request 7 of many."}]}
    metered = Metered(input=6, output=24, usage_sent=usage_sent)
    return LoggedCall(
        1, "POST", "/", {}, {}, prompt, model="plain", generated_tokens=24, started_at=started_at, metered=metered
    )


def found_in(*lines: Line, calls: list[LoggedCall], delivered: int = 24, hung_up: bool = False) -> set[str]:
    """The names of the lists that are not empty."""
    asked = Asked(7, streamed=True, model="plain", status=200, text="tok " * delivered, hung_up=hung_up)
    found = compare(calls, lines, [asked], killed={"p2"})
    return {
        name
        for name in Findings.__dataclass_fields__
        if isinstance(getattr(found, name), list) and getattr(found, name)
    }


def test_the_comparison_finds_nothing_where_nothing_is_wrong() -> None:
    assert found_in(LINE, calls=[a_call()]) == set()
    assert found_in(ESTIMATE, calls=[a_call(usage_sent=False)]) == set()
    assert found_in(ESTIMATE, calls=[a_call()], hung_up=True) == set()


def test_the_comparison_finds_each_kind_of_wrong() -> None:
    later = replace(LINE, id="a2", started_at=100.5)
    assert found_in(later, calls=[a_call()]) == {"without_attempt"}
    assert found_in(LINE, calls=[a_call(), a_call(100.2)]) == {"duplicates"}
    assert found_in(replace(LINE, output=25), calls=[a_call()]) == {"unequal"}
    assert found_in(ESTIMATE, calls=[a_call()]) == {"unequal"}
    assert found_in(replace(ESTIMATE, output=25), calls=[a_call(usage_sent=False)]) == {"out_of_bounds"}
    answered = replace(ESTIMATE, outcome="settled", output=25)
    assert found_in(answered, calls=[a_call(usage_sent=False)]) == {"out_of_bounds"}
    assert found_in(ESTIMATE, calls=[a_call(usage_sent=False)], delivered=25) == {"out_of_bounds"}
    assert found_in(replace(LINE, error_code="not_sent"), calls=[a_call()]) == {"withdrawn_but_sent"}
    assert "still_open" in found_in(replace(LINE, outcome=""), calls=[a_call()])
    abandoned = replace(LINE, outcome="abandoned", usage_source="estimated")
    assert found_in(abandoned, calls=[a_call()]) == {"abandoned_by_the_living"}
    said_exact = replace(abandoned, process_id="p2", usage_source="vendor")
    assert found_in(said_exact, calls=[a_call()]) == {"not_said_to_be_estimated"}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("vendor", VENDORS)
def test_what_is_estimated_is_all_that_was_delivered_and_never_more_than_was_generated(
    gateway: GatewayProcess, client: openai.OpenAI, vendors: VendorServer, vendor: str, streamed: bool
) -> None:
    vendors.reset()
    model = f"{vendor}-tok20-nousage"
    answer = in_pieces(client, model) if streamed else whole(client, model)
    delivered = text_of(answer) if isinstance(answer, list) else answer.choices[0].message.content or ""

    (line,) = gateway.line_of(metadata_of(answer)["request_id"])
    (call,) = vendors.log
    assert line["estimated"] is True
    assert 20 == len(delivered.split()) <= line["output_tokens"] <= call.generated_tokens
