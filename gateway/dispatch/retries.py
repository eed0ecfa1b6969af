"""Whether the same target is asked a second time, and how much of that it may be asked in all.

Only what a second call can mend is repeated: a connection that was reset, one odd 500, a rate limit that ends
sooner than another target would answer. A silent target is not asked twice, and a refusal stays one.
"""

import random
from collections import OrderedDict

from gateway.errors import ProviderError

SHARE = 0.2  # of the requests to a target may be repeated ...
FLOOR = 10.0  # ... and this many however few requests there are
JITTER_S = (0.02, 0.12)  # apart, so that callers who failed together do not come back together
_REMEMBERED_TARGETS = 10_000


class RetryBudgets:
    """One budget per circuit: each request adds a share of a retry, each retry takes a whole one."""

    def __init__(self, jitter: random.Random | None = None) -> None:
        self._left: OrderedDict[str, float] = OrderedDict()
        self._random = jitter or random.Random()  # noqa: S311 - jitter, not a secret

    def asked(self, circuit: str) -> None:
        """A request goes to this target for the first time."""
        left = self._left.get(circuit)
        if left is None:
            if len(self._left) >= _REMEMBERED_TARGETS:
                self._left.popitem(last=False)
            self._left[circuit] = FLOOR
        elif left < FLOOR:
            self._left[circuit] = left + SHARE

    def wait_before_retry(self, circuit: str, error: ProviderError, next_target_s: float | None) -> float | None:
        """Seconds until the same target is asked again after ``error``; None: go on without it.

        ``next_target_s`` is what another target is expected to take; None: there is none.
        """
        wait_s = self._worth_waiting(error, next_target_s)
        if wait_s is None or self._left.get(circuit, FLOOR) < 1:
            return None
        self._left[circuit] = self._left.get(circuit, FLOOR) - 1
        return wait_s + self._random.uniform(*JITTER_S)

    @staticmethod
    def _worth_waiting(error: ProviderError, next_target_s: float | None) -> float | None:
        if error.kind == "reset" or error.vendor_status == 500:
            return 0.0
        if error.vendor_status == 429 and error.retry_after_s is not None and next_target_s is not None:
            return error.retry_after_s if error.retry_after_s < next_target_s else None
        return None
