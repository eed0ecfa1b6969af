"""The one door to Stripe: meter events, through the official library.

A meter adds up what it is told. Whether something arrived is therefore the only thing that matters about a failure:
:class:`Refused` says that it did not, :class:`Unanswered` that nobody knows.
"""

from typing import Any, Final

import stripe
from django.conf import settings
from requests import exceptions
from urllib3.exceptions import NewConnectionError

CONNECT_S: Final = 5.0
ANSWER_S: Final = 20.0
_TOLD_BEFORE: Final = "already exists with identifier"
_CALLERS_FAULT: Final = range(400, 500)

stripe.enable_telemetry = False  # it would leave a file behind and tell how long calls took


class StripeFailed(Exception):
    """Stripe was not told, or may not have been. The message holds no secret and may be kept."""


class Refused(StripeFailed):
    """It did not arrive: Stripe says no, or could not be reached at all."""


class Unanswered(StripeFailed):
    """It may have arrived: send it again, with the same identifier."""


def is_configured() -> bool:
    return bool(settings.STRIPE_API_KEY)


def send_meter_event(meter: str, customer: str, value: int, identifier: str) -> None:
    """Add ``value`` to what a customer used of a meter (known by its event name), in the billing period of now.

    Returns when Stripe has it, also when it had it before: it refuses an identifier it was told within the last day.
    Raises Refused or Unanswered. Without a time of its own an event belongs to the moment it is received: one of a
    period whose invoice is final would never be billed.
    """
    try:
        _client().v1.billing.meter_events.create(
            {
                "event_name": meter,
                "payload": {"stripe_customer_id": customer, "value": str(value)},
                "identifier": identifier,
            }
        )
    except stripe.InvalidRequestError as exc:
        if _TOLD_BEFORE not in (exc.user_message or "") and exc.code != "duplicate_meter_event":
            raise Refused(_words(exc)) from exc
    except stripe.APIConnectionError as exc:
        raise (Refused if _never_left(exc.__cause__) else Unanswered)(_network_words(exc)) from exc
    except stripe.StripeError as exc:
        raise (Refused if exc.http_status in _CALLERS_FAULT else Unanswered)(_words(exc)) from exc


def _client() -> stripe.StripeClient:
    """It tries once: who sends again has to write down first that it does."""
    return stripe.StripeClient(
        settings.STRIPE_API_KEY,
        base_addresses={"api": settings.STRIPE_API_BASE},
        max_network_retries=0,
        http_client=stripe.RequestsClient(timeout=(CONNECT_S, ANSWER_S)),
    )


def _never_left(cause: BaseException | None) -> bool:
    """Whether there was no connection that anything could have gone out on."""
    if isinstance(cause, exceptions.ConnectTimeout | exceptions.SSLError):
        return True
    reason: Any = cause.args[0] if isinstance(cause, exceptions.ConnectionError) and cause.args else None
    return isinstance(getattr(reason, "reason", None), NewConnectionError)


def _network_words(exc: stripe.APIConnectionError) -> str:
    return f"Stripe did not answer ({type(exc.__cause__).__name__})."


def _words(exc: stripe.StripeError) -> str:
    """Of a key that is wrong, Stripe repeats a part."""
    if isinstance(exc, stripe.AuthenticationError | stripe.PermissionError):
        return f"{exc.http_status}: STRIPE_API_KEY is not accepted, or may not write meter events."
    said = " ".join(part for part in (exc.code, exc.user_message) if part)
    return f"{exc.http_status}: {said or 'no reason given'}"[:500]
