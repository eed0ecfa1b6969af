"""The ledger is partitioned, append-only and refers within one tenant: see gateway.schema."""

from django.db import migrations

from gateway import schema

LEDGER = ("billing_attempt", "billing_settlement", "billing_adjustment")

ATTEMPT = (
    schema.partition_by_key("billing_attempt")
    + "ALTER TABLE billing_attempt ADD UNIQUE (tenant_id, id);"
    + schema.foreign_key("billing_attempt", "tenant_id", "tenants_tenant")
    + schema.tenant_foreign_key("billing_attempt", "project_id", "tenants_project")
    + schema.tenant_foreign_key("billing_attempt", "token_id", "tenants_apitoken")
    + schema.foreign_key("billing_attempt", "provider_id", "gateway_provider")
    + schema.foreign_key("billing_attempt", "provider_key_id", "gateway_providerkey")
    + schema.foreign_key("billing_attempt", "model_id", "gateway_model")
    + """
    CREATE INDEX ON billing_attempt (request_id);
    CREATE INDEX ON billing_attempt (started_at);
    """
)
SETTLEMENT = schema.partition_by_key("billing_settlement", "attempt_id") + schema.tenant_foreign_key(
    "billing_settlement", "attempt_id", "billing_attempt"
)
ADJUSTMENT = (
    schema.partition_by_key("billing_adjustment")
    + schema.tenant_foreign_key("billing_adjustment", "attempt_id", "billing_attempt")
    + "CREATE INDEX ON billing_adjustment (attempt_id);"
)


class Migration(migrations.Migration):
    dependencies = [("billing", "0001_initial"), ("gateway", "0002_guarantees")]
    operations = [
        migrations.RunSQL(schema.same_tenant_or_installation("billing_priceversion", "model_id", "gateway_model")),
        migrations.RunSQL(ATTEMPT + SETTLEMENT + ADJUSTMENT),
        migrations.RunSQL(schema.append_only((*LEDGER, "billing_priceversion"))),
        migrations.RunSQL(
            schema.row_level_security(["billing_priceversion"], shared_rows=True)
            + schema.row_level_security(LEDGER)
            + schema.grant_to_tenants((*LEDGER, "billing_priceversion"), "SELECT")
        ),
        migrations.RunSQL(schema.raise_policy_epoch_on_change(["billing_priceversion"])),
        migrations.RunSQL("SELECT pointsman_make_partitions((now() + interval '2 months')::date);"),
    ]
