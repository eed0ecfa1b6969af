"""Every way a request can fail, as one tree.

    GatewayError
    ├── InvalidRequest            400 invalid_request_error
    │   ├── UnsupportedContent    400 unsupported_content
    │   ├── ContextLengthExceeded 400 context_length_exceeded
    │   └── PriceUnknown          400 model_price_unknown
    ├── InvalidApiKey             401 invalid_api_key
    ├── PermissionDenied          403 permission_denied
    │   └── ModelNotAllowed       403 model_not_allowed
    ├── NotFound                  404 not_found
    │   └── ModelNotFound         404 model_not_found
    ├── MethodNotAllowed          405 method_not_allowed
    ├── IdempotencyConflict       409 idempotency_conflict
    ├── RequestTooLarge           413 request_too_large
    ├── BudgetExceeded            402 budget_exceeded
    ├── RateLimitExceeded         429 rate_limit_exceeded  (always Retry-After)
    │   └── QuotaExceeded         429 quota_exceeded
    ├── InternalError             500 internal_error
    ├── ProviderError             502 provider_error       (what a vendor did to us)
    ├── Overloaded                503 overloaded           (always Retry-After)
    │   ├── LedgerUnavailable     503 budget_unavailable
    │   ├── ShuttingDown          503 overloaded
    │   └── NoProviderConfigured  503 no_provider_configured
    └── GatewayTimeout            504 timeout

Any room raises one; the edge renders it in the caller's dialect. A message is written for the
caller: it never carries a vendor's key, host name, path or stack trace.
"""

from collections.abc import Sequence
from typing import Any, ClassVar


class GatewayError(Exception):
    """A refusal or failure that knows how to present itself.

    Attributes:
        status: HTTP status of the answer.
        code: stable machine-readable reason (``error.code`` in the OpenAI dialect).
        type: OpenAI's error class name (``error.type``).
        param: the request field at fault, if there is one.
        retry_after_s: seconds until a retry can succeed, sent as ``Retry-After``.
        should_retry: False where an SDK's retry cannot help (sent as ``x-should-retry: false``).
        details: extra facts for the body, already safe to show.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"
    should_retry: ClassVar[bool | None] = None
    default_retry_after_s: ClassVar[float | None] = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = self.default_retry_after_s if retry_after_s is None else retry_after_s
        self.details = details or {}


class InvalidRequest(GatewayError):
    status, code, type, should_retry = 400, "invalid_request_error", "invalid_request_error", False


class UnsupportedContent(InvalidRequest):
    """Content the chosen vendor cannot take (a tuning knob would be dropped with a note instead)."""

    code = "unsupported_content"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class PriceUnknown(InvalidRequest):
    code = "model_price_unknown"


class InvalidApiKey(GatewayError):
    status, code, type, should_retry = 401, "invalid_api_key", "authentication_error", False


class PermissionDenied(GatewayError):
    status, code, type, should_retry = 403, "permission_denied", "permission_error", False


class ModelNotAllowed(PermissionDenied):
    code = "model_not_allowed"


class NotFound(GatewayError):
    status, code, type, should_retry = 404, "not_found", "invalid_request_error", False


class ModelNotFound(NotFound):
    code = "model_not_found"


class MethodNotAllowed(GatewayError):
    status, code, type, should_retry = 405, "method_not_allowed", "invalid_request_error", False


class IdempotencyConflict(GatewayError):
    """The same idempotency key with another request, or for an answer that cannot be replayed."""

    status, code, type, should_retry = 409, "idempotency_conflict", "invalid_request_error", False


class RequestTooLarge(GatewayError):
    status, code, type, should_retry = 413, "request_too_large", "invalid_request_error", False


class BudgetExceeded(GatewayError):
    """A hard cap leaves no room; ``details`` say which scope, cap, spent and resets_at."""

    status, code, type, should_retry = 402, "budget_exceeded", "insufficient_quota", False


class RateLimitExceeded(GatewayError):
    status, code, type = 429, "rate_limit_exceeded", "rate_limit_error"
    default_retry_after_s = 1.0


class QuotaExceeded(RateLimitExceeded):
    """What the tenant's plan includes is used up."""

    code, type, should_retry = "quota_exceeded", "insufficient_quota", False


class InternalError(GatewayError):
    """A bug of ours; the message says no more than that, the log says the rest."""


class ProviderError(GatewayError):
    """What a vendor, or the way to it, did to one attempt (or to every attempt of a request).

    ``vendor_status`` is the HTTP status the vendor answered with (None: it did not answer);
    ``kind`` is one of ``connect``, ``timeout``, ``reset``, ``protocol``, ``status``, ``stream``;
    ``retryable`` says whether another target may do better.
    """

    status, code, type = 502, "provider_error", "server_error"

    def __init__(
        self,
        message: str,
        *,
        kind: str = "status",
        vendor_status: int | None = None,
        vendor_code: str | None = None,
        retryable: bool = True,
        retry_after_s: float | None = None,
        param: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s, details=details)
        self.kind = kind
        self.vendor_status = vendor_status
        self.vendor_code = vendor_code
        self.retryable = retryable


class AllTargetsFailed(ProviderError):
    """The end of the fallback chain; ``details['attempts']`` lists what was tried, without secrets."""

    def __init__(self, message: str, attempts: Sequence[dict[str, Any]], retry_after_s: float | None = None) -> None:
        super().__init__(message, retryable=False, retry_after_s=retry_after_s, details={"attempts": list(attempts)})


class Overloaded(GatewayError):
    status, code, type = 503, "overloaded", "server_error"
    default_retry_after_s = 2.0


class LedgerUnavailable(Overloaded):
    """Nothing is sent to a vendor that the ledger has not written down first."""

    code = "budget_unavailable"


class ShuttingDown(Overloaded):
    """This process is ending, and the call took longer than its drain; another process can serve it."""

    def __init__(self) -> None:
        super().__init__("The gateway is restarting. Try again.")


class NoProviderConfigured(Overloaded):
    code = "no_provider_configured"
    default_retry_after_s = 30.0


class GatewayTimeout(GatewayError):
    status, code, type = 504, "timeout", "server_error"
