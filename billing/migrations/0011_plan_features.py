"""Features of plans come to mean something: none said stands for all of them, as an empty list did while nobody read it."""

import django.contrib.postgres.fields
from django.db import migrations, models

import billing.models.plans

EMPTY_MEANT_NOTHING = """
UPDATE billing_plan SET features = NULL WHERE features = '{}';
UPDATE billing_subscription SET overrides = overrides - 'features' WHERE overrides -> 'features' = '[]'::jsonb;
"""

# What a plan includes is a part of the policy of every tenant that is on it.
EPOCH_OF_SUBSCRIBERS = """
CREATE FUNCTION pointsman_raise_subscribers_policy_epoch() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  UPDATE tenants_tenant SET policy_epoch = policy_epoch + 1
  WHERE id IN (SELECT s.tenant_id FROM billing_subscription s JOIN changed ON changed.id = s.plan_id);
  RETURN NULL;
END $$;
CREATE TRIGGER billing_plan_policy_epoch_update AFTER UPDATE ON billing_plan
REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION pointsman_raise_subscribers_policy_epoch();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0010_service_tiers"),
    ]

    operations = [
        migrations.AlterField(
            model_name="plan",
            name="features",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=32),
                blank=True,
                help_text="Those that may be used. Empty: all of them.",
                null=True,
                size=None,
                validators=[billing.models.plans.validate_features],
            ),
        ),
        migrations.RunSQL(EMPTY_MEANT_NOTHING),
        migrations.RunSQL(EPOCH_OF_SUBSCRIBERS),
    ]
