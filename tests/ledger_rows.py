"""Rows as the hot path leaves them, for tests of the pages that show them."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import uuid_utils.compat

from billing.models import Attempt, Settlement
from gateway.models import Model, RequestLog
from gateway.rows import first_id
from tenants.models import ApiToken


def id_at(moment: datetime) -> UUID:
    """A UUIDv7 of that moment, unlike any other."""
    return UUID(int=first_id(moment).int | (uuid_utils.compat.uuid7().int & ((1 << 80) - 1)))


def log_request(token: ApiToken, at: datetime | None = None, **values: Any) -> RequestLog:
    at = at or datetime.now(UTC)
    facts = {
        "dialect": "openai_chat",
        "streamed": False,
        "requested_model": "small",
        "model_name": "small",
        "provider_name": "lab",
        "status": 200,
        "latency_ms": 400.0,
        "overhead_ms": 1.0,
        "cost_usd": Decimal("0.000123"),
    } | values
    return RequestLog.objects.create(
        id=id_at(at), tenant=token.tenant, project=token.project, token=token, started_at=at, **facts
    )


def open_attempt(token: ApiToken, model: Model, at: datetime | None = None, **values: Any) -> Attempt:
    at = at or datetime.now(UTC)
    facts = {"request_id": uuid_utils.compat.uuid7(), "purpose": Attempt.Purpose.SERVE} | values
    return Attempt.objects.create(
        id=id_at(at), tenant=token.tenant, project=token.project, token=token, provider=model.provider, model=model,
        vendor_model=model.vendor_model, process_id=uuid_utils.compat.uuid7(), started_at=at, **facts,
    )  # fmt: skip


def settle(attempt: Attempt, **values: Any) -> Settlement:
    facts = {
        "outcome": Settlement.Outcome.SETTLED,
        "input_tokens": 100,
        "output_tokens": 20,
        "usage_source": Settlement.UsageSource.VENDOR,
        "cost_usd": Decimal("0.000123"),
        "ended_at": attempt.started_at + timedelta(milliseconds=400),
    } | values
    return Settlement.objects.create(attempt=attempt, tenant=attempt.tenant, **facts)
