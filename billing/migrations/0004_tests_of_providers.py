"""A check of a provider is on the ledger too: it belongs to no project, and perhaps to no model or tenant."""

import django.db.models.deletion
from django.db import migrations, models

import gateway.rows


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0003_retry_purpose"),
        ("gateway", "0004_deployments"),
        ("tenants", "0002_guarantees"),
    ]

    operations = [
        migrations.AlterField(
            model_name="attempt",
            name="model",
            field=models.ForeignKey(
                help_text="Empty: a test of a model the vendor has, not configured here.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="attempts",
                to="gateway.model",
            ),
        ),
        migrations.AlterField(
            model_name="attempt",
            name="project",
            field=gateway.rows.TenantForeignKey(
                null=True, on_delete=django.db.models.deletion.PROTECT, related_name="attempts", to="tenants.project"
            ),
        ),
        migrations.AlterField(
            model_name="attempt",
            name="tenant",
            field=models.ForeignKey(
                help_text="Empty: the installation tried out a provider of its own.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="attempts",
                to="tenants.tenant",
            ),
        ),
        migrations.AlterField(
            model_name="settlement",
            name="tenant",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.PROTECT, related_name="settlements", to="tenants.tenant"
            ),
        ),
    ]
