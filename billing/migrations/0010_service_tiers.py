"""Prices of batches and the flex tier; the tier of service in which a call was served, as settlements note it."""

from django.db import migrations, models

from billing import schema


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0009_quality_alerts"),
    ]

    operations = [
        migrations.AddField(
            model_name="priceversion",
            name="batch",
            field=models.JSONField(
                blank=True,
                help_text='Prices of what the vendor served as a batch or in its flex tier: {"input": "0.6", ...}',
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="settlement",
            name="service_tier",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="In which of its tiers the vendor served the call. Empty: the standard one.",
                max_length=12,
            ),
        ),
        migrations.RunSQL(schema.ledger_functions()),
    ]
