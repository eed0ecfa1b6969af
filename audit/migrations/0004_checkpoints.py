"""The oldest events of a chain can go: through one function of the owner's, which leaves a checkpoint behind."""

import django.db.models.deletion
from django.db import migrations, models

import gateway.rows
from gateway import schema

# What a checkpoint covers may be deleted, by whomever: it proves nothing any more. Only the function below makes one.
TRIGGER = """
CREATE FUNCTION pointsman_refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE covered boolean := false;
BEGIN
  IF TG_OP = 'DELETE' AND OLD.tenant_id IS NULL THEN
    covered := EXISTS (SELECT FROM audit_auditcheckpoint WHERE tenant_id IS NULL AND sequence >= OLD.sequence);
  ELSIF TG_OP = 'DELETE' THEN
    covered := EXISTS (SELECT FROM audit_auditcheckpoint WHERE tenant_id = OLD.tenant_id AND sequence >= OLD.sequence);
  END IF;
  IF covered THEN RETURN OLD; END IF;
  RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;
DROP TRIGGER audit_auditevent_append_only ON audit_auditevent;
CREATE TRIGGER audit_auditevent_append_only BEFORE UPDATE OR DELETE ON audit_auditevent
  FOR EACH ROW EXECUTE FUNCTION pointsman_refuse_audit_change();
"""

# Removes the events of a chain (NULL: the installation's) before the first one that is not older than `before`, but
# never the newest, as the next event follows it, and at most `most`. Records of removals alone are no reason to remove:
# the trail of somebody who does nothing would never end. Returns how many.
# The lock is that of audit.record: nothing is appended meanwhile.
REMOVE = """
CREATE FUNCTION pointsman_remove_audit_events(checkpoint uuid, chain uuid, before timestamptz, most integer)
RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  own text := CASE WHEN chain IS NULL THEN 'tenant_id IS NULL' ELSE 'tenant_id = $1' END;
  cut bigint; oldest bigint; newest bigint; kept bigint; last bigint; found bigint; acts bigint; link bytea;
BEGIN
  IF before > now() - interval '1 day' THEN
    RAISE EXCEPTION 'audit events are kept for a day at least' USING ERRCODE = 'restrict_violation';
  END IF;
  PERFORM pg_advisory_xact_lock(hashtextextended('audit chain of ' || coalesce(chain::text, 'None'), 0));
  EXECUTE 'SELECT coalesce(max(sequence), 0) FROM audit_auditcheckpoint WHERE ' || own INTO cut USING chain;
  EXECUTE 'SELECT min(sequence), max(sequence) FROM audit_auditevent WHERE sequence > $2 AND ' || own
    INTO oldest, newest USING chain, cut;
  IF oldest IS NULL OR oldest = newest THEN RETURN 0; END IF;
  last := least(newest - 1, oldest + most - 1);
  EXECUTE 'SELECT min(sequence) FROM audit_auditevent WHERE sequence BETWEEN $2 AND $3 AND at >= $4 AND ' || own
    INTO kept USING chain, oldest, last, before;
  last := least(last, kept - 1);
  EXECUTE 'SELECT count(*), count(*) FILTER (WHERE action <> ''audit.removed'')
    FROM audit_auditevent WHERE sequence BETWEEN $2 AND $3 AND ' || own
    INTO found, acts USING chain, oldest, last;
  IF acts = 0 THEN RETURN 0; END IF;
  IF oldest <> cut + 1 OR found <> last - oldest + 1 THEN
    RAISE EXCEPTION 'events of this chain are missing, so it is left as it is' USING ERRCODE = 'restrict_violation';
  END IF;
  EXECUTE 'SELECT digest FROM audit_auditevent WHERE sequence = $2 AND ' || own INTO link USING chain, last;
  INSERT INTO audit_auditcheckpoint (id, tenant_id, sequence, digest, removed_before, events_removed, removed_at)
  VALUES (checkpoint, chain, last, link, before, found, now());
  EXECUTE 'DELETE FROM audit_auditevent WHERE sequence BETWEEN $2 AND $3 AND ' || own USING chain, oldest, last;
  RETURN found;
END $$;
REVOKE ALL ON FUNCTION pointsman_remove_audit_events(uuid, uuid, timestamptz, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pointsman_remove_audit_events(uuid, uuid, timestamptz, integer) TO pointsman_system;
"""


class Migration(migrations.Migration):
    dependencies = [("audit", "0003_job_runs"), ("tenants", "0002_guarantees")]

    operations = [
        migrations.CreateModel(
            name="AuditCheckpoint",
            fields=[
                (
                    "id",
                    models.UUIDField(default=gateway.rows.new_id, editable=False, primary_key=True, serialize=False),
                ),
                ("sequence", models.BigIntegerField(help_text="Of the newest event that was removed.")),
                ("digest", models.BinaryField(max_length=32)),
                ("removed_before", models.DateTimeField(help_text="What was removed is older than this.")),
                ("events_removed", models.BigIntegerField()),
                ("removed_at", models.DateTimeField()),
                (
                    "tenant",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="audit_checkpoints",
                        to="tenants.tenant",
                    ),
                ),
            ],
            options={
                "ordering": ("-id",),
                "constraints": [
                    models.UniqueConstraint(
                        fields=("tenant", "sequence"),
                        name="audit_chain_is_cut_once_at_a_place",
                        nulls_distinct=False,
                    )
                ],
            },
        ),
        migrations.RunSQL(
            schema.append_only(["audit_auditcheckpoint"])
            + schema.row_level_security(["audit_auditcheckpoint"])
            + schema.grant_to_tenants(["audit_auditcheckpoint"], "SELECT")
            + f"REVOKE INSERT, UPDATE, DELETE ON audit_auditcheckpoint FROM {schema.SYSTEM_ROLE};"
        ),
        migrations.RunSQL(TRIGGER + REMOVE),
    ]
