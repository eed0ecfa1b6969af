"""Puts the operators' site where Django looks for its admin. Read before any model, so it imports none."""

from django.contrib.admin.apps import AdminConfig


class OperatorAdminConfig(AdminConfig):
    """Stands in INSTALLED_APPS where ``django.contrib.admin`` would."""

    default_site = "gateway.admin_site.OperatorSite"
