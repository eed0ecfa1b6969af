"""Admission and settlement with budgets: see billing.schema."""

from django.db import migrations

from billing import schema


class Migration(migrations.Migration):
    dependencies = [("billing", "0005_budgets_rollups_alerts")]
    operations = [migrations.RunSQL(schema.ledger_functions())]
