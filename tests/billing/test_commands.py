"""``import_prices``; ``export_ledger`` is tested with the export itself."""

from io import StringIO

import pytest
from django.core.management import call_command

from audit.models import AuditEvent
from billing.models import PriceVersion

pytestmark = pytest.mark.django_db


def test_the_shipped_prices_are_imported_once() -> None:
    out = StringIO()
    call_command("import_prices", stdout=out)
    count = PriceVersion.objects.count()
    assert out.getvalue().startswith(f"{count} prices added, 0 were known, ")
    assert count > 0
    out = StringIO()
    call_command("import_prices", stdout=out)
    assert out.getvalue().startswith(f"0 prices added, {count} were known, ")
    assert PriceVersion.objects.count() == count
    assert set(AuditEvent.objects.values_list("actor_label", flat=True)) == {"manage.py import_prices"}


def test_what_is_skipped_is_listed_when_asked_for() -> None:
    err = StringIO()
    call_command("import_prices", verbosity=2, stdout=StringIO(), stderr=err)
    assert err.getvalue().startswith("skipped: ")
