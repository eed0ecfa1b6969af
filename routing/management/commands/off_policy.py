"""``manage.py off_policy``: what other ways to choose would have been worth, from the log."""

import json
from argparse import ArgumentTypeError
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from gateway.management.operator_command import OperatorCommand, find_tenant
from routing.evaluation import Estimate
from routing.migration import LEAST_EFFECTIVE
from routing.off_policy import FEWEST, Worth, worths

MOST_DAYS = 365


class Command(OperatorCommand):
    help = "Estimate from a tenant's judged requests what its router, and each model alone, are worth and cost."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", metavar="SLUG", required=True, help="whose requests")
        parser.add_argument("--days", metavar="N", type=_days, default=28, help="of the last N days (28)")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        requests, found = worths(find_tenant(options["tenant"]), timezone.now(), options["days"])
        if options["json"]:
            told = {"requests": requests, "policies": [asdict(one) for one in found]}
            self.stdout.write(json.dumps(told, indent=2))
            return
        if not found:
            raise CommandError(
                f"{requests} judged requests are too few to tell by; {FEWEST} are needed. They count a quarter of an "
                "hour after they were asked."
            )
        self.stdout.write("\n".join(_lines(requests, found, options["days"])))


def _lines(requests: int, found: list[Worth], days: int) -> list[str]:
    wide = max(len(one.policy) for one in found)
    lines = [
        f"{requests:,} judged requests of the last {days} days; doubly robust, 95 % intervals for one look",
        f"{'':<{wide}}  {'quality':>22}  {'less the router':>24}  {'USD per 1,000':>13}  {'effective labels':>16}",
    ]
    for one in found:
        labels = f"{one.effective_sample_size:,.0f}{'' if one.effective_sample_size >= LEAST_EFFECTIVE else ' (few)'}"
        ahead = _told(one.ahead, "+") if one.ahead else ""
        lines.append(
            f"{one.policy:<{wide}}  {_told(one.quality):>22}  {ahead:>24}  {one.usd_per_1000:>13.4g}  {labels:>16}"
        )
    if any(one.effective_sample_size < LEAST_EFFECTIVE for one in found):
        lines.append(f"few: under {LEAST_EFFECTIVE:g} effective labels are no ground to act on")
    return lines


def _told(estimate: Estimate, sign: str = "") -> str:
    return f"{estimate.value:{sign}.3f} ({estimate.low:{sign}.3f} - {estimate.high:{sign}.3f})".replace(" - ", " to ")


def _days(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST_DAYS:
        raise ArgumentTypeError(f"this must be a whole number from 1 to {MOST_DAYS}, not {text!r}")
    return int(text)
