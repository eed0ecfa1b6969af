"""Brings one message to one channel: by e-mail, or by HTTP through the guarded transport."""

import asyncio
import smtplib
import time
from contextlib import suppress
from typing import Final

from django.conf import settings
from django.core.mail import EmailMessage, get_connection
from django.core.mail.backends.base import BaseEmailBackend

from billing.alerts.messages import DELIVERY_HEADER, SIGNATURE_HEADER, Message, signature
from billing.models import AlertChannel
from gateway.errors import ProviderError
from gateway.providers.addresses import AddressGuard, ForbiddenAddress
from gateway.providers.outbound import Deadlines, OutboundRequest
from gateway.providers.transport import Transport
from gateway.wire.refusals import parse_retry_after
from tenants.crypto import DecryptionFailed

DEADLINES: Final = Deadlines(connect=5.0, first_byte=10.0, first_token=10.0, between_chunks=10.0, total=10.0)
SMTP_TIMEOUT_S: Final = 10.0
"""For each exchange with the mail server, unless EMAIL_TIMEOUT says otherwise."""

_SMTP_BACKEND: Final = "django.core.mail.backends.smtp.EmailBackend"
_BUSY: Final = frozenset({429, 503})
_FAILURES: Final = {
    "timeout": "The endpoint did not answer in time.",
    "connect": "The endpoint could not be reached.",
    "reset": "The endpoint closed the connection.",
    "protocol": "The endpoint's answer is not valid HTTP.",
}


class NotTaken(Exception):
    """Why the other side did not take a message, in words that name no address and no secret. ``final``: another try
    cannot help, or would do harm; ``retry_after_s``: for how many seconds it asks to be left alone."""

    def __init__(self, reason: str, *, final: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.final = final
        self.retry_after_s = retry_after_s


async def send(channel: AlertChannel, message: Message, transport: Transport) -> None:
    """Returns once the other side has taken ``message``. Raises NotTaken."""
    if channel.kind == AlertChannel.Kind.EMAIL:
        await asyncio.to_thread(_mail, channel, message)
    elif channel.kind == AlertChannel.Kind.SLACK:
        await _post(channel.address, message.slack_body(), {}, transport)
    else:
        body = message.webhook_body()
        await _post(channel.address, body, _signed(channel, body) | {DELIVERY_HEADER: message.id}, transport)


def guarded_transport() -> Transport:
    """https to public addresses, or where the operator's ALLOWED_UPSTREAMS leads; one per event loop."""
    return Transport(AddressGuard(settings.ALLOWED_UPSTREAMS))


# --------------------------------------------------------------------------- webhooks


def _signed(channel: AlertChannel, body: bytes) -> dict[str, str]:
    try:
        secret = channel.reveal_secret()
    except DecryptionFailed:
        raise NotTaken("The channel's secret cannot be decrypted.") from None
    return {SIGNATURE_HEADER: signature(secret, int(time.time()), body)} if secret else {}


async def _post(url: str, body: bytes, headers: dict[str, str], transport: Transport) -> None:
    request = OutboundRequest(url, {"content-type": "application/json", **headers}, body)
    try:
        response = await transport.send(request, DEADLINES)
    except ProviderError as exc:
        raise NotTaken(_explained(exc)) from None
    status = response.status
    response.close()
    if 300 <= status < 400:
        raise NotTaken(f"The endpoint answered {status}; redirects are not followed.")
    if not 200 <= status < 300:
        asked = parse_retry_after(response.headers) if status in _BUSY else None
        raise NotTaken(f"The endpoint answered {status}.", retry_after_s=asked or 0.0)


def _explained(exc: ProviderError) -> str:
    return str(exc.__cause__) if isinstance(exc.__cause__, ForbiddenAddress) else _FAILURES[exc.kind]


# --------------------------------------------------------------------------- e-mail


def _mail(channel: AlertChannel, message: Message) -> None:
    """One mail for each address, as a mail server says only of a single one whether it was taken."""
    addresses = [address for address in channel.recipients() if address]
    if not addresses:
        raise NotTaken("The channel has no address.")
    if settings.EMAIL_BACKEND == _SMTP_BACKEND and not settings.EMAIL_HOST:
        raise NotTaken("No mail server is configured (EMAIL_HOST).")
    connection = get_connection(timeout=settings.EMAIL_TIMEOUT or SMTP_TIMEOUT_S)
    try:
        connection.open()
        refusals = [_mail_to(address, message, connection) for address in addresses]
    except (OSError, ValueError) as exc:
        raise _refusal(exc) from None
    finally:
        with suppress(OSError):  # a server that is rude at the end has taken the mail nevertheless
            connection.close()
    _judge(refusals)


def _judge(refusals: list[NotTaken | None]) -> None:
    """``refusals``: for each address, None where the mail was taken. Raises NotTaken unless all of them took it."""
    refused = [refusal for refusal in refusals if refusal is not None]
    if not refused:
        return
    if len(refusals) == 1:
        raise NotTaken(refused[0].reason)
    # Who has the mail would get it again with every try: worth it only if the others may take it then.
    in_vain = len(refused) < len(refusals) and all(refusal.final for refusal in refused)
    raise NotTaken(f"{len(refused)} of {len(refusals)} addresses: {refused[0].reason}", final=in_vain)


def _mail_to(address: str, message: Message, connection: BaseEmailBackend) -> NotTaken | None:
    mail = EmailMessage(
        message.subject,
        message.text,
        to=[address],
        connection=connection,
        headers={
            "Message-ID": f"<{message.id}@pointsman.invalid>",
            "Auto-Submitted": "auto-generated",
            DELIVERY_HEADER: message.id,
        },
    )
    try:
        return None if mail.send() else NotTaken("The mail server took nothing.")
    except (OSError, ValueError) as exc:
        return _refusal(exc)


def _refusal(exc: Exception) -> NotTaken:
    """smtplib's own errors are OSErrors and quote addresses; a bad address is a ValueError."""
    match exc:
        case smtplib.SMTPRecipientsRefused():
            code = min((reply[0] for reply in exc.recipients.values()), default=0)
            return NotTaken(f"The mail server refuses the address ({code}).", final=code >= 500)
        case smtplib.SMTPResponseException():
            return NotTaken(f"The mail server refuses ({exc.smtp_code}).", final=exc.smtp_code >= 500)
        case TimeoutError():
            return NotTaken("The mail server did not answer in time.")
        case ValueError():
            return NotTaken("The address is not valid.", final=True)
        case _:
            return NotTaken(f"The mail could not be sent ({type(exc).__name__}).")
