"""A tenant's sums over a stretch of time are found without reading everybody else's of that time.

PostgreSQL takes the index by time where it cannot foresee how long the stretch is, and rows lie in that order.
"""

from django.db import migrations, models

HOURS = ("billing_usagehourcell", "billing_usagehourmodel")
DAYS = (
    "billing_usageday", "billing_usagedaycell", "billing_usagedaymodel", "billing_usagedaytag", "billing_usagedayuser",
)  # fmt: skip


def with_tenant(table: str, time: str) -> str:
    return f"DROP INDEX {table}_{time}_idx; CREATE INDEX {table}_{time}_idx ON {table} ({time}, tenant_id);"


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0013_priority_prices"),
    ]

    operations = [
        migrations.RemoveIndex("usagehour", "billing_usa_hour_179c4a_idx"),
        migrations.RemoveIndex("usagehourtag", "billing_usa_hour_9e44d3_idx"),
        migrations.RemoveIndex("usagehouruser", "billing_usa_hour_45f03c_idx"),
        migrations.AddIndex(
            "usagehour", models.Index(fields=["hour", "tenant_id"], name="billing_usa_hour_b44948_idx")
        ),
        migrations.AddIndex(
            "usagehourtag", models.Index(fields=["hour", "tenant_id"], name="billing_usa_hour_906100_idx")
        ),
        migrations.AddIndex(
            "usagehouruser", models.Index(fields=["hour", "tenant_id"], name="billing_usa_hour_f4a626_idx")
        ),
        migrations.RunSQL(
            "".join(with_tenant(table, "hour") for table in HOURS)
            + "".join(with_tenant(table, "day") for table in DAYS)
        ),
    ]
