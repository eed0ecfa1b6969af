"""Roles, composite references, the tenants' wall and the policy epoch: see gateway.schema."""

from django.db import migrations

from gateway import schema

OWNED = ("tenants_project", "tenants_membership", "tenants_apitoken")


class Migration(migrations.Migration):
    dependencies = [("tenants", "0001_initial")]
    operations = [
        migrations.RunSQL(schema.create_roles()),
        migrations.RunSQL("CREATE EXTENSION IF NOT EXISTS vector;"),
        migrations.RunSQL(schema.PARTITIONING_SQL + schema.EPOCH_SQL + schema.APPEND_ONLY_SQL + schema.SAME_TENANT_SQL),
        migrations.RunSQL(
            schema.tenant_foreign_key("tenants_membership", "project_id", "tenants_project", on_delete="CASCADE")
            + schema.tenant_foreign_key("tenants_apitoken", "project_id", "tenants_project")
        ),
        migrations.RunSQL(schema.row_level_security(OWNED) + schema.row_level_security(["tenants_tenant"], "id")),
        migrations.RunSQL(schema.grant_access()),
        migrations.RunSQL(
            schema.grant_to_tenants(OWNED)
            + schema.grant_to_tenants(["tenants_tenant"], "SELECT, UPDATE")
            + schema.grant_to_tenants(["tenants_user"], "SELECT")
        ),
        migrations.RunSQL(
            schema.raise_policy_epoch_on_change(["tenants_project", "tenants_apitoken"])
            + """
            CREATE TRIGGER tenants_tenant_policy_epoch BEFORE UPDATE OF enabled, log_content, slug ON tenants_tenant
              FOR EACH ROW EXECUTE FUNCTION pointsman_raise_own_policy_epoch();"""
        ),
    ]
