"""``python -m bench``: measure and print. Exits with 1 when an answer or the ledger is wrong."""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from bench import processes, report, servers
from bench.installation import Installation
from bench.measurement import Measurement, Volume
from bench.processes import BenchError, Cores, LoadProcess, VendorProcess
from bench.report import Machine
from bench.servers import Server


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="What the gateway costs beside a bare proxy.",
        epilog="python -m bench.ledger_size: whether a long ledger slows admission, and how fast spend is told.",
    )
    parser.add_argument("--requests", type=int, metavar="N", help="requests at 32 connections, in all rounds together")
    parser.add_argument("--quick", action="store_true", help="small rounds: shows that it works rather than how fast")
    parser.add_argument("--json", action="store_true", help="print JSON, with the numbers of each round")
    parser.add_argument(
        "--budgets", action="store_true", help="with three nested budgets, two rate limits and an alert rule on"
    )
    parser.add_argument("--routed", action="store_true", help="also requests that the router sends to one of 12 models")
    parser.add_argument("--django-view", action="store_true", help="also the same pipeline behind a Django async view")
    parser.add_argument("--litellm", action="store_true", help="also LiteLLM's proxy (installs it at the first use)")
    return parser.parse_args()


def measure(options: argparse.Namespace, say: Callable[[str], object]) -> dict[str, Any]:
    """One whole run. Raises BenchError."""
    load_average = report.load_average()
    cores = Cores.divided()
    volume = Volume.of(options.requests, quick=options.quick)
    processes.pin(cores.rest)  # the databases are this process's children and stay where it is
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pointsman-bench-logs-")))
        say("making a database ...")
        installation = Installation()
        stack.callback(installation.close)
        vendor = VendorProcess(cores.rest, volume.chunks)
        stack.callback(vendor.stop)
        load = LoadProcess(cores.rest)
        stack.callback(load.stop)
        installation.declare(vendor.base_url, budgets=options.budgets)
        compared = _compared(options, vendor, installation, logs, say)
        measurement = Measurement(load, volume, installation, routed=options.routed)
        for server in compared:
            say(f"starting {server.name} ...")
            stack.callback(server.stop)
            measurement.start(server, cores.server)
        say("measuring ...")
        measurement.run(compared)
        for server in compared:
            server.stop()  # whatever is left to settle is settled by then
        machine = Machine.here(
            cores=psutil.cpu_count() or 1,
            pinned=bool(cores.server),
            load=load_average,
            file_system=installation.file_system,
        )
        return report.as_json(
            machine=machine,
            volume=volume,
            values=measurement.values,
            expected=measurement.expected_books(),
            found=installation.books(),
            most_cpu=2.8 if options.budgets else 2.5,
        )


def _compared(
    options: argparse.Namespace,
    vendor: VendorProcess,
    installation: Installation,
    logs: Path,
    say: Callable[[str], object],
) -> list[Server]:
    chosen = [servers.bare(vendor.base_url, logs), servers.gateway(installation, logs)]
    if options.django_view:
        chosen.append(servers.django_view(installation, logs))
    if options.litellm:
        say("installing LiteLLM, unless it is there ...")
        try:
            chosen.append(servers.litellm(vendor.base_url, logs))
        except BenchError as exc:
            say(f"skipped: {exc}")
    return chosen


def main() -> None:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything started is ended
    try:
        found = measure(options, lambda line: print(line, file=sys.stderr, flush=True))
    except BenchError as exc:
        sys.exit(f"error: {exc}")
    print(json.dumps(found, indent=2, default=str) if options.json else report.as_text(found))
    if not found["required"][-1]["met"]:
        sys.exit("error: the ledger differs from what was sent")


if __name__ == "__main__":
    main()
