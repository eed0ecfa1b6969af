"""``manage.py routerlab``: replay a table of prompts x models through the router's engine."""

import json
import math
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from routing.lab.bench import ENGINES, Run
from routing.lab.replay import Conditions
from routing.lab.report import pair_lines, report_lines
from routing.lab.synthetic import WORLDS, made_up
from routing.lab.table import Table, UnusableTable, read_table

DEFAULT_DATA = Path(__file__).parents[4] / "shared/data/routing/zeroeval.jsonl.gz"


class Command(BaseCommand):
    help = "Replay a table of prompts x models through the engine the gateway routes with, beside simpler rules."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("--data", type=Path, metavar="FILE", help="lines of {prompt, task, q: {model: 0-1}, c: {model: USD}, out}")
        add("--world", choices=WORLDS, help="a table made by simulation instead")
        add("--models", default="", metavar="A,B", help="the pool; else the reference pool or all that rows share")
        add("--engines", default=",".join(ENGINES), metavar="A,B", help="of: %(default)s")
        add(
            "--lambda",
            type=float,
            default=0.02,
            dest="cost_weight",
            help="points of quality per USD per 1,000 requests",
        )
        add("--judged", type=float, default=0.1, help="share of answers that are judged")
        add("--judge-noise", type=float, default=0.12, metavar="SD", help="of a judgement, on 0-1")
        add("--orders", type=int, default=10, help="orders of the stream, seeds 1000 and on")
        add("--prior", default="none", help="none (prices only), flat (not even those), noise:SD (true means + noise)")
        add("--averaged", action="store_true", help="average over prior widths .5, 1, 2, 4")
        add("--wrong-tasks", type=float, default=0.0, metavar="SHARE", help="prompts taken for another task")
        add("--drift", action="store_true", help="at half the best model loses 30 %% of its right answers")
        add("--new-model", action="store_true", help="the best model is let in at half")
        add("--price-x10", default="", metavar="MODEL", help="at half this model's price is ten times as high")
        add("--shadow", action="store_true", help="judge pairs: the best, and a challenger nobody is served")
        add("--json", action="store_true", help="one object per engine")

    def handle(self, *args: Any, **options: Any) -> None:
        run = self._run(options)
        try:
            figures = run.figures(lambda line: None if options["json"] else self.stderr.write(line))
        except ValueError as exc:
            raise CommandError(f"{exc}.") from None
        if options["json"]:
            self.stdout.write("\n".join(json.dumps(row.as_json()) for row in figures))
            return
        pairs = pair_lines(run) if len(run.table.models) == 2 else []
        self.stdout.write("\n".join([*report_lines(run, figures), *pairs]))

    def _run(self, options: dict[str, Any]) -> Run:
        table = _table(options)
        if options["price_x10"] and options["price_x10"] not in table.models:
            raise CommandError(f"--price-x10: {options['price_x10']} is none of {', '.join(table.models)}.")
        if not 0 <= options["judged"] <= 1 or options["orders"] < 1 or not 0 <= options["wrong_tasks"] <= 1:
            raise CommandError("--judged and --wrong-tasks are shares (0-1), --orders is at least 1.")
        if not all(0 <= options[name] < math.inf for name in ("cost_weight", "judge_noise")):
            raise CommandError("--lambda and --judge-noise are finite numbers, 0 or more.")
        conditions = Conditions(
            cost_weight=options["cost_weight"],
            judged=options["judged"],
            judge_noise=options["judge_noise"],
            wrong_tasks=options["wrong_tasks"],
            drift=options["drift"],
            new_model=options["new_model"],
            price_times_ten=options["price_x10"],
            shadow=options["shadow"],
        )
        engines = tuple(name.strip() for name in options["engines"].split(",") if name.strip())
        return Run(table, conditions, options["orders"], options["prior"], engines, options["averaged"])


def _table(options: dict[str, Any]) -> Table:
    path, models = options["data"] or DEFAULT_DATA, [name.strip() for name in options["models"].split(",")]
    try:
        if options["world"]:
            return made_up(options["world"])
        if not path.exists():
            raise CommandError(f"{path} does not exist. Name a table with --data FILE; docs/router.md has its format.")
        return read_table(path, [model for model in models if model])
    except UnusableTable as exc:
        raise CommandError(f"{exc}.") from None
