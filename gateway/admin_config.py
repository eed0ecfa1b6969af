"""Puts the operators' site where Django looks for its admin. Read before any model, so it imports none."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.apps import SimpleAdminConfig
from django.contrib.admin.checks import check_admin_app, check_dependencies
from django.core import checks


class OperatorAdminConfig(SimpleAdminConfig):
    """Stands in INSTALLED_APPS where ``django.contrib.admin`` would. The pages are loaded with :mod:`gateway.urls` and
    for Django's checks: commands that need neither start in half the time."""

    default_site = "gateway.admin_site.OperatorSite"

    def ready(self) -> None:
        checks.register(check_dependencies, checks.Tags.admin)
        checks.register(_check_pages, checks.Tags.admin)


def _check_pages(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    admin.autodiscover()
    return check_admin_app(app_configs, **kwargs)
