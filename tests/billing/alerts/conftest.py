"""Somebody to tell: endpoints and a mail server on loopback that do as a test tells them, and several workers."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.db import connection

from billing.alerts.book import open_alert
from billing.models import Alert, AlertChannel, AlertRule, Budget, BudgetPeriod
from tenants.models import Tenant

NOW = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)


def at_once(work: Callable[[], Any], workers: int = 4) -> list[Any]:
    """What ``work`` returns to each of several workers that begin together, each on a connection of its own."""
    start = threading.Barrier(workers)

    def call(_: int) -> Any:
        try:
            start.wait(30)
            return work()
        finally:
            connection.close()

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(call, range(workers)))


def make_budget(tenant: Tenant | None, **values: Any) -> Budget:
    facts = {"name": "ci-month", "scope": "tenant" if tenant else "installation", "metric": "usd", "cap": 100}
    return Budget.objects.create(tenant=tenant, **(facts | values))


def make_period(budget: Budget, spent: object, **values: Any) -> BudgetPeriod:
    facts = {"starts_at": datetime(2026, 11, 1, tzinfo=UTC), "ends_at": datetime(2026, 12, 1, tzinfo=UTC)} | values
    return BudgetPeriod.objects.create(budget=budget, tenant=budget.tenant, spent=Decimal(str(spent)), **facts)


def make_channel(tenant: Tenant | None, name: str = "hook", **values: Any) -> AlertChannel:
    facts = {"kind": "webhook", "address": "http://127.0.0.1:1/hook"} | values
    return AlertChannel.objects.create(tenant=tenant, name=name, **facts)


def make_rule(tenant: Tenant | None, kind: str, **values: Any) -> AlertRule:
    facts = {"name": kind, "threshold": None, "least_requests": 10, "cooldown_minutes": 60} | values
    rule = AlertRule.objects.create(tenant=tenant, kind=kind, **facts)
    AlertRule.objects.filter(pk=rule.pk).update(created_at=NOW - timedelta(days=30))
    return rule


def open_error_rate(channel: AlertChannel, *others: AlertChannel, **values: Any) -> Alert:
    facts = {
        "kind": "error_rate",
        "occasion": f"rule:{channel.pk}:{Alert.objects.count()}",
        "message": "20 % of 10 requests failed within 30 minutes (threshold: 10 %).",
        "facts": {"percent": "20", "requests": 10},
        "opened_at": NOW,
    }
    alert = Alert(tenant=channel.tenant, **(facts | values))
    assert open_alert(alert, [channel, *others])
    return alert


# --------------------------------------------------------------------------- HTTP


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Endpoint:
    """Answers as told by the path's first part: a status (``/503``), or ``/slow``, which does not answer for a while;
    with ``retry_after`` as that header, if it is set."""

    port: int = 0
    retry_after: str = ""
    received: list[Received] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str = "/200") -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    heard = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            heard.received.append(Received(self.path, headers, body))
            told = self.path.split("/")[1]
            if told == "slow":
                heard.released.wait(30)
                return
            self.send_response(int(told))
            if told.startswith("3"):
                self.send_header("location", heard.url("/200/after-redirect"))
            if heard.retry_after:
                self.send_header("retry-after", heard.retry_after)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Nothing: the test looks at what was received."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    heard.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield heard
    heard.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


# --------------------------------------------------------------------------- SMTP


@dataclass
class MailServer:
    """Takes mail, but not for who is in ``refuses`` (an address and the code it gets), and not while ``down``."""

    port: int = 0
    refuses: dict[str, int] = field(default_factory=dict)
    down: bool = False
    mails: list[tuple[str, str]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(line: str) -> None:
            writer.write(f"{line}\r\n".encode())
            await writer.drain()

        try:
            await say("421 closed" if self.down else "220 sink")
            recipient = ""
            while not self.down and (line := (await reader.readline()).decode().strip()):
                verb = line.split(":")[0].split(" ")[0].upper()
                if verb == "RCPT":
                    recipient = line.partition("<")[2].rstrip(">")
                    await say(f"{self.refuses.get(recipient, 250)} as told")
                elif verb == "DATA":
                    await say("354 go on")
                    mail = await reader.readuntil(b"\r\n.\r\n")
                    self.mails.append((recipient, mail.decode()))
                    await say("250 taken")
                elif verb == "QUIT":
                    await say("221 bye")
                    break
                else:
                    await say("250 ok")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
def mail_server(settings: Any) -> Iterator[MailServer]:
    sink = MailServer()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(10)

    server = run(asyncio.start_server(sink.serve, "127.0.0.1", 0))
    sink.port = server.sockets[0].getsockname()[1]
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT, settings.EMAIL_USE_TLS = "127.0.0.1", sink.port, False
    settings.DEFAULT_FROM_EMAIL = "pointsman@example.com"
    yield sink
    server.close()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def until(condition: Callable[[], bool], patience_s: float = 20) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
