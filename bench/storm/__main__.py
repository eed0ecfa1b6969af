"""``python -m bench.storm``: measure and print. Exits with 1 when a promise is broken."""

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable
from functools import partial

from bench.storm.books import balances_of, compare, lines_of
from bench.storm.callers import Blow, Callers
from bench.storm.report import Report, rows_of, statuses_of
from bench.storm.site import Site

REQUESTS, KILLS = 10_000, 5
LIMIT_S = 1800.0
SETTLE_LIMIT_S = 240.0


def blows_of(site: Site, requests: int, kills: int) -> list[Blow]:
    """``kills`` kills, spread evenly; the flush and the restart fall between the first and the last of them."""
    strikes: list[tuple[str, Callable[[], None]]] = [
        (f"kill -9 of gateway {number % 2 + 1}", partial(site.kill_gateway, number)) for number in range(kills)
    ]
    strikes.insert(1, ("Redis is flushed", site.flush_redis))
    strikes.insert(kills // 2 + 1, ("PostgreSQL stops at once and starts again", site.restart_postgres))
    step = requests / (len(strikes) + 1)
    return [Blow(round(step * place), name, strike) for place, (name, strike) in enumerate(strikes, 1)]


def storm(
    requests: int = REQUESTS,
    *,
    kills: int = KILLS,
    seed: int = 1,
    wait_for_reaper: bool = True,
    limit_s: float = LIMIT_S,
    say: Callable[[str], object] = lambda _: None,
) -> Report:
    """One whole run. Without ``wait_for_reaper`` the reaper's clock is put forward, and how soon everything was final
    is not measured. Raises TimeoutError when the callers are not done after ``limit_s`` seconds."""
    began = time.monotonic()
    say("starting PostgreSQL, Redis, vendors and two gateways ...")
    with Site(requests, seed) as site:
        callers = Callers(site, requests, seed, blows_of(site, requests, kills), say)
        asyncio.run(callers.run(limit_s))
        say(f"all sent after {time.monotonic() - began:.0f} s; {site.open_attempts()} attempts are open, settling ...")
        if wait_for_reaper:
            site.settle(SETTLE_LIMIT_S)
        else:
            site.settle_ahead_of_time(SETTLE_LIMIT_S)
        found = compare(site.vendors.log, lines_of(site.postgres), callers.asked, site.killed)
        final_after_s = found.final_at - site.last_recovery.at if wait_for_reaper else None
        rows = rows_of(found, balances_of(site.postgres), site.proof(), callers.asked, final_after_s)
        return Report(rows, statuses_of(callers.asked), time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.storm", description="Is the ledger right after a bad day?")
    parser.add_argument("--requests", type=int, default=REQUESTS, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="decides which calls fail and who hangs up")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything started is ended
    found = storm(options.requests, seed=options.seed, say=lambda line: print(line, file=sys.stderr, flush=True))
    print(json.dumps(found.as_json(), indent=2) if options.json else found.as_text())
    if not found.kept:
        sys.exit(1)


if __name__ == "__main__":
    main()
