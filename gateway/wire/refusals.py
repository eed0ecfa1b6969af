"""A vendor's refusal as ours: shared by the ``parse_error`` of every format.

Whose fault a status is, is decided here once. A caller's own mistake keeps the vendor's words, cleaned of
whatever names our account, key or machines; any other refusal is told in our words only.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from gateway.errors import ContextLengthExceeded, GatewayError, InvalidRequest, ProviderError, RequestTooLarge

REDACTED = "[redacted]"
MAX_MESSAGE_CHARS = 600
MAX_RETRY_AFTER_S = 24 * 3600.0

_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
_SECRETS = re.compile(
    r"\b(?:https?|wss?)://\S+"
    r"|\bbearer\s+\S+"
    r"|\b(?:sk|gsk|xai|pplx)[-_][\w*.-]{3,}|\bAIza[\w-]{10,}"
    r"|\b(?:pk|rk|hf|fw|key|gw|org|proj|user|acct|asst)[-_](?=[\w*.-]*[\d*])[\w*.-]{3,}"  # `org_name` stays
    r"|(?<=key: )\S+|(?<=key provided: )\S+"
    r"|[\w.+-]+@[\w-]+\.[\w.-]+"
    r"|\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"
    r"|\b(?!call_|toolu_)(?=[a-z_]*\d)\w{32,}\b"
    r"|\b(?:[a-z0-9-]+\.)+(?:com|net|org|io|ai|dev|cloud|app|co|eu|us|cn|internal|local|lan|svc)\b(?::\d+)?"
    r"|\blocalhost\b(?::\d+)?"
    r"|\b\d{1,3}(?:\.\d{1,3}){3}\b(?::\d+)?"
    r"|(?<![\w/])/(?:[\w.-]+/)+[\w.-]*",
    re.IGNORECASE,
)
_CONTEXT_LENGTH = re.compile(
    r"context[ _]length|context[ _]window|maximum context|prompt is too long|input is too long"
    r"|too many (?:input )?tokens"
    r"|input token count.{0,40}exceeds|exceeds the (?:model'?s? )?(?:maximum|available) (?:context|number of tokens)"
    r"|reduce the length of the (?:messages|prompt|input)",
    re.IGNORECASE,
)
_CALLERS_STATUSES = frozenset({400, 413, 422})


def scrub(message: str) -> str:
    """``message`` without keys, account ids, addresses, host names and paths, on one line, bounded in length."""
    line = _CONTROL.sub(" ", message[: 4 * MAX_MESSAGE_CHARS]).strip()
    line = _SECRETS.sub(REDACTED, line)
    return line if len(line) <= MAX_MESSAGE_CHARS else line[: MAX_MESSAGE_CHARS - 3] + "..."


def provider_code(code: object) -> str | None:
    """A vendor's error code or type, if it looks like one and not like something to hide."""
    if isinstance(code, int) and not isinstance(code, bool):
        return str(code)
    if isinstance(code, str) and _CODE.fullmatch(code) and not _SECRETS.search(code):
        return code
    return None


def is_context_length(message: str, code: str | None = None) -> bool:
    """Whether a refusal says that the prompt does not fit the model's context window."""
    return code == "context_length_exceeded" or _CONTEXT_LENGTH.search(message[: 4 * MAX_MESSAGE_CHARS]) is not None


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from ``retry-after-ms`` or ``retry-after`` (seconds or an HTTP date; lower-case names)."""
    if (milliseconds := _seconds(headers.get("retry-after-ms"))) is not None:
        return min(milliseconds / 1000, MAX_RETRY_AFTER_S)
    value = headers.get("retry-after")
    seconds = _seconds(value)
    if seconds is None and value is not None:
        seconds = _seconds_until(value)
    return None if seconds is None else min(seconds, MAX_RETRY_AFTER_S)


def _seconds(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _seconds_until(date: str) -> float | None:
    try:
        at = parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max((at - datetime.now(UTC)).total_seconds(), 0.0)


def classify_refusal(
    status: int,
    headers: Mapping[str, str],
    message: str | None,
    code: object = None,
    param: str | None = None,
) -> GatewayError:
    """The error for a vendor's answer with ``status`` >= 300.

    Args:
        message: the vendor's own words, unscrubbed; shown (scrubbed) only where the caller is at fault.
        code: the vendor's machine-readable reason, of whatever type it came in.
        param: the request field the vendor names.
    """
    known_code = provider_code(code)
    if status in _CALLERS_STATUSES:
        return _callers_mistake(status, message or "", known_code, param)
    return ProviderError(
        _our_words(status),
        vendor_status=status,
        vendor_code=known_code,
        retry_after_s=parse_retry_after(headers),
    )


def _callers_mistake(status: int, message: str, code: str | None, param: str | None) -> GatewayError:
    text = scrub(message) or f"The provider refused the request with status {status}."
    details = {"provider_code": code} if code else None
    if is_context_length(message, code):
        return ContextLengthExceeded(text, param=param, details=details)
    kind = RequestTooLarge if status == 413 else InvalidRequest
    return kind(text, param=scrub(param) if param else None, details=details)


def _our_words(status: int) -> str:
    if status in {401, 403}:
        return "The provider refused the gateway's credentials."
    if status == 402:
        return "The provider refused the gateway's account for lack of credit."
    if status == 404:
        return "The provider does not know the model or path."
    if status == 429:
        return "The provider's rate limit is reached."
    if status in {408, 504}:
        return "The provider timed out."
    return f"The provider answered with status {status}."
