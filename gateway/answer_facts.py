"""What every answer says of itself: the metadata in its body, and its headers."""

import time
from collections.abc import Sequence
from typing import Any

from msgspec import Raw

from billing.admission import LONGEST_ANSWER
from gateway.call import NOT_FROM_CACHE, Call, Headers
from gateway.dispatch import Job, OpenAttempt
from gateway.selection import Selection

NAMED_BY_CALLER = {
    "strategy": "explicit",
    "task_type": None,
    "complexity": None,
    "reason": "the caller named the model",
    "propensity": 1.0,
    "experiment": None,
}
MEANWHILE = frozenset({"hedge", "rescue"})  # attempts whose time ran beside another's, or beside the stream
NOT_CACHED = {"kind": None, "similarity": None, "error_bound": None}


def metadata(call: Call, job: Job, attempt: OpenAttempt, dropped: Sequence[str]) -> dict[str, Any]:
    """The ``x-gateway`` object of a whole answer and of a stream's last chunk."""
    now = time.perf_counter()
    target, selection = attempt.target, call.outcome.selection if call.outcome else None
    told: dict[str, Any] = {
        "request_id": call.request_id,
        "provider": target.provider_name,
        "model": target.model_name,
        "routing_decision": _decision_in_words(job, attempt, selection),
        "routing": NAMED_BY_CALLER if selection is None else selection.as_metadata(),
        "latency_ms": round((now - call.received) * 1e6) / 1000,
        "overhead_ms": round(overhead_s(call, job, now) * 1e6) / 1000,
        "cost_usd": _json_usd(attempt.cost_pico),
        "cache_hit": False,
        "cache": NOT_CACHED,
        "fallback_used": job.fallback_used,
        "attempts": job.described_attempts(),
        "guardrails": [],
    }
    if dropped:
        told["dropped"] = list(dropped)
    return told


def _decision_in_words(job: Job, attempt: OpenAttempt, selection: Selection | None) -> str:
    if len(job.attempts) > 1:
        return f"{attempt.target.model_name}: {attempt.purpose} after {len(job.attempts) - 1} other attempts"
    return selection.choice.reason if selection is not None else f"{attempt.target.model_name}: named by the caller"


def overhead_s(call: Call, job: Job, now: float) -> float:
    """Our own part: the time until now less the time spent waiting for vendors' first events."""
    in_turn = sum([tried.vendor_s for tried in job.attempts if tried.purpose not in MEANWHILE])
    return max(0.0, (call.opened or now) - call.received - in_turn)


def answer_headers(call: Call, job: Job, attempt: OpenAttempt, dropped: Sequence[str]) -> Headers:
    """What every answer says in its headers, begun or whole."""
    target = attempt.target
    headers = [
        *call.answer_headers,
        NOT_FROM_CACHE,
        (b"x-gateway-provider", header(target.provider_name)),
        (b"x-gateway-model", header(target.model_name)),
        (b"x-gateway-fallback", b"true" if job.fallback_used else b"false"),
    ]
    if attempt.output_cap is not None and attempt.output_cap < (job.request.max_tokens or LONGEST_ANSWER):
        headers.append((b"x-gateway-max-tokens", b"%d" % attempt.output_cap))
    if dropped:  # the one place for it where a dialect has no room for metadata
        headers.append((b"x-gateway-dropped", header(", ".join(dropped))))
    return headers


def failure_headers(call: Call) -> Headers:
    """What an error says in its headers of the target that was tried last; nothing where none was."""
    job = call.outcome.job if call.outcome else None
    if job is None or not job.attempts:
        return []
    target = job.attempts[-1].target
    return [
        (b"x-gateway-provider", header(target.provider_name)),
        (b"x-gateway-model", header(target.model_name)),
        (b"x-gateway-fallback", b"false" if target is job.targets[0] else b"true"),
    ]


def _json_usd(cost_pico: int | None) -> Raw | None:
    """An exact JSON number; null where the price is not known, which is not 0."""
    return None if cost_pico is None else Raw(plain_usd(cost_pico).encode())


def plain_usd(cost_pico: int) -> str:
    """Of a cost, which is never negative: exact, without exponent and trailing zeros."""
    whole, rest = divmod(cost_pico, 10**12)
    return f"{whole}.{rest:012}".rstrip("0").rstrip(".")


def header(value: str) -> bytes:
    """Names are the tenant's own: what a header cannot carry is replaced."""
    return value.encode("ascii", "replace").replace(b"\r", b"?").replace(b"\n", b"?")
