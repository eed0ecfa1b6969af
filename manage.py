#!/usr/bin/env python
"""Every command line of Pointsman starts here."""

import os
import sys

# These read the code only; everything else finds the databases, or starts the embedded ones for its duration.
WITHOUT_DATABASES = frozenset(
    {"help", "--help", "-h", "version", "--version", "check", "collectstatic", "makemigrations", "serve", "down"}
)


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")
    if sys.argv[1:] == ["down"]:  # needs no more of Django than the settings
        from gateway import supervisor  # noqa: PLC0415 - after the environment is set

        sys.stdout.write(f"{supervisor.down()}\n")
        return
    from django.core.management import execute_from_command_line  # noqa: PLC0415 - after the environment is set

    from gateway import embedded, installation  # noqa: PLC0415

    if len(sys.argv) > 1 and sys.argv[1] not in WITHOUT_DATABASES and "--help" not in sys.argv:
        try:
            embedded.provide(installation.data_dir())
        except embedded.EmbeddedServerError as exc:
            sys.exit(f"error: {exc}")
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
