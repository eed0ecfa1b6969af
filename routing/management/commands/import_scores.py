"""``manage.py import_scores``: take over published scores of models."""

from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from gateway.management.operator_command import OperatorCommand
from routing.published import UnusableFigures, import_scores


class Command(OperatorCommand):
    help = "Add the published scores that are not there yet, from those shipped or from FILE. Scores of your own stay."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--file", help='JSON: [{"vendor_models": ["name-*"], "quality": 0.8, "source": "..."}]')

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            result = import_scores(self.actor, _read(options["file"]) if options["file"] else None)
        except UnusableFigures as exc:
            raise CommandError(f"{options['file'] or 'the shipped figures'}: {exc}.") from None
        self.stdout.write(f"{result.added} scores added, {result.kept} were there.")


def _read(file: str) -> bytes:
    """Raises CommandError."""
    try:
        return Path(file).read_bytes()
    except OSError as exc:
        raise CommandError(f"{file}: {exc.strerror}.") from None
