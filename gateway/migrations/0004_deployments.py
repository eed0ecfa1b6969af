"""Several ways to one model."""

import django.core.validators
import django.db.models.deletion
from django.db import migrations, models

import gateway.rows
from gateway import schema

TABLE = "gateway_deployment"


class Migration(migrations.Migration):
    dependencies = [
        ("gateway", "0003_hedging"),
        ("tenants", "0002_guarantees"),
    ]

    operations = [
        migrations.AddField(
            model_name="model",
            name="balancing",
            field=models.CharField(
                choices=[
                    ("ordered", "in order: the next one when one fails"),
                    ("weighted", "by weight"),
                    ("least_latency", "the fastest first"),
                ],
                db_default="ordered",
                default="ordered",
                help_text="How its deployments share the requests.",
                max_length=16,
            ),
        ),
        migrations.AlterField(
            model_name="model",
            name="hedging",
            field=models.BooleanField(
                db_default=False,
                default=False,
                help_text="Ask a second target as well when the first is slower than usual; the first token wins.",
            ),
        ),
        migrations.AlterField(
            model_name="provider",
            name="weight",
            field=models.PositiveSmallIntegerField(
                default=1,
                help_text="Its share of the requests to a model with several deployments. 0: only in reserve.",
            ),
        ),
        migrations.CreateModel(
            name="Deployment",
            fields=[
                (
                    "id",
                    models.UUIDField(default=gateway.rows.new_id, editable=False, primary_key=True, serialize=False),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                (
                    "vendor_model",
                    models.CharField(
                        blank=True,
                        help_text="What this vendor calls it. Empty: as the model's own vendor does.",
                        max_length=200,
                        validators=[
                            django.core.validators.RegexValidator(
                                "\\A[!-~]+\\Z",
                                "Use visible ASCII characters without spaces, as clients have to send this name.",
                            )
                        ],
                    ),
                ),
                (
                    "weight",
                    models.PositiveSmallIntegerField(
                        blank=True,
                        help_text="Its share of the requests. Empty: its provider's. 0: only when the others fail.",
                        null=True,
                    ),
                ),
                (
                    "position",
                    models.PositiveSmallIntegerField(default=0, help_text="Its place where they are tried in order."),
                ),
                (
                    "model",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="deployments", to="gateway.model"
                    ),
                ),
                (
                    "provider",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="deployments", to="gateway.provider"
                    ),
                ),
                (
                    "tenant",
                    models.ForeignKey(
                        blank=True,
                        editable=False,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        to="tenants.tenant",
                    ),
                ),
            ],
            options={
                "ordering": ("position", "id"),
                "constraints": [
                    models.UniqueConstraint(
                        fields=("model", "provider", "vendor_model"), name="deployment_once_per_model"
                    )
                ],
            },
        ),
        migrations.RunSQL(
            schema.same_tenant_or_installation(TABLE, "model_id", "gateway_model")
            + schema.same_tenant_or_installation(TABLE, "provider_id", "gateway_provider")
            + schema.row_level_security((TABLE,), shared_rows=True)
            + schema.grant_to_tenants((TABLE,))
            + schema.raise_policy_epoch_on_change((TABLE,))
        ),
    ]
