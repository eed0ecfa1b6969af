"""A tenant that asks for its own spend behind its wall has to know how far that is rolled up."""

from django.db import migrations

from gateway import schema


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0011_plan_features"),
    ]

    operations = [
        migrations.RunSQL(
            schema.grant_to_tenants(["billing_rollupmark"], "SELECT")
            + """
            ALTER TABLE billing_rollupmark ENABLE ROW LEVEL SECURITY;
            CREATE POLICY everyone_reads ON billing_rollupmark FOR SELECT USING (true);
            CREATE POLICY system_all ON billing_rollupmark TO pointsman_system USING (true) WITH CHECK (true);
            """
        ),
    ]
