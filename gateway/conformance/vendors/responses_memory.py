"""What OpenAI's Responses remembers between calls, and what it gives the caller to keep, sealed.

The account is the API key: another one neither finds what was stored nor opens what was sealed.
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections import OrderedDict
from dataclasses import dataclass, field

from gateway.conformance.vendors.formats import JSON, Refusal

_KEPT = 1000
_SECRET = b"scripted vendor"
_MARK = "gAAAAA"  # what the original's sealed reasoning begins with
_DIGEST_BYTES = 16


@dataclass(slots=True)
class Turn:
    """A stored response: all texts up to it and its own, the calls that await an output."""

    texts: list[str]
    calls: set[str] = field(default_factory=set)


class Memory:
    """The latest stored responses of each account, and their items."""

    def __init__(self) -> None:
        self._turns: OrderedDict[tuple[str, str], tuple[Turn, list[JSON]]] = OrderedDict()
        self._items: dict[tuple[str, str], JSON] = {}

    def keep(self, account: str, response_id: str, turn: Turn, items: list[JSON]) -> None:
        self._turns[account, response_id] = turn, items
        self._items |= {(account, item["id"]): item for item in items}
        if len(self._turns) > _KEPT:
            (account, _), (_, forgotten) = self._turns.popitem(last=False)
            for item in forgotten:
                self._items.pop((account, item["id"]), None)

    def turn(self, account: str, response_id: str) -> Turn:
        """Raises Refusal for an id that this account does not have."""
        if (kept := self._turns.get((account, response_id))) is None:
            message = f"Previous response with id '{response_id}' not found."
            raise Refusal(400, message, param="previous_response_id", code="previous_response_not_found")
        return kept[0]

    def item(self, account: str, item_id: str) -> JSON:
        """Raises Refusal for an id that this account does not have."""
        if (item := self._items.get((account, item_id))) is None:
            message = f"Item with id '{item_id}' not found. Items are not persisted when `store` is set to false."
            raise Refusal(404, message, param="input")
        return item


def seal(thinking: str, account: str) -> str:
    """Thinking that only its account can hand back."""
    content = json.dumps({"account": _digest(account.encode()).hex(), "thinking": thinking}).encode()
    return _MARK + base64.urlsafe_b64encode(_digest(content) + content).decode()


def check_sealed(sealed: str, item_id: str, account: str) -> None:
    """Raises Refusal unless ``sealed`` was made by :func:`seal` for this account."""
    reason = "Encrypted content could not be decrypted or parsed."
    try:
        raw = base64.urlsafe_b64decode(sealed.removeprefix(_MARK))
    except binascii.Error:
        raw = b""
    content = raw[_DIGEST_BYTES:]
    if hmac.compare_digest(raw[:_DIGEST_BYTES], _digest(content)):
        if json.loads(content)["account"] == _digest(account.encode()).hex():
            return
        reason = "Encrypted content organization_id did not match the target organization."
    message = f"The encrypted content for item {item_id} could not be verified. Reason: {reason}"
    raise Refusal(400, message, code="invalid_encrypted_content")


def _digest(content: bytes) -> bytes:
    return hmac.digest(_SECRET, content, hashlib.sha256)[:_DIGEST_BYTES]
