"""What an operator wants to know before calling for help: what is configured, reachable and missing."""

import platform
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final

import redis
from django.conf import settings
from django.db import DatabaseError, connections
from django.db.migrations.executor import MigrationExecutor

from billing.spool import SPOOL_FOLDER, Spool
from gateway import runtime
from gateway.models import Provider, ProviderKey
from gateway.providers import catalog
from gateway.providers.addresses import AddressGuard
from tenants.crypto import DecryptionFailed, parse_numbered_keys
from tenants.models import ApiToken, Tenant, User

OLDEST_PYTHON: Final = (3, 11)
REDIS_PATIENCE_S: Final = 2.0
LEAST_FREE_BYTES: Final = 1024**3
_SHOWN_AT_MOST: Final = 5


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """``next_step`` is what to do about it, empty where nothing is to be done."""

    subject: str
    level: Level
    message: str
    next_step: str = ""


Check = Callable[[], Iterator[Finding]]


def examine() -> list[Finding]:
    """Every check, in the order in which problems cause each other. Raises nothing: what breaks is a finding."""
    findings = [finding for check in (_python, _settings, _database, _data_dir, _redis) for finding in _run(check)]
    if any(finding.level is Level.FAIL and finding.subject in ("database", "migrations") for finding in findings):
        return findings
    return findings + [
        finding
        for check in (_partitions, _master_keys, _peppers, _operators, _providers, _models)
        for finding in _run(check)
    ]


def _run(check: Check) -> Iterator[Finding]:
    try:
        yield from check()
    except DatabaseError as exc:
        yield Finding(check.__name__.strip("_"), Level.FAIL, f"The database refuses: {str(exc).splitlines()[0]}")


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        yield Finding("python", Level.FAIL, f"Python {version} is too old.", "Install Python 3.11 or newer.")
    else:
        yield Finding("python", Level.OK, f"Python {version} on {platform.system()}")


def _settings() -> Iterator[Finding]:
    if settings.DEBUG:
        yield Finding("settings", Level.WARN, "DEBUG is on: errors show internals.", "Unset DEBUG.")
    try:
        AddressGuard(settings.ALLOWED_UPSTREAMS)
    except ValueError as exc:
        yield Finding("settings", Level.FAIL, str(exc), "Correct ALLOWED_UPSTREAMS.")


def _database() -> Iterator[Finding]:
    for alias, subject in (("default", "database"), ("owner", "owner database")):
        try:
            with connections[alias].cursor() as cursor:
                cursor.execute(
                    """
                    SELECT current_user, current_setting('server_version'), rolsuper, rolbypassrls, EXISTS (
                      SELECT FROM pg_tables WHERE tablename = 'tenants_tenant' AND tableowner = current_user)
                    FROM pg_roles WHERE rolname = current_user
                    """
                )
                role, version, is_superuser, passes_walls, owns_tables = cursor.fetchone()
        except DatabaseError as exc:
            reason = str(exc).splitlines()[0]
            variable = "DATABASE_URL" if alias == "default" else "DATABASE_OWNER_URL"
            yield Finding(subject, Level.FAIL, f"Not reachable: {reason}", f"Check {variable} and the server.")
            return
        message = f"PostgreSQL {version} as {role}"
        if alias == "default" and (is_superuser or passes_walls or owns_tables):
            yield Finding(
                subject,
                Level.WARN,
                f"{message}, which row-level security does not bind.",
                "Let DATABASE_URL name the role pointsman_system and DATABASE_OWNER_URL the tables' owner.",
            )
        else:
            yield Finding(subject, Level.OK, message)
    yield from _migrations()


def _migrations() -> Iterator[Finding]:
    executor = MigrationExecutor(connections["default"])
    missing = len(executor.migration_plan(executor.loader.graph.leaf_nodes()))
    if missing:
        yield Finding("migrations", Level.FAIL, f"{missing} are not applied.", "Run `manage.py migrate`.")
    else:
        yield Finding("migrations", Level.OK, "all applied")


def _data_dir() -> Iterator[Finding]:
    path = Path(settings.DATA_DIR)
    try:
        with tempfile.TemporaryFile(dir=path):
            free = shutil.disk_usage(path).free
    except OSError as exc:
        yield Finding("data directory", Level.FAIL, f"{path} is not writable: {exc.strerror}.", "Check DATA_DIR.")
        return
    try:
        Spool(path / SPOOL_FOLDER, "doctor").try_out()
    except OSError as exc:
        told = f"{path / SPOOL_FOLDER} takes no settlements: {exc.strerror}."
        yield Finding("spool", Level.FAIL, told, "Make it a folder that can be written to.")
    message = f"{path}, {free / 1024**3:.1f} GiB free"
    if free < LEAST_FREE_BYTES:
        yield Finding("data directory", Level.WARN, message, "Free some space: a full disk stops the ledger.")
    else:
        yield Finding("data directory", Level.OK, message)


def _redis() -> Iterator[Finding]:
    try:
        with redis.Redis.from_url(
            settings.REDIS_URL, socket_timeout=REDIS_PATIENCE_S, socket_connect_timeout=REDIS_PATIENCE_S
        ) as client:
            version = client.info("server")["redis_version"]
    except (redis.RedisError, OSError) as exc:
        yield Finding(
            "redis",
            Level.WARN,
            f"Not reachable ({exc}): rate limits are kept per process, background jobs wait.",
            "Check REDIS_URL and the server.",
        )
    else:
        yield Finding("redis", Level.OK, f"Redis {version}")


_PARTITIONS_SQL: Final = """
SELECT parent.partrelid::regclass::text, parent.partdefid::regclass::text, EXISTS (
  SELECT FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid
  WHERE inhparent = parent.partrelid AND starts_with(
    pg_get_expr(child.relpartbound, child.oid), format('FOR VALUES FROM (%%L)', pointsman_first_id(%s))))
FROM pg_partitioned_table parent ORDER BY 1
"""


def _partitions() -> Iterator[Finding]:
    """Whether next month has its partitions, and whether rows went where none was made for their month."""
    next_month = (datetime.now(UTC).replace(day=1) + timedelta(days=32)).replace(day=1)
    with connections["default"].cursor() as cursor:
        cursor.execute(_PARTITIONS_SQL, [datetime.combine(next_month, time.min, UTC)])
        tables = cursor.fetchall()
        missing = [table for table, _, is_ready in tables if not is_ready]
        strayed = []
        for table, default, _ in tables:
            cursor.execute(f"SELECT EXISTS (SELECT FROM {default})")  # noqa: S608 - out of PostgreSQL's catalogue
            if cursor.fetchone()[0]:
                strayed.append(table)
    if missing:
        yield Finding(
            "partitions", Level.WARN, f"Next month's are missing: {_some(missing)}.", "Run `manage.py prepare`."
        )
    if strayed:
        yield Finding(
            "partitions",
            Level.WARN,
            f"Rows of a month without a partition: {_some(strayed)}.",
            "Move them into a partition of their month before that is made.",
        )
    if not missing and not strayed:
        yield Finding("partitions", Level.OK, f"{len(tables)} tables are ready for next month")


def _master_keys() -> Iterator[Finding]:
    try:
        numbers = list(parse_numbered_keys(settings.MASTER_KEYS))
    except ValueError as exc:
        yield Finding("master keys", Level.FAIL, f"MASTER_KEYS: {exc}.", "Set them as NUMBER:BASE64, current first.")
        return
    unreadable: list[str] = []
    under: Counter[int] = Counter()
    for key in ProviderKey.objects.filter(status=ProviderKey.Status.ACTIVE).select_related("provider").iterator():
        under[key.master_key_number] += 1
        try:
            key.reveal()
        except DecryptionFailed:
            unreadable.append(key.provider.name)
    outdated = sum(count for number, count in under.items() if number != numbers[0])
    message = f"key {numbers[0]} is current; {under.total()} provider keys"
    if unreadable:
        yield Finding(
            "master keys",
            Level.FAIL,
            f"The keys of {len(unreadable)} providers cannot be decrypted: {_some(unreadable)}.",
            f"Add the master keys that are missing of {sorted(under)}, or set those provider keys again.",
        )
    elif outdated:
        yield Finding(
            "master keys",
            Level.WARN,
            f"{message}, {outdated} of them under an older one",
            "Run `manage.py rotate_master_key`, which resumes.",
        )
    else:
        yield Finding("master keys", Level.OK, message)


def _peppers() -> Iterator[Finding]:
    try:
        numbers = list(parse_numbered_keys(settings.TOKEN_PEPPERS))
    except ValueError as exc:
        yield Finding("peppers", Level.FAIL, f"TOKEN_PEPPERS: {exc}.", "Set them as NUMBER:BASE64, current first.")
        return
    live = ApiToken.objects.filter(revoked_at=None)
    lost = live.exclude(pepper_number__in=numbers)
    if count := lost.count():
        missing = sorted(set(lost.values_list("pepper_number", flat=True)))
        yield Finding(
            "peppers",
            Level.FAIL,
            f"{count} tokens were made under peppers that are not configured: {missing}.",
            "Add those to TOKEN_PEPPERS again; a token cannot be moved to another pepper.",
        )
    else:
        yield Finding("peppers", Level.OK, f"pepper {numbers[0]} is current; {live.count()} live tokens")


def _operators() -> Iterator[Finding]:
    count = User.objects.filter(is_active=True, is_staff=True, is_superuser=True).count()
    if count:
        yield Finding("operators", Level.OK, f"{count} can sign in to the admin")
    else:
        yield Finding("operators", Level.FAIL, "Nobody can sign in to the admin.", "Run `manage.py prepare`.")


def _providers() -> Iterator[Finding]:
    providers = list(Provider.objects.filter(enabled=True).select_related("tenant"))
    with_key = set(ProviderKey.objects.filter(status=ProviderKey.Status.ACTIVE).values_list("provider_id", flat=True))
    keyless = [row for row in providers if catalog.get(row.kind).key_required and row.pk not in with_key]
    failing = [row for row in providers if row.check_status == Provider.Status.FAILING]
    unknown = [row for row in providers if row.check_status == Provider.Status.UNKNOWN and row not in keyless]
    for rows, what, next_step in (
        (keyless, "without a key", "Give it one with `manage.py apply`, or in the admin."),
        (failing, "failed their last check", "Run `manage.py check_provider NAME` to see why."),
        (unknown, "were never checked", "Run `manage.py check_provider NAME`."),
    ):
        if rows:
            names = [f"{row.tenant.slug}/{row.name}" if row.tenant else row.name for row in rows]
            yield Finding("providers", Level.WARN, f"{len(rows)} {what}: {_some(names)}", next_step)
    if not providers:
        yield Finding("providers", Level.WARN, "There is none.", "Declare one with `manage.py apply`.")
    elif not (keyless or failing or unknown):
        yield Finding("providers", Level.OK, f"{len(providers)} answered when last checked")


def _models() -> Iterator[Finding]:
    """As the hot path sees them, tenant by tenant."""
    unpriced: set[str] = set()
    count = 0
    for tenant in Tenant.objects.filter(enabled=True):
        for model in runtime.load_policy(str(tenant.pk)).models.values():
            count += 1
            if any(target.price is None for target in model.targets):
                unpriced.add(f"{tenant.slug}/{model.name}")
    if unpriced:
        yield Finding(
            "models",
            Level.WARN,
            f"{len(unpriced)} without a price: {_some(sorted(unpriced))}; their calls are recorded as unpriced.",
            "Declare a price for them, or run `manage.py import_prices`.",
        )
    else:
        yield Finding("models", Level.OK, f"{count} offered")


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN_AT_MOST
    return ", ".join(names[:_SHOWN_AT_MOST]) + (f" and {more} more" if more > 0 else "")
