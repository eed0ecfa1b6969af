"""What ran in the background."""

from django.db import migrations, models

import gateway.rows


class Migration(migrations.Migration):
    dependencies = [
        ("audit", "0002_guarantees"),
    ]

    operations = [
        migrations.CreateModel(
            name="JobRun",
            fields=[
                (
                    "id",
                    models.UUIDField(default=gateway.rows.new_id, editable=False, primary_key=True, serialize=False),
                ),
                ("job", models.CharField(db_index=True, max_length=64)),
                ("started_at", models.DateTimeField()),
                ("ended_at", models.DateTimeField(null=True)),
                (
                    "outcome",
                    models.CharField(
                        choices=[
                            ("running", "running"),
                            ("done", "done"),
                            ("failed", "failed"),
                            ("skipped", "skipped: another one was at it"),
                        ],
                        default="running",
                        max_length=8,
                    ),
                ),
                (
                    "started_by",
                    models.CharField(blank=True, help_text="The schedule, a command, or a person.", max_length=254),
                ),
                ("facts", models.JSONField(default=dict, help_text="Counts and decisions, by name.")),
                ("error", models.CharField(blank=True, max_length=1000)),
            ],
            options={
                "ordering": ("-id",),
            },
        ),
    ]
