"""The ledger as a file."""

import csv
import json
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import uuid_utils.compat
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection

from billing.export import COLUMNS, export
from billing.models import Attempt, PriceVersion, Settlement
from gateway.models import Model, Provider
from tenants.models import ApiToken, Project, Tenant

pytestmark = pytest.mark.django_db
STARTED_AT = datetime.now(UTC).replace(microsecond=250_000)

AddAttempt = Callable[..., Attempt]


@pytest.fixture
def add_attempt() -> AddAttempt:
    """Adds an attempt of a tenant and, given an ``outcome``, its settlement."""

    def add(slug: str = "acme", outcome: str | None = None, model: str = "small", **facts: Any) -> Attempt:
        tenant, _ = Tenant.objects.get_or_create(slug=slug)
        project, _ = Project.objects.get_or_create(tenant=tenant, slug="web")
        provider, _ = Provider.objects.get_or_create(tenant=tenant, name="lab", defaults={"kind": "vllm"})
        row, _ = Model.objects.get_or_create(
            tenant=tenant, name=model, defaults={"provider": provider, "vendor_model": f"{model}-tok8"}
        )
        token, _ = ApiToken.objects.get_or_create(
            tenant=tenant, project=project, name="ci", defaults={"digest": slug.encode().ljust(32), "pepper_number": 1}
        )
        attempt = Attempt.objects.create(
            request_id=uuid_utils.compat.uuid7(),
            tenant=tenant,
            project=project,
            token=token,
            purpose="serve",
            provider=provider,
            model=row,
            vendor_model=row.vendor_model,
            process_id=uuid_utils.compat.uuid7(),
            started_at=facts.pop("started_at", STARTED_AT),
        )
        if outcome:
            defaults = {"usage_source": "vendor", "ended_at": STARTED_AT}
            Settlement.objects.create(attempt=attempt, tenant=tenant, outcome=outcome, **defaults | facts)
        return attempt

    return add


def lines(**options: Any) -> list[dict[str, Any]]:
    out = StringIO()
    export(out, **options)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def rows(**options: Any) -> list[dict[str, str]]:
    out = StringIO()
    export(out, format="csv", **options)
    return list(csv.DictReader(StringIO(out.getvalue())))


def test_a_settled_attempt_has_every_column_in_order(add_attempt: AddAttempt) -> None:
    attempt = add_attempt()
    price = PriceVersion.objects.create(
        tenant=attempt.tenant, model=attempt.model, effective_from=STARTED_AT, input=1, output=2
    )
    Settlement.objects.create(
        attempt=attempt, tenant=attempt.tenant, outcome="settled", usage_source="vendor", ended_at=STARTED_AT,
        input_tokens=10, cached_input_tokens=4, cache_write_5m_tokens=2, cache_write_1h_tokens=3, output_tokens=8,
        reasoning_tokens=5, cost_usd=Decimal("0.000026500000"), price_version=price, service_tier="flex",
    )  # fmt: skip
    (line,) = lines()
    settled_at = line.pop("settled_at")
    assert datetime.fromisoformat(settled_at).tzinfo is not None
    assert list(line) == [column for column in COLUMNS if column != "settled_at"]
    assert line == {
        "request_id": str(attempt.request_id),
        "attempt_id": str(attempt.pk),
        "tenant": "acme",
        "project": "web",
        "token": "ci",
        "provider": "lab",
        "model": "small",
        "vendor_model": "small-tok8",
        "purpose": "serve",
        "state": "settled",
        "input_tokens": 10,
        "cached_input_tokens": 4,
        "cache_write_tokens": 5,
        "output_tokens": 8,
        "reasoning_tokens": 5,
        "cost_usd": "0.0000265",
        "price_version": str(price.pk),
        "estimated": False,
        "started_at": STARTED_AT.strftime("%Y-%m-%dT%H:%M:%S.250000Z"),
        "service_tier": "flex",
    }


def test_an_open_attempt_has_no_figures(add_attempt: AddAttempt) -> None:
    add_attempt()
    (line,) = lines()
    assert line["state"] == "open"
    assert [line[key] for key in ("input_tokens", "cost_usd", "estimated", "settled_at")] == [None] * 4


@pytest.mark.parametrize("outcome", ["settled", "failed", "cancelled", "abandoned"])
def test_the_state_is_the_outcome(add_attempt: AddAttempt, outcome: str) -> None:
    add_attempt(outcome=outcome)
    assert lines()[0]["state"] == outcome


@pytest.mark.parametrize(("source", "estimated"), [("vendor", False), ("counted", True), ("estimated", True)])
def test_what_the_vendor_did_not_say_is_estimated(add_attempt: AddAttempt, source: str, estimated: bool) -> None:
    add_attempt(outcome="settled", usage_source=source)
    assert lines()[0]["estimated"] is estimated
    assert rows()[0]["estimated"] == str(estimated).lower()


@pytest.mark.parametrize(
    ("cost", "shown"), [(None, None), ("0", "0"), ("0.000000000001", "0.000000000001"), ("1200", "1200")]
)
def test_costs_are_plain_decimals_and_unknown_is_not_zero(
    add_attempt: AddAttempt, cost: str | None, shown: str | None
) -> None:
    add_attempt(outcome="settled", cost_usd=cost and Decimal(cost))
    assert lines()[0]["cost_usd"] == shown
    assert rows()[0]["cost_usd"] == (shown or "")


def test_csv_neutralises_formulas(add_attempt: AddAttempt) -> None:
    add_attempt(model="=HYPERLINK(1)")
    assert rows()[0]["model"] == "'=HYPERLINK(1)"
    assert lines()[0]["model"] == "=HYPERLINK(1)"


def test_the_export_is_limited_to_a_tenant_and_a_time(add_attempt: AddAttempt) -> None:
    day = timedelta(days=1)
    first = add_attempt(started_at=STARTED_AT - day)
    second = add_attempt()
    add_attempt(slug="rival")
    acme = Tenant.objects.get(slug="acme")
    ids = [line["attempt_id"] for line in lines(tenant=acme)]
    assert ids == [str(first.pk), str(second.pk)]
    assert [line["attempt_id"] for line in lines(tenant=acme, until=STARTED_AT)] == [str(first.pk)]
    assert [line["attempt_id"] for line in lines(tenant=acme, since=STARTED_AT)] == [str(second.pk)]


def test_the_command_writes_to_a_file_or_standard_output(add_attempt: AddAttempt, tmp_path: Path) -> None:
    add_attempt(outcome="settled")
    out, err = StringIO(), StringIO()
    call_command("export_ledger", stdout=out)
    assert json.loads(out.getvalue())["tenant"] == "acme"
    path = tmp_path / "ledger.csv"
    call_command("export_ledger", "--format", "csv", "--output", str(path), "--tenant", "acme", stderr=err)
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS)
    assert err.getvalue() == f"1 lines written to {path}.\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--tenant", "nobody"), "There is no tenant 'nobody'"),
        (("--from", "yesterday"), "must be a date or time"),
        (("--output", "/no/such/folder/ledger.csv"), "No such file or directory"),
    ],
)
def test_the_command_says_what_is_wrong(arguments: tuple[str, ...], reason: str) -> None:
    with pytest.raises(CommandError, match=reason):
        call_command("export_ledger", *arguments)


def test_memory_does_not_grow_with_the_ledger(add_attempt: AddAttempt) -> None:
    template = add_attempt(outcome="settled")

    def peak_bytes() -> int:
        tracemalloc.start()
        with Path("/dev/null").open("w") as out:
            export(out)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    def grow(count: int) -> None:
        columns = ", ".join(field.column for field in Attempt._meta.concrete_fields if not field.primary_key)
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO billing_attempt (id, {columns}) "
                f"SELECT uuidv7(), {columns} FROM billing_attempt, generate_series(1, %s) WHERE id = %s",
                [count, template.pk],
            )

    grow(5_000)
    small = peak_bytes()
    grow(15_000)
    assert peak_bytes() < small * 1.3
