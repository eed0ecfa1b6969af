"""Sums by the day and by less, which most questions are answered from; indexes of what is rolled up; the end of old request logs."""

from django.db import migrations

from gateway import schema

HOURS = (
    "billing_usagehour",
    "billing_usagehourtag",
    "billing_usagehouruser",
    "billing_usagehourmodel",
    "billing_usagehourcell",
)
DAYS = tuple(table.replace("usagehour", "usageday") for table in HOURS)

# Only the request logs: whoever has got hold of the gateway's role cannot drop a month of the ledger with it. A log
# that somebody is reading is left for the next time rather than holding up whoever writes to it.
DROP_LOG_PARTITIONS = """
CREATE FUNCTION pointsman_drop_log_partitions(before timestamptz) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '2s' AS $$
DECLARE part record; dropped text[] := '{}';
BEGIN
  FOR part IN
    SELECT c.oid::regclass::text AS name
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent IN ('gateway_requestlog'::regclass, 'gateway_requestcontent'::regclass)
      AND c.relname ~ '_y[0-9]{4}m[0-9]{2}$'
      AND (to_date(right(c.relname, 8), '"y"YYYY"m"MM') + interval '1 month') AT TIME ZONE 'UTC' <= before
    ORDER BY 1
  LOOP
    BEGIN
      EXECUTE format('DROP TABLE %s', part.name);
      dropped := dropped || part.name;
    EXCEPTION WHEN lock_not_available THEN
      RAISE NOTICE '% is in use', part.name;
    END;
  END LOOP;
  RETURN dropped;
END $$;
REVOKE ALL ON FUNCTION pointsman_drop_log_partitions(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pointsman_drop_log_partitions(timestamptz) TO pointsman_system;
"""


# Of the calls' sums without some of their columns.
BRIEFER = {
    "billing_usagehourmodel": ("task_type", "complexity"),
    "billing_usagehourcell": ("token_id", "model_id", "provider_id", "vendor_model"),
}


def briefer_table(table: str, without: tuple[str, ...]) -> str:
    drop = ", ".join(f"DROP COLUMN {column}" for column in without)
    return f"""
    CREATE TABLE {table} (LIKE billing_usagehour INCLUDING DEFAULTS);
    ALTER TABLE {table} {drop};
    ALTER TABLE {table} ADD PRIMARY KEY (id);
    CREATE INDEX ON {table} (tenant_id, hour);
    CREATE INDEX ON {table} (hour);
    """


def day_table(hours: str, days: str) -> str:
    return f"""
    CREATE TABLE {days} (LIKE {hours} INCLUDING DEFAULTS);
    ALTER TABLE {days} RENAME COLUMN hour TO day;
    ALTER TABLE {days} ADD PRIMARY KEY (id);
    CREATE INDEX ON {days} (tenant_id, day);
    CREATE INDEX ON {days} (day);
    """


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0006_ledger_functions"),
        ("gateway", "0002_guarantees"),
    ]

    operations = [
        migrations.RunSQL(
            "".join(briefer_table(table, without) for table, without in BRIEFER.items())
            + "".join(day_table(hours, days) for hours, days in zip(HOURS, DAYS, strict=True))
            + schema.row_level_security((*BRIEFER, *DAYS))
            + schema.grant_to_tenants((*BRIEFER, *DAYS), "SELECT")
        ),
        migrations.RunSQL("CREATE INDEX ON billing_adjustment USING brin (created_at);"),
        migrations.RunSQL(DROP_LOG_PARTITIONS),
    ]
