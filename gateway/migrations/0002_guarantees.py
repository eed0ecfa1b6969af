"""Ownership of providers and models, the partitioned request log: see gateway.schema."""

from django.db import migrations

from gateway import schema

SHARED = ("gateway_provider", "gateway_model", "gateway_providerkey")
LOGS = ("gateway_requestlog", "gateway_requestcontent")


class Migration(migrations.Migration):
    dependencies = [("gateway", "0001_initial"), ("tenants", "0002_guarantees")]
    operations = [
        migrations.RunSQL(
            schema.same_tenant_or_installation("gateway_model", "provider_id", "gateway_provider")
            + schema.same_tenant_or_installation("gateway_providerkey", "provider_id", "gateway_provider")
        ),
        migrations.RunSQL(
            schema.partition_by_key("gateway_requestlog")
            + schema.partition_by_key("gateway_requestcontent", "request_id")
            + """
            CREATE INDEX ON gateway_requestlog (tenant_id, id DESC);
            CREATE INDEX ON gateway_requestlog (started_at);
            """
        ),
        migrations.RunSQL(
            schema.row_level_security(SHARED, shared_rows=True)
            + schema.row_level_security(("gateway_alias", *LOGS))
            + schema.grant_to_tenants((*SHARED, "gateway_alias"))
            + schema.grant_to_tenants(LOGS, "SELECT")
        ),
        migrations.RunSQL(schema.raise_policy_epoch_on_change([*SHARED, "gateway_alias"])),
    ]
