"""A scripted Stripe on loopback: takes meter events on the wire as the real one does, and fails as it is told.

It knows an identifier until :meth:`Stripe.a_day_passes`, refuses it a second time, and counts what it has taken.
"""

import json
import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs

API_KEY = "sk_test_scripted"
Behaviour = Literal[
    "takes", "takes and hangs up", "takes and hangs", "takes and breaks", "fails", "refuses", "is busy", "garbles",
]  # fmt: skip


@dataclass
class Stripe:
    """``script`` says how the next calls go, one each; then they go well."""

    url: str = ""
    script: deque[Behaviour] = field(default_factory=deque)
    calls: list[dict[str, str]] = field(default_factory=list)
    taken: list[dict[str, str]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    _known: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def goes(self, *behaviours: Behaviour) -> None:
        self.script.extend(behaviours)

    def a_day_passes(self) -> None:
        self._known.clear()

    def billed(self, customer: str) -> int:
        """The sum that is on the customer's meter."""
        return sum(
            int(event["payload[value]"]) for event in self.taken if event["payload[stripe_customer_id]"] == customer
        )

    def identifiers(self) -> Counter[str]:
        return Counter(event["identifier"] for event in self.taken)

    def answer(self, form: dict[str, str]) -> tuple[int, dict[str, Any]] | None:
        """Status and body; None: it hangs up."""
        with self._lock:
            self.calls.append(form)
            behaviour = self.script.popleft() if self.script else "takes"
            if behaviour in _ERRORS:
                return _ERRORS[behaviour]
            if form["identifier"] in self._known:
                message = f"An event already exists with identifier {form['identifier']}."
                return 400, _error("invalid_request_error", message)
            self._known.add(form["identifier"])
            self.taken.append(form)
        if behaviour == "takes and hangs":
            self.released.wait(30)
        if behaviour.startswith("takes and hangs"):
            return None
        if behaviour == "takes and breaks":
            return 500, _error("api_error", "An unknown error occurred")
        return 200, {
            "object": "billing.meter_event",
            "created": 1764000000,
            "event_name": form["event_name"],
            "identifier": form["identifier"],
            "livemode": False,
            "payload": {"value": form["payload[value]"], "stripe_customer_id": form["payload[stripe_customer_id]"]},
            "timestamp": 1764000000,
        }


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"error": {"type": kind, "message": message}}


_ERRORS: dict[str, tuple[int, dict[str, Any]]] = {
    "fails": (503, _error("api_error", "Stripe is away")),
    "refuses": (404, _error("invalid_request_error", "No active meter found for event name")),
    "is busy": (429, _error("invalid_request_error", "Too many requests")),
    "garbles": (200, {}),
}


@contextmanager
def running() -> Iterator[Stripe]:
    scripted = Stripe()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            if self.path != "/v1/billing/meter_events":
                answer = (404, _error("invalid_request_error", f"Unrecognized request URL (POST: {self.path})"))
            elif self.headers["authorization"] != f"Bearer {API_KEY}":
                answer = (401, _error("invalid_request_error", "Invalid API Key provided: sk_test_***oops"))
            else:
                answer = scripted.answer(form)
            if answer is None:
                self.close_connection = True
                return
            status, content = answer
            data = json.dumps(content).encode() if content else b"<html>"
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            """Nothing: tests look at what was taken."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    scripted.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield scripted
    finally:
        scripted.released.set()
        server.shutdown()
        server.server_close()
