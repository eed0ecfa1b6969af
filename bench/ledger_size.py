"""``python -m bench.ledger_size``: whether a long ledger slows admission, and how fast spend is told from roll-ups.

Loads so many settled attempts of the last sixty days into a database of its own, rolls them up, and measures admission
before and after and every kind of spend query. Exits with 1 when a query takes longer than it may.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import django
import psycopg
import uuid_utils

from bench.installation import Installation

DAYS = 60
TENANTS, TOKENS, MODELS = 10, 4, 5
LONGEST_MS = 200.0
REPEATS = 5
AT_ONCE = (1, 32)
_LABELS = {"machine_load": "(load of the machine)"}

# A few tenants, models and kinds of requests make most of the calls, as anywhere.
LOAD = """
WITH line AS MATERIALIZED (
  SELECT %(since)s::timestamptz + (n + random()) * %(step)s::interval AS started_at,
    1 + floor(%(tenants)s * random() ^ 2)::int AS tenant, 1 + floor(%(tokens)s * random() ^ 1.5)::int AS token,
    1 + floor(%(models)s * random() ^ 2)::int AS model, random() AS luck, 1 + floor(4 * random() ^ 2)::int AS task,
    1 + floor(3 * random())::int AS hardness, floor(500 * random() ^ 3)::int AS person
  FROM generate_series(%(first)s, %(last)s - 1) n
), attempt AS (
  INSERT INTO billing_attempt (id, request_id, tenant_id, project_id, token_id, end_user, tags, purpose, provider_id,
    model_id, vendor_model, task_type, complexity, process_id, started_at)
  SELECT overlay(gen_random_uuid()::text PLACING left(pointsman_first_id(started_at)::text, 13) FROM 1)::uuid,
    gen_random_uuid(), k.tenant_id, k.project_id, k.token_id,
    CASE WHEN luck < 0.5 THEN 'user-' || person ELSE '' END, CASE WHEN luck < 0.3 THEN '["batch", "eu"]' ELSE '[]' END::jsonb,
    CASE WHEN luck > 0.97 THEN 'fallback' WHEN luck > 0.95 THEN 'retry' ELSE 'serve' END, m.provider_id, m.model_id,
    'model-' || model, (ARRAY['code', 'chat', 'extract', 'translate'])[task], (ARRAY['low', 'medium', 'high'])[hardness],
    %(process)s, started_at
  FROM line JOIN bench_token k USING (tenant, token) JOIN bench_model m USING (tenant, model)
  RETURNING id, tenant_id, started_at
)
INSERT INTO billing_settlement (attempt_id, tenant_id, outcome, input_tokens, cached_input_tokens,
  cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens, audio_input_tokens,
  audio_output_tokens, usage_source, cost_usd, saved_usd, error_code, ended_at, settled_at)
SELECT id, tenant_id, CASE WHEN random() < 0.02 THEN 'failed' ELSE 'settled' END, (3000 * random())::int, 0, 0, 0,
  (800 * random())::int, 0, 0, 0, 'vendor', (random() / 100)::numeric(24, 12), 0, '',
  started_at + random() ^ 4 * interval '20 seconds', started_at + interval '20 seconds'
FROM attempt
"""  # noqa: E501


@dataclass(frozen=True, slots=True)
class Query:
    name: str
    run: Callable[[], object]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.ledger_size", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, metavar="N", help="settled attempts in the ledger")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


def measure(rows: int, say: Callable[[str], object]) -> dict[str, Any]:
    """One whole run. Raises BenchError."""
    say("making a database ...")
    installation = Installation()
    try:
        os.environ.update(installation.environment, DJANGO_SETTINGS_MODULE="gateway.settings")
        django.setup()
        tenant = _people()
        found: dict[str, Any] = {"rows": rows, "days": DAYS, "admission_ms": {}, "spend_ms": {}}
        say("measuring admission into an empty ledger ...")
        _as_superuser("CHECKPOINT")
        found["admission_ms"]["empty"] = asyncio.run(_admission(installation.environment["DATABASE_URL"], tenant))
        found["load_s"] = _load(rows, say)
        say("rolling up ...")
        found["roll_up_s"], found["roll_up"] = _rolled_up()
        found["rolled_up_rows"] = _rolled_up_rows()
        say("measuring ...")
        _as_superuser("CHECKPOINT")  # what loading left to be written is not admission's
        found["admission_ms"]["full"] = asyncio.run(_admission(installation.environment["DATABASE_URL"], tenant))
        for query in _queries(tenant):
            found["spend_ms"][query.name] = _typical_ms(query.run)
        return found
    finally:
        installation.close()


def _people() -> Any:
    """Tenants with all that a line refers to; the first of them has most of the lines."""
    from audit.record import Actor  # noqa: PLC0415 - Django is set up by now
    from gateway.models import Model, Provider  # noqa: PLC0415
    from tenants.models import ApiToken, Project, Tenant  # noqa: PLC0415

    actor, first = Actor("bench"), None
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        _as_superuser(
            "CREATE TABLE bench_token (tenant int, token int, tenant_id uuid, project_id uuid, token_id uuid);"
            "CREATE TABLE bench_model (tenant int, model int, model_id uuid, provider_id uuid);"
            "GRANT ALL ON bench_token, bench_model TO pointsman_system"
        )
        for number in range(1, TENANTS + 1):
            tenant = Tenant.objects.create(slug=f"tenant-{number}")
            project = Project.objects.create(tenant=tenant, slug="web")
            provider = Provider.objects.create(
                tenant=tenant, name="vendor", kind="openai-compatible", base_url="https://vendor.example/v1"
            )
            for place in range(1, TOKENS + 1):
                token, _ = ApiToken.issue(tenant=tenant, project=project, name=f"token-{place}", actor=actor)
                connection.execute(
                    "INSERT INTO bench_token VALUES (%s, %s, %s, %s, %s)",
                    [number, place, tenant.pk, project.pk, token.pk],
                )
            for place in range(1, MODELS + 1):
                model = Model.objects.create(
                    tenant=tenant, name=f"model-{place}", provider=provider, vendor_model=f"model-{place}"
                )
                connection.execute(
                    "INSERT INTO bench_model VALUES (%s, %s, %s, %s)", [number, place, model.pk, provider.pk]
                )
            first = first or tenant
    return first


def _load(rows: int, say: Callable[[str], object]) -> float:
    """Seconds it took. Only here references go unchecked, which would take most of the time."""
    began = time.perf_counter()
    until = datetime.now(UTC) - timedelta(minutes=5)
    since = until - timedelta(days=DAYS)
    _make_partitions(since)
    chunk = max(1, min(250_000, rows // 4))
    with psycopg.connect(_superuser_url(), autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        for first in range(0, rows, chunk):
            parameters = {
                "since": since, "step": (until - since) / rows, "first": first, "last": min(rows, first + chunk),
                "tenants": TENANTS, "tokens": TOKENS, "models": MODELS, "process": str(uuid_utils.uuid7()),
            }  # fmt: skip
            connection.execute(LOAD, parameters)
            say(f"loaded {min(rows, first + chunk):,} of {rows:,} rows ...")
        connection.execute("VACUUM ANALYZE billing_attempt, billing_settlement")
    return time.perf_counter() - began


def _make_partitions(since: datetime) -> None:
    """Of months that are over: the gateway makes those to come only."""
    month = since.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    while month < datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0):
        following = (month + timedelta(days=32)).replace(day=1)
        for table in ("billing_attempt", "billing_settlement"):
            _as_superuser(
                f"SET ROLE pointsman_owner; DO $$ BEGIN EXECUTE format('CREATE TABLE {table}_{month:y%Ym%m} "
                f"PARTITION OF {table} FOR VALUES FROM (%L) TO (%L)', pointsman_first_id('{month.isoformat()}'), "
                f"pointsman_first_id('{following.isoformat()}')); END $$"
            )
        month = following


def _rolled_up() -> tuple[float, dict[str, Any]]:
    from billing.rollups import roll_up  # noqa: PLC0415

    began = time.perf_counter()
    facts = roll_up()
    taken = time.perf_counter() - began
    tables = (f"billing_usage{grain}{by}" for grain in ("hour", "day") for by in ("", "tag", "user"))
    _as_superuser(f"VACUUM ANALYZE {', '.join(tables)}")
    return taken, facts


def _rolled_up_rows() -> dict[str, int]:
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        counts = {}
        for table in ("billing_usagehour", "billing_usageday", "billing_usagehouruser", "billing_usagedayuser"):
            row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            counts[table] = row[0] if row else 0
        return counts


async def _admission(database_url: str, tenant: Any) -> dict[str, float]:
    """Milliseconds until an attempt is committed, with so many waiting at a time."""
    from billing.ledger import Ledger, NewAttempt  # noqa: PLC0415

    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "SELECT k.tenant_id, k.project_id, k.token_id, m.model_id, m.provider_id, t.policy_epoch "
            "FROM bench_token k JOIN bench_model m USING (tenant) JOIN tenants_tenant t ON t.id = k.tenant_id "
            "WHERE t.id = %s LIMIT 1",
            [tenant.pk],
        ).fetchone()
    if row is None:
        raise RuntimeError("the tenant is not there")
    tenant_id, project_id, token_id, model_id, provider_id = map(str, row[:5])
    ledger = Ledger(database_url, str(uuid_utils.uuid7()), "bench")
    await ledger.open()

    async def admitted() -> float:
        new = NewAttempt(
            id=str(uuid_utils.uuid7()), request_id=str(uuid_utils.uuid7()), tenant_id=tenant_id, policy_epoch=row[5],
            project_id=project_id, token_id=token_id, end_user="", tags=(), purpose="serve", provider_id=provider_id,
            provider_key_id=None, model_id=model_id, vendor_model="model-1", price_version_id=None,
            started_at=time.time(),
        )  # fmt: skip
        began = time.perf_counter()
        admission = await ledger.admit(new)
        taken = time.perf_counter() - began
        if admission.verdict != "admitted":
            raise RuntimeError(f"an attempt was not admitted: {admission.verdict}")
        return taken * 1000

    async def waiting_in_line(count: int) -> list[float]:
        return [await admitted() for _ in range(count)]

    found: dict[str, float] = {"machine_load": os.getloadavg()[0]}
    try:
        await waiting_in_line(50)
        for at_once in AT_ONCE:
            lines = await asyncio.gather(*(waiting_in_line(400 if at_once == 1 else 60) for _ in range(at_once)))
            taken = sorted(ms for line in lines for ms in line)
            found[f"p50_{at_once}"] = statistics.median(taken)
            found[f"p99_{at_once}"] = taken[int(len(taken) * 0.99)]
    finally:
        await ledger.close()
    return found


def _queries(tenant: Any) -> Sequence[Query]:
    from billing.spend import anomaly, spend_of, spend_of_all, trend  # noqa: PLC0415

    now = datetime.now(UTC)
    month, all_days = now - timedelta(days=30), now - timedelta(days=DAYS)
    tenant.time_zone = "UTC"
    abroad = type(tenant)(pk=tenant.pk, slug=tenant.slug, time_zone="America/New_York")

    def own(name: str, since: datetime, by: str = "", **options: Any) -> Query:
        return Query(name, lambda: spend_of(tenant, since, now, by=by.split(), **options))

    return [
        own("total, 30 days", month),
        own("total, 60 days", all_days),
        own("by model, 60 days", all_days, "model"),
        own("by model and day, 60 days", all_days, "model", interval="day"),
        own("by token and day, 30 days", month, "token", interval="day"),
        own("by task and complexity, 60 days", all_days, "task_type complexity"),
        own("by token, model and task, 60 days", all_days, "token model task_type"),
        own("by user, 60 days", all_days, "user"),
        own("by tag and day, 60 days", all_days, "tag", interval="day"),
        own("by hour, 7 days", now - timedelta(days=7), interval="hour"),
        own("latency by model, 60 days", all_days, "model", latency=True),
        Query("by day in New York, 30 days", lambda: spend_of(abroad, month, now, interval="day")),
        Query("by month in New York, 60 days", lambda: spend_of(abroad, all_days, now, interval="month")),
        Query("by model and day in New York", lambda: spend_of(abroad, month, now, by=["model"], interval="day")),
        Query("trend of the month", lambda: trend(tenant)),
        Query("anomaly of the hour", lambda: anomaly(tenant)),
        Query("all tenants, 60 days", lambda: spend_of_all(all_days, now, by=["tenant"])),
        Query("all by model and day, 30 days", lambda: spend_of_all(month, now, by=["vendor_model"], interval="day")),
    ]


def _typical_ms(run: Callable[[], object]) -> float:
    """The median of some runs after a first one, in milliseconds."""
    run()
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        run()
        taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken)


def _superuser_url() -> str:
    parts = urlsplit(os.environ["DATABASE_URL"])
    return urlunsplit(parts._replace(netloc="postgres@"))


def _as_superuser(statements: str) -> None:
    with psycopg.connect(_superuser_url(), autocommit=True) as connection:
        for statement in statements.split("; ", 1) if statements.startswith("SET ROLE") else [statements]:
            connection.execute(statement)


def as_text(found: dict[str, Any]) -> str:
    lines = [
        (
            f"{found['rows']:,} attempts of {found['days']} days, loaded in {found['load_s']:.0f} s, "
            f"rolled up in {found['roll_up_s']:.0f} s"
        ),
        *(f"  {table}: {count:,} rows" for table, count in found["rolled_up_rows"].items()),
        "",
        f"{'admission, ms':42}{'empty':>10}{'full':>10}",
    ]
    empty, full = found["admission_ms"]["empty"], found["admission_ms"]["full"]
    lines += [
        f"{_LABELS.get(name, name.replace('_', ', at once: ')):42}{empty[name]:>10.2f}{full[name]:>10.2f}"
        for name in empty
    ]
    lines += ["", f"{'spend, ms':42}"]
    lines += [
        f"{name:42}{ms:>10.1f}{'' if ms <= LONGEST_MS else '  too slow'}" for name, ms in found["spend_ms"].items()
    ]
    return "\n".join(lines)


def main() -> None:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the databases are ended
    found = measure(options.rows, lambda line: print(line, file=sys.stderr, flush=True))
    print(json.dumps(found, indent=2, default=str) if options.json else as_text(found))
    slow = [name for name, ms in found["spend_ms"].items() if ms > LONGEST_MS]
    if slow:
        sys.exit(f"error: slower than {LONGEST_MS:.0f} ms: {'; '.join(slow)}")


if __name__ == "__main__":
    main()
