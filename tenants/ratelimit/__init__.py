"""Rate limits by requests, tokens and concurrency: exact across processes by way of Redis, approximate but never absent
without it.

    rules     what is limited: buckets that drain, slots that are taken and given back
    script    the decision, in Redis, about all requests of a tick at once
    local     the same arithmetic within one process
    verdict   what the rules of one request said together
    limiter   asks Redis, holds what admitted requests hold, and does without Redis
    limits    which of a tenant's limits hold for a request
    telling   what a caller is told of them
"""

from tenants.ratelimit.limiter import RateLimiter
from tenants.ratelimit.limits import Asked, LimitFacts, rules_of, that_may_hold
from tenants.ratelimit.local import LocalBuckets
from tenants.ratelimit.rules import Correction, Rule, Slots
from tenants.ratelimit.verdict import Lease, Verdict

__all__ = [
    "Asked",
    "Correction",
    "Lease",
    "LimitFacts",
    "LocalBuckets",
    "RateLimiter",
    "Rule",
    "Slots",
    "Verdict",
    "rules_of",
    "that_may_hold",
]
