"""From a list of targets to one answer: each attempt is written down, tried, and settled.

An attempt's row is committed before the vendor is called and settled whatever happens to it: an answer, a
refusal, a cut, a caller who hangs up. A target that fails before the caller has seen anything hands over to the
next one; a stream that fails later is completed by the next one where that is sound.

    attempt      one call of one vendor, from admission to settlement
    retries      whether the same target is asked again, and the budget for that
    dispatcher   the fallback chain, and hedging
    streams      a vendor's stream with its accounting
    rescue       the rest of a stream that broke off, from another target
    unattended   vendors' answers that are read although their callers have left
"""

from gateway.dispatch.attempt import Job, OpenAttempt, StalePolicy
from gateway.dispatch.dispatcher import Dispatcher
from gateway.dispatch.streams import DrainedStream, ServedStream
from gateway.dispatch.unattended import drained

__all__ = ["Dispatcher", "DrainedStream", "Job", "OpenAttempt", "ServedStream", "StalePolicy", "drained"]
