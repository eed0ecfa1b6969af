"""What every vendor's format offers to the server: check a request, write an answer, write an error."""

import base64
import binascii
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from gateway.conformance.vendors.answers import Answer, Frame, Prompt
from gateway.conformance.vendors.behaviours import Behaviour
from gateway.conformance.vendors.http import HttpRequest
from gateway.conformance.vendors.quotas import Quota

JSON = dict[str, Any]


class Refusal(Exception):
    """A request the vendor turns down; the format writes the body.

    ``code`` is the vendor's machine-readable reason where its format has one beside the status.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after


def check(holds: object, message: str, *, param: str | None = None, code: str | None = None) -> None:
    """Raises Refusal (400) unless ``holds`` is true."""
    if not holds:
        raise Refusal(400, message, param=param, code=code)


def words(text: str) -> frozenset[str]:
    """The names in ``text``, parted by spaces: long lists stay readable so."""
    return frozenset(text.split())


def is_number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def is_count(value: object, low: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def is_base64(value: object) -> bool:
    if not isinstance(value, str) or not value:
        return False
    try:
        base64.b64decode(value, validate=True)
    except binascii.Error:
        return False
    return True


def dump(value: JSON) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def sse(value: JSON, event: str | None = None) -> bytes:
    prefix = b"event: %b\n" % event.encode() if event else b""
    return b"%bdata: %b\n\n" % (prefix, dump(value))


def masked(key: str) -> str:
    """A key as vendors quote it in a refusal: enough to identify the account, which a gateway must not pass on."""
    return f"{key[:7]}****{key[-4:]}"


class Format(ABC):
    """One vendor's wire format. Stateless: one instance serves every call."""

    name: ClassVar[str]
    reports_cache: ClassVar[bool] = True
    reports_cache_writes: ClassVar[bool] = False
    reports_reasoning: ClassVar[bool] = True  # else thinking is part of the output count
    stream_type: ClassVar[str] = "text/event-stream; charset=utf-8"
    broken_event: ClassVar[bytes] = b'data: {"broken": [\n\n'
    end_is_optional: ClassVar[bool] = False  # "nodone" can leave the end marker out

    @abstractmethod
    def key_of(self, request: HttpRequest) -> str | None:
        """The credential sent, where this vendor looks for it."""

    @abstractmethod
    def authenticate(self, key: str | None, keys: frozenset[str] | None) -> None:
        """Raises Refusal when the key is missing or, with ``keys`` configured, not one of them."""

    @abstractmethod
    def parse(self, request: HttpRequest, body: JSON) -> Prompt:
        """Checks a request as the vendor would. Raises Refusal."""

    @abstractmethod
    def model_of(self, request: HttpRequest, body: JSON) -> str:
        """The model a request names, "" if none: known before the request is checked."""

    @abstractmethod
    def streams(self, request: HttpRequest, body: JSON) -> bool:
        """Whether a request asks for a stream: known before the request is checked."""

    @abstractmethod
    def whole(self, answer: Answer, prompt: Prompt) -> JSON:
        """The body of a whole answer, usage included."""

    @abstractmethod
    def without_usage(self, body: JSON) -> JSON: ...

    @abstractmethod
    def frames(self, answer: Answer, prompt: Prompt, behaviour: Behaviour) -> Iterator[Frame]:
        """The events of a streamed answer, in order."""

    @abstractmethod
    def error_body(self, refusal: Refusal) -> JSON: ...

    @abstractmethod
    def error_event(self, answer: Answer | None = None, number: int = 0, *, plain: bool = False) -> bytes:
        """What this vendor writes when it fails in the middle of a stream.

        ``number`` events of ``answer`` went before it; ``plain`` asks for the simpler one where there are two.
        """

    @abstractmethod
    def refusal(self, status: int, key: str | None) -> Refusal:
        """The vendor's typical refusal with this status."""

    @abstractmethod
    def context_exceeded(self, prompt: Prompt) -> Refusal: ...

    @abstractmethod
    def prefill_refused(self) -> Refusal:
        """What a model that cannot continue an assistant's turn says to a conversation that ends with one."""

    @abstractmethod
    def models(self, names: Sequence[str]) -> JSON: ...

    @abstractmethod
    def model(self, name: str) -> JSON: ...

    @abstractmethod
    def pings(self, answer: Answer) -> Sequence[bytes]:
        """What this vendor writes, in turn, to keep a stream alive before its first token."""

    def failed(self, answer: Answer, prompt: Prompt) -> JSON:
        """The body of a 200 that is an error all the same."""
        return self.error_body(self.refusal(500, None))

    def adapt(self, answer: Answer) -> None:  # noqa: B027 - most vendors express every answer
        """Changes a planned answer to what this vendor can express."""

    def headers(self, number: str) -> dict[str, str]:
        """Headers this vendor sends with every answer; some identify the account, as real ones do."""
        return {"x-request-id": f"req_{number}"}

    def rate_limit_headers(self, quota: Quota) -> dict[str, str]:
        """How this vendor tells what is left of a rate limit; nothing where it does not."""
        return {}
