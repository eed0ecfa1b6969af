"""What may be spent, sums by the hour, and who is told."""

from decimal import Decimal

import django.contrib.postgres.fields
import django.core.validators
import django.db.models.deletion
from django.db import migrations, models

import billing.models.budgets
import gateway.rows
from gateway import schema

BUDGETS = ("billing_budget", "billing_ratelimit", "billing_subscription")
SEEN_BY_TENANTS = (
    "billing_budgetperiod",
    "billing_usagehour",
    "billing_usagehourtag",
    "billing_usagehouruser",
    "billing_alert",
    "billing_alertdelivery",
)
KEPT_BY_TENANTS = ("billing_alertchannel", "billing_alertrule")
COMPOSITE_KEYS = "".join(
    schema.tenant_foreign_key(table, column, target, on_delete="CASCADE")
    for table, column, target in (
        ("billing_budget", "project_id", "tenants_project"),
        ("billing_budget", "token_id", "tenants_apitoken"),
        ("billing_ratelimit", "project_id", "tenants_project"),
        ("billing_ratelimit", "token_id", "tenants_apitoken"),
        ("billing_alertrule", "project_id", "tenants_project"),
    )
)
GUARANTEES = (
    COMPOSITE_KEYS
    + schema.same_tenant_or_installation("billing_budgetperiod", "budget_id", "billing_budget")
    + schema.same_tenant_or_installation("billing_alertrule", "budget_id", "billing_budget")
    + schema.row_level_security((*BUDGETS, *SEEN_BY_TENANTS, *KEPT_BY_TENANTS))
    + schema.grant_to_tenants((*BUDGETS, *SEEN_BY_TENANTS, "billing_plan"), "SELECT")
    + schema.grant_to_tenants(KEPT_BY_TENANTS)
    + schema.raise_policy_epoch_on_change(BUDGETS)
    + """
    CREATE INDEX ON billing_settlement USING brin (settled_at);
    CREATE INDEX ON billing_budgetperiod (ends_at);
    CREATE INDEX ON billing_alertdelivery (next_try_at) WHERE status = 'pending';
    ALTER TABLE billing_budgetperiod SET (fillfactor = 50);
    ALTER TABLE billing_plan ENABLE ROW LEVEL SECURITY;
    CREATE POLICY everyone_reads ON billing_plan FOR SELECT USING (true);
    CREATE POLICY system_all ON billing_plan TO pointsman_system USING (true) WITH CHECK (true);
    """
)


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0004_tests_of_providers"),
        ("tenants", "0002_guarantees"),
    ]

    operations = [
        migrations.CreateModel(
            name="Plan",
            fields=[
                (
                    "id",
                    models.UUIDField(default=gateway.rows.new_id, editable=False, primary_key=True, serialize=False),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("name", models.CharField(max_length=63, unique=True)),
                (
                    "monthly_requests",
                    models.PositiveBigIntegerField(blank=True, help_text="Empty: no limit.", null=True),
                ),
                ("monthly_tokens", models.PositiveBigIntegerField(blank=True, help_text="Empty: no limit.", null=True)),
                (
                    "overage",
                    models.BooleanField(
                        default=False, help_text="Serve what goes beyond, and bill it. Off: refuse it."
                    ),
                ),
                ("seats", models.PositiveIntegerField(blank=True, help_text="Members. Empty: no limit.", null=True)),
                (
                    "retention_days",
                    models.PositiveIntegerField(default=90, help_text="How long request logs are kept."),
                ),
                (
                    "features",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.CharField(max_length=32), blank=True, default=list, size=None
                    ),
                ),
            ],
            options={
                "ordering": ("name",),
            },
        ),
        migrations.CreateModel(
            name="RollupMark",
            fields=[
                ("id", models.SmallIntegerField(default=1, editable=False, primary_key=True, serialize=False)),
                ("rolled_up_to", models.DateTimeField()),
            ],
        ),
        migrations.AddField(
            model_name="attempt",
            name="discount_bp",
            field=models.PositiveSmallIntegerField(
                db_default=0, default=0, help_text="Taken off its price, in hundredths of a per cent."
            ),
        ),
        migrations.AddField(
            model_name="attempt",
            name="budget_periods",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.UUIDField(),
                db_default=[],
                default=list,
                help_text="The periods of the budgets that hold for it.",
                size=None,
            ),
        ),
        migrations.AddField(
            model_name="attempt",
            name="complexity",
            field=models.CharField(blank=True, db_default="", max_length=16),
        ),
        migrations.AddField(
            model_name="attempt",
            name="held_requests",
            field=models.PositiveSmallIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name="attempt",
            name="held_tokens",
            field=models.BigIntegerField(null=True),
        ),
        migrations.AddField(
            model_name="attempt",
            name="task_type",
            field=models.CharField(blank=True, db_default="", max_length=32),
        ),
        migrations.CreateModel(
            name="Alert",
            fields=[
                (
                    "id",
                    models.UUIDField(default=gateway.rows.new_id, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("budget", "budget threshold"),
                            ("spend_anomaly", "unusual spend"),
                            ("error_rate", "share of failed requests, per cent"),
                            ("latency_p95", "95th percentile of latency, ms"),
                            ("no_traffic", "no requests"),
                            ("breaker_open", "a circuit breaker is open"),
                            ("price_unknown", "calls without a known price"),
                        ],
                        max_length=16,
                    ),
                ),
                ("occasion", models.CharField(max_length=200, unique=True)),
                ("message", models.CharField(max_length=1000)),
                ("facts", models.JSONField(default=dict)),
                ("opened_at", models.DateTimeField()),
                ("resolved_at", models.DateTimeField(null=True)),
                (
                    "tenant",
                    models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, to="tenants.tenant"),
                ),
            ],
            options={
                "ordering": ("-opened_at",),
            },
        ),
        migrations.CreateModel(
            name="AlertChannel",
            fields=[
                (
                    "id",
                    models.UUIDField(default=gateway.rows.new_id, editable=False, primary_key=True, serialize=False),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("name", models.CharField(max_length=100)),
                (
                    "kind",
                    models.CharField(
                        choices=[("email", "e-mail"), ("webhook", "webhook"), ("slack", "Slack-compatible webhook")],
                        max_length=8,
                    ),
                ),
                (
                    "address",
                    models.CharField(
                        help_text="An address (several: with commas), or the webhook's URL.", max_length=1000
                    ),
                ),
                ("secret_ciphertext", models.BinaryField(default=b"")),
                ("master_key_number", models.PositiveSmallIntegerField(default=0, editable=False)),
                ("enabled", models.BooleanField(default=True)),
                (
                    "tenant",
                    models.ForeignKey(
                        blank=True,
                        help_text="Empty: the operators' own.",
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        to="tenants.tenant",
                    ),
                ),
            ],
            options={
                "ordering": ("tenant__slug", "name"),
            },
        ),
        migrations.CreateModel(
            name="AlertDelivery",
            fields=[
                (
                    "id",
                    models.UUIDField(default=gateway.rows.new_id, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "event",
                    models.CharField(
                        choices=[("opened", "opened"), ("resolved", "resolved")], default="opened", max_length=8
                    ),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[("pending", "pending"), ("sent", "sent"), ("failed", "failed")],
                        default="pending",
                        max_length=8,
                    ),
                ),
                ("tries", models.PositiveSmallIntegerField(default=0)),
                ("next_try_at", models.DateTimeField(null=True)),
                ("sent_at", models.DateTimeField(null=True)),
                ("last_error", models.CharField(blank=True, max_length=500)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "alert",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="deliveries", to="billing.alert"
                    ),
                ),
                (
                    "channel",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="deliveries",
                        to="billing.alertchannel",
                    ),
                ),
                (
                    "tenant",
                    models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, to="tenants.tenant"),
                ),
            ],
            options={
                "verbose_name_plural": "alert deliveries",
                "ordering": ("-created_at",),
            },
        ),
        migrations.CreateModel(
            name="AlertRule",
            fields=[
                (
                    "id",
                    models.UUIDField(default=gateway.rows.new_id, editable=False, primary_key=True, serialize=False),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("name", models.CharField(max_length=100)),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("budget", "budget threshold"),
                            ("spend_anomaly", "unusual spend"),
                            ("error_rate", "share of failed requests, per cent"),
                            ("latency_p95", "95th percentile of latency, ms"),
                            ("no_traffic", "no requests"),
                            ("breaker_open", "a circuit breaker is open"),
                            ("price_unknown", "calls without a known price"),
                        ],
                        max_length=16,
                    ),
                ),
                ("threshold", models.DecimalField(blank=True, decimal_places=12, max_digits=24, null=True)),
                ("window_minutes", models.PositiveIntegerField(default=60)),
                (
                    "cooldown_minutes",
                    models.PositiveIntegerField(default=60, help_text="Not told again within this time."),
                ),
                (
                    "least_requests",
                    models.PositiveIntegerField(default=20, help_text="A rate of fewer requests says nothing."),
                ),
                ("model_name", models.CharField(blank=True, max_length=200)),
                ("enabled", models.BooleanField(default=True)),
                ("channels", models.ManyToManyField(blank=True, related_name="rules", to="billing.alertchannel")),
                (
                    "project",
                    gateway.rows.TenantForeignKey(
                        blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, to="tenants.project"
                    ),
                ),
                (
                    "tenant",
                    models.ForeignKey(
                        blank=True,
                        help_text="Empty: watches the whole installation.",
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        to="tenants.tenant",
                    ),
                ),
            ],
            options={
                "ordering": ("tenant__slug", "name"),
            },
        ),
        migrations.AddField(
            model_name="alert",
            name="rule",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="alerts", to="billing.alertrule"
            ),
        ),
        migrations.CreateModel(
            name="Budget",
            fields=[
                (
                    "id",
                    models.UUIDField(default=gateway.rows.new_id, editable=False, primary_key=True, serialize=False),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                (
                    "subject",
                    models.CharField(
                        blank=True,
                        help_text='The end user, budget key, model or provider it holds for; "*": each of them by itself.',
                        max_length=200,
                    ),
                ),
                ("name", models.CharField(max_length=100)),
                (
                    "scope",
                    models.CharField(
                        choices=[
                            ("installation", "the installation"),
                            ("tenant", "tenant"),
                            ("project", "project"),
                            ("token", "API token"),
                            ("user", "end user"),
                            ("key", "x-budget-key"),
                            ("model", "model"),
                            ("provider", "provider"),
                        ],
                        max_length=16,
                    ),
                ),
                (
                    "metric",
                    models.CharField(
                        choices=[("usd", "USD"), ("tokens", "tokens"), ("requests", "requests")], max_length=8
                    ),
                ),
                (
                    "cap",
                    models.DecimalField(
                        decimal_places=12,
                        max_digits=24,
                        validators=[django.core.validators.MinValueValidator(Decimal(0))],
                    ),
                ),
                (
                    "period",
                    models.CharField(
                        choices=[
                            ("hour", "hour"),
                            ("day", "day"),
                            ("week", "week, from Monday"),
                            ("month", "month"),
                            ("quarter", "quarter"),
                            ("rolling", "rolling window"),
                            ("total", "for ever"),
                        ],
                        default="month",
                        max_length=8,
                    ),
                ),
                (
                    "rolling_s",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="Seconds; for a rolling window only.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(60)],
                    ),
                ),
                (
                    "hard",
                    models.BooleanField(
                        default=True, help_text="Refuse what would pass the cap. Off: tell, and go on."
                    ),
                ),
                (
                    "thresholds",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.PositiveSmallIntegerField(
                            validators=[
                                django.core.validators.MinValueValidator(1),
                                django.core.validators.MaxValueValidator(1000),
                            ]
                        ),
                        blank=True,
                        default=billing.models.budgets.default_thresholds,
                        help_text="Per cent of the cap at which an alert is raised.",
                        size=None,
                    ),
                ),
                ("enabled", models.BooleanField(default=True)),
                (
                    "is_quota",
                    models.BooleanField(
                        default=False, editable=False, help_text="Made by the tenant's plan: refused as quota_exceeded."
                    ),
                ),
                (
                    "project",
                    gateway.rows.TenantForeignKey(
                        blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, to="tenants.project"
                    ),
                ),
                (
                    "tenant",
                    models.ForeignKey(
                        blank=True,
                        help_text="Empty: holds for the whole installation.",
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        to="tenants.tenant",
                    ),
                ),
                (
                    "token",
                    gateway.rows.TenantForeignKey(
                        blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, to="tenants.apitoken"
                    ),
                ),
            ],
            options={
                "ordering": ("tenant__slug", "name"),
            },
        ),
        migrations.AddField(
            model_name="alertrule",
            name="budget",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="rules",
                to="billing.budget",
            ),
        ),
        migrations.CreateModel(
            name="BudgetPeriod",
            fields=[
                (
                    "id",
                    models.UUIDField(default=gateway.rows.new_id, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "subject",
                    models.CharField(
                        blank=True, help_text="Whose, where the budget is each one's own.", max_length=200
                    ),
                ),
                ("starts_at", models.DateTimeField()),
                ("ends_at", models.DateTimeField(help_text="Empty: never.", null=True)),
                ("spent", models.DecimalField(decimal_places=12, default=0, max_digits=30)),
                ("held", models.DecimalField(decimal_places=12, default=0, max_digits=30)),
                (
                    "alerted",
                    models.PositiveSmallIntegerField(
                        default=0, help_text="The highest threshold that was told, in per cent."
                    ),
                ),
                (
                    "budget",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="periods", to="billing.budget"
                    ),
                ),
                (
                    "tenant",
                    models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, to="tenants.tenant"),
                ),
            ],
            options={
                "ordering": ("-starts_at",),
            },
        ),
        migrations.AddField(
            model_name="alert",
            name="budget_period",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="alerts",
                to="billing.budgetperiod",
            ),
        ),
        migrations.CreateModel(
            name="RateLimit",
            fields=[
                (
                    "id",
                    models.UUIDField(default=gateway.rows.new_id, editable=False, primary_key=True, serialize=False),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                (
                    "subject",
                    models.CharField(
                        blank=True,
                        help_text='The end user, budget key, model or provider it holds for; "*": each of them by itself.',
                        max_length=200,
                    ),
                ),
                (
                    "scope",
                    models.CharField(
                        choices=[
                            ("tenant", "tenant"),
                            ("project", "project"),
                            ("token", "API token"),
                            ("user", "end user"),
                            ("model", "model"),
                        ],
                        max_length=16,
                    ),
                ),
                ("requests_per_minute", models.PositiveIntegerField(blank=True, null=True)),
                ("tokens_per_minute", models.PositiveBigIntegerField(blank=True, null=True)),
                (
                    "concurrent",
                    models.PositiveIntegerField(blank=True, help_text="Requests under way at a time.", null=True),
                ),
                (
                    "project",
                    gateway.rows.TenantForeignKey(
                        blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, to="tenants.project"
                    ),
                ),
                (
                    "tenant",
                    models.ForeignKey(
                        blank=True,
                        help_text="Empty: holds for the whole installation.",
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        to="tenants.tenant",
                    ),
                ),
                (
                    "token",
                    gateway.rows.TenantForeignKey(
                        blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, to="tenants.apitoken"
                    ),
                ),
            ],
            options={
                "ordering": ("tenant__slug", "scope"),
            },
        ),
        migrations.CreateModel(
            name="Subscription",
            fields=[
                (
                    "id",
                    models.UUIDField(default=gateway.rows.new_id, editable=False, primary_key=True, serialize=False),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                (
                    "overrides",
                    models.JSONField(blank=True, default=dict, help_text='What differs from the plan: {"seats": 10}.'),
                ),
                (
                    "discount_percent",
                    models.DecimalField(
                        decimal_places=2,
                        default=0,
                        help_text="Taken off every price of this tenant's ledger lines.",
                        max_digits=5,
                        validators=[
                            django.core.validators.MinValueValidator(Decimal(0)),
                            django.core.validators.MaxValueValidator(Decimal(100)),
                        ],
                    ),
                ),
                (
                    "plan",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="subscriptions", to="billing.plan"
                    ),
                ),
                (
                    "tenant",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE, related_name="subscription", to="tenants.tenant"
                    ),
                ),
            ],
            options={
                "ordering": ("tenant__slug",),
            },
        ),
        migrations.CreateModel(
            name="UsageHour",
            fields=[
                (
                    "id",
                    models.UUIDField(default=gateway.rows.new_id, editable=False, primary_key=True, serialize=False),
                ),
                ("hour", models.DateTimeField()),
                ("tenant_id", models.UUIDField(null=True)),
                ("project_id", models.UUIDField(null=True)),
                ("attempts", models.BigIntegerField(default=0)),
                (
                    "requests",
                    models.BigIntegerField(default=0, help_text="Different requests these attempts were made for."),
                ),
                ("failed", models.BigIntegerField(default=0)),
                ("cancelled", models.BigIntegerField(default=0)),
                ("abandoned", models.BigIntegerField(default=0)),
                ("estimated", models.BigIntegerField(default=0)),
                ("unpriced", models.BigIntegerField(default=0)),
                ("cache_hits", models.BigIntegerField(default=0)),
                ("input_tokens", models.BigIntegerField(default=0)),
                ("cached_input_tokens", models.BigIntegerField(default=0)),
                ("cache_write_tokens", models.BigIntegerField(default=0)),
                ("output_tokens", models.BigIntegerField(default=0)),
                ("reasoning_tokens", models.BigIntegerField(default=0)),
                ("cost_usd", models.DecimalField(decimal_places=12, default=0, max_digits=30)),
                ("adjusted_usd", models.DecimalField(decimal_places=12, default=0, max_digits=30)),
                ("saved_usd", models.DecimalField(decimal_places=12, default=0, max_digits=30)),
                (
                    "latency_counts",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.BigIntegerField(), default=list, size=None
                    ),
                ),
                ("token_id", models.UUIDField(null=True)),
                ("model_id", models.UUIDField(null=True)),
                ("provider_id", models.UUIDField(null=True)),
                ("vendor_model", models.CharField(max_length=200)),
                ("purpose", models.CharField(max_length=12)),
                ("task_type", models.CharField(blank=True, max_length=32)),
                ("complexity", models.CharField(blank=True, max_length=16)),
            ],
            options={
                "verbose_name_plural": "usage by hour",
                "indexes": [
                    models.Index(fields=["tenant_id", "hour"], name="billing_usa_tenant__3ee9be_idx"),
                    models.Index(fields=["hour"], name="billing_usa_hour_179c4a_idx"),
                ],
            },
        ),
        migrations.CreateModel(
            name="UsageHourTag",
            fields=[
                (
                    "id",
                    models.UUIDField(default=gateway.rows.new_id, editable=False, primary_key=True, serialize=False),
                ),
                ("hour", models.DateTimeField()),
                ("tenant_id", models.UUIDField(null=True)),
                ("project_id", models.UUIDField(null=True)),
                ("attempts", models.BigIntegerField(default=0)),
                (
                    "requests",
                    models.BigIntegerField(default=0, help_text="Different requests these attempts were made for."),
                ),
                ("failed", models.BigIntegerField(default=0)),
                ("cancelled", models.BigIntegerField(default=0)),
                ("abandoned", models.BigIntegerField(default=0)),
                ("estimated", models.BigIntegerField(default=0)),
                ("unpriced", models.BigIntegerField(default=0)),
                ("cache_hits", models.BigIntegerField(default=0)),
                ("input_tokens", models.BigIntegerField(default=0)),
                ("cached_input_tokens", models.BigIntegerField(default=0)),
                ("cache_write_tokens", models.BigIntegerField(default=0)),
                ("output_tokens", models.BigIntegerField(default=0)),
                ("reasoning_tokens", models.BigIntegerField(default=0)),
                ("cost_usd", models.DecimalField(decimal_places=12, default=0, max_digits=30)),
                ("adjusted_usd", models.DecimalField(decimal_places=12, default=0, max_digits=30)),
                ("saved_usd", models.DecimalField(decimal_places=12, default=0, max_digits=30)),
                (
                    "latency_counts",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.BigIntegerField(), default=list, size=None
                    ),
                ),
                ("tag", models.CharField(max_length=256)),
            ],
            options={
                "verbose_name_plural": "usage by hour and tag",
                "indexes": [
                    models.Index(fields=["tenant_id", "hour"], name="billing_usa_tenant__b11b42_idx"),
                    models.Index(fields=["hour"], name="billing_usa_hour_9e44d3_idx"),
                ],
            },
        ),
        migrations.CreateModel(
            name="UsageHourUser",
            fields=[
                (
                    "id",
                    models.UUIDField(default=gateway.rows.new_id, editable=False, primary_key=True, serialize=False),
                ),
                ("hour", models.DateTimeField()),
                ("tenant_id", models.UUIDField(null=True)),
                ("project_id", models.UUIDField(null=True)),
                ("attempts", models.BigIntegerField(default=0)),
                (
                    "requests",
                    models.BigIntegerField(default=0, help_text="Different requests these attempts were made for."),
                ),
                ("failed", models.BigIntegerField(default=0)),
                ("cancelled", models.BigIntegerField(default=0)),
                ("abandoned", models.BigIntegerField(default=0)),
                ("estimated", models.BigIntegerField(default=0)),
                ("unpriced", models.BigIntegerField(default=0)),
                ("cache_hits", models.BigIntegerField(default=0)),
                ("input_tokens", models.BigIntegerField(default=0)),
                ("cached_input_tokens", models.BigIntegerField(default=0)),
                ("cache_write_tokens", models.BigIntegerField(default=0)),
                ("output_tokens", models.BigIntegerField(default=0)),
                ("reasoning_tokens", models.BigIntegerField(default=0)),
                ("cost_usd", models.DecimalField(decimal_places=12, default=0, max_digits=30)),
                ("adjusted_usd", models.DecimalField(decimal_places=12, default=0, max_digits=30)),
                ("saved_usd", models.DecimalField(decimal_places=12, default=0, max_digits=30)),
                (
                    "latency_counts",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.BigIntegerField(), default=list, size=None
                    ),
                ),
                ("end_user", models.CharField(max_length=200)),
            ],
            options={
                "verbose_name_plural": "usage by hour and end user",
                "indexes": [
                    models.Index(fields=["tenant_id", "hour"], name="billing_usa_tenant__b269e0_idx"),
                    models.Index(fields=["hour"], name="billing_usa_hour_45f03c_idx"),
                ],
            },
        ),
        migrations.AddConstraint(
            model_name="alertchannel",
            constraint=models.UniqueConstraint(
                fields=("tenant", "name"), name="channel_name_once_per_tenant", nulls_distinct=False
            ),
        ),
        migrations.AddConstraint(
            model_name="alertdelivery",
            constraint=models.UniqueConstraint(
                fields=("alert", "channel", "event"), name="one_delivery_per_channel_and_event"
            ),
        ),
        migrations.AddConstraint(
            model_name="budget",
            constraint=models.UniqueConstraint(
                fields=("tenant", "name"), name="budget_name_once_per_tenant", nulls_distinct=False
            ),
        ),
        migrations.AddConstraint(
            model_name="budget",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("period", "rolling"), ("rolling_s__isnull", False)),
                    models.Q(models.Q(("period", "rolling"), _negated=True), ("rolling_s", None)),
                    _connector="OR",
                ),
                name="rolling_budget_has_a_window",
                violation_error_message="A rolling window needs its length in seconds, and no other period has one.",
            ),
        ),
        migrations.AddConstraint(
            model_name="alertrule",
            constraint=models.UniqueConstraint(
                fields=("tenant", "name"), name="rule_name_once_per_tenant", nulls_distinct=False
            ),
        ),
        migrations.AddConstraint(
            model_name="budgetperiod",
            constraint=models.UniqueConstraint(fields=("budget", "subject", "starts_at"), name="one_period_at_a_time"),
        ),
        migrations.AddIndex(
            model_name="alert",
            index=models.Index(condition=models.Q(("resolved_at", None)), fields=["rule"], name="open_alerts_by_rule"),
        ),
        migrations.AddConstraint(
            model_name="ratelimit",
            constraint=models.UniqueConstraint(
                fields=("tenant", "scope", "project", "token", "subject"),
                name="one_rate_limit_per_scope",
                nulls_distinct=False,
            ),
        ),
        migrations.RunSQL(GUARANTEES),
    ]
