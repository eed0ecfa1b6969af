"""Prices of what vendors serve in their priority tiers."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0012_rollup_mark"),
    ]

    operations = [
        migrations.AddField(
            model_name="priceversion",
            name="priority",
            field=models.JSONField(
                blank=True,
                help_text='Prices of what the vendor served in its priority tier: {"input": "2.5", ...}',
                null=True,
            ),
        ),
    ]
