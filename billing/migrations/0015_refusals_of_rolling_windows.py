"""A refusal by a rolling window tells when something of it is free again."""

from django.db import migrations

from billing import schema


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0014_rollups_by_time_and_tenant"),
    ]

    operations = [
        migrations.RunSQL(schema.ledger_functions(), migrations.RunSQL.noop),
    ]
