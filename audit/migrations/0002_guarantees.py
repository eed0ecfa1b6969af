"""Audit events are partitioned, append-only and seen by their own tenant: see gateway.schema."""

from django.db import migrations

from gateway import schema


class Migration(migrations.Migration):
    dependencies = [("audit", "0001_initial"), ("tenants", "0002_guarantees")]
    operations = [
        migrations.RunSQL(
            schema.append_only(["audit_auditevent"])
            + schema.row_level_security(["audit_auditevent"])
            + schema.grant_to_tenants(["audit_auditevent"], "SELECT, INSERT")
        ),
    ]
