"""``manage.py doctor``: what is configured, reachable and missing."""

import json
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError, CommandParser

from gateway.diagnosis import Finding, Level, examine
from gateway.management.operator_command import OperatorCommand


class Command(OperatorCommand):
    help = "Check this installation and say what to do about what is wrong; exit code 1 when something fails."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print the findings as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        findings = examine()
        if options["json"]:
            self.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=2))
        else:
            self.stdout.write("\n".join(self._lines(findings)))
        failed = sum(finding.level is Level.FAIL for finding in findings)
        if failed:
            raise CommandError(f"{failed} check{'s' if failed > 1 else ''} failed.")

    def _lines(self, findings: list[Finding]) -> list[str]:
        paint = {Level.OK: self.style.SUCCESS, Level.WARN: self.style.WARNING, Level.FAIL: self.style.ERROR}
        lines = []
        for finding in findings:
            lines.append(f"{paint[finding.level](f'{finding.level:<4}')}  {finding.subject}: {finding.message}")
            if finding.next_step:
                lines.append(f"      -> {finding.next_step}")
        return lines
