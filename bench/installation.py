"""A gateway's throw-away installation: a data directory with databases, one tenant, and the ledger to check after."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from shutil import rmtree

import psutil
import psycopg

from bench import vendor
from bench.processes import ROOT, BenchError
from gateway.embedded import EmbeddedServers

TOKEN = "bench-token-0123456789-abcdefghij"
MODELS = ("fixed", "burst", "paced")
ROUTED = tuple(f"routed-{number}" for number in range(1, 13))  # what `auto` chooses from; all as `fixed`
INPUT_USD, OUTPUT_USD = Decimal("0.15"), Decimal("0.60")  # per million tokens
NEVER_REACHED = 2_000_000_000  # requests per minute

LIMITED = {
    "budgets": [
        {"name": "tenant", "scope": "tenant", "limit": {"usd": "1000000"}, "period": "month"},
        {"name": "project", "scope": "project", "of": "bench", "limit": {"tokens": 10**11}, "period": "day"},
        {"name": "token", "scope": "token", "of": "bench", "limit": {"usd": "100000"}, "period": "month"},
    ],
    "limits": [
        {"scope": "token", "of": "bench", "tokens_per_minute": 10**12},
        {"scope": "project", "of": "bench", "requests_per_minute": NEVER_REACHED, "concurrent": 10_000},
    ],
    "alert_rules": [{"name": "spend", "kind": "budget", "budget": "tenant"}],
}


@dataclass(frozen=True, slots=True)
class Books:
    """What the ledger says, and what was really sent. ``cost_usd`` and the tokens are sums over all settlements."""

    attempts: int
    settled: int
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal


class Installation:
    """Embedded PostgreSQL and Redis in a temporary folder, migrated; gone with :meth:`close`."""

    def __init__(self) -> None:
        self.data_dir = Path(tempfile.mkdtemp(prefix="pointsman-bench-"))
        self._servers = EmbeddedServers(self.data_dir)
        try:
            urls = self._servers.start(postgres=True, redis=True)
            self.environment = os.environ | urls | {
                "DATA_DIR": str(self.data_dir),
                "ALLOWED_UPSTREAMS": "127.0.0.1/32",
                "IP_RATE_LIMIT": "1000000",
                "HOST": "127.0.0.1",
                "WEB_WORKERS": "1",
                "LOG_LEVEL": "WARNING",
                "DEBUG": "false",
                "BENCH_TOKEN": TOKEN,
            }  # fmt: skip
            self._database_url = urls["DATABASE_URL"]
            self._manage("migrate", "--verbosity", "0", "--skip-checks")
        except BaseException:
            self.close()
            raise

    @property
    def postgres_pid(self) -> int:
        return int((self.data_dir / "postgres" / "postmaster.pid").read_text().split()[0])

    @property
    def redis_pid(self) -> int:
        return int((self.data_dir / "run" / "redis.pid").read_text())

    @property
    def file_system(self) -> str:
        """The type of the one that commits are flushed to; on ``tmpfs`` a flush costs nothing."""
        mounts = [mount for mount in psutil.disk_partitions(all=True) if self.data_dir.is_relative_to(mount.mountpoint)]
        return max(mounts, key=lambda mount: len(mount.mountpoint)).fstype if mounts else "unknown"

    def declare(self, vendor_url: str, *, budgets: bool = False) -> None:
        """One tenant whose models lead to the vendor, with prices, and a token whose limit is checked but never met;
        with ``budgets`` also three nested ones, limits and an alert rule, of which none is ever met either."""
        price = {"input": str(INPUT_USD), "output": str(OUTPUT_USD)}
        provider = {"name": "vendor", "kind": "openai-compatible", "base_url": vendor_url, "api_key": "sk-bench"}
        token = {
            "name": "bench",
            "project": "bench",
            "value": {"env": "BENCH_TOKEN"},
            "models": ["*"],
            "requests_per_minute": NEVER_REACHED,
        }
        tenant = {
            "slug": "bench",
            "projects": [{"slug": "bench"}],
            "providers": [provider],
            "models": [
                *({"name": name, "provider": "vendor", "price": price, "routed": False} for name in MODELS),
                *({"name": name, "provider": "vendor", "vendor_model": "fixed", "price": price} for name in ROUTED),
            ],
            "tokens": [token],
        }
        if budgets:
            tenant |= LIMITED
        path = self.data_dir / "bench.yaml"
        path.write_text(json.dumps({"tenants": [tenant]}))  # JSON is YAML too
        self._manage("apply", str(path))

    def books(self) -> Books:
        with psycopg.connect(self._database_url) as connection:
            row = connection.execute(
                """
                SELECT count(a.id),
                  count(s.attempt_id) FILTER (WHERE s.outcome = 'settled' AND s.usage_source = 'vendor'),
                  coalesce(sum(s.input_tokens), 0)::bigint, coalesce(sum(s.output_tokens), 0)::bigint,
                  coalesce(sum(s.cost_usd), 0)
                FROM billing_attempt a LEFT JOIN billing_settlement s ON s.attempt_id = a.id
                """
            ).fetchone()
        assert row is not None
        return Books(*row)

    def close(self) -> None:
        """End the databases and remove every file."""
        self._servers.release()
        rmtree(self.data_dir, ignore_errors=True)

    def _manage(self, *arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "manage.py", *arguments],
            cwd=ROOT, env=self.environment, check=False, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise BenchError(f"`manage.py {arguments[0]}` fails:\n{done.stderr}")


def expected_books(whole_answers: int, streams: int, chunks: int) -> Books:
    """The ledger of so many answered requests, exactly."""
    requests = whole_answers + streams
    input_tokens = requests * vendor.PROMPT_TOKENS
    output_tokens = whole_answers * vendor.ANSWER_TOKENS + streams * chunks
    cost_usd = (input_tokens * INPUT_USD + output_tokens * OUTPUT_USD) / 1_000_000
    return Books(requests, requests, input_tokens, output_tokens, cost_usd)
