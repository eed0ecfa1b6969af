"""A lab run in words for a terminal."""

from collections.abc import Sequence

import numpy as np

from routing.lab.bench import FIRST_SEED, Figures, Run
from routing.lab.pairs import PairFigures, pair_figures
from routing.lab.replay import CHECKPOINTS, QUALITY_SHARES, stream_of


def report_lines(run: Run, figures: Sequence[Figures]) -> list[str]:
    """A heading and one line per engine."""
    conditions = run.conditions
    heads = ["engine", "utility", "±", "last half", "last 1/4", "regret/1000", "to oracle"]
    heads += [f"@{n}" for n in CHECKPOINTS] + [f"USD@{share}%" for share in QUALITY_SHARES]
    heads += ["p50 us", "p99 us", "explored", "labels"]
    rows = [heads, *(_cells(row) for row in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    heading = f"{len(run.table)} prompts x {len(run.table.models)} models, lambda {conditions.cost_weight}"
    pool = f"models: {', '.join(run.table.models)}"
    if run.table.left_out:
        pool += f"; {run.table.left_out} rows without quality or cost of all of them are left out"
    lines = [
        f"{heading}, {conditions.judged:.0%} judged, {run.orders} orders, prior {run.prior}",
        pool,
        "@N: share of the way from the cheapest to the best single model after N labels",
        "USD@S%: cost per 1,000 requests at S per cent of the best single model's quality",
    ]
    return lines + ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def pair_lines(run: Run) -> list[str]:
    """APGR and CPT of a pool of two."""
    found: list[PairFigures] = []
    for seed in range(FIRST_SEED, FIRST_SEED + run.orders):
        stream = stream_of(run.table, seed, run.conditions)
        found.append(pair_figures(stream, run.new_engine(stream, seed), seed))
    apgr, half, most = (float(np.mean([getattr(one, name) for one in found])) for name in ("apgr", "cpt_50", "cpt_80"))
    return [f"APGR {apgr:.3f}  CPT(50%) {half:.1%}  CPT(80%) {most:.1%}  (ranking at random: 0.500, 50 %, 80 %)"]


def _cells(row: Figures) -> list[str]:
    numbers = [row.utility, row.utility_se, row.last_half, row.last_quarter]
    cells = [
        row.engine,
        *(f"{number:.4f}" for number in numbers),
        f"{row.regret_per_1000:.1f}",
        f"{row.oracle_gap:.4f}",
    ]
    recovered = [row.recovered.get(str(n)) for n in CHECKPOINTS]
    cells += ["-" if share is None else f"{share:.0%}" for share in recovered]
    costs = [row.cost_at.get(str(share)) for share in QUALITY_SHARES]
    cells += ["-" if cost is None else f"{cost:.3f}" for cost in costs]
    times = [row.decision_us.get(name) for name in ("p50", "p99")]
    cells += ["-" if time is None else f"{time:.0f}" for time in times]
    return [*cells, f"{row.explored_share:.1%}", f"{row.labels:.0f}"]
