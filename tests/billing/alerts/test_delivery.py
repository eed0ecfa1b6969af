"""Delivery: what arrives, in what form, how often it is tried, and when it counts as sent."""

import hashlib
import hmac
import json
import logging
import time
from datetime import timedelta
from email import message_from_string, policy
from email.utils import format_datetime
from typing import Any

import pytest
from django.utils import timezone

from billing.alerts import delivery
from billing.alerts.book import resolve_alert
from billing.alerts.delivery import BACK_OFF, CLAIM, LONGEST_ASKED, deliver_pending, send_test
from billing.models import AlertChannel, AlertDelivery, Plan, Subscription
from tenants.models import Tenant

from .conftest import NOW, Endpoint, MailServer, make_channel, open_error_rate

pytestmark = pytest.mark.django_db
SECRET = "whsec-canary-3141"


def state() -> tuple[str, int, str]:
    row = AlertDelivery.objects.get()
    return row.status, row.tries, row.last_error


# --------------------------------------------------------------------------- webhooks


@pytest.fixture
def hook(tenant: Tenant, endpoint: Endpoint) -> AlertChannel:
    channel = make_channel(tenant, address=endpoint.url())
    channel.set_secret(SECRET)
    channel.save()
    return channel


def test_a_webhook_is_signed_and_says_what_happened(hook: AlertChannel, endpoint: Endpoint) -> None:
    alert = open_error_rate(hook)
    assert deliver_pending(NOW) == {"sent": 1, "retried": 0, "failed": 0}
    (received,) = endpoint.received
    assert json.loads(received.body) == {
        "event": "opened",
        "alert": {
            "id": str(alert.pk),
            "kind": "error_rate",
            "message": "20 % of 10 requests failed within 30 minutes (threshold: 10 %).",
            "opened_at": "2026-11-18T12:00:00+00:00",
            "resolved_at": None,
            "facts": {"percent": "20", "requests": 10},
        },
        "tenant": "acme",
    }
    parts = dict(part.split("=", 1) for part in received.headers["x-pointsman-signature"].split(","))
    expected = hmac.new(SECRET.encode(), f"{parts['t']}.".encode() + received.body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(parts["v1"], expected)
    assert abs(time.time() - int(parts["t"])) < 120
    row = AlertDelivery.objects.get()
    assert received.headers["x-pointsman-delivery"] == str(row.pk)
    assert (row.status, row.tries, row.last_error, row.next_try_at) == ("sent", 1, "", None)
    assert row.sent_at >= NOW
    assert deliver_pending(NOW + timedelta(days=2)) == {"sent": 0, "retried": 0, "failed": 0}


def test_without_a_secret_nothing_is_signed(tenant: Tenant, endpoint: Endpoint) -> None:
    open_error_rate(make_channel(tenant, address=endpoint.url()))
    deliver_pending(NOW)
    assert "x-pointsman-signature" not in endpoint.received[0].headers


def test_a_secret_that_does_not_belong_to_the_address_is_never_used(hook: AlertChannel, endpoint: Endpoint) -> None:
    AlertChannel.objects.update(address=endpoint.url("/200/elsewhere"))
    open_error_rate(hook)
    deliver_pending(NOW)
    assert endpoint.received == []
    assert state() == ("pending", 1, "The channel's secret cannot be decrypted.")


def test_slack_gets_text_that_cannot_mention_anybody(tenant: Tenant, endpoint: Endpoint) -> None:
    open_error_rate(make_channel(tenant, kind="slack", address=endpoint.url()), message="Budget of <!channel>\nx & y")
    deliver_pending(NOW)
    assert json.loads(endpoint.received[0].body) == {"text": "*acme*: Budget of &lt;!channel&gt; x &amp; y"}


def test_a_failing_endpoint_is_tried_with_back_off_and_then_given_up(
    hook: AlertChannel, endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    AlertChannel.objects.update(address=endpoint.url(f"/503/{SECRET}"), secret_ciphertext=b"")
    open_error_rate(hook)
    now = NOW
    for tries, wait in enumerate(BACK_OFF, start=1):
        assert deliver_pending(now) == {"sent": 0, "retried": 1, "failed": 0}
        assert deliver_pending(now + wait - timedelta(seconds=1)) == {"sent": 0, "retried": 0, "failed": 0}
        assert state() == ("pending", tries, "The endpoint answered 503.")
        now = AlertDelivery.objects.get().next_try_at
    assert deliver_pending(now) == {"sent": 0, "retried": 0, "failed": 1}
    assert state() == ("failed", 6, "The endpoint answered 503.")
    assert deliver_pending(now + timedelta(days=2)) == {"sent": 0, "retried": 0, "failed": 0}
    assert len(endpoint.received) == 6
    assert len({received.headers["x-pointsman-delivery"] for received in endpoint.received}) == 1
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("status", "retry_after", "wait"),
    [
        (429, "600", timedelta(minutes=10)),
        (503, "600.5", timedelta(minutes=10, milliseconds=500)),
        (429, "5", BACK_OFF[0]),
        (429, "90000", LONGEST_ASKED),
        (429, "soon", BACK_OFF[0]),
        (500, "600", BACK_OFF[0]),
    ],
)
def test_an_endpoint_that_asks_for_it_is_left_alone_for_so_long(
    tenant: Tenant, endpoint: Endpoint, status: int, retry_after: str, wait: timedelta
) -> None:
    endpoint.retry_after = retry_after
    open_error_rate(make_channel(tenant, address=endpoint.url(f"/{status}")))
    assert deliver_pending(NOW) == {"sent": 0, "retried": 1, "failed": 0}
    waits = AlertDelivery.objects.get().next_try_at - NOW
    assert wait <= waits < wait + timedelta(seconds=30)  # it counts from the refusal on


def test_an_endpoint_may_name_the_moment_instead(tenant: Tenant, endpoint: Endpoint) -> None:
    endpoint.retry_after = format_datetime(timezone.now() + timedelta(minutes=20), usegmt=True)
    open_error_rate(make_channel(tenant, address=endpoint.url("/503")))
    deliver_pending(NOW)
    waits = AlertDelivery.objects.get().next_try_at - NOW
    assert timedelta(minutes=19) < waits < timedelta(minutes=21)


def test_a_webhook_beyond_the_plan_gets_nothing_and_the_job_says_so(hook: AlertChannel, endpoint: Endpoint) -> None:
    Subscription.objects.create(tenant=hook.tenant, plan=Plan.objects.create(name="small", features=[]))
    open_error_rate(hook)
    assert deliver_pending(NOW) == {"sent": 0, "retried": 0, "failed": 1, "not_in_plan": ["acme"]}
    assert state() == ("failed", 1, "The plan 'small' does not include the feature 'webhooks'.")
    assert send_test(hook) == "The plan 'small' does not include the feature 'webhooks'."
    assert endpoint.received == []


def test_an_endpoint_that_recovers_gets_the_message(hook: AlertChannel, endpoint: Endpoint) -> None:
    AlertChannel.objects.update(address=endpoint.url("/500"), secret_ciphertext=b"")
    open_error_rate(hook)
    deliver_pending(NOW)
    AlertChannel.objects.update(address=endpoint.url("/204"))
    assert deliver_pending(NOW + timedelta(minutes=2))["sent"] == 1
    assert state() == ("sent", 2, "")


def test_a_redirect_is_not_followed(tenant: Tenant, endpoint: Endpoint) -> None:
    open_error_rate(make_channel(tenant, address=endpoint.url("/307")))
    deliver_pending(NOW)
    assert [received.path for received in endpoint.received] == ["/307"]
    assert state() == ("pending", 1, "The endpoint answered 307; redirects are not followed.")


def test_a_slow_endpoint_costs_its_deadline_and_holds_up_nobody(
    tenant: Tenant, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    from billing.alerts import sending
    from gateway.providers.outbound import Deadlines

    monkeypatch.setattr(sending, "DEADLINES", Deadlines(first_byte=0.5, total=0.5))
    slow = make_channel(tenant, "slow", address=endpoint.url("/slow"))
    open_error_rate(slow, make_channel(tenant, "quick", address=endpoint.url()))
    assert deliver_pending(NOW) == {"sent": 1, "retried": 1, "failed": 0}
    assert AlertDelivery.objects.get(channel=slow).last_error == "The endpoint did not answer in time."


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("http://example.com/hook", "must begin with https"),
        ("https://10.0.0.7/hook", "not on the public internet"),
        ("https://user:pw@example.com/hook", "user name or password"),
        ("http://169.254.169.254/latest", "not on the public internet"),
        ("http://[::ffff:10.0.0.1]/", "not on the public internet"),
    ],
)
def test_addresses_behind_the_firewall_are_refused(tenant: Tenant, address: str, why: str) -> None:
    open_error_rate(make_channel(tenant, address=address))
    deliver_pending(NOW)
    status, _, error = state()
    assert status == "pending"
    assert why in error


def test_proxies_of_the_environment_are_not_used(
    hook: AlertChannel, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    open_error_rate(hook)
    assert deliver_pending(NOW)["sent"] == 1


def test_nobody_listening_is_a_failure_in_plain_words(tenant: Tenant) -> None:
    open_error_rate(make_channel(tenant, address="http://127.0.0.1:1/T0/B0/slack-secret"))
    deliver_pending(NOW)
    assert state() == ("pending", 1, "The endpoint could not be reached.")


def test_a_channel_that_was_switched_off_gets_nothing(hook: AlertChannel, endpoint: Endpoint) -> None:
    open_error_rate(hook)
    AlertChannel.objects.update(enabled=False)
    assert deliver_pending(NOW)["failed"] == 1
    assert (state(), endpoint.received) == (("failed", 1, "The channel is switched off."), [])


def test_what_nobody_foresaw_stops_one_message_and_tells_no_address(
    hook: AlertChannel, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = make_channel(hook.tenant, "other", kind="slack", address=endpoint.url())
    open_error_rate(hook, other)
    monkeypatch.setattr(AlertChannel, "reveal_secret", lambda self: {}[SECRET])
    with caplog.at_level(logging.DEBUG):
        assert deliver_pending(NOW) == {"sent": 1, "retried": 1, "failed": 0}
    assert AlertDelivery.objects.get(channel=hook).last_error == "The message could not be sent (KeyError)."
    assert SECRET not in caplog.text


# --------------------------------------------------------------------------- workers


def test_what_a_dead_worker_claimed_is_sent_after_its_claim(hook: AlertChannel, endpoint: Endpoint) -> None:
    open_error_rate(hook)
    (claimed,) = delivery._claim(NOW)  # and dies
    assert deliver_pending(NOW + CLAIM - timedelta(seconds=1))["sent"] == 0
    assert deliver_pending(NOW + CLAIM)["sent"] == 1
    assert endpoint.received[0].headers["x-pointsman-delivery"] == str(claimed.pk)


def test_a_worker_whose_claim_ran_out_does_not_undo_what_the_next_one_did(
    hook: AlertChannel, endpoint: Endpoint
) -> None:
    open_error_rate(hook)
    (claimed,) = delivery._claim(NOW)
    assert deliver_pending(NOW + CLAIM)["sent"] == 1
    delivery._write_down(delivery._Sent(claimed, delivery.NotTaken("late")), NOW + CLAIM)
    assert state() == ("sent", 2, "")


def test_the_end_is_told_after_the_beginning_even_if_that_arrives_late(hook: AlertChannel, endpoint: Endpoint) -> None:
    alert = open_error_rate(hook)
    AlertChannel.objects.update(address=endpoint.url("/503"), secret_ciphertext=b"")
    deliver_pending(NOW)
    assert resolve_alert(alert.pk, NOW + timedelta(seconds=30))
    assert AlertDelivery.objects.count() == 1
    AlertChannel.objects.update(address=endpoint.url())
    deliver_pending(NOW + timedelta(minutes=2))
    deliver_pending(NOW + timedelta(minutes=4))
    told = [json.loads(received.body) for received in endpoint.received if received.path == "/200"]
    assert [message["event"] for message in told] == ["opened", "resolved"]
    assert told[0]["alert"]["resolved_at"] is None
    assert told[1]["alert"]["resolved_at"] == "2026-11-18T12:00:30+00:00"
    assert not resolve_alert(alert.pk, NOW + timedelta(minutes=5))


# --------------------------------------------------------------------------- e-mail


@pytest.fixture
def mail(tenant: Tenant) -> AlertChannel:
    return make_channel(tenant, "mail", kind="email", address="ops@example.com")


def test_a_mail_counts_as_sent_when_the_server_took_it(mail: AlertChannel, mail_server: MailServer) -> None:
    alert = open_error_rate(mail)
    assert deliver_pending(NOW)["sent"] == 1
    ((recipient, source),) = mail_server.mails
    received = message_from_string(source, policy=policy.default)
    assert (recipient, received["From"]) == ("ops@example.com", "pointsman@example.com")
    assert received["Subject"] == "[Pointsman acme] 20 % of 10 requests failed within 30 minutes (threshold: 10 %)."
    assert received["Message-ID"] == f"<{AlertDelivery.objects.get().pk}@pointsman.invalid>"
    text = received.get_content()
    assert "requests: 10" in text
    assert f"Alert {alert.pk}" in text


def test_a_failed_mail_is_not_sent(mail: AlertChannel, mail_server: MailServer) -> None:
    mail_server.refuses["ops@example.com"] = 550
    open_error_rate(mail)
    assert deliver_pending(NOW) == {"sent": 0, "retried": 1, "failed": 0}
    assert state() == ("pending", 1, "The mail server refuses the address (550).")
    mail_server.down = True
    assert deliver_pending(NOW + timedelta(minutes=2))["retried"] == 1
    assert state() == ("pending", 2, "The mail server refuses (421).")
    assert mail_server.mails == []


def test_a_mail_server_that_is_away_is_a_failure(mail: AlertChannel, settings: Any) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1
    open_error_rate(mail)
    deliver_pending(NOW)
    assert state() == ("pending", 1, "The mail could not be sent (ConnectionRefusedError).")


def test_without_a_mail_server_mail_waits_and_says_why(mail: AlertChannel, settings: Any) -> None:
    settings.EMAIL_BACKEND, settings.EMAIL_HOST = "django.core.mail.backends.smtp.EmailBackend", ""
    open_error_rate(mail)
    deliver_pending(NOW)
    assert state() == ("pending", 1, "No mail server is configured (EMAIL_HOST).")


def test_who_has_a_mail_does_not_get_it_again_for_an_address_that_is_refused_for_good(
    tenant: Tenant, mail_server: MailServer
) -> None:
    mail_server.refuses["gone@example.com"] = 550
    open_error_rate(make_channel(tenant, kind="email", address="a@example.com, gone@example.com, b@example.com"))
    assert deliver_pending(NOW)["failed"] == 1
    assert state() == ("failed", 1, "1 of 3 addresses: The mail server refuses the address (550).")
    assert [recipient for recipient, _ in mail_server.mails] == ["a@example.com", "b@example.com"]


def test_an_address_that_is_refused_for_now_is_tried_again(tenant: Tenant, mail_server: MailServer) -> None:
    mail_server.refuses["b@example.com"] = 451
    open_error_rate(make_channel(tenant, kind="email", address="a@example.com,b@example.com"))
    assert deliver_pending(NOW)["retried"] == 1
    mail_server.refuses.clear()
    assert deliver_pending(NOW + timedelta(minutes=2))["sent"] == 1
    assert "b@example.com" in [recipient for recipient, _ in mail_server.mails]


def test_names_of_end_users_cannot_add_headers(mail: AlertChannel, mail_server: MailServer) -> None:
    open_error_rate(
        mail, message='Budget "x" of eve\r\nBcc: victim@example.com has passed 80 %', facts={"subject": "e\r\n.\r\n"}
    )
    assert deliver_pending(NOW)["sent"] == 1
    received = message_from_string(mail_server.mails[0][1], policy=policy.default)
    assert received["Bcc"] is None
    assert "eve Bcc: victim@example.com" in received["Subject"]


def test_a_subject_is_short(mail: AlertChannel, mail_server: MailServer) -> None:
    open_error_rate(mail, message="long " * 150)
    deliver_pending(NOW)
    assert len(message_from_string(mail_server.mails[0][1], policy=policy.default)["Subject"].strip()) <= 120


# --------------------------------------------------------------------------- tests of channels


def test_a_test_says_whether_it_was_taken(hook: AlertChannel, endpoint: Endpoint) -> None:
    assert send_test(hook) is None
    received = json.loads(endpoint.received[0].body)
    assert (received["event"], received["alert"]["message"]) == ("test", 'The channel "hook" works.')
    hook.change_address(endpoint.url("/404"))
    assert send_test(hook) == "The endpoint answered 404."
    assert AlertDelivery.objects.count() == 0


def test_a_channel_that_is_switched_off_can_be_tested(hook: AlertChannel) -> None:
    hook.enabled = False
    assert send_test(hook) is None


def test_operators_channels_have_no_tenant(endpoint: Endpoint) -> None:
    assert send_test(make_channel(None, address=endpoint.url())) is None
    assert json.loads(endpoint.received[0].body)["tenant"] is None
