"""``manage.py verify_ledger``: prove that the ledger is what it claims to be."""

import json
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError, CommandParser

from billing.verification import Proof, verify
from gateway.management.operator_command import OperatorCommand, find_tenant, moment


class Command(OperatorCommand):
    help = "Prove the ledger's invariants and name what violates them; exit code 1 when something does."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", metavar="SLUG", help="without it, all of them")
        parser.add_argument("--since", type=moment, metavar="TIME", help="lines and budget periods from then on")
        parser.add_argument("--json", action="store_true", help="print the proof as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        tenant = find_tenant(options["tenant"]) if options["tenant"] else None
        proof = verify(tenant=tenant, since=options["since"])
        if options["json"]:
            self.stdout.write(json.dumps({"holds": proof.holds, **asdict(proof)}, indent=2))
        else:
            self.stdout.write("\n".join(_lines(proof)))
        if not proof.holds:
            violated = sum(finding.severity == "violation" for finding in proof.findings)
            raise CommandError(f"{violated} of {len(proof.checks)} checks found violations.")


def _lines(proof: Proof) -> list[str]:
    findings = {finding.check: finding for finding in proof.findings}
    lines = []
    for check in proof.checks:
        finding = findings.get(check)
        lines.append(f"{finding.severity if finding else 'holds':<10}{check}")
        if finding:
            lines += [f"          {example}" for example in finding.examples]
            if more := finding.count - len(finding.examples):
                lines.append(f"          and {more} more")
    return [*lines, f"{proof.recomputed} costs were computed again."]
