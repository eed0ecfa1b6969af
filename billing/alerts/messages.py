"""What an alert looks like in each kind of channel."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

SIGNATURE_HEADER: Final = "x-pointsman-signature"
DELIVERY_HEADER: Final = "x-pointsman-delivery"
_LONGEST_SUBJECT: Final = 120
_PREFIXES: Final = {"opened": "", "resolved": "Resolved: ", "test": "Test: "}


@dataclass(frozen=True, slots=True)
class Message:
    """One message: ``id`` is the same on every try, ``event`` is opened, resolved or test, ``alert`` is what a webhook
    is given of it."""

    id: str
    event: str
    tenant: str | None
    alert: Mapping[str, Any]

    @property
    def line(self) -> str:
        """All of it in one line, whatever end users' names carry."""
        return _one_line(f"{_PREFIXES[self.event]}{self.alert['message']}")

    @property
    def subject(self) -> str:
        whose = f"[Pointsman {self.tenant}]" if self.tenant else "[Pointsman]"
        subject = f"{whose} {self.line}"
        return subject if len(subject) <= _LONGEST_SUBJECT else f"{subject[: _LONGEST_SUBJECT - 1]}…"

    @property
    def text(self) -> str:
        """The body of an e-mail."""
        known = {"Opened": self.alert["opened_at"], "Resolved": self.alert["resolved_at"], **self.alert["facts"]}
        facts = [_one_line(f"{name}: {_said(value)}") for name, value in known.items() if value not in (None, "", [])]
        return "\n".join([self.line, "", *facts, "", f"Alert {self.alert['id']}", ""])

    def webhook_body(self) -> bytes:
        return msgspec.json.encode({"event": self.event, "alert": self.alert, "tenant": self.tenant})

    def slack_body(self) -> bytes:
        whose = f"*{self.tenant}*: " if self.tenant else ""
        return msgspec.json.encode({"text": f"{whose}{_escaped(self.line)}"})


def signature(secret: str, at: int, body: bytes) -> str:
    """The value of ``x-pointsman-signature`` for a body sent at ``at`` (seconds since 1970)."""
    digest = hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def _escaped(text: str) -> str:
    """Slack reads mentions and links between angle brackets; names of end users are anybody's."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _said(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _one_line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
