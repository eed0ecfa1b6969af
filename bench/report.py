"""The numbers of one run as text and as JSON, with what is required of them."""

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from bench.installation import Books
from bench.measurement import Volume

BUSY_LOAD = 0.7
PACKAGES = ("uvicorn", "uvloop", "httptools", "aiohttp")

Rounds = dict[str, dict[str, list[float]]]  # by server and row, one number a round
Table = dict[str, dict[str, float | None]]  # by server and row

# By the name of the row: its label, its unit's decimals, and whether a ratio to the bare pass-through says anything.
ROWS: Mapping[str, tuple[str, int, bool]] = {
    "cpu_us_32": ("CPU us/request, 32 connections", 0, True),
    "postgres_cpu_us_32": ("  PostgreSQL", 0, False),
    "redis_cpu_us_32": ("  Redis", 0, False),
    "cpu_us_routed": ("CPU us/request routed, undisturbed", 0, False),
    "cpu_us_named": ("  beside it, the model named", 0, False),
    "cpu_us_added": ("  routing adds", 0, False),
    "postgres_cpu_us_routed": ("  PostgreSQL", 0, False),
    "redis_cpu_us_routed": ("  Redis", 0, False),
    "cpu_us_1": ("CPU us/request, 1 connection", 0, True),
    "postgres_cpu_us_1": ("  PostgreSQL", 0, False),
    "redis_cpu_us_1": ("  Redis", 0, False),
    "rps_32": ("requests/s, 32 connections", 0, True),
    "rps_1": ("requests/s, 1 connection", 0, True),
    "p50_ms_32": ("p50 ms, 32 connections", 2, True),
    "p99_ms_32": ("p99 ms, 32 connections", 2, True),
    "p50_ms_1": ("p50 ms, 1 connection", 2, True),
    "p99_ms_1": ("p99 ms, 1 connection", 2, True),
    "rps_routed": ("requests/s routed, 32 connections", 0, False),
    "p50_ms_routed": ("p50 ms routed, 32 connections", 2, False),
    "p99_ms_routed": ("p99 ms routed, 32 connections", 2, False),
    "p50_added_ms_1": ("p50 ms added, 1 connection", 2, False),
    "cpu_us_chunk_burst": ("CPU us/chunk, all at once", 1, True),
    "cpu_us_chunk_paced": ("CPU us/chunk, 20 ms apart", 1, True),
    "rss_mib": ("memory MiB (resident)", 0, True),
    "start_s": ("start to first answer s", 2, True),
}


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and with what it was measured. ``load`` is the load average of the minute before."""

    cores: int
    pinned: bool
    load: float
    file_system: str
    python: str
    packages: dict[str, str]

    @classmethod
    def here(cls, *, cores: int, pinned: bool, load: float, file_system: str) -> "Machine":
        packages = {name: version(name) for name in PACKAGES}
        return cls(cores, pinned, load, file_system, platform.python_version(), packages)

    def warnings(self) -> list[str]:
        found = []
        if self.load > BUSY_LOAD:
            found.append(f"the machine was busy (load {self.load:.2f}): latencies are too high, ratios blurred")
        if not self.pinned:
            found.append("nothing is pinned to cores: all of it shared them")
        if self.file_system == "tmpfs":
            found.append("data is on tmpfs, where flushing a commit costs nothing; set TMPDIR to a disk")
        return found


def load_average() -> float:
    return os.getloadavg()[0]


def columns_of(values: Rounds) -> Table:
    """Medians over the rounds, but for what routing adds; every row in every column: what one does not have is None."""
    columns: Table = {}
    for name, rows in values.items():
        columns[name] = {row: statistics.median(rows[row]) if row in rows else None for row in ROWS}
        if name != "bare":
            pairs = zip(rows["p50_ms_1"], values["bare"]["p50_ms_1"], strict=True)
            columns[name]["p50_added_ms_1"] = statistics.median(ours - bare for ours, bare in pairs)
        if "cpu_us_routed" in rows:
            routed, named = (undisturbed(rows[row]) for row in ("cpu_us_routed", "cpu_us_named"))
            columns[name] |= {"cpu_us_routed": routed, "cpu_us_named": named, "cpu_us_added": routed - named}
    return columns


def undisturbed(runs: Sequence[float]) -> float:
    """The mean of the lowest quarter: whatever else a machine does only adds to what a run takes, and by more from one
    run to the next than routing does."""
    return statistics.mean(sorted(runs)[: max(1, len(runs) // 4)])


def ratios_of(values: Rounds) -> dict[str, float | None]:
    """The gateway's numbers by the bare pass-through's: the median of the ratios within each round, as the two
    are measured one right after the other and a machine's pace changes from minute to minute."""
    found: dict[str, float | None] = {}
    for row, (_, _, comparable) in ROWS.items():
        pairs = zip(values["gateway"].get(row, ()), values["bare"].get(row, ()), strict=comparable)
        found[row] = statistics.median(ours / bare for ours, bare in pairs) if comparable else None
    if "cpu_us_routed" in values["gateway"]:
        routed, named = (undisturbed(values["gateway"][row]) for row in ("cpu_us_routed", "cpu_us_named"))
        found["cpu_us_added"] = (routed / named - 1.0) * found["cpu_us_32"]  # named ones are what that ratio is of
    return found


def requirements(
    columns: Table, ratio: dict[str, float | None], expected: Books, found: Books, most_cpu: float
) -> list[dict[str, Any]]:
    ours = columns["gateway"]
    kept = found.attempts / expected.attempts
    sums_equal = found == expected
    return [
        _at_most("CPU per request at 32 connections, x bare", most_cpu, ratio["cpu_us_32"]),
        _at_most("p50 added at 1 connection, ms", 2.5, ours["p50_added_ms_1"]),
        _at_most("CPU per chunk all at once, x bare", 2.0, ratio["cpu_us_chunk_burst"]),
        _at_most("CPU per chunk 20 ms apart, x bare", 2.0, ratio["cpu_us_chunk_paced"]),
        _at_most("start to first answer, s", 3.0, ours["start_s"]),
        *_routing(ours),
        {
            "figure": "ledger rows kept, sums equal",
            "required": "100 %",
            "measured": f"{kept:.2%}, sums {'equal' if sums_equal else 'differ'}",
            "met": sums_equal,
        },
    ]


def _routing(ours: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """What routing adds to a request, where that was measured."""
    added = ours["cpu_us_added"]
    return [] if added is None else [_at_most("CPU that routing adds to a request, us", 60.0, added)]


def as_json(
    *,
    machine: Machine,
    volume: Volume,
    values: Rounds,
    expected: Books,
    found: Books,
    most_cpu: float,
) -> dict[str, Any]:
    columns, ratio = columns_of(values), ratios_of(values)
    return {
        "machine": asdict(machine),
        "warnings": machine.warnings(),
        "volume": asdict(volume),
        "columns": columns,
        "ratio": ratio,
        "ledger": {"sent": asdict(expected), "kept": asdict(found)},
        "required": requirements(columns, ratio, expected, found, most_cpu),
        "rounds": values,
    }


def as_text(report: dict[str, Any]) -> str:
    machine, columns = report["machine"], report["columns"]
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    pinned = "server alone on one" if machine["pinned"] else "not divided"
    lines = [
        f"{machine['cores']} cores ({pinned}), load {machine['load']:.2f}, data on {machine['file_system']}",
        f"Python {machine['python']}, {packages}",
        *(f"warning: {warning}" for warning in report["warnings"]),
        "",
        _line("", [*columns, "gateway/bare"]),
    ]
    for row, (label, decimals, _) in ROWS.items():
        cells = [_cell(values[row], decimals) for values in columns.values()]
        lines.append(_line(label, [*cells, _cell(report["ratio"][row], 2)]))
    sent, kept = report["ledger"]["sent"], report["ledger"]["kept"]
    books = (
        f"ledger: {kept['settled']} settled of {sent['attempts']} requests; tokens {kept['input_tokens']} + "
        f"{kept['output_tokens']} of {sent['input_tokens']} + {sent['output_tokens']}; "
        f"USD {kept['cost_usd']:f} of {sent['cost_usd']:f}"
    )
    lines += ["", books, ""]
    for each in report["required"]:
        verdict = "met" if each["met"] else "MISSED"
        lines.append(f"{verdict:>6}  {each['figure']}: {each['measured']} (required: {each['required']})")
    return "\n".join(lines)


def _at_most(figure: str, limit: float, measured: float | None) -> dict[str, Any]:
    shown = None if measured is None else round(measured, 2)
    return {
        "figure": figure,
        "required": f"<= {limit:g}",
        "measured": shown,
        "met": measured is not None and measured <= limit,
    }


def _line(label: str, cells: list[str]) -> str:
    return f"{label:<32}" + "".join(f"{cell:>14}" for cell in cells)


def _cell(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:,.{decimals}f}"
