"""Ownership, the tenants' wall, the policy epoch, and the partitioned log of decisions: see gateway.schema."""

from django.db import migrations

from gateway import schema

WISHES = ("routing_routingsettings", "routing_strategychoice", "routing_experiment", "routing_ramp")
FINDINGS = (
    "routing_decision",
    "routing_label",
    "routing_routerstate",
    "routing_weightsnapshot",
    "routing_experimentevidence",
    "routing_bankedconversation",
    "routing_replayverdict",
    "routing_driftwatch",
)
LOGS = ("gateway_requestlog", "gateway_requestcontent", "routing_decision")


class Migration(migrations.Migration):
    dependencies = [
        ("routing", "0001_initial"),
        ("billing", "0007_days_and_log_retention"),
        ("tenants", "0002_guarantees"),
    ]
    operations = [
        migrations.RunSQL(
            schema.partition_by_key("routing_decision", "request_id")
            + """
            CREATE INDEX decisions_of_a_tenant ON routing_decision (tenant_id, request_id DESC);
            CREATE INDEX ON routing_decision (experiment_id, request_id) WHERE experiment_id IS NOT NULL;
            SELECT pointsman_make_partitions((now() + interval '1 month')::date);
            """
            + schema.drop_log_partitions(LOGS)
        ),
        migrations.RunSQL(
            schema.tenant_foreign_key("routing_strategychoice", "project_id", "tenants_project", on_delete="CASCADE")
            + schema.tenant_foreign_key("routing_strategychoice", "token_id", "tenants_apitoken", on_delete="CASCADE")
            + schema.tenant_foreign_key(
                "routing_experimentevidence", "experiment_id", "routing_experiment", on_delete="CASCADE"
            )
            + schema.tenant_foreign_key(
                "routing_replayverdict", "conversation_id", "routing_bankedconversation", on_delete="CASCADE"
            )
        ),
        migrations.RunSQL(
            "CREATE SEQUENCE routing_label_position;"
            "GRANT USAGE, SELECT ON SEQUENCE routing_label_position TO pointsman_system;"
        ),
        migrations.RunSQL(
            schema.row_level_security((*WISHES, *FINDINGS, "routing_feedback", "routing_judgesample"))
            + schema.row_level_security(("routing_publishedscore",), shared_rows=True)
            + schema.grant_to_tenants((*WISHES, "routing_feedback", "routing_publishedscore"))
            + schema.grant_to_tenants(FINDINGS, "SELECT")
        ),
        migrations.RunSQL(schema.raise_policy_epoch_on_change([*WISHES, "routing_publishedscore"])),
    ]
