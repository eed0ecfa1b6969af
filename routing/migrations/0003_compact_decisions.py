"""What was weighed of a decision's candidates, in a tenth of the room that JSON took."""

import django.contrib.postgres.fields
from django.db import migrations, models

# Columns one after the other as 32-bit floats, little-endian: see routing.candidate_table. Latencies were not kept then,
# and there was no caution. Where a rule gave points and there was no chance in it, the first in the order of trial was served with certainty.
FROM_JSON = """
UPDATE routing_decision AS d SET
  qualified = ARRAY(SELECT jsonb_array_elements_text(d.candidates -> 'model')),
  weighed = coalesce((
    SELECT string_agg(reverse(float4send(kept.number::real)), ''::bytea ORDER BY named.place, kept.place)
    FROM (
      VALUES (1, 'mean'), (2, 'sd'), (3, 'cost'), (4, 'latency'), (5, 'penalty'), (6, 'caution'), (7, 'propensity'),
        (8, 'points')
    ) AS named (place, name),
    LATERAL jsonb_array_elements_text(
      CASE
      WHEN named.name = 'latency' THEN to_jsonb(array_fill('NaN'::text, ARRAY[jsonb_array_length(d.candidates -> 'model')]))
      WHEN named.name = 'caution' THEN to_jsonb(array_fill(0, ARRAY[jsonb_array_length(d.candidates -> 'model')]))
      WHEN named.name = 'propensity' AND d.candidates ? 'points' AND NOT d.candidates ? 'propensity' THEN (
        SELECT jsonb_agg((first.place = 1)::integer ORDER BY first.place)
        FROM jsonb_array_elements(d.candidates -> 'model') WITH ORDINALITY AS first (model, place)
      )
      ELSE d.candidates -> named.name END
    ) WITH ORDINALITY AS kept (number, place)
  ), ''::bytea)
WHERE d.candidates ? 'model'
"""


class Migration(migrations.Migration):
    dependencies = [("routing", "0002_guarantees")]
    operations = [
        migrations.AddField(
            "decision",
            "qualified",
            django.contrib.postgres.fields.ArrayField(models.CharField(max_length=200), default=list, size=None),
        ),
        migrations.AddField(
            "decision",
            "weighed",
            models.BinaryField(
                default=b"", help_text="What was weighed of each: 32-bit floats (see routing.candidate_table)."
            ),
        ),
        migrations.RunSQL(FROM_JSON),
        migrations.RemoveField("decision", "candidates"),
    ]
