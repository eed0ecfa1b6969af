"""``manage.py build_router_features``: fit the router's text basis anew."""

from pathlib import Path
from typing import Any

import numpy as np
from django.core.management.base import BaseCommand, CommandParser

from routing.artefacts.prompt_sample import prompts
from routing.features import BASIS_FILE, fit_basis


class Command(BaseCommand):
    help = "Fit the text basis of the router's features on the shipped prompt sample and write it."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--output", type=Path, default=BASIS_FILE, metavar="FILE", help="replaced when it exists")

    def handle(self, *args: Any, **options: Any) -> None:
        sample = prompts()
        basis = fit_basis(sample)
        np.savez_compressed(
            options["output"],
            rarity=basis.rarity.astype(np.float16),
            directions=basis.directions.astype(np.float16),
        )
        self.stdout.write(f"{len(sample)} prompts, {basis.directions.shape[1]} components: {options['output']}")
