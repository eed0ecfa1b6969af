"""What a chat vendor says when it does not answer: refusals, and errors inside a 200."""

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.errors import GatewayError, ProviderError
from gateway.wire.refusals import classify_refusal, is_context_length, provider_code

# Another target would say the same, so these are not worth a retry.
_FINAL_CODES = frozenset(
    {"content_filter", "content_policy_violation", "context_length_exceeded", "invalid_request_error"}
)


def parse_error(status: int, headers: Mapping[str, str], body: bytes) -> GatewayError:
    """A vendor's refusal (status >= 300) as ours; see :func:`gateway.wire.refusals.classify_refusal`."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        decoded = None
    message, code, param = _reason(decoded)
    return classify_refusal(status, headers, message, code, param)


def answered_error(error: Any, kind: str) -> ProviderError:
    """An ``error`` that came in place of an answer (``kind`` "status") or within a stream ("stream")."""
    message, code, _ = _reason({"error": error})
    vendor_code = provider_code(code)
    status = int(vendor_code) if vendor_code and vendor_code.isdecimal() else None
    final = vendor_code in _FINAL_CODES or status in {400, 413, 422} or is_context_length(message or "", vendor_code)
    where = "within its answer" if kind == "stream" else "in place of an answer"
    return ProviderError(
        f"The provider reported an error {where}.",
        kind=kind,
        vendor_status=status,
        vendor_code=vendor_code,
        retryable=not final,
    )


def _reason(body: object) -> tuple[str | None, object, str | None]:
    """Message, code and param from the shapes vendors of this format use.

    ``{"error": {...}}`` is OpenAI's, ``{"error": "..."}`` and a bare ``{"message": ...}`` or
    ``{"detail": ...}`` are those of look-alikes.
    """
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, list):
        error = error[0] if error else None
        error = error.get("error", error) if isinstance(error, dict) else error
    if isinstance(error, str):
        return error, None, None
    if not isinstance(error, dict):
        return None, None, None
    message = error.get("message", error.get("detail"))
    if message is not None and not isinstance(message, str):
        message = msgspec.json.encode(message).decode()
    param = error.get("param")
    return message, error.get("code") or error.get("type"), param if isinstance(param, str) else None
