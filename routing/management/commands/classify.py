"""``manage.py classify``: what the router takes a prompt for, and how often it is right."""

import json
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from msgspec import to_builtins

from gateway.management.operator_command import OperatorCommand
from routing.classifier import Classification, PromptFacts, classify
from routing.labelled import Accuracy, evaluate, read_sample


class Command(OperatorCommand):
    help = "Show task, complexity, confidence and signals of a prompt, or the accuracy on a labelled sample."

    def add_arguments(self, parser: CommandParser) -> None:
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("text", nargs="?", metavar="TEXT", help="the prompt")
        what.add_argument("--file", type=Path, metavar="F", help="a file that holds the prompt")
        what.add_argument("--evaluate", type=Path, metavar="FILE", help="labelled prompts, one JSON object a line")
        parser.add_argument("--half", metavar="NAME", help="with --evaluate: only the prompts of this half")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["evaluate"]:
                result: Any = evaluate(read_sample(options["evaluate"], options["half"]))
                lines = _accuracy_lines(result)
            else:
                text = options["file"].read_text(errors="replace") if options["file"] else options["text"]
                result = classify(PromptFacts.of_text(text))
                lines = _verdict_lines(result)
        except OSError as exc:
            raise CommandError(f"{exc.filename}: {exc.strerror}.") from None
        except ValueError as exc:
            raise CommandError(str(exc)) from None
        as_json = json.dumps(to_builtins(result), ensure_ascii=False)
        self.stdout.write(as_json if options["json"] else "\n".join(lines))


def _verdict_lines(verdict: Classification) -> list[str]:
    return [
        f"task        {verdict.task}",
        f"complexity  {verdict.complexity}",
        f"confidence  {verdict.confidence:.2f}",
        f"signals     {', '.join(verdict.signals) or 'none'}",
    ]


def _accuracy_lines(accuracy: Accuracy) -> list[str]:
    tables = {
        "task": accuracy.by_task,
        "complexity": accuracy.by_complexity,
        "language (task)": accuracy.by_language,
        "confidence (task)": accuracy.by_confidence,
    }
    lines = [f"{accuracy.prompts} prompts: task {accuracy.task:.1%}, complexity {accuracy.complexity:.1%} right"]
    for title, table in tables.items():
        lines += ["", f"{title:<20}{'prompts':>8}{'right':>8}"]
        lines += [f"{name:<20}{share.prompts:>8}{share.right:>8.1%}" for name, share in table.items()]
    return lines
