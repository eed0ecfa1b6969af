"""What every command for operators has in common."""

import os
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable
from datetime import datetime
from typing import Any

import psycopg.errors
from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from audit.jobs import in_words
from audit.models import JobRun
from audit.record import Actor
from gateway.moments import parse_moment, parse_moment_ahead
from tenants.crypto import DecryptionFailed
from tenants.models import Project, Tenant


class OperatorCommand(BaseCommand):
    """A command whose every failure is one clear line on stderr and exit code 1, never a traceback."""

    requires_system_checks = ()  # `manage.py check` is for that

    def tell_of(self, run: JobRun) -> None:
        """What a job found, in one line. Raises CommandError where another worker was at it."""
        if run.outcome == JobRun.Outcome.SKIPPED:
            raise CommandError("Another worker is at it right now.")
        told = [(name.replace("_", " "), in_words(value)) for name, value in run.facts.items()]
        self.stdout.write(f"{run.outcome}: {', '.join(f'{name} {value}' for name, value in told if value)}")

    @property
    def actor(self) -> Actor:
        """Who the audit trail names."""
        return Actor(label=f"manage.py {type(self).__module__.rpartition('.')[2]}")

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except ValidationError as exc:
            raise CommandError(one_line(exc)) from None
        except DatabaseError as exc:
            raise CommandError(_explain(exc)) from None
        except DecryptionFailed as exc:
            raise CommandError(f"{exc}.") from None
        except BrokenPipeError:  # as in `... | head`; nobody is left to tell
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None

    def tell(self, message: str) -> None:
        """For the person at the terminal; standard output stays for programs."""
        self.stderr.write(message, style_func=str)


def one_line(exc: ValidationError) -> str:
    if not hasattr(exc, "error_dict"):
        return " ".join(exc.messages)
    return " ".join(
        message if field == "__all__" else f"{field}: {message}"
        for field, messages in exc.message_dict.items()
        for message in messages
    )


def find_tenant(slug: str) -> Tenant:
    """Raises CommandError."""
    try:
        return Tenant.objects.get(slug=slug)
    except ObjectDoesNotExist:
        raise CommandError(f"There is no tenant '{slug}'.") from None


def find_project(tenant: Tenant, slug: str) -> Project:
    """Raises CommandError."""
    try:
        return Project.objects.get(tenant=tenant, slug=slug)
    except ObjectDoesNotExist:
        raise CommandError(f"There is no project '{slug}' in {tenant.slug}.") from None


def secret_from_environment(variable: str) -> str:
    """Raises CommandError when it is unset or empty."""
    value = os.environ.get(variable)
    if not value:
        raise CommandError(f"The environment variable {variable} is not set.")
    return value


def moment(text: str) -> datetime:
    """An argument's type, see :func:`gateway.moments.parse_moment`."""
    return _argument(parse_moment, text)


def moment_ahead(text: str) -> datetime:
    """An argument's type, see :func:`gateway.moments.parse_moment_ahead`."""
    return _argument(parse_moment_ahead, text)


def _argument(parse: Callable[[str], datetime], text: str) -> datetime:
    try:
        return parse(text)
    except ValueError as exc:
        raise ArgumentTypeError(str(exc)) from None


def _explain(exc: DatabaseError) -> str:
    if isinstance(exc.__cause__, psycopg.errors.UndefinedTable):
        return "The database has no tables yet: run `manage.py migrate` (or `manage.py up`) first."
    return f"The database refuses: {str(exc).splitlines()[0]}"
