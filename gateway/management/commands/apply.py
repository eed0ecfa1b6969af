"""``manage.py apply``: make the installation agree with a YAML file."""

import json
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from gateway import declaration
from gateway.declaration import DeclarationRefused
from gateway.declaration.document import MAX_FILE_BYTES
from gateway.management.operator_command import OperatorCommand


class Command(OperatorCommand):
    help = (
        "Make tenants, projects, providers, models, prices, tokens and members as FILE declares them. What FILE "
        "does not mention stays as it is; nothing is applied when any of it cannot be."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", help="a YAML file, or - for standard input")
        parser.add_argument("--plan", action="store_true", help="only show what would change")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        text = _read(options["file"])
        try:
            outcome = declaration.apply(text, self.actor, plan=options["plan"])
        except DeclarationRefused as refused:
            self._print_problems(refused, "<stdin>" if options["file"] == "-" else options["file"], options["json"])
            raise CommandError(f"{refused}; nothing was applied.") from None
        for warning in outcome.warnings:
            self.tell(f"warning: {warning}")
        if options["json"]:
            self.stdout.write(json.dumps(outcome.as_dict(), indent=2))
        else:
            self.stdout.write("\n".join(outcome.lines()))

    def _print_problems(self, refused: DeclarationRefused, file: str, as_json: bool) -> None:
        if as_json:
            problems = [{"line": problem.line, "message": problem.message} for problem in refused.problems]
            self.stdout.write(json.dumps({"problems": problems}, indent=2))
        for problem in refused.problems:
            self.tell(f"{file}:{problem.line}: {problem.message}")


def _read(file: str) -> str:
    """Raises CommandError."""
    try:
        if file == "-":
            content = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with Path(file).open("rb") as opened:
                content = opened.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise CommandError(f"{file}: {exc.strerror}.") from None
    if len(content) > MAX_FILE_BYTES:
        raise CommandError(f"{file} is larger than {MAX_FILE_BYTES // 1024**2} MiB.")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise CommandError(f"{file} is not UTF-8.") from None
