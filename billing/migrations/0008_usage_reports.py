"""What each tenant used by the day and what Stripe was told of it; how long audit events are kept."""

from decimal import Decimal

import django.db.models.deletion
from django.db import migrations, models

import gateway.rows
from gateway import schema


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0007_days_and_log_retention"),
        ("tenants", "0002_guarantees"),
    ]

    operations = [
        migrations.AddField(
            model_name="plan",
            name="audit_retention_days",
            field=models.PositiveIntegerField(
                db_default=365, default=365, help_text="How long audit events are kept. 0: for ever."
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="stripe_customer",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="cus_...: its usage is reported there. Empty: nowhere.",
                max_length=255,
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="stripe_from",
            field=models.DateField(
                blank=True,
                help_text="The first UTC day that is reported there. Empty: the day on which the customer is entered.",
                null=True,
            ),
        ),
        migrations.CreateModel(
            name="MeterEvent",
            fields=[
                (
                    "id",
                    models.UUIDField(default=gateway.rows.new_id, editable=False, primary_key=True, serialize=False),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("stripe_customer", models.CharField(max_length=255)),
                (
                    "meter_value",
                    models.CharField(
                        choices=[
                            ("spend", "micro-USD spent"),
                            ("requests", "requests"),
                            ("tokens", "tokens"),
                            ("overage_requests", "requests beyond the plan"),
                            ("overage_tokens", "tokens beyond the plan"),
                        ],
                        max_length=20,
                    ),
                ),
                ("day", models.DateField(help_text="The newest closed day that is in it.")),
                ("revision", models.PositiveIntegerField(help_text="Above 1: a difference, of lines that came late.")),
                ("value", models.BigIntegerField()),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("due", "due"),
                            ("sending", "sending: not known to have arrived"),
                            ("sent", "sent"),
                            ("unclear", "unclear: look it up at Stripe"),
                        ],
                        default="due",
                        max_length=8,
                    ),
                ),
                (
                    "meter",
                    models.CharField(blank=True, help_text="The event name it was last sent under.", max_length=100),
                ),
                ("tries", models.PositiveIntegerField(default=0)),
                (
                    "in_doubt_since",
                    models.DateTimeField(help_text="When the first call began of which no answer came.", null=True),
                ),
                ("sent_at", models.DateTimeField(null=True)),
                ("error", models.CharField(blank=True, max_length=500)),
                (
                    "tenant",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="meter_events", to="tenants.tenant"
                    ),
                ),
            ],
            options={
                "ordering": ("-day", "-id"),
                "indexes": [models.Index(fields=["state"], name="billing_met_state_2a63f7_idx")],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("tenant", "meter_value", "day", "revision"), name="one_meter_event_a_revision"
                    ),
                    models.CheckConstraint(condition=models.Q(("value__gt", 0)), name="a_meter_only_counts_up"),
                ],
            },
        ),
        migrations.CreateModel(
            name="UsageReport",
            fields=[
                (
                    "id",
                    models.UUIDField(default=gateway.rows.new_id, editable=False, primary_key=True, serialize=False),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("day", models.DateField()),
                ("requests", models.BigIntegerField(default=0)),
                ("tokens", models.BigIntegerField(default=0)),
                ("spend_usd", models.DecimalField(decimal_places=12, default=Decimal(0), max_digits=30)),
                (
                    "unpriced",
                    models.BigIntegerField(
                        default=0, help_text="Calls whose price is not known, and which are not in spend."
                    ),
                ),
                ("month_requests", models.BigIntegerField(default=0)),
                ("month_tokens", models.BigIntegerField(default=0)),
                ("month_spend_usd", models.DecimalField(decimal_places=12, default=Decimal(0), max_digits=30)),
                (
                    "included_requests",
                    models.BigIntegerField(help_text="In a month. Empty: nothing beyond is billed.", null=True),
                ),
                (
                    "included_tokens",
                    models.BigIntegerField(help_text="In a month. Empty: nothing beyond is billed.", null=True),
                ),
                (
                    "overage_requests",
                    models.BigIntegerField(default=0, help_text="Of this day, beyond what the month includes."),
                ),
                (
                    "overage_tokens",
                    models.BigIntegerField(default=0, help_text="Of this day, beyond what the month includes."),
                ),
                (
                    "stripe_customer",
                    models.CharField(blank=True, help_text="Whom it is billed to. Empty: nobody.", max_length=255),
                ),
                (
                    "meter_value",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("spend", "micro-USD spent"),
                            ("requests", "requests"),
                            ("tokens", "tokens"),
                            ("overage_requests", "requests beyond the plan"),
                            ("overage_tokens", "tokens beyond the plan"),
                        ],
                        max_length=20,
                    ),
                ),
                ("closed_at", models.DateTimeField(help_text="Empty: lines of this day may still come.", null=True)),
                ("revised_at", models.DateTimeField(help_text="When a line came nevertheless.", null=True)),
                (
                    "tenant",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="usage_reports", to="tenants.tenant"
                    ),
                ),
            ],
            options={
                "ordering": ("-day", "tenant__slug"),
                "indexes": [models.Index(fields=["day"], name="billing_usa_day_f2812f_idx")],
                "constraints": [models.UniqueConstraint(fields=("tenant", "day"), name="one_usage_report_a_day")],
            },
        ),
        migrations.RunSQL(
            schema.row_level_security(["billing_usagereport", "billing_meterevent"])
            + schema.grant_to_tenants(["billing_usagereport", "billing_meterevent"], "SELECT")
        ),
    ]
